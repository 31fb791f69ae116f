"""The kernels of the transforms against the library's own parameterization."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from sae.coding import residual_codec
from sae.model.residual_transforms import Compiled, FourierKernel, make_analysis, make_synthesis


@pytest.mark.parametrize("support", [5, 9])
def test_kernels_and_their_gradients_are_the_librarys(support):
    tf.keras.utils.set_random_seed(3)
    ours = FourierKernel(support, 3, 4)
    theirs = tfc.RDFTParameter(tf.zeros((support, support, 3, 4)))
    parts = (ours.real, ours.imag), (theirs.real, theirs.imag)
    for one, other in zip(*parts):
        other.assign(one)
    weights = tf.random.normal((support, support, 3, 4))
    found = []
    for kernel, variables in zip((ours, theirs), parts):
        with tf.GradientTape() as tape:
            value = kernel()
            loss = tf.reduce_sum(value * weights)
        found.append([value, *tape.gradient(loss, variables)])
    for one, other in zip(*found):
        assert np.abs(other).max() > 0.01
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kernel", ["plain", "fourier"])
def test_transforms_have_their_stride_and_names(kernel, tiny_config):
    config = dataclasses.replace(tiny_config("base")[0], kernel=kernel)
    analysis, synthesis = make_analysis(config), make_synthesis(config)
    depth = config.latent_depth
    assert analysis(tf.zeros((2, 48, 48, 3))).shape == (2, 3, 3, depth)
    assert synthesis(tf.zeros((2, 3, 3, depth))).shape == (2, 48, 48, 3)
    names = {variable.name for variable in synthesis.trainable_variables}
    suffix = ":0" if kernel == "plain" else "_real:0"
    assert f"base/synthesis/conv_2/kernel{suffix}" in names


def test_a_synthesis_in_tiles_makes_the_same_image(tiny_model, monkeypatch):
    layer = tiny_model.layers[0]
    y = tf.random.stateless_normal((1, 23, 5, layer.config.latent_depth), (0, 7), stddev=8.0)
    whole = layer.synthesis(y)
    monkeypatch.setattr(residual_codec, "_POSITIONS", 5 * 6)
    tiles = residual_codec._synthesis(layer, y)
    np.testing.assert_allclose(tiles, whole, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize("gdn", ["simplified", "paper"])
def test_a_transform_runs_as_one_graph_without_branches(gdn, tiny_config):
    config = dataclasses.replace(tiny_config("base")[0], gdn=gdn)
    whole, calls = make_analysis(config), []
    graph = Compiled(lambda x: calls.append(x.shape) or whole(x), 3)
    for height in (32, 48):
        x = tf.random.stateless_uniform((2, height, 32, 3), (0, 4))
        np.testing.assert_allclose(graph(x), whole(x), atol=1e-6)
    assert calls == [tf.TensorShape((None, None, None, 3))]
    traced = tf.function(graph).get_concrete_function(tf.TensorSpec((2, 32, 32, 3))).graph
    assert calls[1:] == [(2, 32, 32, 3)]
    assert not {op.type for op in traced.get_operations()} & {"If", "StatelessIf"}

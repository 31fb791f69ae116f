"""The kernels of the transforms against the library's own parametrisation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from sae.model.transforms import TRANSFORMS, FourierKernel, Graph, Strips


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


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("kernel", ["plain", "fourier"])
def test_transforms_have_the_stride_they_say(name, kernel, tiny_config):
    config = dataclasses.replace(tiny_config("base")[0], transforms=name, kernel=kernel)
    transforms, depth = TRANSFORMS, config.latent_depth
    analysis, synthesis = transforms.analysis(config), transforms.synthesis(config)
    side = 3 * transforms.stride
    assert analysis(tf.zeros((2, side, side, 3))).shape == (2, 3, 3, depth)
    assert synthesis(tf.zeros((2, 3, 3, depth))).shape == (2, side, side, 3)
    names = {variable.name for variable in synthesis.trainable_variables}
    suffix = ":0" if kernel == "plain" else "_real:0"
    assert f"base/synthesis/conv_2/kernel{suffix}" in names


def test_a_synthesis_in_strips_makes_the_same_image(tiny_config, monkeypatch):
    config = tiny_config("base")[0]
    synthesis, heights = TRANSFORMS.synthesis(config), []
    for variable in synthesis.trainable_variables:
        # What is silent at first.
        if "conv_2" in variable.name or "second" in variable.name:
            variable.assign(tf.random.stateless_normal(variable.shape, (0, 8), stddev=0.1))
    y = tf.random.stateless_normal((2, 23, 5, config.latent_depth), (0, 7), stddev=8.0)
    strips = Strips(lambda y: heights.append(y.shape[1]) or synthesis(y))
    monkeypatch.setattr("sae.model.transforms._STRIP", 5 * 6)
    whole = synthesis(y)
    np.testing.assert_allclose(strips(y), whole, atol=1e-5 * np.abs(whole).max())
    assert heights == [8, 10, 10, 7]


@pytest.mark.parametrize("gdn", ["simplified", "paper"])
def test_a_transform_runs_as_one_graph_without_branches(gdn, tiny_config):
    config = dataclasses.replace(tiny_config("base")[0], gdn=gdn)
    whole, calls = TRANSFORMS.analysis(config), []
    graph = Graph(lambda x: calls.append(x.shape) or whole(x), 3)
    for height in (32, 48):
        x = tf.random.stateless_uniform((2, height, 32, 3), (0, 4))
        np.testing.assert_allclose(graph(x), whole(x), atol=1e-6)
    assert calls == [tf.TensorShape((None, None, None, 3))]
    traced = tf.function(graph).get_concrete_function(tf.TensorSpec((2, 32, 32, 3))).graph
    assert calls[1:] == [(2, 32, 32, 3)]
    assert not {op.type for op in traced.get_operations()} & {"If", "StatelessIf"}

"""The kernels of the transforms against the library's own parametrisation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from sae.model.transforms import TRANSFORMS, FourierKernel


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
    transforms = TRANSFORMS[name]
    analysis, synthesis = transforms.analysis(config, 3), transforms.synthesis(config, 10)
    side = 3 * transforms.stride
    assert analysis(tf.zeros((2, side, side, 3))).shape == (2, 3, 3, config.latent_depth)
    assert synthesis(tf.zeros((2, 3, 3, 10))).shape == (2, side, side, 3)
    names = {variable.name for variable in synthesis.trainable_variables}
    suffix = ":0" if kernel == "plain" else "_real:0"
    assert f"base/synthesis/conv_2/kernel{suffix}" in names


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_synthesis_in_strips_makes_the_same_image(name, tiny_config, monkeypatch):
    config = dataclasses.replace(tiny_config("base")[0], transforms=name)
    synthesis = TRANSFORMS[name].synthesis(config, 10)
    y = tf.random.stateless_normal((2, 23, 5, 10), (0, 7), stddev=8.0)
    whole = synthesis(y)
    heights = []
    first = synthesis.layers[0]
    synthesis.layers[0] = lambda x: heights.append(x.shape[1]) or first(x)
    monkeypatch.setattr("sae.model.transforms._STRIP", 5 * 6)
    np.testing.assert_allclose(synthesis(y), whole, atol=1e-5 * np.abs(whole).max())
    assert heights == [8, 10, 10, 7]

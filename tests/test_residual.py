"""Residual layers, alone and on top of one another."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from sae.model.residual import ResidualModel
from sae.model.residual_layer import ResidualLayer


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    smooth = rng.uniform(size=(2, 6, 8, 3)).repeat(16, axis=1).repeat(16, axis=2)
    return tf.constant(smooth + rng.normal(size=smooth.shape) * 0.05, tf.float32)


def coded(layer, x, quantization):
    """Returns the reconstruction of x with some quantization, and the bits."""
    y_hat, bits = layer.rate(layer.analysis(x), quantization, tf.constant([0, 0]))
    return layer.synthesis(y_hat), bits


def test_the_reconstruction_is_the_sum_of_the_layers(x, tiny_model):
    total, count = tf.zeros(x.shape), 0
    for layer, (x_hat, bits) in zip(tiny_model.layers, tiny_model.code(x)):
        y_hat, _ = layer.rate(layer.analysis(x - total))
        assert y_hat.shape == (2, 6, 8, 8) and bits.shape == (2,)
        total += layer.synthesis(y_hat)
        np.testing.assert_array_equal(x_hat, total)
        count += 1
    assert count == len(tiny_model.layers)
    np.testing.assert_array_equal(tiny_model.reconstruction(x), total)
    assert not np.any(ResidualModel().reconstruction(x))


def test_strings_carry_the_latent(x, tiny_model):
    for layer in tiny_model.layers:
        y_hat = tf.round(layer.analysis(x))
        assert np.any(y_hat != 0)
        strings = layer.compress(y_hat)
        np.testing.assert_array_equal(layer.decompress(strings, x.shape[1:3]), y_hat)
        assert all(len(s) >= layer.smallest_bytes(x.shape[1:3]) for s in strings.numpy())


def test_an_image_codes_the_same_alone_and_in_a_batch(x, tiny_model):
    for (both, _), (alone, _) in zip(tiny_model.code(x), tiny_model.code(x[:1])):
        np.testing.assert_allclose(both[:1], alone, atol=1e-5)


@pytest.mark.parametrize("gdn", ["simplified", "paper"])
def test_the_whole_layer_has_gradients(x, tiny_model, tiny_config, gdn):
    layer = ResidualLayer(dataclasses.replace(tiny_config("el1")[0], gdn=gdn))
    below = ResidualModel(tiny_model.layers[:1])
    with tf.GradientTape(persistent=True) as tape:
        x_hat, bits = coded(layer, x - below.reconstruction(x), "noise")
        loss = tf.reduce_mean(tf.square(x - x_hat)) + tf.reduce_mean(bits) * 1e-6
    assert all(g is not None for g in tape.gradient(loss, layer.trainable_variables))
    frozen = tape.gradient(loss, below.layers[0].trainable_variables)
    assert all(g is None for g in frozen)


def test_mixed_terms_have_the_rounded_image_and_the_bits_of_noise(x, tiny_model):
    layer = tiny_model.layers[0]
    with tf.GradientTape() as tape:
        x_hat, bits = coded(layer, x, "mixed")
        loss = tf.reduce_mean(tf.square(x - x_hat))
    np.testing.assert_array_equal(x_hat, coded(layer, x, "rounded")[0])
    np.testing.assert_array_equal(bits, coded(layer, x, "noise")[1])
    assert all(np.any(g) for g in tape.gradient(loss, layer.analysis.trainable_variables))


def test_rounded_terms_leave_the_analysis_alone(x, tiny_model):
    layer = tiny_model.layers[0]
    with tf.GradientTape() as tape:
        x_hat, bits = coded(layer, x, "rounded")
        loss = tf.reduce_mean(tf.square(x - x_hat)) + tf.reduce_mean(bits) * 1e-6
    for variable, gradient in zip(
        layer.trainable_variables, tape.gradient(loss, layer.trainable_variables)
    ):
        assert (gradient is None) == ("analysis" in variable.name)
    y_hat = tf.round(layer.analysis(x))
    np.testing.assert_array_equal(x_hat, layer.synthesis(y_hat))
    np.testing.assert_array_equal(bits, layer.entropy_model.bits(y_hat))

"""Layers in their contexts, and the residual cascade."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from sae.config import LAYER_NAMES
from sae.model.cascade import Cascade
from sae.model.layer import Context, build


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    smooth = rng.uniform(size=(2, 6, 8, 3)).repeat(16, axis=1).repeat(16, axis=2)
    return tf.constant(smooth + rng.normal(size=smooth.shape) * 0.05, tf.float32)


def coded(layer, x, context, quantization):
    """Returns the reconstruction of x with some quantization, and the bits."""
    y = layer.analyse(x, context)
    y_tilde, bits = layer.rate(y, context, quantization, tf.constant([0, 0]))
    return layer.synthesise(y_tilde, context), bits


def test_shapes(x, tiny_cascade):
    for context, bits in tiny_cascade.code(x):
        assert context.x_hat.shape == x.shape
        assert context.latents[-1].shape == (2, 6, 8, 8)
        assert bits.shape == (2,)
    assert len(context.latents) == len(LAYER_NAMES)


def test_the_reconstruction_is_the_sum_of_the_contributions(x, tiny_cascade):
    context, total = Context.empty(x.shape), tf.zeros(x.shape)
    for layer, (coded, _) in zip(tiny_cascade.layers, tiny_cascade.code(x)):
        y_hat, _ = layer.rate(layer.analyse(x, context), context)
        total += layer.synthesis(y_hat)
        context = context.extended(layer, y_hat)
        np.testing.assert_array_equal(coded.x_hat, total)


def test_strings_carry_what_was_coded(x, tiny_cascade):
    context = Context.empty(x.shape)
    for layer, (coded, _) in zip(tiny_cascade.layers, tiny_cascade.code(x)):
        y_hat = layer.quantize(layer.analyse(x, context), context)
        strings = layer.write(y_hat, context)
        context = context.extended(layer, layer.read(strings, context, x.shape[1:3]))
        np.testing.assert_array_equal(context.latents[-1], coded.latents[-1])
        np.testing.assert_array_equal(context.x_hat, coded.x_hat)
        assert np.any(coded.latents[-1] != 0)
        assert all(len(s) >= layer.smallest_bytes(x.shape[1:3]) for s in strings.numpy())


def test_an_image_codes_the_same_alone_and_in_a_batch(x, tiny_cascade):
    both, alone = tiny_cascade.context(x), tiny_cascade.context(x[:1])
    for in_batch, single in zip(both.latents, alone.latents):
        np.testing.assert_array_equal(in_batch[:1], single)


@pytest.mark.parametrize("gdn", ["simplified", "paper"])
def test_the_whole_layer_has_gradients(x, tiny_cascade, tiny_config, gdn):
    layer = build(dataclasses.replace(tiny_config("el1")[0], gdn=gdn))
    lower = Cascade(tiny_cascade.layers[:1])
    context = lower.context(x)
    with tf.GradientTape(persistent=True) as tape:
        x_hat, bits = coded(layer, x, context, "noise")
        loss = tf.reduce_mean(tf.square(x - x_hat)) + tf.reduce_mean(bits) * 1e-6
    assert all(g is not None for g in tape.gradient(loss, layer.trainable_variables))
    below = tape.gradient(loss, lower.layers[0].trainable_variables)
    assert all(g is None for g in below)


def test_mixed_terms_have_the_rounded_image_and_the_bits_of_noise(x, tiny_cascade):
    layer, context = tiny_cascade.layers[0], Context.empty(x.shape)
    with tf.GradientTape() as tape:
        x_hat, bits = coded(layer, x, context, "mixed")
        loss = tf.reduce_mean(tf.square(x - x_hat))
    np.testing.assert_array_equal(x_hat, coded(layer, x, context, "rounded")[0])
    np.testing.assert_array_equal(bits, coded(layer, x, context, "noise")[1])
    assert all(np.any(g) for g in tape.gradient(loss, layer.analysis.trainable_variables))


def test_rounded_terms_leave_the_analysis_alone(x, tiny_cascade):
    layer, context = tiny_cascade.layers[0], Context.empty(x.shape)
    with tf.GradientTape() as tape:
        x_hat, bits = coded(layer, x, context, "rounded")
        loss = tf.reduce_mean(tf.square(x - x_hat)) + tf.reduce_mean(bits) * 1e-6
    for variable, gradient in zip(
        layer.trainable_variables, tape.gradient(loss, layer.trainable_variables)
    ):
        assert (gradient is None) == ("analysis" in variable.name)
    y_hat = tf.round(layer.analyse(x, context))
    np.testing.assert_array_equal(x_hat, layer.synthesise(y_hat, context))
    np.testing.assert_array_equal(bits, layer.rate(y_hat, context, "none")[1])


def test_a_reconstruction_is_computed_when_it_is_asked_for(x, tiny_cascade):
    calls = []
    layer = tiny_cascade.layers[0]
    context = Context((), lambda: calls.append(1) or tf.zeros(x.shape))
    context = context.extended(layer, tf.round(layer.analyse(x, context)))
    calls.clear()
    below = Context((), lambda: calls.append(1) or tf.zeros(x.shape))
    context = below.extended(layer, context.latents[0])
    assert not calls
    assert context.x_hat is context.x_hat and calls == [1]

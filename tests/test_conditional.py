"""Layers that see and use what is already decoded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from sae import codec
from sae.config import defaults
from sae.layer import build


@pytest.fixture(scope="module")
def x():
    blocks = np.random.default_rng(0).uniform(size=(2, 6, 8, 3))
    return tf.constant(blocks.repeat(16, axis=1).repeat(16, axis=2), tf.float32)


def test_a_file_of_conditional_layers_is_decoded_layer_by_layer(conditional_checkpoints, x):
    image = np.uint8(255 * x[0])[:-5, :-3]
    data = codec.compress(image, 3, "mse", conditional_checkpoints)
    decoder = codec.Decoder(checkpoints=conditional_checkpoints)
    decoded = [x_hat for k in range(0, len(data), 50) for x_hat in decoder.feed(data[k : k + 50])]
    assert [x_hat.shape for x_hat in decoded] == [image.shape] * 3
    again = codec.Decoder(checkpoints=conditional_checkpoints).feed(data)
    np.testing.assert_array_equal(decoded, again)


def test_both_sides_use_the_context(x, conditional_cascade):
    cascade = conditional_cascade
    context, layer = cascade.context(x), cascade.layers[2]
    below = context._replace(latents=context.latents[:2])
    contribution, y_hat, _ = layer.code(x, below)
    brighter = below._replace(x_hat=below.x_hat + 0.2)
    # The residual is the same; what was decoded is not.
    assert np.any(layer.code(x + 0.2, brighter)[1] != y_hat)
    for k in range(2):
        latents = [latent + (i == k) for i, latent in enumerate(below.latents)]
        other = below._replace(latents=tuple(latents))
        strings = layer.compress(x, below)
        changed, same = layer.decompress(strings, other, x.shape[1:3])
        np.testing.assert_array_equal(same, y_hat)
        assert np.any(changed != contribution)


def test_terms_have_gradients_for_the_whole_layer(x, conditional_cascade):
    config = dataclasses.replace(defaults("el1", preset="tiny")[0], kind="conditional")
    layer = build(config, conditional_cascade.layers[:1])
    below = next(conditional_cascade.code(x))[0]
    with tf.GradientTape() as tape:
        x_hat, bits = layer.training_step_terms(x, below, tf.constant([0, 0]))
        loss = tf.reduce_mean(tf.square(x - x_hat)) + tf.reduce_mean(bits) * 1e-6
    assert all(np.any(g) for g in tape.gradient(loss, layer.trainable_variables))

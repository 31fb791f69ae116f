"""Layers that see and use what is already decoded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from sae.coding import codec
from sae.config import defaults
from sae.model.conditional_bottleneck import ConditionalBottleneck
from sae.model.layer import build


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


def test_every_part_uses_the_context(x, conditional_cascade):
    cascade = conditional_cascade
    context, layer = cascade.context(x), cascade.layers[2]
    below = context._replace(latents=context.latents[:2])
    contribution, y_hat, bits = layer.code(x, below)
    brighter = below._replace(x_hat=below.x_hat + 0.2)
    # The residual is the same; what was decoded is not.
    assert np.any(layer.code(x + 0.2, brighter)[1] != y_hat)
    for k in range(2):
        latents = [latent + (i == k) for i, latent in enumerate(below.latents)]
        other = below._replace(latents=tuple(latents))
        assert np.any(layer.compress(x, other) != layer.compress(x, below))
        # The same latent, above other ones.
        moved = layer.code(x, other)
        np.testing.assert_array_equal(moved[1], y_hat)
        assert np.any(moved[0] != contribution)
        assert np.any(moved[2] != bits)


def test_terms_have_gradients_for_the_whole_layer(x, conditional_cascade):
    config = dataclasses.replace(defaults("el1", preset="tiny")[0], kind="conditional")
    layer = build(config, conditional_cascade.layers[:1])
    below = next(conditional_cascade.code(x))[0]
    with tf.GradientTape() as tape:
        x_hat, bits = layer.training_step_terms(x, below, tf.constant([0, 0]))
        loss = tf.reduce_mean(tf.square(x - x_hat)) + tf.reduce_mean(bits) * 1e-6
    assert all(np.any(g) for g in tape.gradient(loss, layer.trainable_variables))


DEPTH, BELOW = 6, 5


@pytest.fixture(scope="module")
def bottleneck():
    """A bottleneck fitted to `latents`, so that the estimate is meaningful."""
    tf.keras.utils.set_random_seed(2)
    bottleneck = ConditionalBottleneck(DEPTH, BELOW, "test/bottleneck")
    optimizer = tf.keras.optimizers.Adam(3e-3)

    @tf.function
    def fit(y, lower, seed):
        with tf.GradientTape() as tape:
            bits = tf.reduce_mean(bottleneck.perturb(y, seed, [lower])[1])
        variables = bottleneck.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(bits, variables), variables))

    for step in range(300):
        fit(*latents(step, 4, 10, 12), tf.constant([0, step]))
    bottleneck.build_tables()
    return bottleneck


def latents(seed, *shape):
    """Returns y and a lower latent, of which y has its scale; it has its mean of y above."""
    rng = np.random.default_rng(seed)
    lower = rng.integers(1, 9, size=(*shape, BELOW))
    y = rng.normal(size=(*shape, DEPTH)) * lower[..., :1] ** 2 / 4
    for row in range(1, shape[1]):
        y[:, row] += 0.9 * y[:, row - 1]
    return tf.constant(y, tf.float32), tf.constant(lower, tf.float32)


@pytest.mark.parametrize("size", [(20, 30), (7, 9), (2, 1), (1, 1)])
def test_decoded_is_quantized(bottleneck, size):
    y, lower = latents(900, 3, *size)
    y_hat, _ = bottleneck.quantize(y, [lower])
    np.testing.assert_array_equal(y_hat, np.round(y))
    strings = bottleneck.compress(y, [lower])
    np.testing.assert_array_equal(bottleneck.decompress(strings, size, [lower]), y_hat)


def test_values_beyond_the_tables_survive(bottleneck):
    y, lower = latents(901, 1, 5, 4)
    y = y * 1000
    strings = bottleneck.compress(y, [lower])
    np.testing.assert_array_equal(bottleneck.decompress(strings, (5, 4), [lower]), np.round(y))


def test_size_is_the_estimate(bottleneck):
    y, lower = latents(902, 4, 33, 47)
    bits = bottleneck.quantize(y, [lower])[1].numpy()
    for string, estimate in zip(bottleneck.compress(y, [lower]).numpy(), bits / 8):
        assert abs(len(string) - estimate) <= 0.01 * estimate + 4


def test_the_prior_knows_the_lower_latent_and_the_neighbours(bottleneck):
    y, lower = latents(903, 2, 32, 32)
    order = np.random.default_rng(0).permutation(32 * 32)

    def shuffled(x):
        return tf.reshape(tf.gather(tf.reshape(x, (2, 32 * 32, -1)), order, axis=1), x.shape)

    def bits(y, lower):
        return np.sum(bottleneck.quantize(y, [lower])[1])

    assert bits(y, lower) < 0.99 * bits(shuffled(y), shuffled(lower))
    assert bits(shuffled(y), shuffled(lower)) < 0.99 * bits(shuffled(y), lower)


def test_perturbed_bits_bound_the_estimate(bottleneck):
    y, lower = latents(904, 4, 32, 48)
    y_tilde, bound = bottleneck.perturb(y, tf.constant([1, 2]), [lower])
    assert 0.49 < np.max(np.abs(y_tilde - y)) <= 0.5001
    assert np.all(bound > 0.97 * bottleneck.quantize(y, [lower])[1])


def test_sums_may_be_taken_in_any_order(bottleneck):
    y, lower = latents(905, 2, 20, 30)
    order = np.random.default_rng(0).permutation(BELOW)
    first = bottleneck.trainable_variables
    first = next(v for v in first if v.name == "test/bottleneck/below_0/kernel:0")

    def parameters(exact):
        found = bottleneck._parameters(tf.round(y), [lower], exact)
        return [tensor.numpy() for pair in found for tensor in pair]

    exact, floats = parameters(True), parameters(False)
    kernel = first.numpy()
    first.assign(kernel[:, :, order])
    lower = tf.gather(lower, order, axis=-1)
    exact_again, floats_again = parameters(True), parameters(False)
    first.assign(kernel)
    assert all(np.array_equal(one, other) for one, other in zip(exact, exact_again))
    assert not all(np.array_equal(one, other) for one, other in zip(floats, floats_again))
    for one, other in zip(exact, floats):
        np.testing.assert_allclose(one, other, atol=0.1)


def test_a_damaged_string_is_refused(bottleneck):
    y, lower = latents(906, 1, 8, 8)
    string = bottleneck.compress(y, [lower]).numpy()[0]
    for damaged in (string + b"xyz", b"\xff" * 200):
        with pytest.raises(tf.errors.InvalidArgumentError):
            bottleneck.decompress([damaged], (8, 8), [lower])

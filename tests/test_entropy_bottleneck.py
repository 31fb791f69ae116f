"""What an entropy model promises."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from sae.model.entropy_bottleneck import EntropyBottleneck
from sae.model.quantization import uniform_noise

DEPTH = 6


@pytest.fixture(scope="module")
def bottleneck():
    """A bottleneck fitted to channels of scale 0 to 20, so that the estimate is meaningful."""
    tf.keras.utils.set_random_seed(2)
    bottleneck = EntropyBottleneck(DEPTH, "test/bottleneck")
    optimizer = tf.keras.optimizers.Adam(3e-2)

    @tf.function
    def fit(y, seed):
        with tf.GradientTape() as tape:
            bits = tf.reduce_mean(bottleneck.bits(y + uniform_noise(tf.shape(y), seed)))
        variables = bottleneck.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(bits, variables), variables))

    for step in range(300):
        fit(latent(step, 2, 16, 16), tf.constant([0, step]))
    bottleneck.build_tables()
    return bottleneck


def latent(seed, *shape):
    scale = np.array([0.02, 0.3, 1, 3, 8, 20])
    rng = np.random.default_rng(seed)
    return tf.constant(rng.normal(size=(*shape, DEPTH)) * scale, tf.float32)


def test_decoded_is_quantized(bottleneck):
    y_hat = tf.round(latent(900, 3, 20, 30))
    np.testing.assert_array_equal(
        bottleneck.decompress(bottleneck.compress(y_hat), (20, 30)), y_hat
    )


def test_values_beyond_the_tables_survive(bottleneck):
    y_hat = tf.round(latent(901, 1, 4, 4) * 1000)
    np.testing.assert_array_equal(bottleneck.decompress(bottleneck.compress(y_hat), (4, 4)), y_hat)


def test_size_is_the_estimate(bottleneck):
    y_hat = tf.round(latent(902, 4, 32, 48))
    bits = bottleneck.bits(y_hat).numpy()
    for string, estimate in zip(bottleneck.compress(y_hat).numpy(), bits / 8):
        assert abs(len(string) - estimate) <= 0.01 * estimate + 4


def test_bits_with_noise_bound_the_estimate(bottleneck):
    y = latent(903, 4, 32, 48)
    noise = uniform_noise(tf.shape(y), tf.constant([1, 2]))
    assert 0.49 < np.max(np.abs(noise)) <= 0.5001
    y_hat = tf.round(y)
    assert np.all(bottleneck.bits(y + noise) > 0.97 * bottleneck.bits(y_hat))


def test_restored_tables_make_the_same_strings(bottleneck):
    other = EntropyBottleneck(DEPTH, "test/other")
    other.set_tables(bottleneck.cdf, bottleneck.cdf_offset)
    y_hat = tf.round(latent(905, 2, 8, 8))
    np.testing.assert_array_equal(other.compress(y_hat), bottleneck.compress(y_hat))


def test_no_string_is_smaller_than_the_smallest(bottleneck):
    likeliest = []
    for channel in range(DEPTH):
        starts = [*np.flatnonzero(bottleneck.cdf < 0), len(bottleneck.cdf)]
        table = bottleneck.cdf[starts[channel] + 1 : starts[channel + 1]]
        likeliest.append(np.argmax(np.diff(table)) + bottleneck.cdf_offset[channel])
    y = tf.tile(tf.constant(likeliest, tf.float32)[None, None, None], (1, 64, 64, 1))
    size = len(bottleneck.compress(y).numpy()[0])
    smallest = 64 * 64 * bottleneck.smallest_bits() / 8
    assert smallest - 4 <= size <= smallest * 1.01 + 4


def test_a_foreign_string_is_refused(bottleneck):
    string = bottleneck.compress(tf.round(latent(906, 1, 8, 8))).numpy()[0]
    with pytest.raises(tf.errors.InvalidArgumentError):
        bottleneck.decompress([string + b"xyz"], (8, 8))


def test_an_endless_escape_code_is_refused(bottleneck):
    # The start of the escape interval of the first channel; zeros follow, and
    # each of them says that the code goes on.
    escape = bottleneck.cdf[np.flatnonzero(bottleneck.cdf < 0)[1] - 2]
    string = int(escape).to_bytes(2, "big")
    with pytest.raises(tf.errors.InvalidArgumentError):
        bottleneck.decompress([string], (1, 1))

"""Quantization: noise that is the same everywhere, annealed rounding, nested planes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from sae.model.quantization import annealed, nested, quantized, uniform_noise, widened


def test_noise_is_a_function_of_the_seed():
    one, again, other = (uniform_noise((1, 8, 8, 6), tf.constant([1, k])) for k in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other)
    assert 0.4 < np.max(np.abs(one)) <= 0.5


@pytest.mark.parametrize(
    ("method", "rate_is_rounded", "y_hat_is_rounded", "gradient"),
    [("rounded", True, True, None), ("noise", False, False, 1.0), ("mixed", False, True, 1.0)],
)
def test_methods_differ_in_what_is_rounded(method, rate_is_rounded, y_hat_is_rounded, gradient):
    y = tf.random.stateless_normal((2, 3, 4, 5), (0, 1), stddev=3.0)
    with tf.GradientTape() as tape:
        tape.watch(y)
        latent = quantized(y, method, tf.constant([1, 2]))
        total = tf.reduce_sum(latent.y_hat)
    for values, rounded in zip(latent, (rate_is_rounded, y_hat_is_rounded)):
        assert np.array_equal(values, np.round(values)) == rounded
        assert np.max(np.abs(values - y)) <= 0.5
    found = tape.gradient(total, y)
    assert (found is None) if gradient is None else np.all(found == gradient)


def test_annealed_values_become_the_nearest_integers():
    y = tf.random.stateless_normal((10_000,), (0, 1), stddev=3.0)
    # At the middle between two integers, either is drawn.
    y = tf.boolean_mask(y, np.abs(y - np.floor(y) - 0.5) > 0.45)
    values = annealed(y, tf.constant(1e-3), tf.constant([3, 0]))
    assert np.mean(np.abs(values - np.round(y)) < 0.01) > 0.9
    soft = annealed(y, tf.constant(1.0), tf.constant([3, 0]))
    assert np.all(np.abs(soft - np.floor(y) - 0.5) <= 0.5)


def test_planes_are_nested():
    y = np.random.default_rng(2).normal(scale=5.0, size=(2, 3, 4, 12)).astype(np.float32)
    depths = (8, 10, 12)
    planes = nested(tf.constant(y), depths, 3)
    for p, (q, depth) in enumerate(zip(planes, depths)):
        assert q.shape[-1] == depth
        # A double rounding by odd ratios is one rounding.
        shared = depths[0]
        np.testing.assert_array_equal(q[..., :shared], np.round(y * 3**p)[..., :shared])
        assert np.abs(q / 3**p - y[..., :depth])[..., :shared].max() <= 0.5 / 3**p + 1e-6
        # Channels that the planes below do not have begin with digits.
        assert np.abs(q[..., shared:]).max(initial=0) <= (3**p - 1) // 2
    for lower, upper in zip(planes, planes[1:]):
        lower = widened(lower, upper.shape[-1])
        assert set(np.unique(upper - 3 * lower)) <= {-1, 0, 1}

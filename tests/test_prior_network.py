"""The network of a conditional prior on latents that are one position wide."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from sae.model.prior_network import Exact, Floats, PriorNetwork

DEPTH, BELOW = 6, 4


@pytest.fixture(scope="module")
def network():
    tf.keras.utils.set_random_seed(3)
    return PriorNetwork(DEPTH, BELOW, 8, 5, "narrow", 2)


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 2)])
def test_all_ways_through_a_narrow_latent_agree(network, shape):
    y = np.round(tf.random.stateless_normal((2, *shape, DEPTH), [1, 2]) * 3)
    latents = [tf.round(tf.random.stateless_normal((2, *shape, BELOW), [3, 4]) * 3)]
    at_once = network.parameters(y, latents)
    # Sizes may be static or dynamic in a training step.
    for sizes in (shape, (None, None)):
        specs = [tf.TensorSpec((None, *sizes, depth)) for depth in (DEPTH, BELOW)]
        traced = tf.function(network.parameters, input_signature=[specs[0], specs[1:]])
        for one, other in zip(traced(y, latents), at_once):
            np.testing.assert_allclose(one, other, atol=1e-4)
    # The exact one rounds activations to sixteenths, and eighths of scales are counted.
    for arithmetic, tolerance in ((Floats, 1e-4), (Exact, 0.6)):
        found = np.full((2, *y.shape), np.nan)

        def choose(part, means, scales, found=found):
            found[0][part], found[1][part] = means, scales
            return tf.constant(y)[part]

        traversed = network.traverse(choose, y.shape, latents, arithmetic)
        np.testing.assert_array_equal(traversed, y)
        np.testing.assert_allclose(found, at_once, atol=tolerance)


def test_a_gradient_passes_through_a_latent_of_one_position(network):
    latents = [tf.ones((1, 1, 1, BELOW))]
    with tf.GradientTape() as tape:
        means, scales = network.parameters(tf.ones((1, 1, 1, DEPTH)), latents)
        loss = tf.reduce_sum(means) + tf.reduce_sum(scales)
    gradients = tape.gradient(loss, network.trainable_variables)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients if gradient is not None)

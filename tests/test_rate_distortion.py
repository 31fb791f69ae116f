"""The loss, and its distortions against the library's."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from sae import images
from sae.model import rate_distortion
from sae.model.rate_distortion import RateDistortionLoss


@pytest.fixture(scope="module")
def pair():
    photo = images.sample_photos()["astronaut"][:256, :256].astype(np.float32) / 255
    rng = np.random.default_rng(0)
    x = tf.constant(np.stack([photo, photo[::-1]]))
    return x, x + tf.constant(rng.normal(size=x.shape) * [[[[0.02]]], [[[0.15]]]], tf.float32)


def test_mse_is_on_the_papers_scale(pair):
    x, x_hat = (v.numpy() * 255 for v in pair)
    expected = np.sum((x - x_hat) ** 2, axis=-1).mean(axis=(1, 2))
    np.testing.assert_allclose(rate_distortion.mse(*pair), expected, rtol=1e-5)


def test_ms_ssim_is_the_librarys(pair):
    np.testing.assert_allclose(
        rate_distortion.ms_ssim(*pair), tf.image.ssim_multiscale(*pair, 1.0), atol=1e-5
    )


def test_ms_ssim_gradient_is_the_librarys(pair):
    def gradient(function):
        x, x_hat = pair
        with tf.GradientTape() as tape:
            tape.watch(x_hat)
            value = tf.reduce_sum(function(x, x_hat))
        return tape.gradient(value, x_hat)

    ours = gradient(rate_distortion.ms_ssim)
    library = gradient(lambda x, x_hat: tf.image.ssim_multiscale(x, x_hat, 1.0))
    np.testing.assert_allclose(ours, library, atol=2e-3 * np.abs(library).max())


@pytest.mark.parametrize("metric", ["mse", "ms-ssim"])
def test_the_loss_weighs_bits_per_pixel(pair, metric):
    terms = RateDistortionLoss(metric, 300.0).terms(*pair, tf.constant([65536.0, 0.0]))
    np.testing.assert_allclose(terms["bpp"], [1, 0])
    distortion = rate_distortion.DISTORTIONS[metric](*pair)
    np.testing.assert_array_equal(terms["distortion"], distortion)
    np.testing.assert_allclose(terms["loss"], [distortion[0] + 300, distortion[1]])

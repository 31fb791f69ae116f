"""PSNR and MS-SSIM against values computed otherwise, on 8-bit images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import convolve2d
from skimage.metrics import peak_signal_noise_ratio

from sae import images, metrics
from sae.evaluation import anchors


@pytest.fixture(scope="module")
def pairs():
    """Crops of sample photos, and what JPEG makes of them."""
    photos = images.sample_photos()
    crops = [photos[name][:352, :384] for name in ("coffee", "astronaut")]
    return [
        (crop, anchors.coded(crop, "jpeg", quality)[1]) for crop, quality in zip(crops, (8, 60))
    ]


def ms_ssim_by_the_book(x, y):
    """Wang, Simoncelli and Bovik, Asilomar 2003, on one channel."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    factors = []
    for scale in range(5):
        means, squares, product = (
            [convolve2d(image, window, "valid") for image in group]
            for group in ((x, y), (x * x, y * y), (x * y,))
        )
        variances = [square - mean**2 for square, mean in zip(squares, means)]
        covariance = product[0] - means[0] * means[1]
        contrast = (2 * covariance + second) / (sum(variances) + second)
        luminance = (2 * means[0] * means[1] + first) / (means[0] ** 2 + means[1] ** 2 + first)
        factors.append((luminance * contrast if scale == 4 else contrast).mean())
        x, y = (
            image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2).mean(axis=(1, 3))
            if scale < 4
            else image
            for image in (x, y)
        )
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    return math.prod(factor**weight for factor, weight in zip(factors, weights))


def test_psnr_is_that_of_scikit_image(pairs):
    for x, y in pairs:
        assert metrics.psnr(x, y) == pytest.approx(peak_signal_noise_ratio(x, y), abs=1e-9)


def test_ms_ssim_is_that_of_the_paper(pairs):
    for x, y in pairs:
        channels = [
            ms_ssim_by_the_book(x[..., k].astype(float), y[..., k].astype(float)) for k in range(3)
        ]
        assert metrics.ms_ssim(x, y) == pytest.approx(np.mean(channels), abs=2e-5)


def test_identical_and_small_images(pairs):
    x = pairs[0][0]
    assert metrics.psnr(x, x) == math.inf
    assert metrics.ms_ssim(x, x) == pytest.approx(1)
    assert metrics.ms_ssim_db(1) == math.inf
    assert metrics.ms_ssim_db(0.99) == pytest.approx(20)
    small = x[: metrics.SMALLEST_MS_SSIM_SIDE]
    assert metrics.ms_ssim(small, small) is not None
    assert metrics.ms_ssim(small[1:], small[1:]) is None

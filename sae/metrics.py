"""Quality of 8-bit images."""

from __future__ import annotations

import importlib.util
import math

import numpy as np

# tf.image.ssim_multiscale halves the image four times, and its window has 11 pixels.
SMALLEST_MS_SSIM_SIDE = 176


def psnr(x: np.ndarray, x_hat: np.ndarray) -> float:
    """Returns the PSNR in dB over all samples of two uint8 images [H, W, 3].

    It is infinite for identical images.
    """
    mse = np.mean(np.square(x.astype(np.float64) - x_hat))
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def ms_ssim(x: np.ndarray, x_hat: np.ndarray) -> float | None:
    """Returns MS-SSIM in [0, 1] over RGB of two uint8 images [H, W, 3].

    It is the value of tf.image.ssim_multiscale (Wang et al., Asilomar 2003), None where a side is
    too small for its five scales, under 176 pixels.
    """
    if min(x.shape[:2]) < SMALLEST_MS_SSIM_SIDE:
        return None
    import tensorflow as tf

    return float(tf.image.ssim_multiscale(x, x_hat, 255))


def require_ms_ssim() -> None:
    """Raises ModuleNotFoundError where the package that computes MS-SSIM is missing."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ModuleNotFoundError("MS-SSIM requires tensorflow", name="tensorflow")


def ms_ssim_db(value: float) -> float:
    """Returns MS-SSIM in dB, -10 log10(1 - value), which spreads out the values near 1."""
    return math.inf if value >= 1 else -10 * math.log10(1 - value)

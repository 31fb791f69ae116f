"""The loss distortion + lmbda * rate, differentiable, on the paper's scale."""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

# Weights of the five scales, finest first (Wang et al., Asilomar 2003), and the window and the
# constants of tf.image.ssim_multiscale.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03


def mse(x: tf.Tensor, x_hat: tf.Tensor) -> tf.Tensor:
    """Returns the squared error of each image, [B].

    It is on the scale of 0..255, summed over channels and averaged over pixels. This is 3 * 255^2
    times the mean squared error of images in [0, 1].
    """
    return tf.reduce_mean(tf.square(x - x_hat), axis=(1, 2, 3)) * (3 * 255.0**2)


def ms_ssim_loss(x: tf.Tensor, x_hat: tf.Tensor) -> tf.Tensor:
    """Returns 1000 * (1 - MS-SSIM) of each image, [B]."""
    return 1000.0 * (1.0 - ms_ssim(x, x_hat))


def ms_ssim(x: tf.Tensor, x_hat: tf.Tensor) -> tf.Tensor:
    """Returns MS-SSIM over RGB, [B], for images [B, H, W, 3] in [0, 1].

    This is the value of tf.image.ssim_multiscale for sides that are multiples of 16 and at least
    176, and images that correlate at every scale. There is no conditional padding between the
    scales, whose gradient XLA cannot compile for batches of unknown size.
    """
    factors = []
    for scale in range(len(_SCALE_WEIGHTS)):
        if scale:
            x, x_hat = (tf.nn.avg_pool2d(v, 2, 2, "VALID") for v in (x, x_hat))
        ssim, contrast = _ssim(x, x_hat)
        factors.append(contrast if scale < len(_SCALE_WEIGHTS) - 1 else ssim)
    # Factors stay above 0, where the gradient of the power is infinite.
    factors = tf.maximum(tf.stack(factors, axis=-1), 1e-5)
    per_channel = tf.reduce_prod(factors ** tf.constant(_SCALE_WEIGHTS), axis=-1)
    return tf.reduce_mean(per_channel, axis=-1)


def _ssim(x, x_hat):
    """Returns SSIM and its contrast-structure part, both [B, 3]."""
    c1, c2 = _K1**2, _K2**2
    mean_x, mean_x_hat = _blur(x), _blur(x_hat)
    product = mean_x * mean_x_hat
    squares = tf.square(mean_x) + tf.square(mean_x_hat)
    contrast = (2.0 * (_blur(x * x_hat) - product) + c2) / (
        _blur(tf.square(x) + tf.square(x_hat)) - squares + c2
    )
    ssim = contrast * (2.0 * product + c1) / (squares + c1)
    return tf.reduce_mean(ssim, axis=(1, 2)), tf.reduce_mean(contrast, axis=(1, 2))


def _blur(x):
    """Convolves each channel with the Gaussian window, without padding."""
    position = tf.range(_WINDOW, dtype=tf.float32) - (_WINDOW - 1) / 2
    window = tf.nn.softmax(-tf.square(position) / (2 * _SIGMA**2))
    for shape in ((_WINDOW, 1), (1, _WINDOW)):
        kernel = tf.tile(tf.reshape(window, (*shape, 1, 1)), (1, 1, 3, 1))
        x = tf.nn.depthwise_conv2d(x, kernel, (1, 1, 1, 1), "VALID")
    return x


def psnr(x: tf.Tensor, x_hat: tf.Tensor) -> tf.Tensor:
    """Returns the PSNR of clipped reconstructions in dB, [B].

    Args:
      x, x_hat: images and reconstructions, float32 [B, H, W, 3], images in [0, 1].
    """
    error = tf.reduce_mean(tf.square(x - tf.clip_by_value(x_hat, 0.0, 1.0)), (1, 2, 3))
    return -10.0 * tf.math.log(error) / math.log(10.0)


DISTORTIONS = {"mse": mse, "ms-ssim": ms_ssim_loss}


@dataclasses.dataclass(frozen=True)
class RateDistortionLoss:
    """A rate-distortion loss.

    Attributes:
      metric: metric of the distortion, a key of `DISTORTIONS`.
      lmbda: weight of the rate in bits per pixel.
    """

    metric: str
    lmbda: float

    def terms(self, x: tf.Tensor, x_hat: tf.Tensor, bits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns "loss", "bpp" and "distortion" of each image, all [B].

        Args:
          x, x_hat: images and reconstructions, float32 [B, H, W, 3] in [0, 1].
          bits: number of bits of each image, [B].
        """
        shape = tf.shape(x)
        bpp = bits / tf.cast(shape[1] * shape[2], tf.float32)
        distortion = DISTORTIONS[self.metric](x, x_hat)
        return {"loss": distortion + self.lmbda * bpp, "bpp": bpp, "distortion": distortion}

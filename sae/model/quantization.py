"""The quantizers of latents in training, coding and latent optimization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
import tensorflow_compression as tfc

# Slope of the logit of rounding up over the logit of the fraction that is rounded.
_STEEPNESS = 6.0
# Share of an interval's width within which elements are near a boundary, in plane 0 and above it.
NEAR_INTEGER, NEAR_DIGIT = 0.35, 0.25


class Quantized(NamedTuple):
    """A quantized latent.

    Attributes:
      rate: input of the entropy model.
      y_hat: input of the synthesis.
    """

    rate: tf.Tensor
    y_hat: tf.Tensor


def quantized(y: tf.Tensor, method: str, seed: tf.Tensor | None = None) -> Quantized:
    """Returns the quantized latent of y.

    Args:
      y: latent, float32 of any shape.
      method: "rounded": integers, without gradient to y. "noise": y with uniform noise in place
        of rounding (Balle et al., ICLR 2017). "mixed": noise for the rate, and integers with a
        straight-through gradient for the synthesis (Minnen and Singh, ICIP 2020).
      seed: int [2], seed of the noise.
    """
    if method == "rounded":
        integers = tf.round(tf.stop_gradient(y))
        return Quantized(integers, integers)
    noisy = y + uniform_noise(tf.shape(y), seed)
    return Quantized(noisy, noisy if method == "noise" else tfc.round_st(y))


def uniform_noise(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 noise, uniform in [-0.5, 0.5].

    The same seed, int32 or int64 [2], gives the same noise in every process, on every device and
    under XLA. The generator's integers agree there, unlike the library's conversions to floats,
    hence the scaling here.
    """
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox")
    return tf.cast(bits, tf.float32) * 2.0**-32


def annealed(y: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns y rounded up or down at random; with falling temperature, to the nearer integer.

    Stochastic Gumbel annealing (Yang, Bamler and Mandt, NeurIPS 2020), with the scaled sigmoid of
    Perugachi-Diaz et al. (2024) for the chance of rounding up; differentiable.

    Args:
      y: latent, float32 of any shape.
      temperature: temperature of the relaxed choice.
      seed: int [2], seed of the noise.
    """
    below = tf.floor(y)
    noise = uniform_noise(tf.shape(y), seed) + 0.5
    logit = _STEEPNESS * _logit(y - below) + _logit(noise)
    return below + tf.sigmoid(logit / temperature)


def _logit(probability):
    probability = tf.clip_by_value(probability, 1e-4, 1 - 1e-4)
    return tf.math.log(probability) - tf.math.log(1 - probability)


def nested(y: tf.Tensor, depths: Sequence[int], ratio: int) -> list[tf.Tensor]:
    """Returns the integers of every plane of a latent; no gradient passes.

    The finest plane is rounded first, and each plane below is the plane above divided by the ratio
    and rounded. Every interval of a plane consists of `ratio` intervals of the next.

    Args:
      y: latent in steps of plane 0, [B, h, w, depths[-1]].
      depths: number of channels of each plane, nondecreasing.
      ratio: ratio of the steps of two planes, odd.
    """
    rounded = [tf.round(tf.stop_gradient(y) * float(ratio ** (len(depths) - 1)))]
    while len(rounded) < len(depths):
        rounded.insert(0, tf.round(rounded[0] / ratio))
    planes = [rounded[0][..., : depths[0]]]
    for target, depth in zip(rounded[1:], depths[1:]):
        # Where the plane below lacks the channel, the target may be out of the digits' range.
        parents = float(ratio) * widened(planes[-1], depth)
        limit = float(ratio // 2)
        planes.append(parents + tf.clip_by_value(target[..., :depth] - parents, -limit, limit))
    return planes


def boundary_weights(
    distance: tf.Tensor, width: tf.Tensor | float, share: tf.Tensor | float
) -> tf.Tensor:
    """Returns the weights with which gradients of rounded values pass to a latent.

    Rounded values change at the boundaries of intervals alone. A gradient at a boundary is spread
    over the elements near it, since none is exactly there; others have no gradient.

    Args:
      distance: distances of elements from the centers of their intervals.
      width: widths of the intervals, 0 for elements that are always zero.
      share: share of the width within which elements are near a boundary.

    Returns:
      Weights whose mean over an interval is 1.
    """
    near = (tf.abs(distance) > width * (0.5 - share)) & (width > 0.0)
    return tf.cast(near, tf.float32) / (2.0 * share)


def widened(x: tf.Tensor, depth: int) -> tf.Tensor:
    """Returns [B, h, w, depth] with zeros after the channels of x."""
    return tf.pad(x, ((0, 0), (0, 0), (0, 0), (0, depth - x.shape[-1])))

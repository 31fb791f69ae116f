"""Latent optimization: better latents of one image, for more encoding time.

The latent of a layer descends the gradient of the layer's own loss. Meanwhile each element is
rounded up or down at random, at the end to the nearer integer (`sae.model.quantization.annealed`).
The streams have the usual format and decoding time.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sae.config import EFFORTS, STRIDE
from sae.metrics import SMALLEST_MS_SSIM_SIDE
from sae.model.quantization import annealed
from sae.model.rate_distortion import RateDistortionLoss
from sae.model.residual_layer import ResidualLayer

# Learning rates of Adam, in quantization steps; they fall along half a cosine to a tenth. Averages
# decay sooner than usual, since there are few steps. For MSE, errors of all elements cost the same,
# and all share one average of squares. For MS-SSIM, an error costs less where contrast is high.
_LEARNING_RATES, _BETA_1, _BETA_2 = {"mse": 0.01, "ms-ssim": 0.02}, 0.8, 0.999
# First and last temperature of the relaxed choice between two integers.
_TEMPERATURES = {"mse": (1.0, 0.4), "ms-ssim": (0.7, 0.3)}
# Number of times the latent is rounded to integers and its loss measured.
_TRIALS = 10
# Sides in positions of the latent. The margin of a window is not optimized, so that the window
# covers all pixels within reach of the optimized positions.
_WINDOW, _MARGIN = 64, 4


def optimized(
    x: tf.Tensor,
    x_hat: tf.Tensor,
    y: tf.Tensor,
    layer: ResidualLayer,
    loss: RateDistortionLoss,
    effort: int,
    size: tuple[int, int] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> tf.Tensor:
    """Returns a rounded latent with a loss no larger than that of the rounded analysis.

    A latent that is larger than a window is optimized window by window.

    Args:
      x: image, float32 [1, H, W, 3] in [0, 1], with sides that are multiples of the stride.
      x_hat: reconstruction of the image by the layers below.
      y: latent of the analysis, not rounded.
      layer: layer of the latent.
      loss: loss of that layer.
      effort: index of `EFFORTS`.
      size: (height, width) of the image within x, which may be padded at the bottom and right; the
        reconstruction of the padding does not count.
      progress: function that is called after each step.
    """
    y_hat = tf.round(y).numpy()
    height, width = size or x.shape[1:3]
    inside = np.zeros((*x.shape[:3], 1), np.float32)
    inside[:, :height, :width] = 1
    functions = _functions(layer, loss)
    for rows, columns in windows(y.shape[1:3]):
        of_image = (slice(None), *(span.window(STRIDE) for span in (rows, columns)))
        of_latent = (slice(None), rows.window(), columns.window())
        part = _Part(
            x[of_image],
            tf.constant(inside[of_image]),
            x_hat[of_image],
            rows.optimized()[:, None, None] * columns.optimized()[:, None],
        )
        y_hat[of_latent] = _optimized(
            part, y[of_latent], tf.constant(y_hat[of_latent]), functions, EFFORTS[effort], progress
        )
    return tf.constant(y_hat)


def count_steps(effort: int, size: Sequence[int]) -> int:
    """Returns the number of steps for one layer of an image of (height, width)."""
    return EFFORTS[effort] * len(windows([side // STRIDE for side in size]))


class Span(NamedTuple):
    """Rows or columns of a latent: a window, and the part of it that is optimized."""

    start: int
    stop: int
    first: int
    last: int

    def window(self, scale: int = 1) -> slice:
        """Returns the window, in units of 1 / scale."""
        return slice(self.start * scale, self.stop * scale)

    def optimized(self) -> tf.Tensor:
        """Returns 1 for the optimized positions, 0 for the others, float32 [stop - start]."""
        position = tf.range(self.start, self.stop)
        return tf.cast((position >= self.first) & (position < self.last), tf.float32)


def windows(sides: Sequence[int]) -> list[tuple[Span, Span]]:
    """Returns windows of one size whose optimized parts cover a latent of these sides."""
    return list(itertools.product(*map(_spans, sides)))  # type: ignore[arg-type]


def _spans(side: int) -> list[Span]:
    window = min(side, _WINDOW)
    count = 1 + math.ceil((side - window) / (_WINDOW - 2 * _MARGIN))
    starts = [k * (side - window) // max(count - 1, 1) for k in range(count)]
    # These bounds halve the overlap of two windows, which is two margins or more.
    bounds = [0, *((a + window + b) // 2 for a, b in zip(starts, starts[1:])), side]
    return [
        Span(start, start + window, first, last)
        for start, first, last in zip(starts, bounds, bounds[1:])
    ]


class _Part(NamedTuple):
    """The contents of a window.

    Attributes:
      x: image.
      inside: 1 in the image, 0 in its padding, [1, H, W, 1].
      x_hat: reconstruction by the layers below.
      optimized: 1 for a position that is optimized, else 0, [h, w, 1].
    """

    x: tf.Tensor
    inside: tf.Tensor
    x_hat: tf.Tensor
    optimized: tf.Tensor


class _State(NamedTuple):
    """The latent in a window, and Adam's averages of its gradient and squared gradient."""

    y: tf.Tensor
    mean: tf.Tensor
    square: tf.Tensor


def _optimized(
    part: _Part,
    y: tf.Tensor,
    y_hat: tf.Tensor,
    functions: tuple[Callable, Callable],
    steps: int,
    progress: Callable[[], object],
) -> tf.Tensor:
    """Returns the best rounded latent of a window, starting from y; it may be y_hat."""
    step, measure = functions
    y = tf.where(part.optimized > 0, y, y_hat)
    state = _State(y, tf.zeros_like(y), tf.zeros_like(y))
    best = measure(y_hat, part)
    for k in range(steps):
        state = step(state, tf.constant(k), tf.constant(k / steps, tf.float32), part)
        progress()
        if (k + 1) % max(1, steps // _TRIALS) == 0:
            candidate = tf.round(state.y)
            if (loss := measure(candidate, part)) < best:
                best, y_hat = loss, candidate
    return y_hat


@functools.lru_cache(maxsize=16)
def _functions(layer: ResidualLayer, loss: RateDistortionLoss) -> tuple[Callable, Callable]:
    """Returns the traced step, and the traced loss of a rounded latent."""

    def value(y, part):
        bits = layer.entropy_model.bits(y)
        x_hat = part.x + part.inside * (part.x_hat + layer.synthesis(y) - part.x)
        return loss.terms(*_mirrored(part.x, x_hat, bits))["loss"][0]

    @tf.function
    def step(state, count, done, part):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(state.y)
            first, last = _TEMPERATURES[loss.metric]
            seed = tf.stack([count, 0])
            y_tilde = annealed(state.y, first * (last / first) ** done, seed)
            cost = value(y_tilde, part)
        gradient = tape.gradient(cost, state.y) * part.optimized
        mean = _BETA_1 * state.mean + (1 - _BETA_1) * gradient
        squares = tf.square(gradient)
        if loss.metric == "mse":
            squares = tf.reduce_mean(squares)
        square = _BETA_2 * state.square + (1 - _BETA_2) * squares
        number = tf.cast(count + 1, tf.float32)
        direction = (mean / (1 - _BETA_1**number)) / (
            tf.sqrt(square / (1 - _BETA_2**number)) + 1e-8
        )
        rate = _LEARNING_RATES[loss.metric] * (0.1 + 0.9 * (1 + tf.cos(math.pi * done)) / 2)
        return _State(state.y - rate * direction, mean, square)

    return step, tf.function(value)


def _mirrored(
    x: tf.Tensor, x_hat: tf.Tensor, bits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns image, reconstruction and bits, doubled until sides suffice for MS-SSIM."""
    for axis in (1, 2):
        while x.shape[axis] < SMALLEST_MS_SSIM_SIDE:
            x, x_hat = (tf.concat([v, tf.reverse(v, [axis])], axis) for v in (x, x_hat))
            bits = 2 * bits
    return x, x_hat, bits

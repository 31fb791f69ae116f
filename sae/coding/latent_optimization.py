"""Latent optimization: better latents of one image, for more time at encoding.

The latent of a layer descends the gradient of the layer's own loss, while each element is rounded
at random, up or down, ever more surely to the nearer side (`sae.model.quantization.annealed`).
Streams are ordinary ones and take no longer to decode.
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

# Learning rates of Adam, in units of the rounding: half a cosine down to a tenth of it. With so few
# steps, its averages should decay sooner than usual. For MSE its average of squares is one of all
# elements, whose errors cost alike; MS-SSIM is most easily had where there is little contrast.
_LEARNING_RATES, _BETA_1, _BETA_2 = {"mse": 0.01, "ms-ssim": 0.02}, 0.8, 0.999
# First and last temperature of the relaxed choice between two integers.
_TEMPERATURES = {"mse": (1.0, 0.4), "ms-ssim": (0.7, 0.3)}
# So often the latent is rounded for good and measured.
_TRIALS = 10
# Sides in positions of the latent. The margin of a window is not optimized: the pixels that the
# optimized positions reach lie within.
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
    """Returns a rounded latent, by the loss no worse than that of the analysis.

    A latent that is larger than a window is optimized window by window.

    Args:
      x: image, float32 [1, H, W, 3] in [0, 1], with sides that are multiples of the stride.
      x_hat: its reconstruction by the layers below.
      y: latent of the analysis, not rounded.
      layer: layer of the latent.
      loss: loss of that layer.
      effort: index of `EFFORTS`.
      size: (height, width) of the image, where x is padded at the bottom and right; the
        reconstruction of the padding does not count.
      progress: called after each step.
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
    """Rows or columns of a latent: those of a window, and those that are optimized in it."""

    start: int
    stop: int
    first: int
    last: int

    def window(self, scale: int = 1) -> slice:
        """Returns the window, in units of 1 / scale."""
        return slice(self.start * scale, self.stop * scale)

    def optimized(self) -> tf.Tensor:
        """Returns 1 for each that is optimized, 0 for the others, float32 [stop - start]."""
        position = tf.range(self.start, self.stop)
        return tf.cast((position >= self.first) & (position < self.last), tf.float32)


def windows(sides: Sequence[int]) -> list[tuple[Span, Span]]:
    """Returns windows of one size, whose optimized parts make up a latent of two sides."""
    return list(itertools.product(*map(_spans, sides)))  # type: ignore[arg-type]


def _spans(side: int) -> list[Span]:
    window = min(side, _WINDOW)
    count = 1 + math.ceil((side - window) / (_WINDOW - 2 * _MARGIN))
    starts = [k * (side - window) // max(count - 1, 1) for k in range(count)]
    # Half way through what two windows share, which is two margins or more.
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
    """The latent in a window, and Adam's averages of its gradient and of the square of that."""

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
    """Returns an image, its reconstruction and its bits, all doubled until MS-SSIM has room."""
    for axis in (1, 2):
        while x.shape[axis] < SMALLEST_MS_SSIM_SIDE:
            x, x_hat = (tf.concat([v, tf.reverse(v, [axis])], axis) for v in (x, x_hat))
            bits = 2 * bits
    return x, x_hat, bits

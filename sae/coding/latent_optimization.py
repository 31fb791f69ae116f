"""Latent optimization: better latents of one image, for more encoding time.

The latent descends the gradient of a loss. Meanwhile each element is rounded up or down at random,
at the end to the nearer integer (`sae.model.quantization.annealed`). The streams have the usual
format and decoding time.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from sae.config import EFFORTS, STRIDE
from sae.metrics import SMALLEST_MS_SSIM_SIDE

# Decays of Adam's averages; they are lower than usual, since there are few steps. Learning rates
# fall along half a cosine to a tenth.
_BETA_1, _BETA_2 = 0.8, 0.999
# Number of times the loss of the rounded latent is measured.
_TRIALS = 10
# Sides in positions of the latent. The margin of a window is not optimized, so that the window
# covers all pixels within reach of the optimized positions.
_WINDOW, _MARGIN = 48, 4


class Schedule(NamedTuple):
    """The settings of a descent.

    Attributes:
      learning_rate: largest learning rate, in the unit of the latent.
      temperatures: first and last temperature of the relaxed choice between two integers.
      shared: whether all elements share one average of squared gradients.
      floor: number added to the root of these averages; elements whose gradients are smaller hardly
        move.
    """

    learning_rate: float
    temperatures: tuple[float, float]
    shared: bool
    floor: float = 1e-8


class Objective(Hashable, Protocol):
    """The loss of a latent; equal objectives share one traced graph.

    Attributes:
      schedule: settings of the descent.
    """

    @property
    def schedule(self) -> Schedule: ...

    def relaxed(
        self, y: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, part: Part
    ) -> tf.Tensor:
        """Returns the loss of a randomly rounded latent, differentiable."""

    def rounded(self, y: tf.Tensor, part: Part) -> tf.Tensor:
        """Returns the loss of a latent when it is coded."""


def optimized(
    x: tf.Tensor,
    x_hat: tf.Tensor,
    y: tf.Tensor,
    objective: Objective,
    effort: int,
    size: tuple[int, int] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> tf.Tensor:
    """Returns a latent whose loss is no larger than that of y when both are coded.

    A latent that is larger than a window is optimized window by window.

    Args:
      x: image, float32 [1, H, W, 3] in [0, 1], with sides that are multiples of the stride.
      x_hat: reconstruction of the image by the layers below.
      y: latent of the analysis, not rounded.
      objective: loss of the latent.
      effort: index of `EFFORTS`.
      size: (height, width) of the image within x, which may be padded at the bottom and right; the
        reconstruction of the padding does not count.
      progress: function that is called after each step.
    """
    best = y.numpy()
    height, width = size or x.shape[1:3]
    inside = np.zeros((*x.shape[:3], 1), np.float32)
    inside[:, :height, :width] = 1
    for rows, columns in windows(y.shape[1:3]):
        of_image = (slice(None), *(span.window(STRIDE) for span in (rows, columns)))
        of_latent = (slice(None), rows.window(), columns.window())
        part = Part(
            x[of_image],
            tf.constant(inside[of_image]),
            x_hat[of_image],
            rows.optimized()[:, None, None] * columns.optimized()[:, None],
        )
        best[of_latent] = _optimized(
            part, tf.constant(best[of_latent]), objective, EFFORTS[effort], progress
        )
    return tf.constant(best)


def count_steps(effort: int, size: Sequence[int]) -> int:
    """Returns the number of steps for one latent of an image of (height, width)."""
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


class Part(NamedTuple):
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

    def compared(self, x_hat: tf.Tensor, bits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns image, reconstruction and bits for a loss.

        In the padding, the reconstruction is the image. All are doubled by reflection until sides
        suffice for MS-SSIM.

        Args:
          x_hat: reconstruction of this latent alone.
          bits: number of bits, [1].
        """
        x, x_hat = self.x, self.x + self.inside * (self.x_hat + x_hat - self.x)
        for axis in (1, 2):
            while x.shape[axis] < SMALLEST_MS_SSIM_SIDE:
                x, x_hat = (tf.concat([v, tf.reverse(v, [axis])], axis) for v in (x, x_hat))
                bits = 2 * bits
        return x, x_hat, bits


class _State(NamedTuple):
    """The latent in a window, and Adam's averages of its gradient and squared gradient."""

    y: tf.Tensor
    mean: tf.Tensor
    square: tf.Tensor


def _optimized(
    part: Part, y: tf.Tensor, objective: Objective, steps: int, progress: Callable[[], object]
) -> tf.Tensor:
    """Returns the best latent of a window, starting from y; it may be y."""
    step, measure = _functions(objective)
    state = _State(y, tf.zeros_like(y), tf.zeros_like(y))
    best = measure(y, part)
    for k in range(steps):
        state = step(state, tf.constant(k), tf.constant(k / steps, tf.float32), part)
        progress()
        if (k + 1) % max(1, steps // _TRIALS) == 0 and (loss := measure(state.y, part)) < best:
            best, y = loss, state.y
    return y


@functools.lru_cache(maxsize=16)
def _functions(objective: Objective) -> tuple[Callable, Callable]:
    """Returns the traced step, and the traced loss of a latent when it is coded."""
    learning_rate, (first, last), shared, floor = objective.schedule

    @tf.function
    def step(state, count, done, part):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(state.y)
            temperature, seed = first * (last / first) ** done, tf.stack([count, 0])
            cost = objective.relaxed(state.y, temperature, seed, part)
        gradient = tape.gradient(cost, state.y) * part.optimized
        mean = _BETA_1 * state.mean + (1 - _BETA_1) * gradient
        squares = tf.square(gradient)
        if shared:
            squares = tf.reduce_mean(squares)
        square = _BETA_2 * state.square + (1 - _BETA_2) * squares
        number = tf.cast(count + 1, tf.float32)
        direction = (mean / (1 - _BETA_1**number)) / (
            tf.sqrt(square / (1 - _BETA_2**number)) + floor
        )
        rate = learning_rate * (0.1 + 0.9 * (1 + tf.cos(math.pi * done)) / 2)
        return _State(state.y - rate * direction, mean, square)

    return step, tf.function(objective.rounded)

"""A search for better latents of one image, when there is time to encode.

The latents of an analysis transform are good for all images, and the best for
none. Here the latent of a layer moves down the gradient of the layer's own
objective, while each element is rounded at random, up or down, ever more surely
to the nearer side: stochastic Gumbel annealing (Yang, Bamler and Mandt, NeurIPS
2020), with the scaled sigmoid of Perugachi-Diaz et al. (2024) for the chance of
going up. The streams are ordinary ones and take no longer to decode.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sae.config import EFFORTS
from sae.metrics import SMALLEST_MS_SSIM_SIDE
from sae.model.bottleneck import uniform_noise
from sae.model.layer import Context, Layer
from sae.model.objective import Objective

# Of Adam, in units of the rounding: half a cosine down to a tenth of it. With so few steps, its
# averages are to forget sooner than usual. For MSE its average of squares is one of all elements,
# whose errors cost alike; MS-SSIM is most easily had where there is little contrast.
_LEARNING_RATES, _BETA_1, _BETA_2 = {"mse": 0.01, "ms-ssim": 0.02}, 0.8, 0.999
# How much steeper the chance of going up is than the fraction that is rounded, in logits.
_STEEPNESS = 6.0
# Of the relaxed choice between the two integers, at first and at last.
_TEMPERATURES = {"mse": (1.0, 0.4), "ms-ssim": (0.7, 0.3)}
# So often the latent is rounded for good and measured.
_TRIALS = 10
# Sides in positions of the latent. The margin of a window is not searched: the pixels that
# the searched positions reach lie within.
_WINDOW, _MARGIN = 64, 4


def search(
    x: tf.Tensor,
    context: Context,
    layer: Layer,
    objective: Objective,
    effort: int,
    size: tuple[int, int] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> tf.Tensor:
    """Returns a rounded latent, by the objective no worse than that of the analysis.

    What is larger than a window is searched window by window.

    Args:
      x: float32 [1, H, W, 3] in [0, 1], with sides that are multiples of the stride.
      context: of the lower layers.
      layer: whose latent it is.
      objective: of that layer.
      effort: how long, an index of `EFFORTS`.
      size: (height, width) of the image, where x is padded at the bottom and right; the
        padding may then look like anything.
      progress: called after each step.
    """
    y = layer.analyse(x, context)
    y_hat = layer.quantize(y, context).numpy()
    height, width = size or x.shape[1:3]
    inside = np.zeros((*x.shape[:3], 1), np.float32)
    inside[:, :height, :width] = 1
    functions = _functions(layer, objective)
    for rows, columns in windows(y.shape[1:3]):
        of_image = (slice(None), *(span.window(layer.stride) for span in (rows, columns)))
        of_latent = (slice(None), rows.window(), columns.window())
        part = _Part(
            x[of_image],
            tf.constant(inside[of_image]),
            context.x_hat[of_image],
            tuple(latent[of_latent] for latent in context.latents),
            rows.searched()[:, None, None] * columns.searched()[:, None],
        )
        y_hat[of_latent] = _search(
            part, y[of_latent], tf.constant(y_hat[of_latent]), functions, EFFORTS[effort], progress
        )
    return tf.constant(y_hat)


def count_steps(effort: int, size: tuple[int, int], stride: int) -> int:
    """Returns how many steps a search has for one layer of an image of (height, width)."""
    return EFFORTS[effort] * len(windows([side // stride for side in size]))


class Span(NamedTuple):
    """Rows or columns of a latent: those of a window, and which of them are searched in it."""

    start: int
    stop: int
    first: int
    last: int

    def window(self, scale: int = 1) -> slice:
        """Returns the window, in units of 1 / scale."""
        return slice(self.start * scale, self.stop * scale)

    def searched(self) -> tf.Tensor:
        """Returns 1 for each that is searched, 0 for the others, float32 [stop - start]."""
        position = tf.range(self.start, self.stop)
        return tf.cast((position >= self.first) & (position < self.last), tf.float32)


def windows(sides: Sequence[int]) -> list[tuple[Span, Span]]:
    """Returns windows of one size, whose searched parts make up a latent of two sides."""
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
    """What is in a window.

    Attributes:
      x: the image.
      inside: 1 in the image, 0 in its padding, [1, H, W, 1].
      x_hat: reconstruction after the layer below.
      latents: of the lower layers.
      searched: 1 for a position that is searched, else 0, [h, w, 1].
    """

    x: tf.Tensor
    inside: tf.Tensor
    x_hat: tf.Tensor
    latents: tuple[tf.Tensor, ...]
    searched: tf.Tensor


class _State(NamedTuple):
    """The latent in a window, and Adam's averages of its gradient and of the square of that."""

    y: tf.Tensor
    mean: tf.Tensor
    square: tf.Tensor


def _search(
    part: _Part,
    y: tf.Tensor,
    y_hat: tf.Tensor,
    functions: tuple[Callable, Callable],
    steps: int,
    progress: Callable[[], object],
) -> tf.Tensor:
    """Returns the best rounded latent found in a window from y on, which may be y_hat."""
    step, measure = functions
    y = tf.where(part.searched > 0, y, y_hat)
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
def _functions(layer: Layer, objective: Objective) -> tuple[Callable, Callable]:
    """Returns the traced step of a search, and the traced loss of a rounded latent."""

    def loss(y, part, quantization):
        context = Context(part.latents, lambda: part.x_hat)
        y_hat, bits = layer.rate(y, context, quantization)
        x_hat = part.x + part.inside * (layer.synthesise(y_hat, context) - part.x)
        return objective.terms(*_mirrored(part.x, x_hat, bits))["loss"][0]

    @tf.function
    def step(state, count, done, part):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(state.y)
            first, last = _TEMPERATURES[objective.metric]
            y_tilde = _relaxed(state.y, count, first * (last / first) ** done)
            value = loss(y_tilde, part, "none")
        gradient = tape.gradient(value, state.y) * part.searched
        mean = _BETA_1 * state.mean + (1 - _BETA_1) * gradient
        squares = tf.square(gradient)
        if objective.metric == "mse":
            squares = tf.reduce_mean(squares)
        square = _BETA_2 * state.square + (1 - _BETA_2) * squares
        number = tf.cast(count + 1, tf.float32)
        direction = (mean / (1 - _BETA_1**number)) / (
            tf.sqrt(square / (1 - _BETA_2**number)) + 1e-8
        )
        rate = _LEARNING_RATES[objective.metric] * (0.1 + 0.9 * (1 + tf.cos(math.pi * done)) / 2)
        return _State(state.y - rate * direction, mean, square)

    return step, tf.function(lambda y_hat, part: loss(y_hat, part, "rounded"))


def _relaxed(y: tf.Tensor, count: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """Returns y rounded at random, nearly; differentiable.

    Args:
      y: any float32.
      count: int32, another noise for each.
      temperature: of the choice.
    """
    below = tf.floor(y)
    noise = uniform_noise(tf.shape(y), tf.stack([count, 0])) + 0.5
    logit = _STEEPNESS * _logit(y - below) + _logit(noise)
    return below + tf.sigmoid(logit / temperature)


def _logit(probability: tf.Tensor) -> tf.Tensor:
    probability = tf.clip_by_value(probability, 1e-4, 1 - 1e-4)
    return tf.math.log(probability) - tf.math.log(1 - probability)


def _mirrored(
    x: tf.Tensor, x_hat: tf.Tensor, bits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns an image, its reconstruction and its bits, all doubled until MS-SSIM has room."""
    for axis in (1, 2):
        while x.shape[axis] < SMALLEST_MS_SSIM_SIDE:
            x, x_hat = (tf.concat([v, tf.reverse(v, [axis])], axis) for v in (x, x_hat))
            bits = 2 * bits
    return x, x_hat, bits

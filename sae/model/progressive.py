"""The progressive model: one auto-encoder and one latent, refined plane by plane.

    y = analysis(x)                          in steps of plane 0
    q_2 = round(9 y), q_1 = round(q_2 / 3), q_0 = round(q_1 / 3)
    plane 0: the integers q_0; plane p above: the digits q_p - 3 q_{p-1} in {-1, 0, 1}
    x_hat = synthesis(y_hat, level)

A ratio of three nests uniform quantizers in one another. Per element, this costs at most 0.01 bit
more than the best scalar quantizer of each plane. The level is the plane up to which the latent is
decoded; within a plane it is fractional. Lower planes have fewer channels, since high frequencies
are zero in coarse steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from sae.model.integer_context import float_kernels
from sae.model.model_store import StoredModel
from sae.model.plane_priors import (
    Digits,
    PlaneContext,
    SliceContext,
    Steps,
    digit_cost,
    integer_cost,
    relaxed_digit_bits,
)
from sae.model.progressive_config import PLANES, RATIO, ProgressiveConfig
from sae.model.progressive_transforms import Analysis, Decoded, Synthesis
from sae.model.quantization import annealed, nested, widened


class Planes(NamedTuple):
    """The planes of a latent, each with its own number of channels.

    Attributes:
      integers: rounded latent of each plane, [B, h, w, depth].
      bits: number of bits of each plane alone, [B], differentiable.
      digits: distributions of the digits of each plane above 0.
    """

    integers: list[tf.Tensor]
    bits: list[tf.Tensor]
    digits: list[Digits]

    def end(self, plane: int) -> Decoded:
        """Returns the latent decoded to the end of a plane."""
        y_hat = self._widened(self.integers[plane] / float(RATIO**plane))
        width = self._widened(tf.ones_like(self.integers[plane]) / float(RATIO**plane))
        if plane == PLANES - 1:
            expected = self.digits[-1].rest / float(RATIO**plane)
        else:
            expected = self.digits[plane].expected / float(RATIO ** (plane + 1))
        return Decoded(y_hat, self._widened(expected), width)

    def cut(self, plane: int, share: tf.Tensor) -> Decoded:
        """Returns the latent decoded to a cut within a plane above 0.

        The trits of digits are ordered by the expected reduction of the squared error per bit.

        Args:
          plane: number of the plane.
          share: decoded share of the plane's expected bits, float32 [B] in [0, 1].
        """
        below, digits = self.end(plane - 1), self.digits[plane - 1]
        steps, unit = digits.steps(), float(RATIO**plane)
        first, second = tf.unstack(_decoded(steps, share), axis=1)
        digit = self.integers[plane] - float(RATIO) * widened(
            self.integers[plane - 1], self.integers[plane].shape[-1]
        )
        sign = tf.where(digits.outward, 1.0, -1.0)
        known = first & (~steps.halved | second | tf.equal(digit, sign))
        known, half = (
            self._widened(tf.cast(values, tf.float32)) > 0.0 for values in (known, first & ~known)
        )

        def chosen(if_known, if_half, otherwise):
            if_known, if_half = (self._widened(values / unit) for values in (if_known, if_half))
            return tf.where(known, if_known, tf.where(half, if_half, otherwise))

        one = tf.ones_like(digit)
        return Decoded(
            chosen(self.integers[plane], self.integers[plane] - digit - 0.5 * sign, below.y_hat),
            chosen(digits.rest, (0.5 - steps.inner) * sign, below.expected),
            chosen(one, 2.0 * one, below.width),
        )

    def _widened(self, values):
        """Appends channels of zeros to the values of a lower plane."""
        return widened(values, self.integers[-1].shape[-1])


def _decoded(steps: Steps, share: tf.Tensor) -> tf.Tensor:
    """Returns which first and second trits a share of the bits decodes, bool [B, 2, h, w, depth].

    Args:
      steps: trits in any order.
      share: share of the expected bits, float32 [B].
    """
    shape = tf.shape(steps.bits)
    gains, bits = (tf.reshape(values, (shape[0], -1)) for values in (steps.gains, steps.bits))
    order = tf.argsort(gains, direction="DESCENDING", stable=True)
    bits = tf.gather(bits, order, batch_dims=1)
    spent = tf.cumsum(bits, axis=1, exclusive=True)
    come = spent < share[:, None] * tf.reduce_sum(bits, 1, keepdims=True)
    come = tf.gather(come, tf.argsort(order), batch_dims=1)
    return tf.reshape(come, shape)


class ProgressiveModel(tf.Module):
    """The model, for images float32 [B, H, W, 3] in [0, 1], H and W multiples of 16.

    Args:
      config: architecture of the model.
      compute_dtype: type of products in convolutions, float32 or bfloat16.
    """

    def __init__(self, config: ProgressiveConfig, compute_dtype: tf.DType = tf.float32):
        super().__init__()
        self.config = config
        depths = config.plane_depths
        # The digits of a channel add up to less than half a step of the last plane without it.
        first = np.searchsorted(depths, np.arange(depths[-1]), side="right")
        self._bounds = np.where(first > 0, 0.499 * RATIO ** (1.0 - first), np.inf).astype(
            np.float32
        )
        self._analysis = Analysis(config, compute_dtype)
        self._synthesis = Synthesis(config, compute_dtype)
        self._first_context = SliceContext(
            "plane_0",
            config.slice_sizes,
            config.context_filters,
            config.slice_embedding,
            compute_dtype,
        )
        self._contexts = [
            PlaneContext(
                f"plane_{p}", sum(depths[:p]), depths[p], config.plane_filters, compute_dtype
            )
            for p in range(1, PLANES)
        ]

    @classmethod
    def restored(cls, stored: StoredModel) -> ProgressiveModel:
        """Returns a stored model in floating point."""
        model, weights = cls(stored.config), {**stored.arrays, **float_kernels(stored.arrays)}
        for variable in model.trainable_variables:
            variable.assign(weights[variable.name.removesuffix(":0")])
        return model

    def analysis(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the latent of x in steps of plane 0, [B, H/16, W/16, depth], not rounded.

        Channels that lower planes lack are limited to the range of the digits above. Beyond these
        bounds, only gradients towards them are kept.
        """
        y = self._analysis(x)
        return tfc.upper_bound(tfc.lower_bound(y, -self._bounds), self._bounds)

    def parameters(self, integers: Sequence[tf.Tensor]) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Returns means, in steps of the plane, and scale indices of each plane, not rounded.

        Args:
          integers: rounded latent of each plane, [B, h, w, depth].
        """
        above = [context.parameters(integers[:p]) for p, context in enumerate(self._contexts, 1)]
        return [self._first_context.parameters(integers[0]), *above]

    def code(self, y: tf.Tensor, gradient_scales: Sequence[tf.Tensor] | None = None) -> Planes:
        """Returns the planes of a latent, with their bits.

        Contexts are rounded latents, without gradient. Bits, too, are of rounded latents; near the
        boundaries of intervals they have a gradient to y.

        Args:
          y: latent that `analysis` returns.
          gradient_scales: factors [B] of the gradient from the bits of each plane to y.
        """
        depths = self.config.plane_depths
        integers = nested(y, depths, RATIO)

        def with_slope(plane, bits, slope):
            """Returns bits with a gradient to y; slopes are per step of plane 0."""
            part = y[..., : slope.shape[-1]]
            change = tf.reduce_sum(slope * (part - tf.stop_gradient(part)), (1, 2, 3))
            return bits + (change if gradient_scales is None else change * gradient_scales[plane])

        fixed = tf.stop_gradient(y)
        first, *above = self.parameters(integers)
        cost = integer_cost(integers[0], fixed[..., : depths[0]], *first)
        bits, digits = [with_slope(0, *cost)], []
        for p, parameters in enumerate(above, 1):
            unit = float(RATIO**p)
            parents = float(RATIO) * widened(integers[p - 1], depths[p])
            cost, parent_slope, expected = digit_cost(
                integers[p] - parents,
                parents,
                unit * fixed[..., : depths[p]],
                *parameters,
            )
            # A channel that the plane below lacks has a constant parent.
            parent_slope = widened(parent_slope[..., : depths[p - 1]], depths[p])
            bits.append(with_slope(p, cost.bits, unit * (cost.slope - parent_slope)))
            digits.append(expected)
        return Planes(integers, bits, digits)

    def relaxed(self, y: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> Planes:
        """Returns the planes of a latent that is rounded at random, differentiable.

        Each plane is rounded on its own, as `sae.model.quantization.annealed` does it.

        Args:
          y: latent in steps of plane 0, [B, h, w, depth].
          temperature: temperature of the relaxed choice.
          seed: int [2], seed of the noise.
        """
        depths = self.config.plane_depths
        q = [
            annealed(
                float(RATIO**p) * y[..., :depth],
                temperature,
                tf.stack([PLANES * seed[0] + p, seed[1]]),
            )
            for p, depth in enumerate(depths)
        ]
        first, *above = self.parameters(q)
        cost = integer_cost(q[0], q[0], *first)
        bits, digits = [cost.bits], []
        for p, parameters in enumerate(above, 1):
            parents = float(RATIO) * widened(q[p - 1], depths[p])
            of_plane = relaxed_digit_bits(q[p], parents, *parameters)
            bits.append(of_plane[0])
            digits.append(of_plane[1])
        return Planes(q, bits, digits)

    def synthesis(self, decoded: Decoded, level: tf.Tensor) -> tf.Tensor:
        """Returns the reconstruction, [B, H, W, 3], not clipped.

        Args:
          decoded: decoded latent.
          level: plane up to which it is decoded, float32 [B] in [0, 2].
        """
        return self._synthesis(decoded, level)

    @property
    def prior_variables(self) -> tuple[tf.Variable, ...]:
        """Variables of the entropy models."""
        contexts: list[tf.Module] = [self._first_context, *self._contexts]
        return tuple(v for context in contexts for v in context.trainable_variables)

    @property
    def decoder_variables(self) -> tuple[tf.Variable, ...]:
        """Variables that can be trained while latents are fixed."""
        return (*self._synthesis.trainable_variables, *self.prior_variables)

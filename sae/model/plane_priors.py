"""Entropy models of the planes: means and scales of every element, and the bits of its digits.

An element of the latent y has a logistic distribution. In plane 0, `SliceContext` gives mean and
scale of its integer in the order of coding: channels in slices, lowest frequencies first, and the
positions of a slice in four checkerboard passes. Later slices are conditioned on all earlier ones
near their position, later passes also on the earlier passes of their slice. (He et al., CVPR 2022,
for slices of growing size; He et al., CVPR 2021, for passes in place of single positions.) Slices
come before passes, so that the first slice gives an image of all positions.

    pass of each position      0 2 0 2
                               3 1 3 1
                               0 2 0 2

In a plane above, `PlaneContext` gives mean and scale of all elements in one pass over the decoded
planes. Both networks embed the latents first, since a scale depends on magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
import tensorflow_compression as tfc

from sae.model.integer_context import (
    LARGEST_ACTIVATION,
    LARGEST_INPUT,
    PASSES,
    SCALE_ONE,
    SCALE_RATIO,
    SCALE_STEPS,
    SCALES,
    SLOPE,
    SMALLEST_SCALE,
    earlier_taps,
)
from sae.model.modules import Convolution, variable
from sae.model.plane_tables import HALVED_BITS
from sae.model.quantization import NEAR_DIGIT, NEAR_INTEGER, boundary_weights

# This smallest mass of an interval keeps logarithms finite in float32.
_TINY = 1e-30


class SliceContext(tf.Module):
    """The context model of plane 0.

    Args:
      scope: prefix of the variables' names.
      sizes: numbers of channels of the slices, in the order of coding.
      filters: number of channels of the features that give means and scales.
      embedding: number of channels of an embedded slice.
      compute_dtype: type of the products, as in `Convolution`.
    """

    def __init__(
        self,
        scope: str,
        sizes: Sequence[int],
        filters: int,
        embedding: int,
        compute_dtype: tf.DType = tf.float32,
    ):
        super().__init__()
        self._sizes = list(sizes)
        self._slices = [
            _SliceNetwork(f"{scope}/slice_{k}", size, filters, embedding, compute_dtype)
            for k, size in enumerate(sizes)
        ]
        # These embeddings condition later slices on an earlier one.
        self._channel_contexts = [
            Convolution(
                f"{scope}/channel_context_{k}",
                3,
                embedding,
                filters,
                bias=False,
                compute_dtype=compute_dtype,
            )
            for k in range(len(sizes) - 1)
        ]

    def parameters(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns means and scale indices of all elements of plane 0.

        Args:
          q: rounded latent, [B, h, w, depth].

        Returns:
          Two tensors like q: means, in steps, and scale indices in [0, 63], not rounded.
        """
        context, parts = tf.zeros(()), []
        for k, part in enumerate(tf.split(q, self._sizes, -1)):
            embedded = self._slices[k].embed(part)
            features = context + self._slices[k].spatial_context(embedded)
            parts.append(self._slices[k].entropy_parameters(features))
            if k < len(self._channel_contexts):
                context += self._channel_contexts[k](embedded)
        means, scales = zip(*parts)
        return tf.concat(means, -1), tf.concat(scales, -1)


class _SliceNetwork(tf.Module):
    """The part of the context model for one slice."""

    def __init__(self, scope, size, filters, embedding, compute_dtype):
        super().__init__()
        self._size, self._filters = size, filters

        def convolution(name, *shape, **options):
            return Convolution(f"{scope}/{name}", *shape, compute_dtype=compute_dtype, **options)

        self._embed = convolution("embed", 1, size, embedding)
        self._spatial = convolution("spatial", 3, embedding, filters, 2, bias=False)
        self._pass_bias = variable(scope, "pass_bias", tf.zeros((len(PASSES), filters)))
        self._joint = [convolution(f"joint_{k}", 1, filters, filters) for k in range(2)]
        self._output = _ParameterHead(f"{scope}/output", filters, size, compute_dtype)

    def embed(self, part):
        """Returns the embedding of a slice, on which other elements are conditioned."""
        return _activation(self._embed(_clipped(part)))

    def spatial_context(self, embedded):
        """Returns the features of every position from the earlier passes of its slice."""
        batch, height, width, _ = tf.unstack(tf.shape(embedded))
        features = []
        for number, (row, column) in enumerate(PASSES):
            size = (batch, (height + 1 - row) // 2, (width + 1 - column) // 2, self._filters)
            x = tf.zeros(size) + self._pass_bias[number]
            if number:
                kernel = self._spatial.kernel * earlier_taps(number)[..., None, None]
                # Two rows and columns of padding at the end fit a kernel on latents of any size.
                padded = tf.pad(embedded, ((0, 0), (1 - row, 2), (1 - column, 2), (0, 0)))
                taps = self._spatial.product(padded, kernel, "VALID")
                x += taps[:, : size[1], : size[2]]
            features.append(x)
        return interleave(features, (height, width))

    def entropy_parameters(self, features):
        """Returns means and scale indices of a slice from the features of its positions."""
        x = _activation(features)
        for joint in self._joint:
            x = _activation(joint(x))
        return self._output(x)


class PlaneContext(tf.Module):
    """The context model of a plane above 0: one pass over the planes below.

    Args:
      scope: prefix of the variables' names.
      channels: total number of channels of the planes below.
      depth: number of channels of the plane.
      filters: number of channels between the convolutions.
      compute_dtype: type of the products, as in `Convolution`.
    """

    def __init__(
        self,
        scope: str,
        channels: int,
        depth: int,
        filters: int,
        compute_dtype: tf.DType = tf.float32,
    ):
        super().__init__()

        def convolution(name, support, channels):
            return Convolution(
                f"{scope}/{name}", support, channels, filters, compute_dtype=compute_dtype
            )

        self._embed = convolution("embed", 1, 2 * channels)
        self._residual = [
            convolution(f"residual_{k}", support, filters) for k, support in enumerate((3, 3, 1))
        ]
        self._output = _ParameterHead(f"{scope}/output", filters, depth, compute_dtype)

    def parameters(self, planes: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns means and scale indices, [B, h, w, depth], in steps of this plane.

        Args:
          planes: integers of the planes below, lowest first.
        """
        inputs = [v for q in reversed(planes) for v in (_clipped(q), _clipped(tf.abs(q)))]
        x = _activation(self._embed(tf.concat(inputs, -1)))
        for residual in self._residual:
            x = tfc.upper_bound(x + _activation(residual(x)), LARGEST_ACTIVATION)
        return self._output(x)


class _ParameterHead(tf.Module):
    """Means and scale indices from features, position by position."""

    def __init__(self, scope, channels, depth, compute_dtype):
        super().__init__()
        self._convolution = Convolution(scope, 1, channels, 2 * depth, compute_dtype=compute_dtype)
        kernel = self._convolution.kernel
        kernel.assign(0.1 * kernel)

    def __call__(self, x):
        means, scales = tf.split(self._convolution(x), 2, -1)
        # Beyond the bounds, only gradients toward them are kept.
        scales = tfc.lower_bound(SCALE_STEPS * scales + SCALE_ONE, 0.0)
        return means, tfc.upper_bound(scales, SCALES - 1.0)


class Digits(NamedTuple):
    """A plane's digits under its context model, each part [B, h, w, depth].

    Attributes:
      low, high: probabilities of the digits -1 and 1.
      outward: whether the mean is not above the parent's center, so that 1 is the outward digit.
      rest: expectation of the next digit in steps of the plane, if the same distribution coded it.
    """

    low: tf.Tensor
    high: tf.Tensor
    outward: tf.Tensor
    rest: tf.Tensor

    @property
    def expected(self) -> tf.Tensor:
        """Mean of the digits, in [-1, 1]."""
        return self.high - self.low

    def steps(self) -> Steps:
        """Returns the trits that code the digits, as `sae.model.plane_tables` describes them."""
        variance = self.low + self.high - tf.square(self.expected)
        middle = 1.0 - self.low - self.high
        entropy = tf.add_n([_surprise(p) for p in (self.low, middle, self.high)])
        outer = tf.where(self.outward, self.high, self.low)
        inner = tf.where(self.outward, self.low, self.high) / tf.maximum(1.0 - outer, _TINY)
        first_entropy = _surprise(outer) + _surprise(1.0 - outer)
        first_gain = outer * (1.0 - outer) * tf.square(1.0 + inner)
        halved = entropy >= HALVED_BITS
        first_bits = tf.where(halved, first_entropy, entropy)
        first_gain = tf.where(halved, first_gain, variance) / tf.maximum(first_bits, 1e-9)
        second_bits = entropy - first_bits
        second_gain = (variance - first_gain * first_bits) / tf.maximum(second_bits, 1e-9)
        # A second trit is never before the first one.
        second_gain = tf.where(halved, tf.minimum(first_gain, second_gain), -1.0)
        gains, bits = tf.stack([first_gain, second_gain], 1), tf.stack([first_bits, second_bits], 1)
        return Steps(halved, inner, gains, bits)


class Steps(NamedTuple):
    """The trits of a plane's digits.

    Attributes:
      halved: whether a digit has two trits, [B, h, w, depth].
      inner: probability of the inward digit where it is not the outward one, of that shape.
      gains: expected reduction of the squared error per bit of first and second trits, -1 where
        there is none, [B, 2, h, w, depth].
      bits: expected bits of these trits, of that shape.
    """

    halved: tf.Tensor
    inner: tf.Tensor
    gains: tf.Tensor
    bits: tf.Tensor


class Cost(NamedTuple):
    """Bits of the integers or digits of a plane, and how they change with the latent.

    Attributes:
      bits: number of bits [B], differentiable in the parameters.
      slope: derivative of each element's bits by the latent in steps of the plane, as `_slope`
        gives it, without gradient, [B, h, w, depth].
    """

    bits: tf.Tensor
    slope: tf.Tensor


# Without fusion, these elementwise functions take as long as the networks above.
@tf.function(jit_compile=True, autograph=False)
def integer_cost(q, y, means, scales):
    """Returns the `Cost` of integers, whose probabilities are masses of unit intervals.

    Args:
      q: integers, [B, h, w, depth].
      y: latent in the same unit; q is its rounded value.
      means: means of the logistics, in the unit of q.
      scales: indices of their scales.
    """
    bounds, precision = _bounds(q, means, scales)
    own = _log_mass(bounds(-0.5), bounds(0.5))
    side = tf.sign(y - q)
    slope = _slope(y - q, 1.0, NEAR_INTEGER, own, _neighbor_log_mass(bounds, side, 1.0))
    log_probability = own + tf.math.log(-tf.math.expm1(-precision))
    return Cost(tf.reduce_sum(log_probability, (1, 2, 3)) / -math.log(2.0), slope)


@tf.function(jit_compile=True, autograph=False)
def digit_cost(digits, parents, y, means, scales):
    """Returns the `Cost` of digits, and the `Digits`.

    A digit's probability is the mass of its third of the parent's interval, relative to the mass
    of that interval.

    Args:
      digits: digits -1, 0 or 1, [B, h, w, depth].
      parents: three times the integers of the plane below, of the same shape.
      y: latent in steps of the plane.
      means, scales: means and scale indices, like those of `integer_cost`.

    Returns:
      cost: `Cost` of the digits, with the slope of their own intervals.
      parent_slope: slope of the parents' intervals, to be subtracted where a parent can change.
      digits: probabilities and expectations.
    """
    bounds, _ = _bounds(parents, means, scales)
    masses = _thirds(bounds, 1.0)
    total = tf.add_n(masses)
    own = tf.where(digits < 0, masses[0], tf.where(digits > 0, masses[2], masses[1]))
    log_own = tf.math.log(own)
    bits = tf.reduce_sum(log_own - tf.math.log(total), (1, 2, 3)) / -math.log(2.0)

    position = y - parents
    digit_bounds = _bounds(parents + digits, means, scales)[0]
    side = tf.sign(position - digits)
    neighbor = _neighbor_log_mass(digit_bounds, side, 1.0)
    slope = _slope(position - digits, 1.0, NEAR_DIGIT, log_own, neighbor)
    parent_slope = _slope(
        position,
        3.0,
        NEAR_DIGIT,
        _log_mass(bounds(-1.5), bounds(1.5)),
        _neighbor_log_mass(bounds, tf.sign(position), 3.0),
    )
    low, high = (tf.stop_gradient(mass / total) for mass in (masses[0], masses[2]))
    below, middle, above = _thirds(digit_bounds, 1 / 3)
    rest = tf.stop_gradient((above - below) / (below + middle + above)) / 3.0
    return Cost(bits, slope), parent_slope, Digits(low, high, parents >= means, rest)


@tf.function(jit_compile=True, autograph=False)
def relaxed_digit_bits(q, parents, means, scales):
    """Returns the bits [B] of digits that are not whole, and the `Digits`, both differentiable.

    The bits are those of the unit intervals around q, given the intervals of the parents.

    Args:
      q: relaxed integers of the plane, [B, h, w, depth].
      parents: three times those of the plane below, of the same shape.
      means, scales: means and scale indices, like those of `integer_cost`.
    """
    own, precision = _bounds(q, means, scales)
    bounds, _ = _bounds(parents, means, scales)
    log_own, log_total = (
        _log_mass(edges(-half), edges(half)) + tf.math.log(-tf.math.expm1(-2.0 * half * precision))
        for edges, half in ((own, 0.5), (bounds, 1.5))
    )
    # Relaxed integers may be outside of the parent's interval, where this is no probability.
    log_probability = tf.minimum(log_own - log_total, 0.0)
    bits = tf.reduce_sum(log_probability, (1, 2, 3)) / -math.log(2.0)
    # Gradients of quotients of masses would overflow in the tails of a distribution.
    (low, _, high), (below, _, above) = (
        tf.unstack(tf.nn.softmax(tf.math.log(tf.stack(_thirds(edges, width), -1))), axis=-1)
        for edges, width in ((bounds, 1.0), (own, 1 / 3))
    )
    return bits, Digits(low, high, parents >= means, (above - below) / 3.0)


def _slope(distance, width, share, own, neighbor):
    """Returns the derivative by y of the bits of intervals of a width.

    At a boundary, bits change by the difference to the neighbor; `boundary_weights` spreads it. In
    the middle of a coarse interval, bits of its plane thus have no effect on finer planes.

    Args:
      distance: distance of y from the center of its interval.
      width: width of the intervals.
      share: share of the width within which elements are near a boundary.
      own: logarithms of the masses of the intervals.
      neighbor: logarithms of the masses of the neighbors on the side of y.
    """
    near = boundary_weights(distance, width, share) / width
    return tf.stop_gradient(near * tf.sign(distance) * (own - neighbor)) / math.log(2.0)


class _Tails(NamedTuple):
    """Masses of a logistic below and above a bound, each accurate where it is small."""

    below: tf.Tensor
    above: tf.Tensor


def _bounds(center, means, scales):
    """Returns the `_Tails` of bounds as a function of their distance from centers, and 1/scale."""
    precision = tf.exp(-math.log(SCALE_RATIO) * scales) / SMALLEST_SCALE
    offset = center - means

    def tails(distance):
        x = (offset + distance) * precision
        small = tf.exp(-tf.abs(x))
        large = 1.0 / (1.0 + small)
        small *= large
        return _Tails(tf.where(x > 0, large, small), tf.where(x > 0, small, large))

    return tails, precision


def _mass(low, high):
    """Returns the mass between two bounds, up to the factor 1 - e^(-distance / scale)."""
    return high.below * low.above + _TINY


def _thirds(bounds, width):
    """Returns the masses of three adjacent intervals of a width around the centers."""
    edges = [bounds(width * offset) for offset in (-1.5, -0.5, 0.5, 1.5)]
    return [_mass(*pair) for pair in zip(edges, edges[1:])]


def _surprise(p):
    """Returns the bits of an event times its probability."""
    return p * tf.math.log(tf.maximum(p, _TINY)) / -math.log(2.0)


def _log_mass(low, high):
    return tf.math.log(_mass(low, high))


def _neighbor_log_mass(bounds, side, width):
    """Returns the logarithm of the mass of the next interval on a side."""
    inner, outer = bounds(side * (width / 2)), bounds(side * (1.5 * width))
    upwards = inner.above * outer.below
    return tf.math.log(tf.where(side > 0, upwards, outer.above * inner.below) + _TINY)


def interleave(parts: Sequence[tf.Tensor], size: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Returns [B, h, w, C] from the positions of each pass, [B, about h/2, about w/2, C]."""
    height, width = ((side + 1) // 2 for side in size)
    # With odd sizes, the last row or column of some passes lies outside and is cut off.
    padded = [
        tf.pad(p, ((0, 0), (0, height - tf.shape(p)[1]), (0, width - tf.shape(p)[2]), (0, 0)))
        for p in parts
    ]
    in_raster_order = [padded[PASSES.index(position)] for position in sorted(PASSES)]
    whole = tf.nn.depth_to_space(tf.concat(in_raster_order, -1), 2)
    return whole[:, : size[0], : size[1]]


def _activation(x):
    """Returns the activation of x; its slope below zero keeps units from dying."""
    return tfc.upper_bound(tf.maximum(x, SLOPE * x), LARGEST_ACTIVATION)


def _clipped(x):
    return tf.clip_by_value(x, -LARGEST_INPUT, LARGEST_INPUT)

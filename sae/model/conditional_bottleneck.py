"""A bottleneck whose prior knows what is already decoded.

Every element of the latent is logistic, with a mean and a scale that a small
network computes from the latents of the lower layers and from the part of this
latent that is decoded already. The positions of the latent are coded in four
phases, those of a grid of 2 x 2, so that the later ones know most of their
neighbours, and the channels of a phase in slices, so that the later ones know
the earlier ones at their position. (Minnen et al., NeurIPS 2018, for the
conditional mean and scale; He et al., CVPR 2021, for phases in place of single
positions; Minnen and Singh, ICIP 2020, and He et al., CVPR 2022, for slices,
small ones first.)

Encoder and decoder must arrive at the same mean and scale to the last bit, on
any machine. The network therefore codes in integers, held by float64: weights
and activations are multiples of powers of two, and bounded, so that no sum
needs more than 53 bits and its terms may be added in any order. (Balle et al.,
ICLR 2019, for integer networks; here nothing is trained in integers, because
with so many bits the rounding costs nothing.) It is one network with two
arithmetics: TensorFlow's of floats to train, and NumPy's of integers to code,
where so many small operations take half the time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from sae.model.bottleneck import Bottleneck

# Rows and columns modulo two, in the order of coding.
_PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))

# Its tails suit better than those of the normal distribution.
_PRIOR = tfc.NoisyLogistic

# Means are multiples of 1 / _MEANS, and scales _SMALLEST_SCALE * _RATIO^k for k < _SCALES: to 50.
_MEANS = 8
_SMALLEST_SCALE, _RATIO, _SCALES = 0.03, 1.125, 64
# The network says 0 for a scale of one, k = 30, and n / 8 for the n-th above it.
_SCALE_ONE, _SCALE_STEPS = 30, 8

# In the integer network: |weight| <= 64 in steps of 2^-12, |activation| <= 1024 in steps of 2^-8.
# A sum of 2^17 products takes 53 bits.
_WEIGHT_BOUND, _WEIGHT_STEP = 2.0**6, 2.0**-12
_ACTIVATION_BOUND, _ACTIVATION_STEP = 2.0**10, 2.0**-8


class ConditionalBottleneck(Bottleneck):
    """A bottleneck with a mean and a scale per element.

    Args:
      depth: channels of the latent.
      context_depth: channels of the latents of all lower layers together.
      filters: channels between the network's convolutions.
      support: side of the convolution over the latent's own decoded phases, odd.
      name: scope of the variables.
      slices: of the channels, each but the first as large as all before it together.
      embedded: latents are read through an activation of their own, position by position, so
        that magnitudes tell as well as values; and one more convolution follows. False for
        the priors that were trained before.
    """

    def __init__(
        self,
        depth: int,
        context_depth: int,
        filters: int,
        support: int,
        name: str,
        slices: int = 1,
        embedded: bool = True,
    ):
        super().__init__(depth)
        bounds = sorted({0, *(depth >> k for k in range(slices))})
        self._slices = [slice(*pair) for pair in zip(bounds, bounds[1:])]
        with tf.name_scope(name):
            sizes = ((1 if embedded else 3, context_depth), (3, filters)) if context_depth else ()
            self._below = [
                _Convolution(f"below_{k}", *size, filters) for k, size in enumerate(sizes)
            ]
            self._own_embedding = (
                _Convolution("own_embedding", 1, depth, filters) if embedded else None
            )
            self._own = _Convolution("own", support, filters if embedded else depth, filters)
            # Tells the phases apart.
            self._phase = tf.Variable(tf.zeros((len(_PHASES), filters)), name="phase")
            # These tell of the slices before one, and the slices apart.
            self._same_embedding = self._same = self._slice_bias = None
            if len(self._slices) > 1:
                before = bounds[-2]
                if embedded:
                    self._same_embedding = _Convolution("same_embedding", 1, before, filters)
                    before = filters
                initial = tf.keras.initializers.VarianceScaling()((1, 1, before, filters))
                self._same = tf.Variable(initial, name="same")
                self._slice_bias = tf.Variable(
                    tf.zeros((len(self._slices), filters)), name="slice_bias"
                )
            self._joint = [
                _Convolution(name, 1, filters, filters)
                for name in (("joint_0", "joint_1") if embedded else ("joint",))
            ]
            self._mean = _Convolution("mean", 1, filters, depth)
            self._scale = _Convolution("scale", 1, filters, depth)
        self._exact: _Network | None = None

    def bits(self, y, y_hat, latents=()):
        parts = []

        def known(part, means, scales):
            parts.append((y[part], means, scales))
            return y_hat[part]

        self._traverse(known, tf.shape(y_hat), latents)
        # All parts in one row: so many small ones would take longer.
        y, means, scales = (tf.concat([_row(x) for x in of_all], 1) for of_all in zip(*parts))
        prior = _PRIOR(loc=means, scale=_scale(scales))
        return tf.reduce_sum(prior.log_prob(y), axis=1) / -math.log(2)

    def quantize(self, y: tf.Tensor, latents: Sequence[tf.Tensor], worth: float) -> tf.Tensor:
        """Returns y rounded, each element to the integer next to it that is better on the whole.

        That is the nearest one, or the one beside it on the side of the mean where
        this saves more bits than the error is worth.

        Args:
          y: float32 [B, h, w, depth].
          latents: of the lower layers.
          worth: of an error squared, in bits.
        """
        shape = tf.shape(y)

        def chosen(part, means, scales):
            return _quantized(_Floats, y[part], means, _scale(scales), worth)

        planes = self._traverse(chosen, shape, latents)
        return tf.stop_gradient(_Floats.joined(planes, shape))

    def encode(
        self, y: tf.Tensor, latents: Sequence[tf.Tensor], worth: float
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns y rounded as `quantize` does, and its strings [B], in one go."""
        y = np.asarray(y)

        def chosen(part, means, scales):
            nearest = np.round(y[part])
            # Elsewhere there is no choice.
            open_ = nearest != np.round(means)
            scale = _SMALLEST_SCALE * _RATIO ** np.clip(scales[open_], 0, _SCALES - 1)
            nearest[open_] = _quantized(_Integers, y[part][open_], means[open_], scale, worth)
            return nearest

        return self._compressed(chosen, y.shape, latents)

    def compress(self, y_hat, latents=()):
        y_hat = np.asarray(y_hat)
        return self._compressed(lambda part, *_: y_hat[part], y_hat.shape, latents)[1]

    def _compressed(self, choose, shape, latents):
        """Returns the latent whose parts are chosen, as by `_traverse`, and its strings."""
        parts = []

        def chosen(part, means, scales):
            index, shift = _index(means, scales)
            found = choose(part, means, scales)
            parts.append((index, np.int32(found) - shift))
            return found

        planes = self._traverse(chosen, shape, latents, exact=True)
        return tf.constant(_Integers.joined(planes, shape)), self._encode(parts, shape[:1])

    def _decode(self, strings, shape, latents):
        shape, parts = (len(strings), *shape, self.depth), []
        handle = tfc.create_range_decoder(strings, self.cdf)

        def decoded(part, means, scales):
            nonlocal handle
            index, shift = _index(means, scales)
            handle, symbols = tfc.entropy_decode_index(handle, index, index.shape[1:], tf.int32)
            symbols = symbols.numpy() + self.cdf_offset[index]
            parts.append((index, symbols))
            return symbols + shift

        planes = self._traverse(decoded, shape, latents, exact=True)
        y_hat = tf.constant(_Integers.joined(planes, shape))
        return y_hat, lambda: self._encode(parts, shape[:1])

    def _encode(self, parts, batch):
        """Returns the strings of all parts: for each the tables' indices, and the symbols."""
        handle = tfc.create_range_encoder(batch, self.cdf)
        for index, symbols in parts:
            handle = tfc.entropy_encode_index(handle, index, symbols - self.cdf_offset[index])
        return tfc.entropy_encode_finalize(handle)

    def _model_with_tables(self, **options):
        return tfc.ContinuousIndexedEntropyModel(
            _PRIOR,
            index_ranges=(_MEANS, _SCALES),
            parameter_fns={
                "loc": lambda i: i[..., 0] / _MEANS,
                "scale": lambda i: _SMALLEST_SCALE * _RATIO ** i[..., 1],
            },
            **options,
        )

    def set_tables(self, cdf, cdf_offset):
        super().set_tables(cdf, cdf_offset)
        # Like the tables, made of the weights as they are now, but not before it is needed.
        self._exact = None

    def smallest_bits(self):
        return self.depth * np.min(self._smallest_bits())

    def _traverse(self, choose, shape, latents, exact=False):
        """Goes through the parts of a latent in the order of coding; returns its phases.

        Args:
          choose: (where a part is in the latent, its means, its scales' indices) -> the
            elements of the part, on which those of later parts depend.
          shape: of the latent.
          latents: of the lower layers.
          exact: in integers.
        """
        network, planes, seen = self._network(exact), [], []
        below = network.from_below(latents)
        for phase in range(len(_PHASES)):
            around, found = network.around(phase, seen, below, shape), []
            for number, channels in enumerate(self._slices):
                part = (*_positions(phase), channels)
                found.append(choose(part, *network.of_slice(number, found, around)))
            planes.append(network.arithmetic.concat(found, -1))
            seen.append(network.seen(planes[-1]))
        return planes

    def _network(self, exact: bool) -> _Network:
        """Returns the network, which for integers is kept."""
        if not exact:
            return self._with_weights(_Floats)
        self._exact = self._exact or self._with_weights(_Integers)
        return self._exact

    def _with_weights(self, arithmetic) -> _Network:
        weight, concat = arithmetic.weight, arithmetic.concat
        # Activations, and all that is added to them, count steps; latents and results do not.
        up, down = 1 / _ACTIVATION_STEP, _ACTIVATION_STEP
        means = weight(self._mean.kernel, down), weight(self._mean.bias)
        scales = (
            _SCALE_STEPS * weight(self._scale.kernel, down),
            _SCALE_STEPS * weight(self._scale.bias) + _SCALE_ONE,
        )

        def embedding(convolution, channels):
            """Returns kernel and bias of what reads so many channels, None where nothing does."""
            if convolution is None:
                return None
            return weight(convolution.kernel[:, :, :channels], up), weight(convolution.bias, up)

        # What reads a latent itself counts up to steps.
        of_own, of_same = (1.0 if e else up for e in (self._own_embedding, self._same_embedding))
        slices = []
        for number, channels in enumerate(self._slices):
            same = read = bias = None
            if self._same is not None:
                read = embedding(self._same_embedding, channels.start)
                same = weight(self._same if read else self._same[:, :, : channels.start], of_same)
                bias = weight(self._slice_bias[number], up)
            parameters = [
                concat([part[..., channels] for part in pair], -1) for pair in zip(means, scales)
            ]
            slices.append(_Slice(read, same, bias, parameters))
        return _Network(
            arithmetic,
            [
                (weight(c.kernel, factor), weight(c.bias, up))
                for c, factor in zip(self._below, (up, 1.0))
            ],
            embedding(self._own_embedding, self.depth),
            weight(self._own.kernel, of_own),
            weight(self._own.bias, up) + weight(self._phase, up),
            slices,
            [(weight(c.kernel), weight(c.bias, up)) for c in self._joint],
        )


class _Slice(NamedTuple):
    """What the network has for one slice of the channels.

    Attributes:
      embedding: kernel and bias of the convolution that reads the slices before it; None where
        nothing is between these and
      same: the kernel for what that says, [1, 1, channels, filters], and
      bias: what tells the slices apart; both None where there is one slice.
      parameters: the kernel and the bias of means and scales' indices.
    """

    embedding: tuple | None
    same: tf.Tensor | None
    bias: tf.Tensor | None
    parameters: Sequence[tf.Tensor]


class _Network(NamedTuple):
    """The network with its weights as a calculation takes them.

    Attributes:
      arithmetic: `_Floats` or `_Integers`.
      below: of the convolutions over the lower latents, kernel and bias.
      embedding: kernel and bias of the convolution that reads earlier phases; None where nothing
        is between these and
      own: the kernel for what that says of them.
      phases: what is added to that, for each phase.
      slices: of the channels.
      joint: of the convolutions after these, kernel and bias.
    """

    arithmetic: type[_Floats] | type[_Integers]
    below: Sequence[tuple]
    embedding: tuple | None
    own: tf.Tensor | np.ndarray
    phases: tf.Tensor | np.ndarray
    slices: Sequence[_Slice]
    joint: Sequence[tuple]

    def from_below(self, latents):
        """Returns what the latents of the lower layers say, [B, h, w, filters]."""
        if not self.below:
            return None
        first, second = self.below
        return self._convolved(self._embedded(tf.concat(latents, -1), first), second)

    def seen(self, plane):
        """Returns what later phases read of the elements of a phase."""
        return self._embedded(plane, self.embedding)

    def around(self, phase, seen, below, shape):
        """Returns what lower latents and earlier phases say of a phase's positions.

        Args:
          phase: its number.
          seen: of the earlier phases.
          below: as `from_below` returned it.
          shape: of the latent.
        """
        sides = [(shape[k + 1] + 1 - _PHASES[phase][k]) // 2 for k in range(2)]
        x = self.arithmetic.zeros((shape[0], *sides, self.own.shape[-1])) + self.phases[phase]
        if below is not None:
            x += below[_positions(phase)]
        for earlier, plane in enumerate(seen):
            (rows, before_rows), (columns, before_columns) = (
                _taps(self.own.shape[0], *pair) for pair in zip(_PHASES[phase], _PHASES[earlier])
            )
            kernel = self.own[rows, columns]
            height, width = kernel.shape[:2]
            padding = ((0, 0), (before_rows, height), (before_columns, width), (0, 0))
            # That may be more than the taps reach.
            plane = self.arithmetic.pad(plane, padding)
            plane = plane[:, : sides[0] + height - 1, : sides[1] + width - 1]
            x += self.arithmetic.convolve(plane, kernel, padding="VALID")
        return x

    def of_slice(self, number, found, around):
        """Returns the means and the scales' indices, not rounded, of one slice of a phase.

        Args:
          number: of the slice.
          found: the elements of earlier slices of the phase.
          around: as `around` returned it.
        """
        embedding, same, bias, parameters = self.slices[number]
        x = around if bias is None else around + bias
        if found:
            found = self._embedded(self.arithmetic.concat(found, -1), embedding)
            x = x + self.arithmetic.convolve(found, same)
        x = self.arithmetic.activation(x)
        for weights in self.joint:
            x = self._activated(x, weights)
        x = self._convolved(x, parameters)
        half = x.shape[-1] // 2
        return x[..., :half], x[..., half:]

    def _embedded(self, latent, weights):
        x = self.arithmetic.input(latent)
        return x if weights is None else self._activated(x, weights)

    def _activated(self, x, weights):
        return self.arithmetic.activation(self._convolved(x, weights))

    def _convolved(self, x, weights):
        kernel, bias = weights
        return self.arithmetic.convolve(x, kernel) + bias


class _Floats:
    """What the network calculates with in training: floats, in TensorFlow."""

    concat, pad, zeros = map(staticmethod, (tf.concat, tf.pad, tf.zeros))
    round, sign, where = map(staticmethod, (tf.round, tf.sign, tf.where))
    softplus = staticmethod(tf.nn.softplus)

    @staticmethod
    def weight(variable, factor=1.0):
        """Returns a weight as it is; nothing has steps."""
        return tf.convert_to_tensor(variable)

    @staticmethod
    def input(latent):
        return tf.clip_by_value(latent, -_ACTIVATION_BOUND, _ACTIVATION_BOUND)

    @staticmethod
    def activation(x):
        return tf.clip_by_value(x, 0.0, _ACTIVATION_BOUND)

    @staticmethod
    def convolve(x, kernel, padding="SAME"):
        return tf.nn.conv2d(x, kernel, 1, padding)

    @staticmethod
    def joined(planes, shape):
        """Returns the latent that has these phases."""
        # On even sizes every phase has as many; what others lack lies outside, and is cut off.
        full = [(shape[k + 1] + 1) // 2 for k in range(2)]
        padded = []
        for plane in planes:
            lacking = [(0, full[k] - tf.shape(plane)[k + 1]) for k in range(2)]
            padded.append(tf.pad(plane, ((0, 0), *lacking, (0, 0))))
        # An update of a strided slice XLA would not compile.
        in_order = [padded[_PHASES.index(phase)] for phase in sorted(_PHASES)]
        return tf.nn.depth_to_space(tf.concat(in_order, -1), 2)[:, : shape[1], : shape[2]]


class _Integers:
    """What the network calculates with to code: integers, held by float64, in NumPy."""

    concat, pad, zeros = map(staticmethod, (np.concatenate, np.pad, np.zeros))
    round, sign, where = map(staticmethod, (np.round, np.sign, np.where))
    softplus = staticmethod(functools.partial(np.logaddexp, 0))

    @staticmethod
    def weight(variable, factor=1.0):
        """Returns a weight in its steps, times a power of two."""
        weight = np.clip(variable.numpy().astype(np.float64), -_WEIGHT_BOUND, _WEIGHT_BOUND)
        return np.round(weight / _WEIGHT_STEP) * (_WEIGHT_STEP * factor)

    @staticmethod
    def input(latent):
        return np.clip(np.asarray(latent, np.float64), -_ACTIVATION_BOUND, _ACTIVATION_BOUND)

    @staticmethod
    def activation(x):
        return np.floor(np.clip(x, 0.0, _ACTIVATION_BOUND / _ACTIVATION_STEP))

    @staticmethod
    def convolve(x, kernel, padding="SAME"):
        if kernel.shape[:2] == (1, 1):
            return x @ kernel[0, 0]
        # Any order of summation will do, TensorFlow's as well.
        return tf.nn.conv2d(x, kernel, 1, padding).numpy()

    @staticmethod
    def joined(planes, shape):
        """Returns the latent that has these phases, float32."""
        y = np.empty(shape, np.float32)
        for phase, plane in enumerate(planes):
            y[_positions(phase)] = plane
        return y


class _Convolution(tf.Module):
    """The variables of a convolution with a bias."""

    def __init__(self, name: str, support: int, channels: int, filters: int):
        super().__init__()
        with tf.name_scope(name):
            initial = tf.keras.initializers.VarianceScaling()((support, support, channels, filters))
            self.kernel = tf.Variable(initial, name="kernel")
            self.bias = tf.Variable(tf.zeros(filters), name="bias")


def _scale(index):
    """Returns the scale that an index, not rounded, stands for."""
    index = tfc.upper_bound(tfc.lower_bound(index, 0.0), _SCALES - 1.0)
    return _SMALLEST_SCALE * _RATIO**index


def _quantized(arithmetic, y, means, scale, worth):
    """Returns the nearest integers, or those one nearer to the mean, as `quantize` describes."""
    nearest = arithmetic.round(y)
    distance = nearest - means
    inwards = arithmetic.sign(arithmetic.round(distance))
    # The logistic's logarithm at that integer, less the one at the nearest.
    border, unit = (abs(distance) - 0.5) / scale, 1 / scale
    saved = border + arithmetic.softplus(-border - unit) - arithmetic.softplus(border - unit)
    # That of (y - nearest + inwards)^2 - (y - nearest)^2.
    lost = worth * math.log(2) * (1 + 2 * inwards * (y - nearest))
    return arithmetic.where((inwards != 0) & (saved > lost), nearest - inwards, nearest)


def _index(means, scales):
    """Returns which table codes each element, and what to subtract from it before, int32."""
    mean = np.int32(np.round(means * _MEANS))
    scale = np.int32(np.round(np.clip(scales, 0, _SCALES - 1)))
    return mean % _MEANS * _SCALES + scale, mean // _MEANS


def _positions(phase):
    """Returns where the elements of one phase of [B, h, w, C] are."""
    row, column = _PHASES[phase]
    return slice(None), slice(row, None, 2), slice(column, None, 2)


def _taps(support, first, earlier):
    """Returns which taps of a kernel, along one axis, lie on an earlier phase, and the padding.

    Args:
      support: side of the kernel.
      first: row or column modulo two of the phase around whose positions the kernel lies.
      earlier: that of the phase that it reads.

    Returns:
      The slice of the taps, and how many positions the first of them lies before.
    """
    start = (support // 2 - first + earlier) % 2
    return slice(start, None, 2), (support // 2 - first + earlier - start) // 2


def _row(x):
    return tf.reshape(x, (tf.shape(x)[0], -1))

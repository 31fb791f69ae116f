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
    """

    def __init__(
        self,
        depth: int,
        context_depth: int,
        filters: int,
        support: int,
        name: str,
        slices: int = 1,
    ):
        super().__init__(depth)
        bounds = sorted({0, *(depth >> k for k in range(slices))})
        self._slices = [slice(*pair) for pair in zip(bounds, bounds[1:])]
        with tf.name_scope(name):
            self._below = [
                _Convolution(f"below_{k}", 3, channels, filters)
                for k, channels in enumerate((context_depth, filters) if context_depth else ())
            ]
            self._own = _Convolution("own", support, depth, filters)
            # Tells the phases apart.
            self._phase = tf.Variable(tf.zeros((len(_PHASES), filters)), name="phase")
            # These tell of the slices before one, and the slices apart.
            self._same, self._slice_bias = None, None
            if len(self._slices) > 1:
                initial = tf.keras.initializers.VarianceScaling()((1, 1, bounds[-2], filters))
                self._same = tf.Variable(initial, name="same")
                self._slice_bias = tf.Variable(
                    tf.zeros((len(self._slices), filters)), name="slice_bias"
                )
            self._joint = _Convolution("joint", 1, filters, filters)
            self._mean = _Convolution("mean", 1, filters, depth)
            self._scale = _Convolution("scale", 1, filters, depth)
        self._exact: _Network | None = None

    def bits(self, y, y_hat, latents=()):
        # All parts in one row: so many small ones would take longer.
        parts = ((y[part], *pair) for part, *pair in self._parameters(y_hat, latents))
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
        network = self._network(exact=False)
        below, known = network.from_below(latents), network.nothing_known(y)
        y_hat = tf.zeros_like(y)
        for phase in range(len(_PHASES)):
            around = network.around(phase, known, below)
            found = y[_positions(phase)][..., :0]
            for number, channels in enumerate(self._slices):
                part = y[_positions(phase)][..., channels]
                means, scales = network.of_slice(number, found, around)
                found = tf.concat((found, _quantized(part, means, scales, worth)), -1)
            known = network.knowing(known, phase, found)
            y_hat = _Floats.put(y_hat, phase, found)
        return tf.stop_gradient(y_hat)

    def compress(self, y_hat, latents=()):
        y_hat, parts = np.asarray(y_hat), []
        for part, means, scales in self._parameters(y_hat, latents, exact=True):
            index, shift = _index(means, scales)
            parts.append((index, np.int32(y_hat[part]) - shift))
        return self._encode(parts, y_hat.shape[:1])

    def _decode(self, strings, shape, latents):
        whole = (len(strings), *shape, self.depth)
        y_hat, parts = np.zeros(whole, np.float32), []
        handle = tfc.create_range_decoder(strings, self.cdf)
        # Each part is put there before the next one is asked for.
        for part, means, scales in self._parameters(y_hat, latents, exact=True):
            index, shift = _index(means, scales)
            handle, symbols = tfc.entropy_decode_index(handle, index, index.shape[1:], tf.int32)
            symbols = symbols.numpy() + self.cdf_offset[index]
            parts.append((index, symbols))
            y_hat[part] = symbols + shift
        return tf.constant(y_hat), lambda: self._encode(parts, whole[:1])

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

    def _parameters(self, y_hat, latents, exact=False):
        """Yields where each part is in a latent, and its means and scales' indices.

        Of y_hat, only the parts before are read, so that an array may be filled on the way.
        """
        network = self._network(exact)
        below, known = network.from_below(latents), network.nothing_known(y_hat)
        for phase in range(len(_PHASES)):
            around = network.around(phase, known, below)
            found = y_hat[_positions(phase)]
            for number, channels in enumerate(self._slices):
                part = (*_positions(phase), channels)
                yield (part, *network.of_slice(number, found, around))
            known = network.knowing(known, phase, found)

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
        slices = []
        for number, channels in enumerate(self._slices):
            same = bias = None
            if self._same is not None:
                same = weight(self._same[:, :, : channels.start], up)
                bias = weight(self._slice_bias[number], up)
            parameters = [
                concat([part[..., channels] for part in pair], -1) for pair in zip(means, scales)
            ]
            slices.append(_Slice(channels.start, same, bias, parameters))
        return _Network(
            arithmetic,
            [
                (weight(c.kernel, factor), weight(c.bias, up))
                for c, factor in zip(self._below, (up, 1.0))
            ],
            weight(self._own.kernel, up),
            weight(self._own.bias, up) + weight(self._phase, up),
            slices,
            (weight(self._joint.kernel), weight(self._joint.bias, up)),
        )


class _Slice(NamedTuple):
    """What the network has for one slice of the channels.

    Attributes:
      start: so many channels are in the slices before it.
      same: the kernel that reads these, [1, 1, start, filters], and
      bias: what tells the slices apart; both None where there is one slice.
      parameters: the kernel and the bias of means and scales' indices.
    """

    start: int
    same: tf.Tensor | None
    bias: tf.Tensor | None
    parameters: Sequence[tf.Tensor]


class _Network(NamedTuple):
    """The network with its weights as a calculation takes them.

    Attributes:
      arithmetic: `_Floats` or `_Integers`.
      below: of the convolutions over the lower latents, kernel and bias.
      own: the kernel that reads earlier phases.
      phases: what is added to that, for each phase.
      slices: of the channels.
      joint: kernel and bias of the convolution after these.
    """

    arithmetic: type[_Floats] | type[_Integers]
    below: Sequence[tuple]
    own: tf.Tensor | np.ndarray
    phases: tf.Tensor | np.ndarray
    slices: Sequence[_Slice]
    joint: tuple

    def from_below(self, latents):
        """Returns what the latents of the lower layers say, [B, h, w, filters]."""
        if not self.below:
            return None
        first, second = self.below
        x = self.arithmetic.input(tf.concat(latents, -1))
        return self._convolved(self.arithmetic.activation(self._convolved(x, first)), second)

    def nothing_known(self, y_hat):
        """Returns what is known of a latent of the shape of y_hat at first."""
        return 0.0 * self.arithmetic.input(y_hat)

    def knowing(self, known, phase, found):
        """Returns what is known once a phase has been found, too."""
        return self.arithmetic.put(known, phase, self.arithmetic.input(found))

    def around(self, phase, known, below):
        """Returns what lower latents and earlier phases say of a phase's positions."""
        (row, column), side = _PHASES[phase], self.own.shape[0] // 2
        known = self.arithmetic.pad(known, ((0, 0), (side, side), (side, side), (0, 0)))
        x = self.arithmetic.convolve(known[:, row:, column:], self.own, 2, "VALID")
        x += self.phases[phase]
        return x if below is None else x + below[_positions(phase)]

    def of_slice(self, number, found, around):
        """Returns the means and the scales' indices, not rounded, of one slice of a phase.

        Args:
          number: of the slice.
          found: the channels of the phase, of which only those of earlier slices are read.
          around: as `around` returned it.
        """
        start, same, bias, parameters = self.slices[number]
        x = around if bias is None else around + bias
        if start:
            x = x + self.arithmetic.convolve(self.arithmetic.input(found[..., :start]), same)
        x = self.arithmetic.activation(x)
        x = self.arithmetic.activation(self._convolved(x, self.joint))
        x = self._convolved(x, parameters)
        half = x.shape[-1] // 2
        return x[..., :half], x[..., half:]

    def _convolved(self, x, weights):
        kernel, bias = weights
        return self.arithmetic.convolve(x, kernel) + bias


class _Floats:
    """What the network calculates with in training: floats, in TensorFlow."""

    concat, pad = staticmethod(tf.concat), staticmethod(tf.pad)

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
    def convolve(x, kernel, strides=1, padding="SAME"):
        return tf.nn.conv2d(x, kernel, strides, padding)

    @staticmethod
    def put(x, phase, value):
        """Returns x, zero there before, with the values of one phase at its positions."""
        shape = tf.shape(x)
        # On even sizes every phase has as many; what others lack lies outside, and is cut off.
        lacking = ((0, (shape[k] + 1) // 2 - tf.shape(value)[k]) for k in (1, 2))
        value = tf.pad(value, ((0, 0), *lacking, (0, 0)))
        # An update of a strided slice XLA would not compile.
        planes = [value if p == _PHASES[phase] else tf.zeros_like(value) for p in sorted(_PHASES)]
        grid = tf.nn.depth_to_space(tf.concat(planes, -1), 2)
        return x + grid[:, : shape[1], : shape[2]]


class _Integers:
    """What the network calculates with to code: integers, held by float64, in NumPy."""

    concat, pad = staticmethod(np.concatenate), staticmethod(np.pad)

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
    def convolve(x, kernel, strides=1, padding="SAME"):
        if kernel.shape[:2] == (1, 1):
            return x @ kernel[0, 0]
        # Any order of summation will do, TensorFlow's as well.
        return tf.nn.conv2d(x, kernel, strides, padding).numpy()

    @staticmethod
    def put(x, phase, value):
        """Puts the values of one phase at its positions."""
        x[_positions(phase)] = value
        return x


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


def _quantized(y, means, scales, worth):
    """Returns the nearest integers, or those one nearer to the mean, as `quantize` describes."""
    nearest = tf.round(y)
    distance = nearest - means
    inwards = tf.sign(tf.round(distance))
    # The logistic's tails from the borders of both integers on; what is between them is coded.
    distance, scale = tf.abs(distance), _scale(scales)
    inner, border, outer = (tf.sigmoid((k - distance) / scale) for k in (1.5, 0.5, -0.5))
    saved = tf.math.log((inner - border) / (border - outer + 1e-30)) / math.log(2)
    # That of (y - nearest + inwards)^2 - (y - nearest)^2.
    lost = worth * (1 + 2 * inwards * (y - nearest))
    return tf.where((inwards != 0) & (saved > lost), nearest - inwards, nearest)


def _index(means, scales):
    """Returns which table codes each element, and what to subtract from it before, int32."""
    mean = np.int32(np.round(means * _MEANS))
    scale = np.int32(np.round(np.clip(scales, 0, _SCALES - 1)))
    return mean % _MEANS * _SCALES + scale, mean // _MEANS


def _positions(phase):
    """Returns where the elements of one phase of [B, h, w, C] are."""
    row, column = _PHASES[phase]
    return slice(None), slice(row, None, 2), slice(column, None, 2)


def _row(x):
    return tf.reshape(x, (tf.shape(x)[0], -1))

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
with so many bits the rounding costs nothing.)
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

    def bits(self, y, y_hat, latents=()):
        log_prob = 0.0
        for part, means, scales in self._parameters(y_hat, latents):
            scales = tfc.upper_bound(tfc.lower_bound(scales, 0.0), _SCALES - 1.0)
            prior = _PRIOR(loc=means, scale=_SMALLEST_SCALE * _RATIO**scales)
            log_prob += tf.reduce_sum(prior.log_prob(y[part]), axis=(1, 2, 3))
        return log_prob / -math.log(2)

    def compress(self, y_hat, latents=()):
        parts = []
        for part, means, scales in self._parameters(y_hat, latents, exact=True):
            index, shift = self._index(means, scales)
            parts.append((index, tf.cast(y_hat[part], tf.int32) - shift))
        return self._encode(parts, tf.shape(y_hat)[:1])

    def _decode(self, strings, shape, latents):
        whole = (tf.size(strings), *shape, self.depth)
        network = self._network(exact=True)
        below = network.from_below(latents)
        handle = tfc.create_range_decoder(strings, self.cdf)
        parts, phases = [], []
        for phase in range(len(_PHASES)):
            around = network.around(phase, _merge(phases, whole), below)
            found = tf.cast(around[..., :0], tf.float32)
            for number in range(len(self._slices)):
                index, shift = self._index(*network.of_slice(number, found, around))
                handle, symbols = tfc.entropy_decode_index(
                    handle, index, tf.shape(index)[1:], tf.int32
                )
                symbols += tf.gather(self.cdf_offset, index)
                parts.append((index, symbols))
                found = tf.concat((found, tf.cast(symbols + shift, tf.float32)), -1)
            phases.append(found)
        return _merge(phases, whole), lambda: self._encode(parts, whole[:1])

    def _encode(self, parts, batch):
        """Returns the strings of all parts: for each the tables' indices, and the symbols."""
        handle = tfc.create_range_encoder(batch, self.cdf)
        for index, symbols in parts:
            handle = tfc.entropy_encode_index(
                handle, index, symbols - tf.gather(self.cdf_offset, index)
            )
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

    def smallest_bits(self):
        return self.depth * min(self._smallest_bits())

    def _index(self, means, scales):
        """Returns which table codes each element, and what to subtract from it before, int32."""
        mean = tf.cast(tf.round(means * _MEANS), tf.int32)
        scale = tf.cast(tf.round(tf.clip_by_value(scales, 0, _SCALES - 1)), tf.int32)
        return mean % _MEANS * _SCALES + scale, mean // _MEANS

    def _parameters(self, y_hat, latents, exact=False):
        """Yields where each part is in a latent, and its means and scales' indices."""
        network = self._network(exact)
        below = network.from_below(latents)
        for phase in range(len(_PHASES)):
            around = network.around(phase, y_hat * _known(phase, tf.shape(y_hat)), below)
            found = y_hat[_positions(phase)]
            for number, channels in enumerate(self._slices):
                part = (*_positions(phase), channels)
                yield (part, *network.of_slice(number, found, around))

    def _network(self, exact: bool) -> _Network:
        return _Network(
            exact,
            self._slices,
            [convolution.weights(exact) for convolution in self._below],
            _weight(self._phase, exact),
            *(v if v is None else _weight(v, exact) for v in (self._same, self._slice_bias)),
            *(c.weights(exact) for c in (self._own, self._joint, self._mean, self._scale)),
        )


class _Network(NamedTuple):
    """The network with its weights as a calculation takes them, made once for a latent."""

    exact: bool
    slices: Sequence[slice]
    below: Sequence[tuple[tf.Tensor, tf.Tensor]]
    phase: tf.Tensor
    same: tf.Tensor | None
    slice_bias: tf.Tensor | None
    own: tuple[tf.Tensor, tf.Tensor]
    joint: tuple[tf.Tensor, tf.Tensor]
    mean: tuple[tf.Tensor, tf.Tensor]
    scale: tuple[tf.Tensor, tf.Tensor]

    def from_below(self, latents):
        """Returns what the latents of the lower layers say, [B, h, w, filters]."""
        if not self.below:
            return None
        first, second = self.below
        x = _input(tf.concat(latents, -1), self.exact)
        return _convolve(_activation(_convolve(x, first), self.exact), second)

    def around(self, phase, known, below):
        """Returns what lower latents and earlier phases say of a phase's positions."""
        (row, column), (height, width) = _PHASES[phase], (tf.shape(known)[1], tf.shape(known)[2])
        # On even sizes every phase has as many positions; those outside are cut off at the end.
        odd = (height % 2, width % 2)
        side = self.own[0].shape[0] // 2
        around = [(side, side + more) for more in odd]
        known = tf.pad(_input(known, self.exact), ((0, 0), *around, (0, 0)))
        x = _convolve(known[:, row:, column:], self.own, strides=2, padding="VALID")
        x += self.phase[phase]
        if below is not None:
            x += tf.pad(below, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)))[_positions(phase)]
        return x[:, : (height + 1 - row) // 2, : (width + 1 - column) // 2]

    def of_slice(self, number, found, around):
        """Returns the means and the scales' indices, not rounded, of one slice of a phase.

        Args:
          number: of the slice.
          found: the channels of the phase, of which only those of earlier slices are read.
          around: as `around` returned it.
        """
        channels, x = self.slices[number], around
        if len(self.slices) > 1:
            x += self.slice_bias[number]
        if channels.start:
            known = _input(found[..., : channels.start], self.exact)
            x += tf.nn.conv2d(known, self.same[:, :, : channels.start], 1, "SAME")
        x = _activation(x, self.exact)
        x = _activation(_convolve(x, self.joint), self.exact)
        means, scales = (
            _convolve(x, (kernel[..., channels], bias[channels]))
            for kernel, bias in (self.mean, self.scale)
        )
        return means, _SCALE_ONE + _SCALE_STEPS * scales


class _Convolution(tf.Module):
    """The weights of a convolution with a bias, for floats or for integers."""

    def __init__(self, name: str, support: int, channels: int, filters: int):
        super().__init__()
        with tf.name_scope(name):
            initial = tf.keras.initializers.VarianceScaling()((support, support, channels, filters))
            self.kernel = tf.Variable(initial, name="kernel")
            self.bias = tf.Variable(tf.zeros(filters), name="bias")

    def weights(self, exact: bool) -> tuple[tf.Tensor, tf.Tensor]:
        return _weight(self.kernel, exact), _weight(self.bias, exact)


def _convolve(x, weights, strides=1, padding="SAME"):
    kernel, bias = weights
    return tf.nn.conv2d(x, kernel, strides, padding) + bias


def _input(latent, exact):
    x = tf.cast(latent, tf.float64 if exact else tf.float32)
    return tf.clip_by_value(x, -_ACTIVATION_BOUND, _ACTIVATION_BOUND)


def _activation(x, exact):
    x = tf.clip_by_value(x, 0.0, _ACTIVATION_BOUND)
    return tf.floor(x / _ACTIVATION_STEP) * _ACTIVATION_STEP if exact else x


def _weight(weight, exact):
    if not exact:
        return tf.convert_to_tensor(weight)
    weight = tf.clip_by_value(tf.cast(weight, tf.float64), -_WEIGHT_BOUND, _WEIGHT_BOUND)
    return tf.round(weight / _WEIGHT_STEP) * _WEIGHT_STEP


def _positions(phase):
    """Returns where the elements of one phase of [B, h, w, C] are."""
    row, column = _PHASES[phase]
    return slice(None), slice(row, None, 2), slice(column, None, 2)


def _known(phase, shape):
    """Returns one where a phase before this one has its elements, zero elsewhere, [h, w, 1]."""
    pattern = np.zeros((2, 2, 1), np.float32)
    for row, column in _PHASES[:phase]:
        pattern[row, column] = 1
    height, width = shape[1], shape[2]
    return tf.tile(pattern, ((height + 1) // 2, (width + 1) // 2, 1))[:height, :width]


def _merge(parts, shape):
    """Returns [B, h, w, C] with the given parts, the first phases', and zeros for the others."""
    batch, height, width, depth = shape[0], shape[1], shape[2], parts[0].shape[-1] if parts else 1
    if not parts:
        return tf.zeros(shape)
    rows, columns = (height + 1) // 2, (width + 1) // 2
    planes = {position: tf.zeros((batch, rows, columns, depth)) for position in _PHASES}
    for position, part in zip(_PHASES, parts):
        missing = (rows - tf.shape(part)[1], columns - tf.shape(part)[2])
        planes[position] = tf.pad(part, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    merged = tf.nn.depth_to_space(tf.concat([planes[p] for p in sorted(planes)], -1), 2)
    return merged[:, :height, :width]

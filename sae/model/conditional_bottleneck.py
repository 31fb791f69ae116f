"""A bottleneck whose prior knows what is already decoded.

Every element of the latent is logistic, with a mean and a scale that a small
network computes from the latents of the lower layers and from the part of this
latent that is decoded already. The latent is coded in four parts, the phases of
a grid of 2 x 2 positions, so that the later parts know most of their
neighbours. (Minnen et al., NeurIPS 2018, for the conditional mean and scale; He
et al., CVPR 2021, for parts in place of single positions.)

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
      support: side of the convolution over the latent's own decoded parts, odd.
      name: scope of the variables.
    """

    def __init__(self, depth: int, context_depth: int, filters: int, support: int, name: str):
        super().__init__(depth)
        with tf.name_scope(name):
            self._below = [
                _Convolution(f"below_{k}", 3, channels, filters)
                for k, channels in enumerate((context_depth, filters) if context_depth else ())
            ]
            self._own = _Convolution("own", support, depth, filters)
            # Tells the phases apart.
            self._phase = tf.Variable(tf.zeros((len(_PHASES), filters)), name="phase")
            self._joint = _Convolution("joint", 1, filters, filters)
            self._mean = _Convolution("mean", 1, filters, depth)
            self._scale = _Convolution("scale", 1, filters, depth)

    def bits(self, y, y_hat, latents=()):
        log_prob = 0.0
        for phase, (means, scales) in enumerate(self._parameters(y_hat, latents)):
            scales = tfc.upper_bound(tfc.lower_bound(scales, 0.0), _SCALES - 1.0)
            prior = _PRIOR(loc=means, scale=_SMALLEST_SCALE * _RATIO**scales)
            log_prob += tf.reduce_sum(prior.log_prob(_part(y, phase)), axis=(1, 2, 3))
        return log_prob / -math.log(2)

    def compress(self, y_hat, latents=()):
        parts = []
        for phase, (means, scales) in enumerate(self._parameters(y_hat, latents, exact=True)):
            index, shift = self._index(means, scales)
            parts.append((index, tf.cast(_part(y_hat, phase), tf.int32) - shift))
        return self._encode(parts, tf.shape(y_hat)[:1])

    def _decode(self, strings, shape, latents):
        whole = (tf.size(strings), *shape, self.depth)
        network = self._network(exact=True)
        below = network.from_below(latents)
        handle = tfc.create_range_decoder(strings, self.cdf)
        parts, found = [], []
        for phase in range(len(_PHASES)):
            known = _merge(found, whole)
            index, shift = self._index(*network.of_phase(phase, known, below))
            handle, symbols = tfc.entropy_decode_index(handle, index, tf.shape(index)[1:], tf.int32)
            symbols += tf.gather(self.cdf_offset, index)
            parts.append((index, symbols))
            found.append(tf.cast(symbols + shift, tf.float32))
        return _merge(found, whole), lambda: self._encode(parts, whole[:1])

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
        """Yields the means and the scales' indices of each phase, given the ones before it."""
        network = self._network(exact)
        below = network.from_below(latents)
        for phase in range(len(_PHASES)):
            yield network.of_phase(phase, y_hat * _known(phase, tf.shape(y_hat)), below)

    def _network(self, exact: bool) -> _Network:
        return _Network(
            exact,
            [convolution.weights(exact) for convolution in self._below],
            _weight(self._phase, exact),
            *(c.weights(exact) for c in (self._own, self._joint, self._mean, self._scale)),
        )


class _Network(NamedTuple):
    """The network with its weights as a calculation takes them, made once for a latent."""

    exact: bool
    below: Sequence[tuple[tf.Tensor, tf.Tensor]]
    phase: tf.Tensor
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

    def of_phase(self, phase, known, below):
        """Returns the means and the scales' indices, not rounded, of the elements of one phase."""
        (row, column), (height, width) = _PHASES[phase], (tf.shape(known)[1], tf.shape(known)[2])
        # On even sizes every phase has as many positions; those outside are cut off at the end.
        odd = (height % 2, width % 2)
        side = self.own[0].shape[0] // 2
        around = [(side, side + more) for more in odd]
        known = tf.pad(_input(known, self.exact), ((0, 0), *around, (0, 0)))
        x = _convolve(known[:, row:, column:], self.own, strides=2, padding="VALID")
        x += self.phase[phase]
        if below is not None:
            x += _part(tf.pad(below, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0))), phase)
        x = _activation(x, self.exact)
        x = _activation(_convolve(x, self.joint), self.exact)
        rows, columns = (height + 1 - row) // 2, (width + 1 - column) // 2
        means, scales = (_convolve(x, head)[:, :rows, :columns] for head in (self.mean, self.scale))
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


def _part(x, phase):
    """Returns the elements of one phase of x [B, h, w, C]."""
    row, column = _PHASES[phase]
    return x[:, row::2, column::2]


def _known(phase, shape):
    """Returns one where a part before this phase has its elements and zero elsewhere, [h, w, 1]."""
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

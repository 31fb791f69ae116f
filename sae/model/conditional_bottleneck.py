"""A bottleneck whose prior knows what is already decoded.

Every element of the latent is logistic, with a mean and a scale that
`sae.model.prior_network` computes in the order of coding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from sae.model.bottleneck import Bottleneck
from sae.model.prior_network import Exact, Floats, PriorNetwork

# Its tails suit better than those of the normal distribution.
_PRIOR = tfc.NoisyLogistic

# Means are multiples of 1 / _MEANS, and scales _SMALLEST_SCALE * _RATIO^k for k < _SCALES: one for
# k = 30, and up to 50.
_MEANS = 8
_SMALLEST_SCALE, _RATIO, _SCALES = 0.03, 1.125, 64


class ConditionalBottleneck(Bottleneck):
    """A bottleneck with a mean and a scale per element.

    Args:
      depth: channels of the latent.
      context_depth, ...: as `PriorNetwork` takes them.
    """

    def __init__(self, depth: int, *network: Any, **options: Any):
        super().__init__(depth)
        self._network = PriorNetwork(depth, *network, **options)

    def bits(self, y, y_hat, latents=()):
        means, scales = self._network.parameters(y_hat, latents)
        prior = _PRIOR(loc=means, scale=_scale(Floats, scales))
        return tf.reduce_sum(prior.log_prob(y), axis=(1, 2, 3)) / -math.log(2)

    def quantize(self, y: tf.Tensor, latents: Sequence[tf.Tensor], worth: float) -> tf.Tensor:
        """Returns y rounded, each element to the integer next to it that is better on the whole.

        That is the nearest one, or the one beside it on the side of the mean where
        this saves more bits than the error is worth.

        Args:
          y: float32 [B, h, w, depth].
          latents: of the lower layers.
          worth: of an error squared, in bits.
        """

        def chosen(part, means, scales):
            return _quantized(Floats, y[part], means, scales, worth)

        return tf.stop_gradient(self._network.traverse(chosen, tf.shape(y), latents, Floats))

    def encode(
        self, y: tf.Tensor, latents: Sequence[tf.Tensor], worth: float
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns y rounded as `quantize` does, and its strings [B], in one go."""
        y = np.asarray(y)

        def chosen(part, means, scales):
            nearest = np.round(y[part])
            # Elsewhere there is no choice.
            open_ = nearest != np.round(means)
            of_open = (x[open_] for x in (y[part], means, scales))
            nearest[open_] = _quantized(Exact, *of_open, worth)  # type: ignore[call-arg]
            return nearest

        return self._compressed(chosen, y.shape, latents)

    def compress(self, y_hat, latents=()):
        y_hat = np.asarray(y_hat)
        return self._compressed(lambda part, *_: y_hat[part], y_hat.shape, latents)[1]

    def _compressed(self, choose, shape, latents):
        """Returns the latent whose parts are chosen, as by `traverse`, and its strings."""
        parts = []

        def chosen(part, means, scales):
            index, first = self._tables(means, scales)
            found = choose(part, means, scales)
            parts.append((index, np.int32(found) - first))
            return found

        y_hat = self._network.traverse(chosen, shape, latents, Exact)
        return tf.constant(y_hat), self._encode(parts, shape[:1])

    def _decode(self, strings, shape, latents):
        shape, parts = (len(strings), *shape, self.depth), []
        handle = tfc.create_range_decoder(strings, self.cdf)

        def decoded(part, means, scales):
            nonlocal handle
            index, first = self._tables(means, scales)
            handle, symbols = tfc.entropy_decode_index(handle, index, index.shape[1:], tf.int32)
            parts.append((index, symbols))
            return symbols.numpy() + first

        y_hat = self._network.traverse(decoded, shape, latents, Exact)
        return tf.constant(y_hat), lambda: self._encode(parts, shape[:1])

    def _tables(self, means, scales):
        """Returns which table codes each element, and the value that it counts from, int32."""
        mean = np.int32(np.rint(means * _MEANS))
        scale = np.int32(np.rint(np.clip(scales, 0, _SCALES - 1)))
        # Remainder and quotient, rounded down, in a tenth of the time that % and // take.
        index = (mean & (_MEANS - 1)) * _SCALES + scale
        # Every index is within bounds; without a look at that, this takes a third of the time.
        first = self.cdf_offset.take(index, mode="wrap")
        return index, (mean >> (_MEANS.bit_length() - 1)) + first

    def _encode(self, parts, batch):
        """Returns the strings of all parts: for each the tables' indices, and numbers in them."""
        handle = tfc.create_range_encoder(batch, self.cdf)
        for index, symbols in parts:
            handle = tfc.entropy_encode_index(handle, index, symbols)
        return tfc.entropy_encode_finalize(handle)

    def _model_with_tables(self, **options):
        return tfc.ContinuousIndexedEntropyModel(
            _PRIOR,
            index_ranges=(_MEANS, _SCALES),
            parameter_fns={
                "loc": lambda i: i[..., 0] / _MEANS,
                "scale": lambda i: _scale(Floats, i[..., 1]),
            },
            **options,
        )

    def set_tables(self, cdf, cdf_offset):
        super().set_tables(cdf, cdf_offset)
        # Like the tables, made of the weights as they are now, but not before it is needed.
        self._network.forget()

    def smallest_bits(self):
        return self.depth * np.min(self._smallest_bits())


def _scale(arithmetic, index):
    """Returns the scale that an index, not rounded, stands for."""
    return _SMALLEST_SCALE * _RATIO ** arithmetic.clip(index, 0.0, _SCALES - 1.0)


def _quantized(arithmetic, y, means, scales, worth):
    """Returns the nearest integers, or those one nearer to the mean, as `quantize` describes."""
    nearest = arithmetic.round(y)
    distance = nearest - means
    inwards = arithmetic.sign(arithmetic.round(distance))
    # The logistic's logarithm at that integer, less the one at the nearest.
    scale = _scale(arithmetic, scales)
    border, unit = (abs(distance) - 0.5) / scale, 1 / scale
    saved = border + arithmetic.softplus(-border - unit) - arithmetic.softplus(border - unit)
    # That of (y - nearest + inwards)^2 - (y - nearest)^2.
    lost = worth * math.log(2) * (1 + 2 * inwards * (y - nearest))
    return arithmetic.where((inwards != 0) & (saved > lost), nearest - inwards, nearest)

"""The entropy bottleneck: likelihoods while training, integer tables and strings after it.

`EntropyBottleneck` codes a latent y with a fully factorised prior, one density
per channel, learned together with the transforms (Balle et al., ICLR 2018,
appendix 6.1). `Bottleneck` is what any other prior has in common with it.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

# Finer than the library's defaults (12 bits, 2^-8): a latent channel that is
# nearly always zero costs next to nothing only where the tables can say so.
_TABLES = {"tail_mass": 2**-12, "range_coder_precision": 16}
# Beyond any latent of an image; the library codes larger ones without end.
_LARGEST = 2**24


def uniform_noise(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 noise, uniform in [-0.5, 0.5].

    The same seed, int32 or int64 [2], gives the same noise in every process, on
    every device and under XLA: the generator's integers agree there, and are
    scaled here because the library's conversions to floats do not agree.
    """
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox")
    return tf.cast(bits, tf.float32) * 2.0**-32


class Bottleneck(tf.Module, abc.ABC):
    """Tells the bits of a latent y [B, h, w, depth], and codes rounded ones in bytes.

    Rounding is plain, to the nearest integer. Strings can be made and read
    once there are integer tables: `build_tables` derives them from the prior
    when training is done, `set_tables` restores them. They are never rebuilt
    for decoding, since floating point may differ between machines.

    `latents` are those of the lower layers, rounded, float32 [B, h, w, any].

    Attributes:
      depth: channels of the latent.
      cdf, cdf_offset: the tables as the library's range coder reads them, int32
        [N] and [number of tables]; None before there are any.
    """

    def __init__(self, depth: int):
        super().__init__()
        self.depth = depth
        # These become arrays when tables are made.
        self.cdf: Any = None
        self.cdf_offset: Any = None

    @abc.abstractmethod
    def bits(self, y: tf.Tensor, y_hat: tf.Tensor, latents: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        """Returns the bits [B] of a latent, differentiable.

        Args:
          y: float32 [B, h, w, depth]. Rounded, it gives the estimate for a string;
            with uniform noise in place of rounding, an upper bound of it.
          y_hat: what a decoder has of the latent when it comes to later parts, of
            the shape of y.
          latents: of the lower layers.
        """

    @abc.abstractmethod
    def compress(self, y_hat: tf.Tensor, latents: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        """Returns the strings [B] that code a rounded latent."""

    def decompress(
        self, strings: tf.Tensor, shape: Sequence[int], latents: Sequence[tf.Tensor] = ()
    ) -> tf.Tensor:
        """Returns y_hat [B, h, w, depth] for strings [B] and shape = (h, w).

        Raises:
          tf.errors.InvalidArgumentError: a string does not code such a latent.
        """
        symbols = shape[0] * shape[1] * self.depth
        # Past the end of a string the library reads zeros, and of a damaged one
        # might read an endless escape code. A sound string needs a few zeros;
        # ones after them end any code, at less than three bytes per symbol.
        padding = bytes(16) + b"\xff" * (3 * symbols + 16)
        y_hat, again = self._decode(tf.strings.join([strings, padding]), shape, latents)
        message = "a string does not code such a latent"
        tf.debugging.assert_less(tf.abs(y_hat), float(_LARGEST), message)
        tf.debugging.assert_equal(again(), strings, message)
        return y_hat

    @abc.abstractmethod
    def _decode(
        self, strings: tf.Tensor, shape: Sequence[int], latents: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, Callable[[], tf.Tensor]]:
        """Returns what `strings` begin with, whatever comes after it, and how to code it again."""

    def build_tables(self) -> None:
        """Derives the integer tables from the prior as it is now."""

        @tf.function
        def tables():
            model = self._model_with_tables(
                coding_rank=3, compression=True, stateless=True, **_TABLES
            )
            return model.cdf, model.cdf_offset

        self.set_tables(*(table.numpy() for table in tables()))

    @abc.abstractmethod
    def _model_with_tables(self, **options):
        """Returns the library's entropy model of the prior, made with these options."""

    def set_tables(self, cdf: np.ndarray, cdf_offset: np.ndarray) -> None:
        """Restores the tables."""
        self.cdf, self.cdf_offset = cdf, cdf_offset

    @property
    def has_tables(self) -> bool:
        """Whether strings can be made and read."""
        return self.cdf is not None

    @abc.abstractmethod
    def smallest_bits(self) -> float:
        """Returns the fewest bits in which the tables can code one position of y."""

    def _smallest_bits(self) -> np.ndarray:
        """Returns the fewest bits of a symbol, for each table."""
        # A table is -precision, then its cdf from 0 to 2^precision.
        starts = np.flatnonzero(self.cdf < 0)
        stops = np.append(starts[1:], len(self.cdf))
        steps = np.append(np.diff(self.cdf), 0)
        largest = np.maximum.reduceat(steps, np.stack((starts + 1, stops - 1), 1).ravel())[::2]
        return -self.cdf[starts] - np.log2(largest)


class EntropyBottleneck(Bottleneck):
    """A bottleneck with one density per channel, whatever the lower layers have.

    Args:
      depth: channels of the latent.
      name: scope of the variables.
    """

    def __init__(self, depth: int, name: str):
        super().__init__(depth)
        with tf.name_scope(name):
            self.prior = tfc.NoisyDeepFactorized(batch_shape=(depth,))
        self._coder: tfc.ContinuousBatchedEntropyModel = None

    def bits(self, y, y_hat, latents=()):
        return tf.reduce_sum(self.prior.log_prob(y), axis=(1, 2, 3)) / -math.log(2)

    def compress(self, y_hat, latents=()):
        return self._coder.compress(y_hat)

    def _decode(self, strings, shape, latents):
        y_hat = self._coder.decompress(strings, shape)
        return y_hat, lambda: self._coder.compress(y_hat)

    def _model_with_tables(self, **options):
        return tfc.ContinuousBatchedEntropyModel(self.prior, offset_heuristic=False, **options)

    def set_tables(self, cdf, cdf_offset):
        super().set_tables(cdf, cdf_offset)
        self._coder = tfc.ContinuousBatchedEntropyModel(
            coding_rank=3,
            compression=True,
            stateless=True,
            offset_heuristic=False,
            prior_shape=(self.depth,),
            cdf=cdf,
            cdf_offset=cdf_offset,
            # `decompress` has a stricter one.
            decode_sanity_check=False,
        )

    def smallest_bits(self):
        return sum(self._smallest_bits())

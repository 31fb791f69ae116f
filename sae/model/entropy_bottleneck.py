"""The entropy model of a residual layer: likelihoods in training, then integer tables and strings.

A latent has a fully factorized prior with one density per channel, learned together with the
transforms (Balle et al., ICLR 2018, appendix 6.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

# These tables are finer than the library's defaults (12 bits, 2^-8), so that a latent channel costs
# next to nothing where it is nearly always zero.
_TABLES = {"tail_mass": 2**-12, "range_coder_precision": 16}
# No latent of an image is as large; the library's escape codes have no end.
_LARGEST = 2**24


class EntropyBottleneck(tf.Module):
    """The prior of a latent y [B, h, w, depth] and the coder of its rounded values.

    Coding requires integer tables: `build_tables` derives them from the prior after training, and
    `set_tables` restores them. They are never rebuilt for decoding, since floating point may differ
    between machines.

    Args:
      depth: number of latent channels.
      scope: prefix of the variables' names.

    Attributes:
      cdf, cdf_offset: tables in the layout of the library's range coder, int32 [N] and [depth];
        None before there are any.
    """

    def __init__(self, depth: int, scope: str):
        super().__init__()
        self._depth = depth
        self.cdf: Any = None
        self.cdf_offset: Any = None
        with tf.name_scope(scope):
            self._prior = tfc.NoisyDeepFactorized(batch_shape=(depth,))
        self._coder: tfc.ContinuousBatchedEntropyModel = None

    def bits(self, y: tf.Tensor) -> tf.Tensor:
        """Returns the bits [B] of a latent, differentiable.

        For a rounded latent they estimate the length of the string. With uniform noise in place of
        rounding they are an upper bound.
        """
        return tf.reduce_sum(self._prior.log_prob(y), axis=(1, 2, 3)) / -math.log(2)

    def compress(self, y_hat: tf.Tensor) -> tf.Tensor:
        """Returns the strings [B] of a rounded latent."""
        return self._coder.compress(y_hat)

    def decompress(self, strings: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """Returns the rounded latent [B, h, w, depth] of strings [B].

        Args:
          strings: strings, [B].
          shape: height and width of the latent.

        Raises:
          tf.errors.InvalidArgumentError: no latent of this shape has such a string.
        """
        symbols = shape[0] * shape[1] * self._depth
        # Past the end of a string the library reads zeros, which may be an endless escape code of a
        # damaged string. A valid string requires a few zeros; ones after them end any code, at less
        # than three bytes per symbol.
        padding = bytes(16) + b"\xff" * (3 * symbols + 16)
        y_hat = self._coder.decompress(tf.strings.join([strings, padding]), shape)
        message = "a string is of no such latent"
        tf.debugging.assert_less(tf.abs(y_hat), float(_LARGEST), message)
        tf.debugging.assert_equal(self._coder.compress(y_hat), strings, message)
        return y_hat

    def build_tables(self) -> None:
        """Derives the integer tables from the prior."""

        @tf.function
        def tables():
            model = tfc.ContinuousBatchedEntropyModel(
                self._prior,
                offset_heuristic=False,
                coding_rank=3,
                compression=True,
                stateless=True,
                **_TABLES,
            )
            return model.cdf, model.cdf_offset

        self.set_tables(*(table.numpy() for table in tables()))

    def set_tables(self, cdf: np.ndarray, cdf_offset: np.ndarray) -> None:
        """Restores the tables."""
        self.cdf, self.cdf_offset = cdf, cdf_offset
        self._coder = tfc.ContinuousBatchedEntropyModel(
            coding_rank=3,
            compression=True,
            stateless=True,
            offset_heuristic=False,
            prior_shape=(self._depth,),
            cdf=cdf,
            cdf_offset=cdf_offset,
            # The check in `decompress` is stricter.
            decode_sanity_check=False,
        )

    @property
    def has_tables(self) -> bool:
        """Whether strings can be coded."""
        return self.cdf is not None

    def smallest_bits(self) -> float:
        """Returns the smallest number of bits in which one position of a latent can be coded."""
        # Each table is -precision, then its cdf from 0 to 2^precision.
        starts = np.flatnonzero(self.cdf < 0)
        stops = np.append(starts[1:], len(self.cdf))
        steps = np.append(np.diff(self.cdf), 0)
        largest = np.maximum.reduceat(steps, np.stack((starts + 1, stops - 1), 1).ravel())[::2]
        return float(np.sum(-self.cdf[starts] - np.log2(largest)))

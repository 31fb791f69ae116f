"""The transforms of the progressive model.

Both transforms have a linear path in parallel to a convolutional one (Li et al., ICLR 2025, arXiv
2501.13751, with wavelets). It is initialized to a cosine transform of blocks, the convolutional
path to zero. Before the first step the model is thus a block transform codec.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from sae.config import STRIDE
from sae.model.cosine_transform import cosine_basis
from sae.model.modules import GDN, Convolution, PlaneTable, ResidualBlock, variable
from sae.model.progressive_config import (
    BLOCK,
    FROM_LATENT,
    LINEAR_SCALE,
    PLANES,
    TO_IMAGE,
    TO_LATENT,
    ProgressiveConfig,
)


class Decoded(NamedTuple):
    """A partly decoded latent in steps of plane 0, each part [B, h, w, depth].

    Attributes:
      y_hat: centers of the intervals.
      expected: distance of the mean of an element in its interval from the center, under the
        distribution that codes the next digit, or coded the last one.
      width: widths of the intervals, 0 in channels of which nothing is decoded.
    """

    y_hat: tf.Tensor
    expected: tf.Tensor
    width: tf.Tensor


class Linear(tf.Module):
    """A matrix from blocks of 16 x 16 pixels to the latent, initially a cosine transform."""

    def __init__(self, scope, depth):
        super().__init__()
        basis = cosine_basis(depth).reshape(-1, depth)
        self._matrix = variable(scope, "matrix", basis / LINEAR_SCALE)

    def forward(self, x):
        """Returns [B, H/16, W/16, depth] for images."""
        return tf.tensordot(tf.nn.space_to_depth(x, STRIDE), LINEAR_SCALE * self._matrix, 1)

    def backward(self, y):
        """Returns images [B, H, W, 3] for latents."""
        blocks = tf.tensordot(y, LINEAR_SCALE * self._matrix, ((-1,), (-1,)))
        return tf.nn.depth_to_space(blocks, STRIDE)


class Analysis(tf.Module):
    """The analysis transform.

    Args:
      config: architecture of the model.
      compute_dtype: type of products in convolutions, float32 or bfloat16.
    """

    def __init__(self, config: ProgressiveConfig, compute_dtype: tf.DType = tf.float32):
        super().__init__()
        scope, filters, depth = "analysis", config.hidden_filters, config.latent_depth
        dtype = {"compute_dtype": compute_dtype}
        self._step, self._linear = config.step, Linear(scope, depth)
        # On blocks of 4 x 4 pixels, the first kernel covers 9 x 9 pixels in a third of the time.
        self._convolutions = [
            Convolution(f"{scope}/conv_0", 3, 3 * BLOCK**2, filters, **dtype),
            Convolution(f"{scope}/conv_1", 5, filters, filters, 2, **dtype),
            Convolution(f"{scope}/conv_2", 3, filters, depth, 2, bias=False, zero=True, **dtype),
        ]
        self._gdn = [GDN(f"{scope}/gdn_{k}", filters, **dtype) for k in range(2)]
        self._blocks = [
            ResidualBlock(f"{scope}/block_{k}", filters, **dtype)
            for k in range(config.analysis_blocks)
        ]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the latent [B, H/16, W/16, depth] of images [B, H, W, 3] in [0, 1]."""
        h = tf.nn.space_to_depth(x, BLOCK)
        h = self._gdn[0](self._convolutions[0](h))
        for block in self._blocks:
            h = block(h)
        h = self._gdn[1](self._convolutions[1](h))
        return self._linear.forward(x - 0.5) / self._step + TO_LATENT * self._convolutions[-1](h)


class Synthesis(tf.Module):
    """The synthesis transform, with the arguments of `Analysis`."""

    def __init__(self, config: ProgressiveConfig, compute_dtype: tf.DType = tf.float32):
        super().__init__()
        scope, filters, depth = "synthesis", config.hidden_filters, config.latent_depth
        up = {"transposed": True, "compute_dtype": compute_dtype}
        self._step, self._linear = config.step, Linear(scope, depth)
        # Each path has gains for two inputs: decoded centers, and distances of means from them.
        self._linear_gains, self._latent_gains = (
            [
                PlaneTable(f"{scope}/{path}_gain", PLANES, depth, 1.0),
                PlaneTable(f"{scope}/{path}_expected_gain", PLANES, depth, 0.0),
            ]
            for path in ("linear", "latent")
        )
        self._convolutions = [
            Convolution(f"{scope}/conv_0", 3, depth, filters, 2, **up),
            Convolution(f"{scope}/conv_1", 5, filters, filters, 2, **up),
        ]
        self._igdn = [GDN(f"{scope}/igdn_{k}", filters, True, compute_dtype) for k in range(2)]
        self._gain = [PlaneTable(f"{scope}/gain_{k}", PLANES, filters, 1.0) for k in range(2)]
        self._bias = [PlaneTable(f"{scope}/bias_{k}", PLANES, filters, 0.0) for k in range(2)]
        self._blocks = [
            ResidualBlock(f"{scope}/block_{k}", filters, compute_dtype)
            for k in range(config.synthesis_blocks)
        ]
        self._output = Convolution(
            f"{scope}/conv_2",
            3,
            filters,
            3 * BLOCK**2,
            bias=False,
            zero=True,
            compute_dtype=compute_dtype,
        )

    def __call__(self, decoded: Decoded, level: tf.Tensor) -> tf.Tensor:
        """Returns images [B, 16 h, 16 w, 3], not clipped.

        Args:
          decoded: decoded latent.
          level: plane up to which it is decoded, float32 [B] in [0, 2].
        """
        linear, h = (
            self._step * (decoded.y_hat * gains[0](level) + decoded.expected * gains[1](level))
            for gains in (self._linear_gains, self._latent_gains)
        )
        h *= FROM_LATENT
        for convolution, igdn, gain, bias in zip(
            self._convolutions, self._igdn, self._gain, self._bias
        ):
            h = igdn(convolution(h)) * gain(level) + bias(level)
        for block in self._blocks:
            h = block(h)
        x = 0.5 + self._linear.backward(linear)
        return x + TO_IMAGE * tf.nn.depth_to_space(self._output(h), BLOCK)

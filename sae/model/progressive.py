"""The progressive model: one auto-encoder and one latent, refined plane by plane.

    y = analysis(x)                          in steps of plane 0
    q_2 = round(9 y), q_1 = round(q_2 / 3), q_0 = round(q_1 / 3)
    plane 0: the integers q_0; plane p above: the digits q_p - 3 q_{p-1} in {-1, 0, 1}
    x_hat = synthesis(y_hat, level)

A ratio of three nests uniform quantizers in one another, at no loss against the best scalar
quantizer of each plane. The level is the plane up to which the latent is decoded; between two
planes' ends it is fractional. Lower planes have fewer channels: in coarse steps, high frequencies
are zero.

Both transforms have a linear path in parallel to a convolutional one (Li et al., ICLR 2025, arXiv
2501.13751, have wavelets there). It begins as a cosine transform of blocks, and the convolutional
path is zero-initialized: before its first step the model is a transform codec.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from sae.model.cosine_transform import STRIDE, cosine_basis
from sae.model.modules import GDN, Convolution, PlaneTable, variable
from sae.model.plane_priors import Digits, PlaneContext, SliceContext, code_digits, integer_bits

PLANES, RATIO = 3, 3

# Steps of optimizers suit weights near one, to which the first of these factors brings the linear
# paths. Because of the others the convolutional paths contribute little at first.
_LINEAR_SCALE = (3 * STRIDE**2) ** -0.5
_TO_LATENT, _FROM_LATENT, _TO_IMAGE = 0.1, 0.25, 0.1


@dataclasses.dataclass(frozen=True)
class ProgressiveConfig:
    """The architecture.

    Attributes:
      plane_depths: number of latent channels in each plane, not falling; channels that a plane
        does not have are zero in it.
      hidden_filters: number of channels between the convolutions of the transforms.
      step: quantization step of plane 0, on the scale of images in [0, 1].
      slices: number of channels of each slice of plane 0; the remaining channels are one more.
      context_filters: number of channels of the features of plane 0's context model.
      slice_embedding: number of channels of an embedded slice.
      plane_filters: number of channels of the context models of the planes above.
    """

    plane_depths: tuple[int, ...] = (192, 320, 512)
    hidden_filters: int = 128
    step: float = 1.1
    slices: tuple[int, ...] = (4, 12, 32, 64)
    context_filters: int = 96
    slice_embedding: int = 48
    plane_filters: int = 128

    @property
    def latent_depth(self) -> int:
        """Number of latent channels."""
        return self.plane_depths[-1]

    @property
    def slice_sizes(self) -> tuple[int, ...]:
        """Number of channels of each slice of plane 0."""
        return (*self.slices, self.plane_depths[0] - sum(self.slices))


class Decoded(NamedTuple):
    """A partly decoded latent, in steps of plane 0, each [B, h, w, depth].

    Attributes:
      y_hat: centers of the intervals.
      expected: how far the mean of an element in its interval lies from the center, under the
        distribution that codes the next digit.
    """

    y_hat: tf.Tensor
    expected: tf.Tensor


class Planes(NamedTuple):
    """The planes of a latent; each has its own number of channels.

    Attributes:
      integers: rounded latent of each plane, [B, h, w, depth].
      bits: number of bits of each plane alone, [B], differentiable.
      digits: expectations of the digits of each plane above 0.
    """

    integers: list[tf.Tensor]
    bits: list[tf.Tensor]
    digits: list[Digits]

    def end(self, plane: int) -> Decoded:
        """Returns the latent decoded to the end of a plane."""
        y_hat = self._widened(self.integers[plane] / float(RATIO**plane))
        if plane == PLANES - 1:
            return Decoded(y_hat, tf.zeros_like(y_hat))
        expected = self.digits[plane].expected / float(RATIO ** (plane + 1))
        return Decoded(y_hat, self._widened(expected))

    def cut(self, plane: int, share: tf.Tensor) -> Decoded:
        """Returns the latent decoded to a cut within a plane above 0.

        Digits are ordered by the expected fall of the squared error per bit.

        Args:
          plane: number of the plane.
          share: decoded share of the plane's expected bits, float32 [B] in [0, 1].
        """
        below, digits = self.end(plane - 1), self.digits[plane - 1]
        flat = tf.reshape(digits.variance / tf.maximum(digits.entropy, 1e-9), (len(share), -1))
        order = tf.argsort(flat, direction="DESCENDING", stable=True)
        bits = tf.gather(tf.reshape(digits.entropy, tf.shape(flat)), order, batch_dims=1)
        spent = tf.cumsum(bits, axis=1, exclusive=True)
        come = spent < share[:, None] * tf.reduce_sum(bits, 1, keepdims=True)
        come = tf.gather(come, tf.argsort(order), batch_dims=1)
        come = tf.reshape(come, tf.shape(digits.entropy))
        refined = self._widened(self.integers[plane] / float(RATIO**plane))
        come = self._widened(tf.cast(come, tf.float32)) > 0.0
        return Decoded(
            tf.where(come, refined, below.y_hat),
            tf.where(come, 0.0, below.expected),
        )

    def _widened(self, values):
        """Appends channels of zeros to those of a lower plane."""
        return widened(values, self.integers[-1].shape[-1])


class ProgressiveModel(tf.Module):
    """The model; images are float32 [B, H, W, 3] in [0, 1], H and W multiples of 16.

    Args:
      config: architecture of the model.
      compute_dtype: type of products in convolutions, float32 or bfloat16.
    """

    def __init__(self, config: ProgressiveConfig, compute_dtype: tf.DType = tf.float32):
        super().__init__()
        self.config = config
        depths = config.plane_depths
        self._analysis = _Analysis(config, compute_dtype)
        self._synthesis = _Synthesis(config, compute_dtype)
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

    def analysis(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the latent of x in steps of plane 0, [B, H/16, W/16, depth], not rounded."""
        return self._analysis(x)

    def quantize(self, y: tf.Tensor) -> list[tf.Tensor]:
        """Returns the integers of every plane; no gradient passes."""
        rounded = [tf.round(tf.stop_gradient(y) * float(RATIO ** (PLANES - 1)))]
        while len(rounded) < PLANES:
            rounded.insert(0, tf.round(rounded[0] / RATIO))
        depths = self.config.plane_depths
        planes = [rounded[0][..., : depths[0]]]
        for target, depth in zip(rounded[1:], depths[1:]):
            # Where a plane below is zero for lack of the channel, digits may be too small.
            parents = float(RATIO) * widened(planes[-1], depth)
            digits = tf.clip_by_value(target[..., :depth] - parents, -1.0, 1.0)
            planes.append(parents + digits)
        return planes

    def code(
        self,
        y: tf.Tensor,
        noise: tf.Tensor | None = None,
        gradient_scales: Sequence[tf.Tensor] | None = None,
    ) -> Planes:
        """Returns the planes of a latent, with their bits.

        Contexts are rounded latents, without gradient. In plane 0 noise stands for rounding. Above
        it, bits are those of the true interval, whose bounds shift with y for the gradient.

        Args:
          y: latent that `analysis` returns.
          noise: uniform noise in [-0.5, 0.5] of the shape of plane 0; None for the bits of rounded
            latents.
          gradient_scales: factor [B] for each plane of the gradient from its bits to y.
        """
        integers = self.quantize(y)

        def shift(plane):
            """Returns zero, with the gradient of y in steps of a plane."""
            part = y[..., : self.config.plane_depths[plane]]
            zero = (part - tf.stop_gradient(part)) * float(RATIO**plane)
            if gradient_scales is None:
                return zero
            return zero * gradient_scales[plane][:, None, None, None]

        values = integers[0]
        if noise is not None:
            values = tf.stop_gradient(y[..., : self.config.plane_depths[0]]) + noise
        parameters = self._first_context.parameters(integers[0])
        bits, digits = [integer_bits(values + shift(0), *parameters)], []
        for p, context in enumerate(self._contexts, 1):
            parents = float(RATIO) * widened(integers[p - 1], self.config.plane_depths[p])
            parameters = context.parameters(integers[:p])
            plane_bits, expected = code_digits(
                integers[p] - parents, parents + shift(p), *parameters
            )
            bits.append(plane_bits)
            digits.append(expected)
        return Planes(integers, bits, digits)

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


def widened(x: tf.Tensor, depth: int) -> tf.Tensor:
    """Returns [B, h, w, depth] with zeros after the channels of x."""
    return tf.pad(x, ((0, 0), (0, 0), (0, 0), (0, depth - x.shape[-1])))


class _Linear(tf.Module):
    """A matrix between blocks of 16 x 16 pixels and the latent, initially a cosine transform."""

    def __init__(self, scope, depth):
        super().__init__()
        basis = cosine_basis(depth).reshape(-1, depth)
        self._matrix = variable(scope, "matrix", basis / _LINEAR_SCALE)

    def forward(self, x):
        """Returns [B, H/16, W/16, depth] for images."""
        return tf.tensordot(tf.nn.space_to_depth(x, STRIDE), _LINEAR_SCALE * self._matrix, 1)

    def backward(self, y):
        """Returns images [B, H, W, 3] for latents."""
        blocks = tf.tensordot(y, _LINEAR_SCALE * self._matrix, ((-1,), (-1,)))
        return tf.nn.depth_to_space(blocks, STRIDE)


class _Analysis(tf.Module):
    def __init__(self, config, compute_dtype):
        super().__init__()
        scope, filters, depth = "analysis", config.hidden_filters, config.latent_depth
        dtype = {"compute_dtype": compute_dtype}
        self._step, self._linear = config.step, _Linear(scope, depth)
        # On blocks of 4 x 4 pixels, this covers a 9 x 9 convolution in a third of the time.
        self._convolutions = [
            Convolution(f"{scope}/conv_0", 3, 3 * 4**2, filters, **dtype),
            Convolution(f"{scope}/conv_1", 5, filters, filters, 2, **dtype),
            Convolution(f"{scope}/conv_2", 3, filters, depth, 2, bias=False, zero=True, **dtype),
        ]
        self._gdn = [GDN(f"{scope}/gdn_{k}", filters, **dtype) for k in range(2)]

    def __call__(self, x):
        h = tf.nn.space_to_depth(x, 4)
        for convolution, gdn in zip(self._convolutions, self._gdn):
            h = gdn(convolution(h))
        return self._linear.forward(x - 0.5) / self._step + _TO_LATENT * self._convolutions[-1](h)


class _Synthesis(tf.Module):
    def __init__(self, config, compute_dtype):
        super().__init__()
        scope, filters, depth = "synthesis", config.hidden_filters, config.latent_depth
        up = {"transposed": True, "compute_dtype": compute_dtype}
        self._step, self._linear = config.step, _Linear(scope, depth)
        # Each path has gains of two inputs: decoded centers, and the distances of means from them.
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
        self._output = Convolution(
            f"{scope}/conv_2",
            3,
            filters,
            3 * 4**2,
            bias=False,
            zero=True,
            compute_dtype=compute_dtype,
        )

    def __call__(self, decoded, level):
        linear, h = (
            self._step * (decoded.y_hat * gains[0](level) + decoded.expected * gains[1](level))
            for gains in (self._linear_gains, self._latent_gains)
        )
        h *= _FROM_LATENT
        for convolution, igdn, gain, bias in zip(
            self._convolutions, self._igdn, self._gain, self._bias
        ):
            h = igdn(convolution(h)) * gain(level) + bias(level)
        x = 0.5 + self._linear.backward(linear)
        return x + _TO_IMAGE * tf.nn.depth_to_space(self._output(h), 4)

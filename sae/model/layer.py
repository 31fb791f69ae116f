"""One scalability layer, and the context in which it is coded.

A layer is always given a `Context`: what a decoder has when it comes to that
layer. The layer decides how much of it to use. Nothing outside this file
knows which kind of layer it holds; a new kind is a new class with the
interface of `Layer`, registered in `KINDS`. Training step, estimate, encoder
and decoder are compositions of a layer's six verbs: analyse, quantize, rate,
synthesise, write and read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from sae.config import LayerConfig
from sae.model.bottleneck import Bottleneck, EntropyBottleneck, uniform_noise
from sae.model.transforms import TRANSFORMS, Graph, Strips


class Context:
    """What is already decoded.

    Attributes:
      latents: the rounded latents of the lower layers, lowest first, each
        float32 [B, H/stride, W/stride, depth].
      x_hat: float32 [B, H, W, 3], the reconstruction after the layer below, not
        clipped; zero below the base layer. Computed when first asked for, and frozen:
        no gradient passes through it.
    """

    def __init__(
        self,
        latents: tuple[tf.Tensor, ...],
        x_hat: Callable[[], tf.Tensor],
    ):
        self.latents = latents
        self._x_hat: tf.Tensor | Callable[[], tf.Tensor] = x_hat

    @classmethod
    def empty(cls, shape: Sequence[int]) -> Context:
        """Returns the context of a base layer for images of `shape` = [B, H, W, 3]."""
        return cls((), lambda: tf.zeros(shape))

    def extended(self, layer: Layer, y_hat: tf.Tensor) -> Context:
        """Returns the context that a layer leaves when its latent is decoded."""
        latents = (*self.latents, y_hat)
        return Context(latents, lambda: layer.synthesise(y_hat, self))

    @property
    def x_hat(self) -> tf.Tensor:
        if callable(self._x_hat):
            # What it was computed from need not be kept.
            self._x_hat = tf.stop_gradient(self._x_hat())
        return self._x_hat


class Layer(tf.Module):
    """A layer with the transforms and the prior of the paper, but for what its kind changes.

    Images x are float32 [B, H, W, 3] in [0, 1] with H and W multiples of the
    stride; latents y are float32 [B, H/stride, W/stride, latent_depth].

    Args:
      config: its architecture.

    Attributes:
      name: "base", "el1", ...
      stride: pixels per position of the latent, in each direction.
    """

    def __init__(self, config: LayerConfig):
        super().__init__(name=config.name)
        self.config = config
        self.stride, analysis, synthesis = TRANSFORMS
        self.analysis = Graph(analysis(config), 3)
        self.synthesis = Strips(Graph(synthesis(config), config.latent_depth))
        self.bottleneck = self._make_bottleneck(f"{config.name}/bottleneck")

    def _make_bottleneck(self, scope: str) -> Bottleneck:
        raise NotImplementedError

    def analyse(self, x: tf.Tensor, context: Context) -> tf.Tensor:
        """Returns the latent y of x, not rounded."""
        raise NotImplementedError

    def quantize(self, y: tf.Tensor, context: Context) -> tf.Tensor:
        """Returns the rounded latent that an encoder takes for y; no gradient passes."""
        return tf.round(tf.stop_gradient(y))

    def synthesise(self, y_hat: tf.Tensor, context: Context) -> tf.Tensor:
        """Returns the reconstruction x_hat after this layer, not clipped."""
        raise NotImplementedError

    def rate(
        self,
        y: tf.Tensor,
        context: Context,
        quantization: str = "rounded",
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the synthesis reads in place of y, and its bits [B]; differentiable.

        Args:
          y: as `analyse` returns it.
          context: of the lower layers.
          quantization: "rounded": both take rounded latents, and no gradient
            reaches y. "noise": both take y with uniform noise in place of
            rounding, as published. "mixed": the bits take the noise, the
            synthesis rounded latents, through which the gradient passes unchanged
            (Minnen and Singh, ICIP 2020). "none": both take y as it is.
          seed: int [2], of the noise.
        """
        if quantization == "rounded":
            y_tilde = y_hat = tf.round(tf.stop_gradient(y))
        elif quantization == "none":
            y_tilde = y_hat = y
        else:
            y_tilde, y_hat = y + uniform_noise(tf.shape(y), seed), tfc.round_st(y)
        # A layer learns faster where its parts are not bent to be foretold by one another.
        known = y_hat if quantization == "none" else tf.stop_gradient(y_hat)
        bits = self.bottleneck.bits(y_tilde, known, context.latents)
        return (y_hat if quantization == "mixed" else y_tilde), bits

    def write(self, y_hat: tf.Tensor, context: Context) -> tf.Tensor:
        """Returns the strings [B] that code a rounded latent."""
        return self.bottleneck.compress(y_hat, context.latents)

    def read(self, strings: tf.Tensor, context: Context, size: tuple[int, int]) -> tf.Tensor:
        """Returns the rounded latent that strings [B] code, for images of size (H, W).

        Raises:
          tf.errors.InvalidArgumentError: a string does not code such a latent.
        """
        shape = tuple(side // self.stride for side in size)
        return self.bottleneck.decompress(strings, shape, context.latents)

    def smallest_bytes(self, size: tuple[int, int]) -> int:
        """Returns a lower bound of the string's length for an image of size (H, W)."""
        positions = (size[0] // self.stride) * (size[1] // self.stride)
        return math.floor(positions * self.bottleneck.smallest_bits() / 8)

    def build_tables(self) -> None:
        """Derives the integer tables of the entropy coder; done once, after training."""
        self.bottleneck.build_tables()

    @property
    def decoder_variables(self) -> tuple[tf.Variable, ...]:
        """What is free to move while the latents are fixed: synthesis and prior."""
        return (*self.synthesis.trainable_variables, *self.bottleneck.trainable_variables)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns everything that was learned, by name."""
        arrays = {self._key(v): v.numpy() for v in self.trainable_variables}
        if self.bottleneck.has_tables:
            arrays["bottleneck/cdf"] = self.bottleneck.cdf
            arrays["bottleneck/cdf_offset"] = self.bottleneck.cdf_offset
        return arrays

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes over what `arrays` returned; KeyError or ValueError where it does not fit."""
        for variable in self.trainable_variables:
            variable.assign(np.asarray(arrays[self._key(variable)], np.float32))
        if "bottleneck/cdf" in arrays:
            tables = arrays["bottleneck/cdf"], arrays["bottleneck/cdf_offset"]
            if any(table.dtype != np.int32 or table.ndim != 1 for table in tables):
                raise ValueError("its tables are no lists of 32-bit integers")
            self.bottleneck.set_tables(*tables)

    @property
    def finite(self) -> bool:
        """Whether all weights are finite numbers."""
        return all(np.isfinite(array).all() for array in self.arrays().values())

    def round_weights(self) -> None:
        """Rounds all weights to float16, in which a checkpoint then stores them."""
        for variable in self.trainable_variables:
            variable.assign(tf.cast(tf.cast(variable, tf.float16), tf.float32))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration and all arrays, as 64 hex digits."""
        digest = hashlib.sha256(json.dumps(self._configuration(), sort_keys=True).encode())
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _configuration(self) -> dict:
        """Returns the fields of the configuration that fingerprints cover.

        A field that came later is left out where it has its default, so that
        the fingerprints of earlier weights stay what they were.
        """
        first = ("name", "latent_depth", "hidden_filters", "gdn", "kind")
        return {
            field.name: value
            for field in dataclasses.fields(self.config)
            if (value := getattr(self.config, field.name)) != field.default or field.name in first
        }

    def _key(self, variable: tf.Variable) -> str:
        return variable.name.removeprefix(f"{self.config.name}/").removesuffix(":0")


class ResidualLayer(Layer):
    """The layer of the paper: an auto-encoder of what the lower layers miss."""

    def _make_bottleneck(self, scope):
        return EntropyBottleneck(self.config.latent_depth, scope)

    def analyse(self, x, context):
        return self.analysis(x - context.x_hat)

    def synthesise(self, y_hat, context):
        return context.x_hat + self.synthesis(y_hat)


KINDS = {"residual": ResidualLayer}


def build(config: LayerConfig) -> Layer:
    """Returns a layer with fresh weights, drawn from TensorFlow's global seed.

    Args:
      config: its architecture.
    """
    return KINDS[config.kind](config)

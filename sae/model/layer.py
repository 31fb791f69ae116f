"""One scalability layer, and the context in which it is coded.

A layer is always given a `Context`: what a decoder has when it comes to that
layer. The layer decides how much of it to use. Nothing outside this file
knows which kind of layer it holds; a new kind is a new class with the
interface of `Layer`, registered in `KINDS`.
"""

from __future__ import annotations

import abc
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from sae.config import STRIDE, LayerConfig
from sae.model.bottleneck import EntropyBottleneck
from sae.model.conditional_bottleneck import ConditionalBottleneck
from sae.model.transforms import analysis_transform, synthesis_transform


class Context(NamedTuple):
    """What is already decoded.

    Attributes:
      x_hat: float32 [B, H, W, 3], the sum of the reconstructions of all lower
        layers, not clipped; zero below the base layer.
      latents: their rounded latents, each float32 [B, H/16, W/16, depth].
    """

    x_hat: tf.Tensor
    latents: tuple[tf.Tensor, ...] = ()

    @classmethod
    def empty(cls, shape) -> Context:
        """Returns the context of a base layer for images of `shape` = [B, H, W, 3]."""
        return cls(tf.zeros(shape))

    def extended(self, contribution: tf.Tensor, y_hat: tf.Tensor) -> Context:
        """Returns the context of the next layer, given what this one adds."""
        return Context(self.x_hat + contribution, (*self.latents, y_hat))


class Layer(tf.Module, abc.ABC):
    """The interface of a layer.

    Images x are float32 [B, H, W, 3] in [0, 1] with H and W multiples of 16.

    Attributes:
      name: "base", "el1", ...
      config: the architecture.
      latent_side: how the names of those arrays begin whose channels are the latent's.
    """

    latent_side: tuple[str, ...] = ()

    def __init__(self, config: LayerConfig):
        super().__init__(name=config.name)
        self.config = config

    @abc.abstractmethod
    def training_step_terms(
        self, x: tf.Tensor, context: Context, seed: tf.Tensor, quantization: str = "noise"
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the reconstruction x_hat, including the context's, and the bits [B].

        Args:
          x: the images.
          context: of the lower layers.
          seed: int [2], of the noise that stands for rounding.
          quantization: "noise": that noise, as published. "mixed": it in the
            bits alone; the synthesis reads rounded latents, through which the
            gradient passes unchanged (Minnen and Singh, ICIP 2020). "rounded":
            both take rounded latents, and no gradient reaches the analysis.
        """

    @abc.abstractmethod
    def code(self, x: tf.Tensor, context: Context) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Codes x without making bytes.

        Returns:
          What the layer adds to x_hat, its rounded latent y_hat, and the
          estimated bits [B].
        """

    @abc.abstractmethod
    def compress(self, x: tf.Tensor, context: Context) -> tf.Tensor:
        """Returns the strings [B] that code x."""

    @abc.abstractmethod
    def decompress(
        self, strings: tf.Tensor, context: Context, size: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the layer adds to x_hat [B, H, W, 3], and y_hat, for size = (H, W).

        Raises:
          tf.errors.InvalidArgumentError: a string does not code such a latent.
        """

    @abc.abstractmethod
    def smallest_bytes(self, size: tuple[int, int]) -> int:
        """Returns a lower bound of the string's length for an image of size (H, W)."""

    @abc.abstractmethod
    def build_tables(self) -> None:
        """Derives the integer tables of the entropy coder; done once, after training."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Returns everything that was learned, by name."""

    @abc.abstractmethod
    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes over what `arrays` returned; KeyError or ValueError where it does not fit."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration and all arrays, as 64 hex digits."""
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class ResidualLayer(Layer):
    """The layer of the paper: an auto-encoder of what the lower layers miss."""

    latent_side = ("analysis/conv_2/", "bottleneck/", "synthesis/conv_0/")

    def __init__(self, config: LayerConfig, below: Sequence[Layer] = ()):
        super().__init__(config)
        self.analysis, self.synthesis, self.bottleneck = self._parts(below)

    def _parts(self, below):
        config = self.config
        bottleneck = EntropyBottleneck(config.latent_depth, f"{config.name}/bottleneck")
        return analysis_transform(config), synthesis_transform(config), bottleneck

    def _analyse(self, x, context):
        return self.analysis(x - context.x_hat)

    def _synthesise(self, y_hat, context):
        return self.synthesis(y_hat)

    def training_step_terms(self, x, context, seed, quantization="noise"):
        y = self._analyse(x, context)
        if quantization == "rounded":
            y_hat, bits = self.bottleneck.quantize(tf.stop_gradient(y), context.latents)
        else:
            y_hat, bits = self.bottleneck.perturb(y, seed, context.latents)
        if quantization == "mixed":
            y_hat = tfc.round_st(y)
        return context.x_hat + self._synthesise(y_hat, context), bits

    def code(self, x, context):
        y_hat, bits = self.bottleneck.quantize(self._analyse(x, context), context.latents)
        return self._synthesise(y_hat, context), y_hat, bits

    def compress(self, x, context):
        return self.bottleneck.compress(self._analyse(x, context), context.latents)

    def decompress(self, strings, context, size):
        shape = tf.convert_to_tensor(size) // STRIDE
        y_hat = self.bottleneck.decompress(strings, shape, context.latents)
        return self._synthesise(y_hat, context), y_hat

    def smallest_bytes(self, size):
        positions = (size[0] // STRIDE) * (size[1] // STRIDE)
        return math.floor(positions * self.bottleneck.smallest_bits() / 8)

    def build_tables(self):
        self.bottleneck.build_tables()

    def arrays(self):
        arrays = {self._key(v): v.numpy() for v in self.trainable_variables}
        if self.bottleneck.has_tables:
            arrays["bottleneck/cdf"] = self.bottleneck.cdf
            arrays["bottleneck/cdf_offset"] = self.bottleneck.cdf_offset
        return arrays

    def set_arrays(self, arrays):
        for variable in self.trainable_variables:
            variable.assign(arrays[self._key(variable)])
        if "bottleneck/cdf" in arrays:
            self.bottleneck.set_tables(arrays["bottleneck/cdf"], arrays["bottleneck/cdf_offset"])

    def _key(self, variable: tf.Variable) -> str:
        return variable.name.removeprefix(f"{self.config.name}/").removesuffix(":0")


class ConditionalLayer(ResidualLayer):
    """A layer that knows all that is already decoded.

    Its analysis sees the lower reconstruction beside the residual, and its
    synthesis reads the latents of all layers so far, so that it can undo what
    the lower layers did badly. Its prior reads them too.
    """

    def _parts(self, below):
        config, depth = self.config, sum(layer.config.latent_depth for layer in below)
        name = f"{config.name}/bottleneck"
        return (
            analysis_transform(config, 6 if below else 3),
            synthesis_transform(config, depth),
            ConditionalBottleneck(config.latent_depth, depth, name),
        )

    def _analyse(self, x, context):
        seen = (x - context.x_hat, *([context.x_hat] if context.latents else ()))
        return self.analysis(tf.concat(seen, axis=-1))

    def _synthesise(self, y_hat, context):
        return self.synthesis(tf.concat((y_hat, *context.latents), axis=-1))


KINDS = {"residual": ResidualLayer, "conditional": ConditionalLayer}


def build(config: LayerConfig, below: Sequence[Layer] = ()) -> Layer:
    """Returns a layer with fresh weights, drawn from TensorFlow's global seed.

    Args:
      config: its architecture.
      below: the layers under it, lowest first.
    """
    return KINDS[config.kind](config, below)

"""A layer of the paper: an auto-encoder of the residual of the layers below."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import tensorflow as tf

from sae.config import STRIDE, LayerConfig
from sae.model.arrays import fingerprint
from sae.model.entropy_bottleneck import EntropyBottleneck
from sae.model.quantization import quantized
from sae.model.residual_transforms import Compiled, make_analysis, make_synthesis


class ResidualLayer(tf.Module):
    """A residual layer.

    Images are float32 [B, H, W, 3] with sides that are multiples of 16; latents are float32
    [B, H/16, W/16, latent_depth].

    Args:
      config: architecture of the layer.

    Attributes:
      config: architecture of the layer.
      analysis: analysis transform, from the residual to the latent. The residual is the difference
        of an image in [0, 1] and its reconstruction by the layers below.
      synthesis: synthesis transform, from the rounded latent to the residual, not clipped.
      entropy_model: prior of the latent.
    """

    def __init__(self, config: LayerConfig):
        super().__init__(name=config.name)
        self.config = config
        self.analysis = Compiled(make_analysis(config), 3)
        self.synthesis = Compiled(make_synthesis(config), config.latent_depth)
        self.entropy_model = EntropyBottleneck(config.latent_depth, f"{config.name}/bottleneck")

    def rate(
        self, y: tf.Tensor, quantization: str = "rounded", seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the input of the synthesis and its bits [B], differentiable.

        Args:
          y: latent that `analysis` returns.
          quantization: method of `sae.model.quantization.quantized`.
          seed: int [2], seed of the noise.
        """
        latent = quantized(y, quantization, seed)
        return latent.y_hat, self.entropy_model.bits(latent.rate)

    def compress(self, y_hat: tf.Tensor) -> tf.Tensor:
        """Returns the strings [B] of a rounded latent."""
        return self.entropy_model.compress(y_hat)

    def decompress(self, strings: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
        """Returns the rounded latent of strings [B], for images of size (H, W).

        Raises:
          tf.errors.InvalidArgumentError: no latent of this shape has such a string.
        """
        return self.entropy_model.decompress(strings, tuple(side // STRIDE for side in size))

    def smallest_bytes(self, size: tuple[int, int]) -> int:
        """Returns a lower bound of the length of a string in bytes, for images of size (H, W)."""
        positions = (size[0] // STRIDE) * (size[1] // STRIDE)
        return math.floor(positions * self.entropy_model.smallest_bits() / 8)

    @property
    def decoder_variables(self) -> tuple[tf.Variable, ...]:
        """Variables that can be trained while latents are fixed."""
        return (*self.synthesis.trainable_variables, *self.entropy_model.trainable_variables)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns weights and tables by their stored names."""
        arrays = {self._key(v): v.numpy() for v in self.trainable_variables}
        if self.entropy_model.has_tables:
            arrays["bottleneck/cdf"] = self.entropy_model.cdf
            arrays["bottleneck/cdf_offset"] = self.entropy_model.cdf_offset
        return arrays

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Restores the result of `arrays`; raises KeyError or ValueError where it does not fit."""
        for variable in self.trainable_variables:
            variable.assign(np.asarray(arrays[self._key(variable)], np.float32))
        if "bottleneck/cdf" in arrays:
            tables = arrays["bottleneck/cdf"], arrays["bottleneck/cdf_offset"]
            if any(table.dtype != np.int32 or table.ndim != 1 for table in tables):
                raise ValueError("its tables are no lists of 32-bit integers")
            self.entropy_model.set_tables(*tables)

    @property
    def finite(self) -> bool:
        """Whether all weights are finite numbers."""
        return all(np.isfinite(array).all() for array in self.arrays().values())

    def round_weights(self) -> None:
        """Rounds all weights to float16, the type in checkpoints."""
        for variable in self.trainable_variables:
            variable.assign(tf.cast(tf.cast(variable, tf.float16), tf.float32))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of configuration and arrays under their stored names, in hexadecimal digits."""
        return fingerprint(json.dumps(self._configuration(), sort_keys=True), self.arrays())

    def _configuration(self) -> dict:
        """Returns the fields of the configuration that fingerprints cover.

        A field that came later is left out where it has its default, so that the fingerprints of
        earlier weights stay as they are.
        """
        first = ("name", "latent_depth", "hidden_filters", "gdn", "kind")
        return {
            field.name: value
            for field in dataclasses.fields(self.config)
            if (value := getattr(self.config, field.name)) != field.default or field.name in first
        }

    def _key(self, variable):
        return variable.name.removeprefix(f"{self.config.name}/").removesuffix(":0")

"""The losses of latent optimization, one for each kind of model."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from sae.coding.latent_optimization import Part, Schedule
from sae.model.progressive import Planes, ProgressiveModel
from sae.model.quantization import annealed
from sae.model.rate_distortion import RateDistortionLoss
from sae.model.residual_layer import ResidualLayer


@dataclasses.dataclass(frozen=True)
class ResidualObjective:
    """The loss of a residual layer.

    Attributes:
      layer: layer of the latent, in quantization steps.
      loss: loss of that layer.
    """

    layer: ResidualLayer
    loss: RateDistortionLoss

    @property
    def schedule(self) -> Schedule:
        """Settings of the descent.

        For MSE, errors of all elements cost the same. For MS-SSIM, an error costs less where
        contrast is high.
        """
        if self.loss.metric == "mse":
            return Schedule(0.01, (1.0, 0.4), shared=True)
        return Schedule(0.02, (0.7, 0.3), shared=False)

    def relaxed(
        self, y: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, part: Part
    ) -> tf.Tensor:
        """Returns the loss of a randomly rounded latent."""
        return self._value(annealed(y, temperature, seed), part)

    def rounded(self, y: tf.Tensor, part: Part) -> tf.Tensor:
        """Returns the loss of the rounded latent."""
        return self._value(tf.round(y), part)

    def _value(self, y_hat, part):
        bits = self.layer.entropy_model.bits(y_hat)
        return self.loss.terms(*part.compared(self.layer.synthesis(y_hat), bits))["loss"][0]


@dataclasses.dataclass(frozen=True)
class PlanesObjective:
    """The losses of all planes of a progressive model, weighted.

    Attributes:
      model: model of the latent, in quantization steps of plane 0.
      losses: loss of each plane.
      weights: weight of each loss.
    """

    model: ProgressiveModel
    losses: tuple[RateDistortionLoss, ...]
    weights: tuple[float, ...]

    @property
    def schedule(self) -> Schedule:
        """Settings of the descent."""
        return Schedule(0.004, (0.5, 0.1), shared=False, floor=0.05)

    def relaxed(
        self, y: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, part: Part
    ) -> tf.Tensor:
        """Returns the loss of a latent that is randomly rounded in each plane."""
        return self._value(self.model.relaxed(y, temperature, seed), part)

    def rounded(self, y: tf.Tensor, part: Part) -> tf.Tensor:
        """Returns the loss of the rounded latent."""
        return self._value(self.model.code(y), part)

    def _value(self, planes: Planes, part: Part) -> tf.Tensor:
        total, bits = 0.0, 0.0
        for plane, (loss, weight) in enumerate(zip(self.losses, self.weights)):
            bits += planes.bits[plane]
            x_hat = self.model.synthesis(planes.end(plane), tf.constant([float(plane)]))
            total += weight * loss.terms(*part.compared(x_hat, bits))["loss"][0]
        # Gradients of elements then do not depend on the size of the image.
        return total * float(part.x.shape[1] * part.x.shape[2])

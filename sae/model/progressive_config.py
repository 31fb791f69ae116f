"""The architecture of the progressive model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from sae.config import STRIDE

# The number of planes, and the ratio of their quantization steps.
PLANES, RATIO = 3, 3
# Side in pixels of the blocks at the image's end of the transforms' convolutional paths.
BLOCK = 4
# Steps of optimizers suit weights near one, and the first of these factors scales the linear paths
# to that. The others keep the contribution of the convolutional paths small at first.
LINEAR_SCALE = (3 * STRIDE**2) ** -0.5
TO_LATENT, FROM_LATENT, TO_IMAGE = 0.1, 0.25, 0.1
# Side of the depthwise kernels in residual blocks, the ratio of their widest to their other
# channels, and the slope of their activation below zero.
SUPPORT, EXPANSION, LEAK = 5, 2, 0.1
# No number of channels or blocks is larger.
LARGEST_SIZE = 4096
# This is added to the divisor of GDN.
GDN_FLOOR = 1e-6


@dataclasses.dataclass(frozen=True)
class ProgressiveConfig:
    """The architecture of a progressive model.

    Attributes:
      plane_depths: number of latent channels in each plane, nondecreasing; further channels are
        zero in a plane.
      hidden_filters: number of channels between the convolutions of the transforms.
      analysis_blocks, synthesis_blocks: number of residual blocks at a quarter of the resolution.
      step: quantization step of plane 0, on the scale of images in [0, 1].
      slices: number of channels of each slice of plane 0; the other channels form a last slice.
      context_filters: number of channels of the features in plane 0's context model.
      slice_embedding: number of channels of an embedded slice.
      plane_filters: number of channels of the context models of the planes above.
    """

    plane_depths: tuple[int, ...] = (320, 512, 640)
    hidden_filters: int = 128
    analysis_blocks: int = 2
    synthesis_blocks: int = 4
    step: float = 1.1
    slices: tuple[int, ...] = (6, 14, 44, 96)
    context_filters: int = 96
    slice_embedding: int = 48
    plane_filters: int = 128

    def __post_init__(self):
        """Raises ValueError where no model has these values."""
        depths, counts = self.plane_depths, (self.analysis_blocks, self.synthesis_blocks)
        sizes = (*depths, *self.slices, self.hidden_filters, self.context_filters)
        sizes += (self.slice_embedding, self.plane_filters)
        for values, smallest in ((sizes, 1), (counts, 0)):
            for value in values:
                if type(value) is not int or not smallest <= value <= LARGEST_SIZE:
                    raise ValueError(f"{value} is no number from {smallest} to {LARGEST_SIZE}")
        if len(depths) != PLANES or list(depths) != sorted(depths):
            raise ValueError(f"{depths} are no nondecreasing channels of {PLANES} planes")
        if sum(self.slices) >= depths[0]:
            raise ValueError(f"slices of {self.slices} leave none of {depths[0]} channels")
        if not (isinstance(self.step, (int, float)) and 1e-6 < self.step < 1e6):
            raise ValueError(f"{self.step} is no quantization step")

    @property
    def latent_depth(self) -> int:
        """Number of latent channels."""
        return self.plane_depths[-1]

    @property
    def reach(self) -> int:
        """Receptive field of the transforms, in rows of the latent above and below one."""
        # Half a kernel of each convolution, 1/4 + 2/4 + 2/4 rows, and of each block.
        quarters = 5 + max(self.analysis_blocks, self.synthesis_blocks) * (SUPPORT // 2)
        return math.ceil(quarters / 4)

    @property
    def slice_sizes(self) -> tuple[int, ...]:
        """Number of channels of each slice of plane 0."""
        return (*self.slices, self.plane_depths[0] - sum(self.slices))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ProgressiveConfig:
        """Returns the configuration of a JSON object; its lists become tuples.

        Raises:
          TypeError: it is no object, or fields are missing or unknown.
          ValueError: no model has these values.
        """
        if not isinstance(values, Mapping):
            raise TypeError("it is no JSON object")
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        if missing := {field.name for field in dataclasses.fields(cls)} - set(fields):
            raise TypeError(f"the field {min(missing)} is missing")
        return cls(**fields)

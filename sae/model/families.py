"""Families: the released models, under names and codes that are never used again."""

from __future__ import annotations

import dataclasses

from sae.config import LAYER_NAMES, METRICS
from sae.errors import SaeError


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model and a metric.

    Attributes:
      name: name on command lines, and name of its folder in checkpoints/.
      code: code in the header of a stream; 1, 3 and 4 belong to earlier families.
      kind: "residual", layers of the paper, or "progressive", one latent refined plane by plane.
      metric: metric of the training, "mse" or "ms-ssim".
      layers: names of the layers, where streams are cut, lowest first.
    """

    name: str
    code: int
    kind: str
    metric: str
    layers: tuple[str, ...]

    @property
    def trained_layers(self) -> tuple[str, ...]:
        """Names of the layers with a training of their own; a progressive model has one for all."""
        return self.layers if self.kind == "residual" else self.layers[:1]

    @property
    def title(self) -> str:
        """Name in legends and captions, such as "residual, MS-SSIM"."""
        return f"{self.kind}, {self.metric.upper()}"


# Of two families for a metric, the better one comes first.
FAMILIES = (
    Family("progressive-mse", 5, "progressive", "mse", LAYER_NAMES),
    Family("residual-mse", 0, "residual", "mse", LAYER_NAMES),
    Family("progressive-ms-ssim", 6, "progressive", "ms-ssim", LAYER_NAMES),
    Family("residual-ms-ssim", 2, "residual", "ms-ssim", LAYER_NAMES[:4]),
)


def named(name: str) -> Family:
    """Returns a family; raises SaeError where none has this name."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise SaeError(
        f"There is no family {name}; choose one of {', '.join(f.name for f in FAMILIES)}."
    )


def of_code(code: int) -> Family | None:
    """Returns the family with a code in the header of a stream, None where none has it."""
    return next((family for family in FAMILIES if family.code == code), None)


def of_metric(metric: str) -> list[Family]:
    """Returns the families trained for a metric, the best first; raises SaeError for others."""
    if metric not in METRICS:
        raise SaeError(f"There is no metric {metric}; choose one of {', '.join(METRICS)}.")
    return [family for family in FAMILIES if family.metric == metric]


def published(metric: str) -> Family:
    """Returns the family of a metric with the paper's layers."""
    return next(family for family in of_metric(metric) if family.kind == "residual")

"""The store of a family's checkpoints, by its name or its metric."""

from __future__ import annotations

from pathlib import Path
from typing import Union

from sae.config import DEFAULT_FOLDER, METRICS
from sae.model import families
from sae.model.families import Family
from sae.model.layer_store import LayerStore
from sae.model.model_store import ModelStore

Store = Union[LayerStore, ModelStore]


def store(family: str = "mse", folder: str | Path = DEFAULT_FOLDER) -> Store:
    """Returns the checkpoints of a family.

    Args:
      family: name of a family; or a metric, for the best trained family of that metric.
      folder: folder of the checkpoints of all families.

    Raises:
      SaeError: there is no such family.
    """
    if family not in METRICS:
        return of_family(families.named(family), folder)
    stores = [of_family(found, folder) for found in families.of_metric(family)]
    return next((found for found in stores if found.names()), stores[0])


def of_family(family: Family, folder: str | Path = DEFAULT_FOLDER) -> Store:
    """Returns the checkpoints of a family."""
    kind = LayerStore if family.kind == "residual" else ModelStore
    return kind(family, Path(folder))

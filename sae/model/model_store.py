"""A progressive model as two files: `weights.npz`, plain arrays, and `model.json`, metadata.

`weights.npz` has the transforms in float16, and context models and tables in the integers of the
codec. Nothing in the files can run code, and neither is read with TensorFlow.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae import files
from sae.config import DEFAULT_FOLDER, STRIDE, ProgressiveTrainingConfig
from sae.errors import SaeError
from sae.model.arrays import fingerprint, load_arrays, save_arrays
from sae.model.families import Family
from sae.model.integer_context import integer_kernels
from sae.model.plane_tables import PlaneTables
from sae.model.progressive_config import BLOCK, SUPPORT, ProgressiveConfig

if TYPE_CHECKING:
    from sae.model.rate_distortion import RateDistortionLoss

FORMAT = 1
_FIELDS = ("format", "family", "config", "fingerprint", "training")
_TABLES = "tables/"


class StoredModel:
    """The arrays of a model.

    Args:
      config: architecture of the model.
      arrays: contents of `weights.npz`.
    """

    def __init__(self, config: ProgressiveConfig, arrays: Mapping[str, np.ndarray]):
        self.config, self.arrays = config, dict(arrays)

    @classmethod
    def rounded(cls, config: ProgressiveConfig, weights: Mapping[str, np.ndarray]) -> StoredModel:
        """Returns a model of trained weights, rounded to the types of files.

        Args:
          config: architecture of the model.
          weights: trained weights by name, float32.
        """
        arrays = {
            name: weight.astype(np.float16)
            for name, weight in weights.items()
            if not name.startswith("plane_")
        }
        model = cls(config, {**arrays, **integer_kernels(weights)})
        return model.with_tables(PlaneTables.computed())

    def with_tables(self, tables: PlaneTables) -> StoredModel:
        """Returns the model with other tables of the symbols' probabilities."""
        named = {_TABLES + name: table for name, table in dataclasses.asdict(tables).items()}
        return StoredModel(self.config, {**self.arrays, **named})

    def unfitting(self) -> str | None:
        """Returns the name of an array that another architecture has, None where all fit."""
        config = self.config
        shapes: dict[str, tuple[int, ...] | None] = {
            "analysis/matrix": (3 * STRIDE**2, config.latent_depth),
            "analysis/conv_0/kernel": (3, 3, 3 * BLOCK**2, config.hidden_filters),
        }
        for scope in ("analysis", "synthesis"):
            blocks = config.analysis_blocks if scope == "analysis" else config.synthesis_blocks
            for k in range(blocks):
                shapes[f"{scope}/block_{k}/depthwise"] = (
                    SUPPORT,
                    SUPPORT,
                    config.hidden_filters,
                    1,
                )
            shapes[f"{scope}/block_{blocks}/depthwise"] = None
        for k, size in enumerate(config.slice_sizes):
            scope = f"plane_0/slice_{k}"
            shapes[f"{scope}/embed/kernel"] = (1, 1, size, config.slice_embedding)
            shapes[f"{scope}/output/kernel"] = (1, 1, config.context_filters, 2 * size)
        shapes[f"plane_0/slice_{len(config.slice_sizes)}/embed/kernel"] = None
        for plane, depth in enumerate(config.plane_depths[1:], 1):
            shapes[f"plane_{plane}/output/kernel"] = (1, 1, config.plane_filters, 2 * depth)
        for name, shape in shapes.items():
            if getattr(self.arrays.get(name), "shape", None) != shape:
                return name
        return None

    @property
    def tables(self) -> PlaneTables:
        """Tables of the symbols' probabilities."""
        names = [field.name for field in dataclasses.fields(PlaneTables)]
        return PlaneTables(**{name: self.arrays[_TABLES + name] for name in names})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of configuration and arrays, in hexadecimal digits."""
        return fingerprint(json.dumps(dataclasses.asdict(self.config)), self.arrays)


@dataclasses.dataclass(frozen=True)
class ModelStore:
    """The checkpoint of a progressive family.

    Attributes:
      family: family of the model.
      folder: folder of the checkpoints of all families.
    """

    family: Family
    folder: Path = DEFAULT_FOLDER

    @property
    def path(self) -> Path:
        """Folder of the checkpoint."""
        return self.folder / self.family.name

    def save(self, model: StoredModel, training: dict[str, Any]) -> None:
        """Writes a model.

        Args:
          model: model to write.
          training: JSON record of the training.
        """
        metadata = {
            "format": FORMAT,
            "family": self.family.name,
            "config": dataclasses.asdict(model.config),
            "fingerprint": model.fingerprint,
            "training": training,
        }
        # The metadata comes last: a checkpoint without it does not exist.
        (self.path / "model.json").unlink(missing_ok=True)
        save_arrays(self.path / "weights.npz", model.arrays)
        files.write_json(self.path / "model.json", metadata)

    def names(self) -> tuple[str, ...]:
        """Returns the names of the family's layers where its model is trained."""
        return self.family.layers if (self.path / "model.json").exists() else ()

    def require_writable(self) -> None:
        """Raises SaeError where the model, or the state of its training, cannot be written."""
        for name in ("weights.npz", "model.json", "training/state.npz"):
            files.require_target(self.path / name)

    def fingerprints(self, count: int | None = None) -> tuple[str, ...]:
        """Returns the fingerprint of the model once for each of the first `count` layers.

        Raises:
          SaeError: as `metadata`.
        """
        return (self.metadata()["fingerprint"],) * len(self.family.layers[:count])

    def training(self, name: str) -> dict[str, Any]:
        """Returns the record of the model's training, the same for all layers."""
        return self.metadata()["training"]

    def losses(self) -> tuple[tuple[RateDistortionLoss, ...], tuple[float, ...]]:
        """Returns the losses of the planes, and their weights in the training.

        Raises:
          SaeError: as `metadata`, or they are not recorded.
        """
        from sae.model.rate_distortion import RateDistortionLoss

        options = self.metadata()["training"].get("options", {})
        names = [field.name for field in dataclasses.fields(ProgressiveTrainingConfig)]
        try:
            config = ProgressiveTrainingConfig(**{k: options[k] for k in names if k in options})
        except (SaeError, TypeError, ValueError) as error:
            raise SaeError(
                f"{self.path} has no lambda in the record of its training; train it again."
            ) from error
        losses = tuple(RateDistortionLoss(self.family.metric, lmbda) for lmbda in config.lambdas)
        return losses, config.weights

    def require(self, count: int | None = None) -> None:
        """Raises SaeError where the model is missing; it has all layers, whatever the count."""
        self.metadata()

    def metadata(self) -> dict[str, Any]:
        """Returns the contents of `model.json`.

        Raises:
          SaeError: there is none, or it is damaged or of another family.
        """
        path = self.path / "model.json"
        if not path.exists():
            raise SaeError(
                f"There is no trained {self.family.name} in {self.path}; train it with "
                f"train_base.py --family {self.family.name}."
            )
        try:
            found = json.loads(files.read_bytes(path))
        except RecursionError as error:
            raise _damaged(path, "it is nested too deeply") from error
        except ValueError as error:
            raise _damaged(path, f"it is no JSON ({error})") from error
        if not isinstance(found, dict) or sorted(found) != sorted(_FIELDS):
            raise _damaged(path, f"its fields have to be {', '.join(_FIELDS)}")
        if (repr(found["format"]), found["family"]) != (repr(FORMAT), self.family.name):
            raise _damaged(path, f"it is not of format {FORMAT} and the {self.family.name} family")
        if not re.fullmatch("[0-9a-f]{64}", str(found["fingerprint"])):
            raise _damaged(path, "its fingerprint has to have 64 hexadecimal digits")
        if not isinstance(found["training"], dict):
            raise _damaged(path, "its training is no JSON object")
        return found

    def load(self) -> StoredModel:
        """Returns the model.

        Raises:
          SaeError: there is none, or its files are damaged.
        """
        metadata, path = self.metadata(), self.path / "model.json"
        try:
            config = ProgressiveConfig.from_json(metadata["config"])
        except (TypeError, ValueError) as error:
            raise _damaged(path, f"its config is of no progressive model ({error})") from error
        model = StoredModel(config, load_arrays(self.path / "weights.npz"))
        if (name := model.unfitting()) is not None:
            raise _damaged(path, f"its config is not that of the weights, as {name} shows")
        if model.fingerprint != metadata["fingerprint"]:
            raise SaeError(
                f"{self.path / 'weights.npz'} is not what model.json describes; fetch both again."
            )
        return model


def _damaged(path: Path, reason: str) -> SaeError:
    return SaeError(f"{path} is damaged: {reason}; fetch it again, or train the model again.")

"""Residual layers as files, each saved alone.

A checkpoint is a folder, checkpoints/<family>/<layer>/, with two files. `weights.npz` has weights
and int32 tables as plain arrays. `layer.json` has the layer's configuration and fingerprint, the
fingerprint of the layer below, and the record of the training. Nothing in them can run code.
Metadata is read without TensorFlow, which takes seconds to import.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sae import files
from sae.config import DEFAULT_FOLDER, INSTALLED, TRAINING_FOLDER
from sae.errors import SaeError
from sae.model import layer_metadata
from sae.model.arrays import load_arrays, save_arrays
from sae.model.families import Family

if TYPE_CHECKING:
    from sae.model.rate_distortion import RateDistortionLoss
    from sae.model.residual import ResidualModel
    from sae.model.residual_layer import ResidualLayer


@dataclasses.dataclass(frozen=True)
class LayerStore:
    """The checkpoints of a residual family.

    Attributes:
      family: family of the layers.
      folder: folder of the checkpoints of all families.
    """

    family: Family
    folder: Path = DEFAULT_FOLDER

    def path(self, name: str) -> Path:
        """Returns the folder of one layer's checkpoint."""
        return self.folder / self.family.name / name

    def command(self, name: str, *options: str) -> str:
        """Returns the command that trains a layer into this store."""
        words = ["sae", "train", name] if INSTALLED else ["python", f"train_{name}.py"]
        words += ["--family", self.family.name]
        if self.folder.resolve() != TRAINING_FOLDER.resolve():
            words += ["--checkpoints", str(self.folder)]
        return " ".join([*words, *options])

    def names(self) -> tuple[str, ...]:
        """Returns the names of the trained layers, from the base up to the first gap."""
        return tuple(itertools.takewhile(self.metadata, self.family.layers))

    def all_metadata(self, count: int | None = None) -> dict[str, dict]:
        """Returns the contents of `layer.json` of the first `count` layers, by default of all.

        Raises:
          SaeError: one is missing, or damaged.
        """
        found: dict[str, dict] = {}
        for name in self.family.layers[:count]:
            entry = self.metadata(name)
            if entry is None:
                if found and count is None:
                    break
                raise SaeError(
                    f"There is no trained {name} in {self.path(name)}; {self.command(name)} makes "
                    "it."
                )
            found[name] = entry
        return found

    def fingerprints(self, count: int | None = None) -> tuple[str, ...]:
        """Returns the fingerprints of the first `count` layers, by default of all.

        Raises:
          SaeError: as `all_metadata`.
        """
        return tuple(entry["fingerprint"] for entry in self.all_metadata(count).values())

    def training(self, name: str) -> dict:
        """Returns the record of a trained layer's training."""
        return self.all_metadata()[name]["training"]

    def require(self, count: int | None = None) -> None:
        """Checks the first `count` layers, by default all, without reading their weights.

        Raises:
          SaeError: one is missing or damaged, or the layer below it has changed since it was
            trained.
        """
        metadata = self.all_metadata(count)
        self._require_stack(metadata)
        if count is None:
            for name in self.family.layers[len(metadata) :]:
                if self.metadata(name):
                    warnings.warn(
                        f"{name} in {self.path(name)} is left out, since a layer below it is not "
                        "trained.",
                        stacklevel=2,
                    )

    def _require_stack(self, metadata: dict[str, dict]) -> None:
        """Raises SaeError where a layer was not trained on the layer below it."""
        below, lower = None, "layer"
        for name, entry in metadata.items():
            if entry["below"] != below:
                raise SaeError(
                    f"{name} in {self.path(name)} was trained on another {lower}; "
                    f"{self.command(name, '--force')} trains it again."
                )
            below, lower = entry["fingerprint"], name

    def metadata(self, name: str) -> dict | None:
        """Returns the contents of `layer.json` of a layer, None where there is no checkpoint.

        Raises:
          SaeError: the file cannot be read, is damaged, or of another family or layer.
        """
        path = self.path(name) / "layer.json"
        try:
            found = layer_metadata.read(path)
        except FileNotFoundError:
            return None
        family, layer = found["family"], found["layer"]["name"]
        if (family, layer) != (self.family.name, name):
            raise SaeError(
                f"{path} describes {layer} of the {family} family, not {name} of the "
                f"{self.family.name} family; fetch it again."
            )
        return found

    def loss(self, name: str) -> RateDistortionLoss:
        """Returns the loss of a trained layer; raises SaeError where it is not recorded."""
        from sae.model.rate_distortion import RateDistortionLoss

        training = (self.metadata(name) or {}).get("training", {})
        try:
            return RateDistortionLoss(self.family.metric, float(training["options"]["lmbda"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SaeError(
                f"{self.path(name)} has no lambda in the record of its training; train it again."
            ) from error

    def require_writable(self, name: str) -> None:
        """Raises SaeError where a layer, or the state of its training, cannot be written."""
        for file in ("weights.npz", "layer.json", "training/state.npz"):
            files.require_target(self.path(name) / file)

    def save(self, layer: ResidualLayer, below: str | None, training: dict) -> None:
        """Writes one layer.

        Args:
          layer: layer with integer tables.
          below: fingerprint of the layer below, None for the base.
          training: JSON record of the training.
        """
        target = self.path(layer.name)
        found = {
            "format": layer_metadata.FORMAT,
            "family": self.family.name,
            "layer": dataclasses.asdict(layer.config),
            "fingerprint": layer.fingerprint,
            "below": below,
            "training": training,
        }
        # The metadata comes last: a checkpoint without it does not exist.
        (target / "layer.json").unlink(missing_ok=True)
        save_arrays(target / "weights.npz", {k: _small(a) for k, a in layer.arrays().items()})
        files.write_json(target / "layer.json", found)

    def load(
        self, count: int | None = None, metadata: dict[str, dict] | None = None
    ) -> ResidualModel:
        """Returns the model of the first layers, each on the layer on which it was trained.

        Args:
          count: number of layers; all that are trained by default.
          metadata: result of `all_metadata`, which is else read.

        Raises:
          SaeError: as `require`, or weights are damaged.
        """
        from sae.model.residual import ResidualModel

        metadata = metadata or self.all_metadata(count)
        self._require_stack(metadata)
        return ResidualModel([self._load(entry) for entry in metadata.values()])

    def _load(self, entry: dict) -> ResidualLayer:
        """Returns the layer with this metadata."""
        from sae.model.residual_layer import ResidualLayer

        target = self.path(entry["layer"]["name"])
        path = target / "weights.npz"
        layer = ResidualLayer(layer_metadata.layer_config(entry))
        arrays = load_arrays(path)
        try:
            layer.set_arrays(arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise SaeError(
                f"{path} holds weights of another kind of layer ({error}); fetch it again."
            ) from error
        if layer.fingerprint != entry["fingerprint"]:
            raise SaeError(f"{path} is not what layer.json describes; fetch both again.")
        if not (layer.entropy_model.has_tables and layer.finite):
            raise SaeError(f"{path} holds no finite weights with tables to code; fetch it again.")
        return layer


def _small(array: np.ndarray) -> np.ndarray:
    """Returns float32 values as float16 where that changes none of them."""
    if array.dtype != np.float32:
        return array
    half = array.astype(np.float16)
    return half if np.array_equal(half, array) else array

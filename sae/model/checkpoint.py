"""One layer, saved and restored by itself.

A checkpoint is a folder, checkpoints/<family>/<layer>/, with two files:
`weights.npz`, weights and int32 tables as plain arrays, and `layer.json`, the
layer's configuration, its fingerprint, the fingerprint of the layer below, on
which it was trained, and the record of its training. Nothing in them can run
code. What describes layers is read without TensorFlow, which takes seconds to import.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sae import files
from sae.config import DEFAULT_FOLDER, INSTALLED, METRICS, TRAINING_FOLDER
from sae.errors import SaeError
from sae.model import description, families
from sae.model.families import Family

if TYPE_CHECKING:
    from sae.model.cascade import Cascade
    from sae.model.layer import Layer
    from sae.model.objective import Objective


def save_arrays(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as .npz, whole or not at all."""
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads arrays from .npz; raises SaeError where the file is not that."""
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # NumPy's readers raise any exception on damaged files.
        raise SaeError(f"{path} is damaged or not a file of arrays ({error}).") from error


@dataclasses.dataclass(frozen=True)
class Store:
    """The checkpoints of one family.

    Attributes:
      family: whose they are.
      folder: of the checkpoints of all families.
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
        return tuple(itertools.takewhile(self.describe, self.family.layers))

    def described(self, count: int | None = None) -> dict[str, dict]:
        """Returns the contents of `layer.json` of the first `count` layers, by default all.

        Raises:
          SaeError: one is missing, or damaged.
        """
        found: dict[str, dict] = {}
        for name in self.family.layers[:count]:
            entry = self.describe(name)
            if entry is None:
                if found and count is None:
                    break
                raise SaeError(
                    f"There is no trained {name} in {self.path(name)}; {self.command(name)} makes "
                    "it."
                )
            found[name] = entry
        return found

    def describe(self, name: str) -> dict | None:
        """Returns the contents of `layer.json` of a layer, None where there is no checkpoint.

        Raises:
          SaeError: the file cannot be read, is damaged, or of another family or layer.
        """
        path = self.path(name) / "layer.json"
        try:
            found = description.read(path)
        except FileNotFoundError:
            return None
        family, layer = found["family"], found["layer"]["name"]
        if (family, layer) != (self.family.name, name):
            raise SaeError(
                f"{path} describes {layer} of the {family} family, not {name} of the "
                f"{self.family.name} family."
            )
        return found

    def objective(self, name: str) -> Objective:
        """Returns what a trained layer was trained for; SaeError where that is not recorded."""
        from sae.model.objective import Objective

        training = (self.describe(name) or {}).get("training", {})
        try:
            return Objective(self.family.metric, float(training["options"]["lmbda"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SaeError(
                f"{self.path(name)} does not say for what lambda it was trained."
            ) from error

    def require_writable(self, name: str) -> None:
        """Raises SaeError where a layer, or the state of its training, cannot be written."""
        target = self.path(name)
        folder = target / "training"
        missing = []
        try:
            missing += [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            for place in (target, folder):
                with tempfile.TemporaryFile(dir=place):
                    pass
        except OSError as error:
            raise SaeError(
                f"Cannot write into {target}: {error.strerror or error}; name another folder of "
                "checkpoints."
            ) from error
        finally:
            # New folders are removed again, since a later check may refuse the training.
            for place in missing:
                with contextlib.suppress(OSError):
                    place.rmdir()
        for path in (target / "weights.npz", target / "layer.json", folder / "state.npz"):
            if path.is_dir():
                raise SaeError(f"Cannot write {path}: it is a folder; remove it.")

    def save(self, layer: Layer, below: str | None, training: dict) -> None:
        """Writes one layer.

        Args:
          layer: with its integer tables.
          below: fingerprint of the layer under it, None for the base.
          training: JSON record of how it was trained.
        """
        target = self.path(layer.name)
        found = {
            "format": description.FORMAT,
            "family": self.family.name,
            "layer": dataclasses.asdict(layer.config),
            "fingerprint": layer.fingerprint,
            "below": below,
            "training": training,
        }
        # The description last: a checkpoint without one does not exist.
        (target / "layer.json").unlink(missing_ok=True)
        save_arrays(target / "weights.npz", {k: _small(a) for k, a in layer.arrays().items()})
        files.write_bytes(target / "layer.json", (json.dumps(found, indent=1) + "\n").encode())

    def cascade(
        self, count: int | None = None, described: dict[str, dict] | None = None
    ) -> Cascade:
        """Restores layers, lowest first, each on the layer that it was trained on.

        Args:
          count: so many, from the base upwards; all there are by default.
          described: what `described` returned, where that is known.

        Raises:
          SaeError: a layer is missing or damaged, or one below it has changed
            since it was trained.
        """
        from sae.model.cascade import Cascade

        cascade, below = Cascade(), None
        for name, entry in (described or self.described(count)).items():
            if entry["below"] != below:
                raise SaeError(
                    f"{name} in {self.path(name)} was trained on another "
                    f"{cascade.layers[-1].name if below else 'layer'}; "
                    f"{self.command(name, '--force')} trains it again."
                )
            cascade.layers.append(self._load(entry))
            below = entry["fingerprint"]
        return cascade

    def _load(self, entry: dict) -> Layer:
        """Restores the layer that was described."""
        from sae.model.layer import build

        target = self.path(entry["layer"]["name"])
        path = target / "weights.npz"
        layer = build(description.layer_config(entry))
        arrays = load_arrays(path)
        try:
            layer.set_arrays(arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise SaeError(f"{path} holds weights of another kind of layer ({error}).") from error
        if layer.fingerprint != entry["fingerprint"]:
            raise SaeError(f"{path} is not what layer.json describes; fetch both again.")
        if not (layer.bottleneck.has_tables and layer.finite):
            raise SaeError(f"{path} holds no finite weights with tables to code; fetch it again.")
        return layer


def _small(array: np.ndarray) -> np.ndarray:
    """Returns float32 values as float16 where that changes none of them."""
    if array.dtype != np.float32:
        return array
    half = array.astype(np.float16)
    return half if np.array_equal(half, array) else array


def store(family: str = "mse", folder: str | Path = DEFAULT_FOLDER) -> Store:
    """Returns the checkpoints of a family.

    Args:
      family: its name; or a metric, for the best family of that metric that has a
        base in the folder.
      folder: of the checkpoints of all families.

    Raises:
      SaeError: there is no such family.
    """
    folder = Path(folder)
    if family not in METRICS:
        return Store(families.named(family), folder)
    stores = [Store(found, folder) for found in families.of_metric(family)]
    return next((found for found in stores if found.names()), stores[0])

"""One layer, saved and restored by itself.

A checkpoint is a folder, checkpoints/<metric>/<layer>/, with two files:
`weights.npz`, float32 weights and int32 tables as plain arrays, and
`layer.json`, the layer's configuration, its fingerprint, the fingerprint of
the layer below, on which it was trained, and the record of its training.
Nothing in them can run code.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sae import files
from sae.config import DEFAULT_FOLDER, LAYER_NAMES, LayerConfig, layer_names
from sae.errors import SaeError
from sae.model.cascade import Cascade
from sae.model.layer import Layer, build


def folder(checkpoints: str | Path, metric: str, name: str) -> Path:
    """Returns the folder of one layer's checkpoint."""
    return Path(checkpoints) / metric / name


def save_arrays(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as .npz, whole or not at all."""
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads arrays from .npz; raises SaeError where the file is not that."""
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise SaeError(f"{path} is damaged or not a file of arrays ({error}).") from error


def save_layer(
    layer: Layer, metric: str, below: str | None, training: dict, checkpoints: str | Path
) -> None:
    """Writes one layer.

    Args:
      layer: with its integer tables.
      metric: "mse" or "ms-ssim".
      below: fingerprint of the layer under it, None for the base.
      training: JSON record of how it was trained.
      checkpoints: the folder of all checkpoints.
    """
    target = folder(checkpoints, metric, layer.name)
    description = {
        "format": 1,
        "metric": metric,
        "layer": asdict(layer.config),
        "fingerprint": layer.fingerprint,
        "below": below,
        "training": training,
    }
    # The description last: a checkpoint without one does not exist.
    (target / "layer.json").unlink(missing_ok=True)
    save_arrays(target / "weights.npz", layer.arrays())
    files.write_bytes(target / "layer.json", (json.dumps(description, indent=1) + "\n").encode())


def describe(metric: str, name: str, checkpoints: str | Path = DEFAULT_FOLDER) -> dict | None:
    """Returns what `layer.json` says of a layer, None where there is no checkpoint.

    Raises:
      SaeError: the file is damaged, or of another metric or layer.
    """
    path = folder(checkpoints, metric, name) / "layer.json"
    try:
        description = json.loads(path.read_text())
        found = description["metric"], description["layer"]["name"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaeError(f"{path} is damaged; train the layer again (train_{name}.py).") from error
    if found != (metric, name):
        raise SaeError(f"{path} describes {found[1]} of the {found[0]} family, not {name}.")
    return description


def load_layer(
    metric: str,
    name: str,
    checkpoints: str | Path = DEFAULT_FOLDER,
    below: Sequence[Layer] = (),
) -> Layer:
    """Restores one layer, on top of the layers `below`.

    Raises:
      SaeError: there is no such checkpoint, or it is damaged.
    """
    description = describe(metric, name, checkpoints)
    target = folder(checkpoints, metric, name)
    if description is None:
        raise SaeError(
            f"There is no trained {name} in {target}; run train_{name}.py --metric {metric} first."
        )
    try:
        layer = build(LayerConfig(**description["layer"]), below)
        layer.set_arrays(load_arrays(target / "weights.npz"))
    except (KeyError, TypeError, ValueError) as error:
        raise SaeError(f"{target} holds weights of another kind of layer ({error}).") from error
    if layer.fingerprint != description["fingerprint"]:
        raise SaeError(f"{target}/weights.npz is not what layer.json describes; fetch both again.")
    return layer


def load_cascade(
    metric: str, names: tuple[str, ...] | None = None, checkpoints: str | Path = DEFAULT_FOLDER
) -> Cascade:
    """Restores layers, lowest first, each on the layer that it was trained on.

    Args:
      metric: "mse" or "ms-ssim".
      names: which layers, from the base upwards; all there are by default.
      checkpoints: the folder of all checkpoints.

    Raises:
      SaeError: a layer is missing or damaged, or one below it has changed
        since it was trained.
    """
    if names is None:
        names = available(metric, checkpoints) or LAYER_NAMES[:1]
    cascade, below = Cascade(), None
    for name in names:
        layer = load_layer(metric, name, checkpoints, cascade.layers)
        description = describe(metric, name, checkpoints)
        if description["below"] != below:
            raise SaeError(
                f"{name} in {folder(checkpoints, metric, name)} was trained on another "
                f"{cascade.layers[-1].name if below else 'layer'}; run train_{name}.py again."
            )
        cascade.layers.append(layer)
        below = description["fingerprint"]
    return cascade


def available(metric: str, checkpoints: str | Path = DEFAULT_FOLDER) -> tuple[str, ...]:
    """Returns the names of the trained layers, from the base up to the first gap."""
    found = []
    for name in layer_names(metric):
        if describe(metric, name, checkpoints) is None:
            break
        found.append(name)
    return tuple(found)

"""A progressive model as files for a web page: `model.json` describes `weights.bin`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from sae import files
from sae.model.families import Family
from sae.model.model_store import StoredModel

FORMAT = 1

# Offsets are multiples of this, as typed arrays of all types require.
_ALIGNMENT = 8
# Decoders do not use the analysis transform.
_LEFT_OUT = "analysis/"


def write(folder: str | Path, model: StoredModel, family: Family) -> None:
    """Writes the parts of a model that a decoder uses.

    Args:
      folder: folder of the two files.
      model: model to write.
      family: family of the model.
    """
    arrays, parts, offset = [], list[bytes](), 0
    for name, array in model.arrays.items():
        if name.startswith(_LEFT_OUT):
            continue
        # Typed arrays have the byte order of the machine, which is little-endian for all browsers.
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        entry = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
        arrays.append({**entry, "offset": offset})
        parts += data, bytes(-len(data) % _ALIGNMENT)
        offset += len(parts[-2]) + len(parts[-1])
    description = {
        "format": FORMAT,
        "family": family.name,
        "code": family.code,
        "layers": list(family.layers),
        "config": dataclasses.asdict(model.config),
        "reach": model.config.reach,
        "fingerprint": model.fingerprint,
        "bytes": offset,
        "arrays": arrays,
    }
    files.write_bytes(Path(folder) / "weights.bin", b"".join(parts))
    files.write_json(Path(folder) / "model.json", description, indent=None)

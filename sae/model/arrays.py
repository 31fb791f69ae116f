"""Arrays in .npz files, which store weights and states of trainings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sae import files
from sae.errors import SaeError


def fingerprint(configuration: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of a configuration and of arrays by name, in hexadecimal digits."""
    digest = hashlib.sha256(configuration.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_arrays(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays, whole or not at all."""
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file; raises SaeError where it has none."""
    if not Path(path).exists():
        raise SaeError(f"{path} is missing; fetch it again.")
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # NumPy's readers raise any exception on damaged files.
        raise SaeError(
            f"{path} is damaged or not a file of arrays ({error}); fetch it again."
        ) from error

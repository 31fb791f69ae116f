"""Which images a folder of results is of: names and digests, kept in every results file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from sae import files, images
from sae.errors import SaeError

# Hexadecimal digits of a SHA-256 that are kept.
_DIGITS = 16


def digests(paths: Sequence[Path]) -> dict[str, str | None]:
    """Returns the beginning of each file's SHA-256 by name, None where it cannot be read."""
    return {path.name: _digest(path) for path in paths}


def require_own(target: str | Path, folder: str | Path, option: str = "--results") -> None:
    """Refuses a folder of results that are of other images.

    A set that lost images, or gained some, stays the same one; an image that changed, or
    images on both sides that the other has not, make another one.

    Args:
      target: results/<set>, which need not be there.
      folder: the images.
      option: names another folder of results on the command line.

    Raises:
      SaeError: the results are of other images, or there is no image.
    """
    paths = images.find(folder)
    if found := difference(target, paths):
        raise SaeError(
            f"{target} has results of other images than those in {folder} ({found}); keep these "
            f"elsewhere with {option}."
        )


def difference(target: str | Path, paths: Sequence[Path]) -> str | None:
    """Returns what sets images apart from those that results are of; None if nothing does."""
    current = digests(paths)
    for recorded in _recorded(Path(target)):
        for path in paths:
            if not _agrees(recorded.get(path.name), path, current[path.name]):
                return f"{path.name} is another one"
        gained, lost = set(current) - set(recorded), set(recorded) - set(current)
        if gained and lost:
            return f"there is {min(gained)}, but not {min(lost)}"
    return None


def _recorded(target: Path) -> Iterator[dict[str, str | tuple | None]]:
    """Yields digests by name from results files, or sizes from those that have none yet."""
    for path in sorted(target.rglob("*.json")):
        # What others published is not of files.
        if "published" in path.relative_to(target).parts:
            continue
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if "digests" in document:
                recorded = dict(document["digests"])
            else:
                recorded = dict.fromkeys(document.get("left_out", ()))
                for rows in document["images"]:
                    recorded.update({row["image"]: (row["width"], row["height"]) for row in rows})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # It is no results file that anything could be compared with.
            continue
        yield recorded


def _agrees(recorded: str | tuple | None, path: Path, digest: str | None) -> bool:
    if recorded is None or digest is None:
        return True
    if isinstance(recorded, str):
        return recorded == digest
    try:
        return tuple(recorded) == images.size(path)
    except SaeError:
        return True


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(files.read_bytes(path)).hexdigest()[:_DIGITS]
    except SaeError:
        return None

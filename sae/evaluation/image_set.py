"""The set of images behind a folder of results: names and digests, kept in every results file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from sae import files, images
from sae.errors import SaeError

# Number of hexadecimal digits of a SHA-256 that are kept.
_DIGITS = 16


def digests(paths: Sequence[Path]) -> dict[str, str | None]:
    """Returns the beginning of each file's SHA-256 by name, None where it cannot be read."""
    return {path.name: _digest(path) for path in paths}


def require_own(target: str | Path, folder: str | Path, option: str = "--results") -> None:
    """Refuses a folder with results of other images.

    A set is the same if it only lost or only gained images. It is another set if an image changed,
    or if it both lost and gained images.

    Args:
      target: path of results/<set>, which need not exist.
      folder: folder of images.
      option: command-line option for another folder of results.

    Raises:
      SaeError: the results are of other images, or the folder has no image.
    """
    paths = images.find(folder)
    if found := difference(target, paths):
        raise SaeError(
            f"{target} has results of other images than those in {folder} ({found}); keep these "
            f"elsewhere with {option}."
        )


def difference(target: str | Path, paths: Sequence[Path]) -> str | None:
    """Returns how images differ from those behind the results; None if they do not."""
    current = digests(paths)
    for recorded in _recorded(Path(target)):
        for path in paths:
            if not _agrees(recorded.get(path.name), path, current[path.name]):
                return f"{path.name} has changed"
        gained, lost = set(current) - set(recorded), set(recorded) - set(current)
        if gained and lost:
            return f"{min(gained)} is new, and {min(lost)} is missing"
    return None


def _recorded(target: Path) -> Iterator[dict[str, str | tuple | None]]:
    """Yields digests by name from results files, or sizes from those that have none yet."""
    for path in sorted(target.rglob("*.json")):
        # Published results have no image files.
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
            # A damaged results file offers no images to compare with.
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

"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sae.errors import SaeError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` if the block succeeds.

    Whatever stood at `path` stays until then, and stays for good if the block
    fails; a temporary file never survives. Missing parent folders are made.

    Raises:
      SaeError: `path` is a folder, or its folder cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise SaeError(f"{path} is a folder; name a file to write.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
        os.close(descriptor)
    except OSError as error:
        raise SaeError(f"Cannot write {path}: {error.strerror or error}.") from error
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; give it the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise SaeError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all; raises SaeError where it cannot."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)

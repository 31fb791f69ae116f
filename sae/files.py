"""Files: written whole or not at all, and read wherever they are."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Union

from sae.errors import SaeError

Bytes = Union[bytes, bytearray, memoryview, str, Path, BinaryIO]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` if the block succeeds.

    Whatever stood at `path` stays until then, and stays for good if the block
    fails; a temporary file never survives. Missing parent folders are made. A
    symbolic link stays, and what it points to is replaced; into a device or a
    named pipe the bytes are written.

    Raises:
      SaeError: `path` is a folder, or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise SaeError(f"{path} is a folder; name a file to write.")
    plain, target = path.is_file() or not path.exists(), Path(os.path.realpath(path))
    try:
        if plain:
            target.parent.mkdir(parents=True, exist_ok=True)
        # Some writers choose the format by the suffix.
        suffix = path.suffix if len(os.fsencode(path.suffix)) < 32 else ""
        descriptor, name = tempfile.mkstemp(
            prefix=_prefix(target.stem), suffix=suffix, dir=target.parent if plain else None
        )
        os.close(descriptor)
    except OSError as error:
        raise SaeError(f"Cannot write {path}: {error.strerror or error}.") from error
    temporary = Path(name)
    try:
        yield temporary
        if not plain:
            with temporary.open("rb") as source, path.open("wb") as device:
                shutil.copyfileobj(source, device)
            return
        # mkstemp makes the file private; give it the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        raise SaeError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _prefix(stem: str) -> str:
    """Returns the beginning of a hidden name, short enough for a name of 255 bytes."""
    return "." + os.fsencode(stem)[:200].decode(errors="ignore") + "."


def read_bytes(source: Bytes) -> bytes:
    """Returns the bytes of a file, by its name or open, or of an object that holds some.

    Raises:
      SaeError: the file cannot be read.
    """
    try:
        if isinstance(source, (str, Path)):
            return Path(source).read_bytes()
        return bytes(source.read() if hasattr(source, "read") else source)
    except OSError as error:
        name = source if isinstance(source, (str, Path)) else getattr(source, "name", "a stream")
        raise SaeError(f"Cannot read {name}: {error.strerror or error}.") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all; raises SaeError where it cannot."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)

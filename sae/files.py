"""Files, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Union

from sae.errors import SaeError

Bytes = Union[bytes, bytearray, memoryview, str, Path, BinaryIO]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`, renamed to `path` if the block succeeds.

    If the block fails, the file at `path` remains unchanged. The temporary file is always removed,
    and missing parent folders are made. Of a symbolic link, the target is replaced. Bytes are
    written into a device or a named pipe.

    Raises:
      SaeError: `path` is a folder, or cannot be written.
    """
    path = Path(path)
    _require_no_folder(path)
    plain, target = _is_plain(path), Path(os.path.realpath(path))
    try:
        if plain:
            target.parent.mkdir(parents=True, exist_ok=True)
        # The name is short, since the target's may have the greatest length. It has the suffix of
        # the target, by which some writers select the format.
        suffix = path.suffix if len(os.fsencode(path.suffix)) < 32 else ""
        descriptor, name = tempfile.mkstemp(
            prefix=".sae-", suffix=suffix, dir=target.parent if plain else None
        )
        os.close(descriptor)
    except OSError as error:
        raise _cannot_write(path, error) from error
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
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(folder: str | Path) -> None:
    """Refuses a folder that cannot be written into; it need not exist.

    Raises:
      SaeError: the path is a file, or the system does not allow writing.
    """
    path = Path(os.path.abspath(folder))
    existing = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not os.path.isdir(existing):
        raise SaeError(f"Cannot write into {folder}: {existing} is not a folder; name another one.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise SaeError(f"Cannot write into {folder}: {reason}; name another folder.") from error


def require_target(path: str | Path, sources: Iterable[str | Path | int] = ()) -> None:
    """Refuses a target that `replacing` cannot write, or that is a source.

    Args:
      path: path of the file to write.
      sources: paths or descriptors of the files that are read, under any of their names.

    Raises:
      SaeError: `path` is a folder, cannot be written, or is one of the sources.
    """
    _require_no_folder(path)
    require_apart([path], sources)
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _cannot_write(path, error) from error
    if _is_plain(path):
        require_writable(Path(os.path.realpath(path)).parent)


def require_apart(targets: Iterable[str | Path], sources: Iterable[str | Path | int]) -> None:
    """Refuses targets that are sources under any name, with the errors of `require_target`."""
    read = {found: source for source in sources if (found := _identity(source))}
    for target in targets:
        if (found := _identity(target)) in read:
            source = "standard input" if read[found] == 0 else read[found]
            raise SaeError(f"{target} would replace what is read, {source}; name another file.")


def _identity(path: str | Path | int) -> tuple[int, int] | None:
    """Returns device and inode of a regular file, None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _require_no_folder(path):
    if os.path.isdir(path):
        raise SaeError(f"{path} is a folder; name a file to write.")


def _cannot_write(path, error):
    return SaeError(f"Cannot write {path}: {error.strerror or error}; name another file.")


def _is_plain(path: str | Path) -> bool:
    """Returns whether a path is a regular file or does not exist."""
    return os.path.isfile(path) or not os.path.exists(path)


def read_bytes(source: Bytes) -> bytes:
    """Returns the bytes of a file, by name or open, or of an object of bytes.

    Raises:
      SaeError: the file cannot be read.
    """
    try:
        if isinstance(source, (str, Path)):
            with open(source, "rb") as file:
                return file.read()
        return bytes(source.read() if hasattr(source, "read") else source)
    except OSError as error:
        name = source if isinstance(source, (str, Path)) else getattr(source, "name", "a stream")
        name = name or "a file without a name"
        raise SaeError(
            f"Cannot read {name}: {error.strerror or error}; name another file."
        ) from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file, whole or not at all; raises SaeError where it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any, **options: Any) -> None:
    """Writes a JSON file like `write_bytes`, with the options of `json.dumps`."""
    text = json.dumps(value, **{"indent": 1, **options})
    write_bytes(path, (text + "\n").encode())

"""The codec on files and folders: the commands compress, decompress, info, truncate, extend.

A name of "-" is standard input or output. Each command returns its exit
status; messages go to standard error. TensorFlow is imported only
where images are coded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sae import files, images
from sae.coding import bitstream
from sae.errors import SaeError, in_words
from sae.model import checkpoint


def compress(options: argparse.Namespace) -> int:
    """Images to streams."""
    jobs = _jobs(options.source, options.target, images.find, ".sae")
    checkpoint.store(options.family, options.checkpoints).described(options.layers)
    from sae.coding import codec

    def run(source: str, target: str) -> None:
        image = io.BytesIO(_read("-")) if source == "-" else source
        with _searching(source, options.effort) as progress:
            encoded = codec.encode(
                image,
                options.layers,
                options.family,
                options.checkpoints,
                options.effort,
                options.target_bpp,
                options.target_psnr,
                options.max_pixels,
                progress,
                options.background,
            )
        _write(target, encoded.data)
        _say_stream(source, encoded.data, encoded.psnr)
        psnr_missed = encoded.psnr is not None and encoded.psnr < options.target_psnr
        if encoded.bpp < (options.target_bpp or 0) or psnr_missed:
            warnings.warn("All layers together do not reach the target.", stacklevel=2)

    return _each(jobs, run)


def decompress(options: argparse.Namespace) -> int:
    """Streams to PNG images."""
    jobs = _jobs(options.source, options.target, _find_streams, ".png")
    from sae.coding import codec

    def run(source: str, target: str) -> None:
        image = codec.decompress(
            _read(source), options.layers, options.checkpoints, options.max_pixels
        )
        if target == "-":
            buffer = io.BytesIO()
            images.write_png(image, buffer)
            _write(target, buffer.getvalue())
        else:
            images.write_png(image, target)
        _say(f"{source}: {image.shape[1]} x {image.shape[0]} pixels to {target}")

    return _each(jobs, run)


def truncate(options: argparse.Namespace) -> int:
    """Streams to streams of fewer layers."""
    jobs = _jobs(options.source, options.target, _find_streams, ".sae")

    def run(source: str, target: str) -> None:
        data = bitstream.truncate(_read(source), options.layers, options.max_pixels)
        _write(target, data)
        _say_stream(source, data)

    return _each(jobs, run)


def extend(options: argparse.Namespace) -> int:
    """A stream and its image to a stream of more layers."""
    _check_target(options.target, [options.source, options.image], ".sae")
    from sae.coding import codec

    with _telling(options.source), _naming(options.source):
        with _searching(options.source, options.effort) as progress:
            data = codec.extend(
                _read(options.source),
                options.image,
                options.layers,
                options.checkpoints,
                options.effort,
                options.max_pixels,
                progress,
                options.background,
            )
        _write(options.target, data)
        _say_stream(options.source, data)
    return 0


def info(options: argparse.Namespace) -> int:
    """Prints what a stream holds."""
    with _telling(options.source), _naming(options.source):
        stream = bitstream.parse(_read(options.source), max_pixels=options.max_pixels)
        header, pixels = stream.header, stream.header.width * stream.header.height
        print(f"{header.width} x {header.height} pixels, {header.family.name} layers")
        print(f"{'layer':<6}{'weights':<10}{'bytes':>12}{'bpp':>10}{'total bpp':>12}")
        for index, record in enumerate(stream.records):
            size = bitstream.RECORD_BYTES + len(record.string)
            total = bitstream.size(stream.records[: index + 1])
            print(
                f"{bitstream.layer_name(index):<6}{record.fingerprint.hex():<10}{size:>12}"
                f"{8 * size / pixels:>10.4f}{8 * total / pixels:>12.4f}"
            )
        print(f"{'header':<16}{bitstream.HEADER_BYTES:>12}")
        if stream.cut:
            cut = bitstream.layer_name(len(stream.records))
            warnings.warn(f"The stream is cut within {cut}.", stacklevel=2)
    return 0


class _Jobs(NamedTuple):
    """The sources and targets of a command.

    Attributes:
      pairs: names of sources and targets.
      of_folder: whether they are the files of a folder.
    """

    pairs: Sequence[tuple[str, str]]
    of_folder: bool


def _jobs(source: str, target: str, find: Callable[[str], list[Path]], suffix: str) -> _Jobs:
    """Returns a file and its target, or the files that `find` returns and their targets.

    Raises:
      SaeError: a file cannot be read or written, as far as this can be checked in advance.
    """
    if source == "-" or not os.path.isdir(source):
        if source != "-" and not os.path.exists(source):
            _read(source)
        _check_target(target, [source], suffix)
        return _Jobs([(source, target)], of_folder=False)
    if target == "-" or (os.path.exists(target) and not os.path.isdir(target)):
        raise SaeError(f"{source} is a folder; name a folder for the results, not {target}.")
    found = find(source)
    targets = [Path(target) / (path.stem + suffix) for path in found]
    files.require_writable(target)
    made: dict[str, Path] = {}
    for path, other in zip(found, targets):
        key = os.path.normcase(os.path.realpath(other))
        if key in made:
            raise SaeError(f"{path} and {made[key]} would both become {other}; rename one.")
        made[key] = path
        # A stream may be replaced by the next one, but a picture near it may be the original.
        if suffix != ".sae" and os.path.exists(key) and _inside(key, source):
            raise SaeError(
                f"{other}, in the folder of its stream, would be replaced; name another folder."
            )
    files.require_apart(targets, found)
    return _Jobs([(str(path), str(other)) for path, other in zip(found, targets)], of_folder=True)


def _inside(path: str, folder: str) -> bool:
    return os.path.samefile(os.path.dirname(path), folder)


def _check_target(target: str, sources: Sequence[str], suffix: str) -> None:
    """Refuses a target that cannot be written, is a source, or has the wrong suffix."""
    if target == "-":
        return
    found = Path(target).suffix.lower()
    files.require_target(target, [0 if source == "-" else source for source in sources])
    if suffix == ".png" != found:
        raise SaeError(f"Images are written as PNG; name {target} something.png.")
    if suffix == ".sae" and found in images.SUFFIXES:
        raise SaeError(f"Streams are no images; name {target} something.sae.")


def _each(jobs: _Jobs, run: Callable[[str, str], None]) -> int:
    """Runs every job; in a folder, failed jobs do not stop the others.

    Returns:
      The exit status: 1 where files of a folder were left out, which are named, else 0.
    """
    if not jobs.of_folder:
        ((source, target),) = jobs.pairs
        with _telling(source), _naming(source):
            run(source, target)
        return 0
    status = 0
    for source, target in tqdm(jobs.pairs, unit="file"):
        try:
            with _telling(source), _naming(source):
                run(source, target)
        except BrokenPipeError:
            raise
        except SaeError as error:
            _say(f"sae: {error}")
            status = 1
        # An error in one file must not stop the others of its folder.
        except Exception as error:
            _say(f"sae: {source}: It is left out ({in_words(error)}).")
            status = 1
    return status


def _find_streams(folder: str) -> list[Path]:
    """Returns the streams of a folder by suffix or content, without hidden files."""
    found = sorted(
        path
        for path in Path(folder).iterdir()
        if not path.name.startswith(".")
        and (path.suffix.lower() == ".sae" or _begins_as_stream(path))
        # A broken link is listed, so that reading it reports the error.
        and (path.is_file() or not path.exists())
    )
    if not found:
        raise SaeError(f"There is no .sae file in {folder}; name a folder of streams.")
    return found


def _begins_as_stream(path: Path) -> bool:
    try:
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            return file.read(len(bitstream.MAGIC)) == bitstream.MAGIC and file.read(1) < b" "
    except OSError:
        return False


def _read(source: str) -> bytes:
    if source != "-":
        return files.read_bytes(source)
    if sys.stdin is None:
        raise SaeError("Cannot read standard input: it is closed; name a file.")
    return files.read_bytes(sys.stdin.buffer)


def _write(target: str, data: bytes) -> None:
    if target != "-":
        files.write_bytes(target, data)
        return
    if sys.stdout is None:
        raise SaeError("Cannot write standard output: it is closed; name a file.")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SaeError(f"Cannot write standard output: {error.strerror}; name a file.") from error


def _say(line: str) -> None:
    """Prints a line on standard error, above a progress bar."""
    tqdm.write(line, file=sys.stderr)


def _say_stream(source: str, data: bytes, psnr: float | None = None) -> None:
    """Prints size and rate of the stream of a file."""
    header, records, _ = bitstream.parse(data, max_pixels=sys.maxsize)
    layers, last = len(records), bitstream.layer_name(len(records) - 1)
    reached = f"{8 * len(data) / (header.width * header.height):.4f} bpp"
    if psnr is not None:
        reached += f", {psnr:.2f} dB"
    _say(f"{source}: {layers} layers (to {last}), {len(data)} bytes, {reached}")


@contextlib.contextmanager
def _searching(source: str, effort: int) -> Iterator[Callable[[int, int], None]]:
    """Shows the progress of a search in a bar, which is then removed."""
    with tqdm(desc=source, unit="step", leave=False, disable=not effort) as bar:

        def progress(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield progress


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """Names the file in errors about its content."""
    try:
        yield
    except SaeError as error:
        raise SaeError(_named(source, error)) from error


@contextlib.contextmanager
def _telling(source: str) -> Iterator[None]:
    """Shows warnings as lines that name the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: _say(f"sae: warning: {_named(source, message)}")
        yield


def _named(source: str, message: object) -> str:
    """Returns the message, with the file's name before it where it has none."""
    named = re.search(rf"^Cannot write |(^|\s){re.escape(source)}([\s:;,.]|$)", str(message))
    return str(message) if named else f"{source}: {message}"

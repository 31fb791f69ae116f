"""The codec on files and folders: the commands compress, decompress, info and truncate.

A name of "-" stands for standard input or output. Each command returns its exit status; messages go
to standard error. The networks are imported only where images are coded.
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

from sae import console, files, images
from sae.coding import header, stream
from sae.errors import SaeError, in_words
from sae.metrics import psnr
from sae.model import stores


def compress(options: argparse.Namespace) -> int:
    """Images to streams."""
    if options.background is not None:
        images.color(options.background)
    jobs = _jobs(options.source, options.target, images.find, ".sae")
    stores.store(options.family, options.checkpoints).require(options.layers)
    from sae.coding import codec

    def run(source: str, target: str) -> None:
        image = images.read(
            io.BytesIO(_read("-")) if source == "-" else source,
            options.max_pixels,
            options.background,
        )
        with _optimizing(source, options.effort) as progress:
            data = codec.compress(
                image,
                options.layers,
                options.family,
                options.checkpoints,
                max_bytes=options.bytes,
                max_bpp=options.bpp,
                psnr=options.psnr,
                effort=options.effort,
                max_pixels=options.max_pixels,
                progress=progress,
            )
        _write(target, data)
        reached = None
        if options.psnr is not None:
            decoded = codec.decompress(data, None, options.checkpoints, options.max_pixels)
            reached = psnr(image, decoded)
            if reached < options.psnr:
                warnings.warn("The whole stream does not reach this PSNR.", stacklevel=2)
        _report(source, data, reached)

    return _each(jobs, run)


def decompress(options: argparse.Namespace) -> int:
    """Streams to PNG images."""
    jobs = _jobs(options.source, options.target, _find_streams, ".png")
    from sae.coding import codec

    def run(source: str, target: str) -> int:
        data = _read(source)
        image = codec.decompress(data, options.layers, options.checkpoints, options.max_pixels)
        if target == "-":
            buffer = io.BytesIO()
            images.write_png(image, buffer)
            _write(target, buffer.getvalue())
        else:
            images.write_png(image, target)
        _print_line(f"{source}: {image.shape[1]} x {image.shape[0]} pixels to {target}")
        found = stream.parse(data, options.max_pixels)
        # Damage after the requested layers has no effect.
        return int(found.damaged and (options.layers is None or found.layers < options.layers))

    return _each(jobs, run)


def truncate(options: argparse.Namespace) -> int:
    """Streams to shorter streams."""
    jobs = _jobs(options.source, options.target, _find_streams, ".sae")

    def run(source: str, target: str) -> int:
        data = _read(source)
        cut = stream.truncate(
            data,
            options.layers,
            max_bytes=options.bytes,
            max_bpp=options.bpp,
            max_pixels=options.max_pixels,
        )
        _write(target, cut)
        _report(source, cut)
        found = stream.parse(data, options.max_pixels)
        # Damage after the requested layers has no effect.
        damaged = found.damaged and options.layers is None and len(cut) == found.size
        if damaged:
            warnings.warn("The stream is damaged; what comes before is kept.", stacklevel=2)
        return int(damaged)

    return _each(jobs, run)


def info(options: argparse.Namespace) -> int:
    """Prints the contents of a stream."""
    with _warnings_as_lines(options.source), _naming(options.source):
        found = stream.parse(_read(options.source), options.max_pixels)
        print(f"{found.width} x {found.height} pixels, {found.family.name}")
        print(f"{'up to':<8}{'weights':<10}{'bytes':>12}{'bpp':>10}")
        for name, weights, end in zip(found.family.layers, found.fingerprints, found.ends):
            bpp = 8 * end / (found.width * found.height)
            missing = "" if end <= found.size else "  not complete"
            print(f"{name:<8}{weights.hex():<10}{end:>12}{bpp:>10.4f}{missing}")
        if found.damaged:
            warnings.warn(f"The stream is damaged after byte {found.size}.", stacklevel=2)
        elif found.size not in found.ends:
            print(f"{'cut':<18}{found.size:>12}{found.bpp:>10.4f}")
    return int(found.damaged)


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
    if not target:
        raise SaeError("The name of the target is empty; name a file or a folder.")
    if source == "-" or not os.path.isdir(source):
        if source != "-" and not os.path.exists(source):
            _read(source)
        _check_target(target, source, suffix)
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
        # A stream may be replaced by a new one, but an image next to it may be the original.
        if suffix != ".sae" and os.path.exists(key) and _inside(key, source):
            raise SaeError(
                f"{other}, in the folder of its stream, would be replaced; name another folder."
            )
    files.require_apart(targets, found)
    for other in targets:
        files.require_target(other)
    return _Jobs([(str(path), str(other)) for path, other in zip(found, targets)], of_folder=True)


def _inside(path: str, folder: str) -> bool:
    return os.path.samefile(os.path.dirname(path), folder)


def _check_target(target: str, source: str, suffix: str) -> None:
    """Refuses a target that cannot be written, is the source, or has the wrong suffix."""
    if target == "-":
        return
    found = Path(target).suffix.lower()
    files.require_target(target, [0 if source == "-" else source])
    if suffix == ".png" != found:
        raise SaeError(f"Images are written as PNG; give {target} the suffix .png.")
    if suffix == ".sae" and found in images.SUFFIXES:
        raise SaeError(f"Streams are no images; give {target} the suffix .sae.")


def _each(jobs: _Jobs, run: Callable[[str, str], int | None]) -> int:
    """Runs every job; in a folder, failed jobs do not stop the others.

    Returns:
      The exit status: 1 where a job returns that, or where files of a folder were left out, which
      are named; else 0.
    """
    if not jobs.of_folder:
        ((source, target),) = jobs.pairs
        with _warnings_as_lines(source), _naming(source):
            return run(source, target) or 0
    status = 0
    for source, target in tqdm(jobs.pairs, unit="file"):
        try:
            with _warnings_as_lines(source), _naming(source):
                status |= run(source, target) or 0
        except BrokenPipeError:
            raise
        except SaeError as error:
            _print_line(f"sae: {error}")
            status = 1
        # An error in one file must not stop the others of its folder.
        except Exception as error:
            _print_line(f"sae: {source}: It is left out ({in_words(error)}).")
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
            return file.read(len(header.MAGIC)) == header.MAGIC and file.read(1) < b" "
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


def _print_line(line: str) -> None:
    """Prints a line on standard error, above a progress bar."""
    tqdm.write(console.one_line(line), file=sys.stderr)


def _report(source: str, data: bytes, psnr: float | None = None) -> None:
    """Prints size and rate of the stream of a file."""
    found = stream.parse(data, max_pixels=sys.maxsize)
    reached = f"{len(data)} bytes, {found.bpp:.4f} bpp"
    if psnr is not None:
        reached += f", {psnr:.2f} dB"
    layer = f"{found.last_layer} complete" if found.layers else "within base"
    _print_line(f"{source}: {reached}, {layer}")


@contextlib.contextmanager
def _optimizing(source: str, effort: int) -> Iterator[Callable[[int, int], None]]:
    """Shows the progress of a latent optimization in a bar, which is then removed."""
    with tqdm(desc=source, unit="step", leave=False, delay=1, disable=not effort) as bar:

        def progress(done: int, count: int) -> None:
            bar.total = count
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
def _warnings_as_lines(source: str) -> Iterator[None]:
    """Shows warnings as lines that name the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: _print_line(
            f"sae: warning: {_named(source, message)}"
        )
        yield


def _named(source: str, message: object) -> str:
    """Returns the message, with the file's name before it where it has none."""
    named = re.search(rf"^Cannot write |(^|\s){re.escape(source)}([\s:;,.]|$)", str(message))
    return str(message) if named else f"{source}: {message}"

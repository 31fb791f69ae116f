"""The codec on files and folders: the commands compress, decompress, info, truncate, extend.

A name of "-" is standard input or output. Each command returns its exit
status; what it has to say goes to standard error. TensorFlow is imported only
where images are coded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from sae import files, images
from sae.coding import bitstream
from sae.errors import SaeError


def compress(options: argparse.Namespace) -> int:
    """Images to streams."""
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
            warnings.warn("The target is not reached with all layers.", stacklevel=2)

    return _each(options.source, options.target, images.find, ".sae", run)


def decompress(options: argparse.Namespace) -> int:
    """Streams to PNG images."""
    if options.target != "-" and not Path(options.source).is_dir():
        _check_suffix(options.target)
    from sae.coding import codec

    def run(source: str, target: str) -> None:
        with _naming(source):
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

    return _each(options.source, options.target, _find_streams, ".png", run)


def truncate(options: argparse.Namespace) -> int:
    """Streams to streams of fewer layers."""

    def run(source: str, target: str) -> None:
        with _naming(source):
            data = bitstream.truncate(_read(source), options.layers, options.max_pixels)
        _write(target, data)
        _say_stream(source, data)

    return _each(options.source, options.target, _find_streams, ".sae", run)


def extend(options: argparse.Namespace) -> int:
    """A stream and its image to a stream of more layers."""
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
        steps = "" if header.coarseness == 1 else f", steps times {header.coarseness:g}"
        print(f"{header.width} x {header.height} pixels, {header.family.name} layers{steps}")
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


def _each(
    source: str,
    target: str,
    find: Callable[[str], list[Path]],
    suffix: str,
    run: Callable[[str, str], None],
) -> int:
    """Runs on one file, or on all that `find` finds in a folder, past those that fail."""
    if source == "-" or not Path(source).is_dir():
        with _telling(source):
            run(source, target)
        return 0
    if target == "-" or (Path(target).exists() and not Path(target).is_dir()):
        raise SaeError(f"{source} is a folder; name a folder for the results, not {target}.")
    found = find(source)
    targets = [Path(target) / (path.stem + suffix) for path in found]
    for path, other in zip(found, targets):
        if targets.count(other) > 1:
            raise SaeError(f"{path} and another file would both become {other}; rename one.")
    status = 0
    for path, other in zip(tqdm(found, unit="file"), targets):
        try:
            with _telling(str(path)):
                run(str(path), str(other))
        except SaeError as error:
            _say(f"sae: {error}")
            status = 1
    return status


def _find_streams(folder: str) -> list[Path]:
    found = sorted(path for path in Path(folder).glob("*.sae") if path.is_file())
    if not found:
        raise SaeError(f"There is no .sae file in {folder}.")
    return found


def _check_suffix(target: str) -> None:
    if Path(target).suffix.lower() != ".png":
        raise SaeError(f"Images are written as PNG; name {target} something.png.")


def _read(source: str) -> bytes:
    return files.read_bytes(sys.stdin.buffer if source == "-" else source)


def _write(target: str, data: bytes) -> None:
    if target != "-":
        files.write_bytes(target, data)
        return
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        # Or Python would try once more to flush it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SaeError(f"Cannot write standard output: {error.strerror}.") from error


def _say(line: str) -> None:
    """Prints a line on standard error, above a progress bar."""
    tqdm.write(line, file=sys.stderr)


def _say_stream(source: str, data: bytes, psnr: float | None = None) -> None:
    """Says of a file what stream was made of it."""
    header, records, _ = bitstream.parse(data, max_pixels=sys.maxsize)
    layers, last = len(records), bitstream.layer_name(len(records) - 1)
    reached = f"{8 * len(data) / (header.width * header.height):.4f} bpp"
    if psnr is not None:
        reached += f", {psnr:.2f} dB"
    _say(f"{source}: {layers} layers (to {last}), {len(data)} bytes, {reached}")


@contextlib.contextmanager
def _searching(source: str, effort: int) -> Iterator[Callable[[int, int], None]]:
    """Shows how far a search has come, and takes the bar away after it."""
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
    """Puts the file's name before a message that does not have it."""
    return str(message) if source in str(message) else f"{source}: {message}"

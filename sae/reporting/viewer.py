"""A page that decodes progressive streams in the browser, as their bytes arrive.

The page itself is built from `web/`. This module adds the model, the streams, and images of other
codecs at the same number of bytes. A plain file server suffices to show the folder.
"""

from __future__ import annotations

import argparse
import importlib.resources
import io
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sae import files, images, metrics
from sae.coding import codec, export
from sae.coding.progressive_codec import ProgressiveDecoder
from sae.coding.progressive_container import Header, Reader
from sae.coding.stream import parse
from sae.errors import SaeError
from sae.evaluation import anchors
from sae.model import stores
from sae.model.model_store import ModelStore
from sae.reporting import page

FORMAT = 1

_BUILD = Path(str(importlib.resources.files("sae.reporting") / "web"))
_NAMES = ("index.html", "page.js", "page.css", "worker.js")
_THUMBNAIL = 420
# Sizes of the points of a curve, and of JPEG 2000 files, as numbers of points.
_POINTS, _FILES = 14, 10
_SMALLEST_FILE = 600


class Entry(NamedTuple):
    """A stream of the page.

    Attributes:
      name: name of the image.
      stream: bytes of the stream, whole or cut.
      original: original image, uint8 [H, W, 3]. Where it is None, the page has no PSNR, no curves
        and no other codecs.
    """

    name: str
    stream: bytes
    original: np.ndarray | None = None


def write(folder: str | Path, entries: Sequence[Entry], store: ModelStore) -> Path:
    """Writes the page; returns the path of its index.html.

    Args:
      folder: folder to write: a new or empty one, or one with such a page.
      entries: streams of the model in `store`.
      store: checkpoint of the model.

    Raises:
      SaeError: the page is not built, the folder has other files, or a stream is not of the model.
    """
    folder = Path(folder)
    _require_build()
    _require_folder(folder)
    model = store.load()
    found = _written_entries(folder, entries, store)
    for source in sorted(_BUILD.iterdir()):
        files.write_bytes(folder / source.name, source.read_bytes())
    export.write(folder / "model", model, store.family)
    index = {
        "format": FORMAT,
        "model": "model/",
        "family": store.family.name,
        "code": store.family.code,
        "layers": list(store.family.layers),
        "fingerprint": model.fingerprint,
        "images": found,
    }
    files.write_json(folder / "index.json", index, allow_nan=False)
    return folder / "index.html"


def run(options: argparse.Namespace) -> None:
    """The command `show`: writes the page of an image.

    Raises:
      SaeError: the family is not progressive, the image cannot be read, or as `write`.
    """
    store = stores.store(options.family, options.checkpoints)
    if not isinstance(store, ModelStore):
        raise SaeError(
            f"The page decodes progressive streams, and {store.family.name} has none; choose "
            "another --family."
        )
    store.require()
    _require_build()
    original = images.read(options.image)
    stream = codec.compress(original, None, store.family.name, store.folder)
    print(write(options.output, [Entry(Path(options.image).name, stream, original)], store))
    print(f"`python -m sae serve {options.output}` shows it.")


def streams(folder: Path, checkpoints: Path) -> tuple[list[Entry], ModelStore]:
    """Returns the progressive streams of a folder, with the images of the same name next to them.

    Streams of another model than the first one are left out, with a warning.

    Raises:
      SaeError: there is none.
    """
    entries: list[Entry] = []
    store: ModelStore | None = None
    for path in sorted(folder.glob("*.sae")):
        data = files.read_bytes(path)
        found = parse(data)
        if found.family.kind != "progressive" or (store and found.family != store.family):
            warnings.warn(f"{path} is of {found.family.name}; it is left out.", stacklevel=2)
            continue
        store = store or ModelStore(found.family, Path(checkpoints))
        originals = [path.with_suffix(s) for s in sorted(images.SUFFIXES)]
        original = next((images.read(one) for one in originals if one.exists()), None)
        entries.append(Entry(path.name, data, original))
    if store is None:
        raise SaeError(f"There is no page and no progressive stream in {folder}.")
    return entries, store


def _require_build() -> None:
    missing = [name for name in _NAMES if not (_BUILD / name).is_file()]
    if missing:
        raise SaeError(
            f"The page is not built ({_BUILD / missing[0]} is missing); run `make web`, which "
            "needs Node 18 or newer."
        )


def _require_folder(folder: Path) -> None:
    files.require_writable(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if index["format"] == FORMAT and index["model"]:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise SaeError(f"{folder} has other files; name an empty or a new folder.")


def _written_entries(folder: Path, entries: Sequence[Entry], store: ModelStore) -> list[dict]:
    """Writes the files of all streams; returns their entries in the index."""
    found, taken = [], set[str]()
    for entry in entries:
        place = _place(entry.name, taken)
        taken.add(place)
        found.append(_write_entry(folder, f"images/{place}", entry, store))
    if not found:
        raise SaeError("There is no stream to show; name an image or an .sae file.")
    return found


def _place(name: str, taken: set[str]) -> str:
    """Returns a new name of a folder that is valid in URLs."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "image"
    place, number = stem, 2
    while place in taken:
        place, number = f"{stem}-{number}", number + 1
    return place


def _write_entry(folder: Path, place: str, entry: Entry, store: ModelStore) -> dict:
    reader = Reader()
    reader.feed(entry.stream)
    if reader.header is None:
        raise SaeError(f"The stream of {entry.name} ends before its header does.")
    width, height = reader.header.width, reader.header.height
    original = entry.original
    if original is not None and original.shape[:2] != (height, width):
        raise SaeError(
            f"{entry.name} has {original.shape[1]} x {original.shape[0]} pixels and its stream "
            f"{width} x {height}; name the image that was compressed."
        )
    files.write_bytes(folder / place / "stream.sae", entry.stream)
    metadata: dict = {
        "name": entry.name,
        "width": width,
        "height": height,
        "stream": f"{place}/stream.sae",
        "bytes": len(entry.stream),
    }
    size = len(entry.stream)
    sizes = [size] if original is None else _sizes(reader.header, size)
    points = _points(entry.stream, sizes, store)
    x_hat = points[-1][1]
    metadata["preview"] = _write_picture(folder, f"{place}/preview", x_hat)
    small = Image.fromarray(x_hat)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    metadata["thumbnail"] = _write_picture(folder, f"{place}/thumbnail", np.asarray(small))
    if original is not None:
        metadata["original"] = _write_picture(folder, f"{place}/original", original, lossless=True)
        metadata["curve"] = [[size, _decibels(original, point)] for size, point in points]
        metadata["others"] = _others(folder, place, original, len(entry.stream))
    return metadata


def _points(stream: bytes, sizes: Sequence[int], store: ModelStore) -> list[tuple[int, np.ndarray]]:
    """Returns numbers of bytes and the images decoded from them."""
    points, decoder, before = [], ProgressiveDecoder(store.folder), 0
    for size in sizes:
        decoder.feed(stream[before:size])
        before = size
        x_hat = decoder.image()
        assert x_hat is not None, "the header is there"
        points.append((size, x_hat))
    return points


def _sizes(header: Header, total: int) -> list[int]:
    """Returns the numbers of bytes of a curve's points: ends of layers, and some between."""
    first = len(header.pack()) + 16
    between = np.geomspace(min(max(first, total / 60), total), total, _POINTS)
    ends = [size for end in header.ends if (size := header.size(end)) <= total]
    return sorted({*np.rint(between).astype(int).tolist(), *ends, total})


def _others(folder: Path, place: str, original: np.ndarray, total: int) -> list[dict]:
    """Writes other codecs' files; returns their entries in the index."""
    others = []
    if anchors.able(original, ["jpeg"]):
        others.append(_jpeg(folder, place, original, total))
    if anchors.able(original, ["jpeg2000"]):
        others.append(_jpeg2000(folder, place, original, total))
    return others


def _jpeg(folder: Path, place: str, original: np.ndarray, total: int) -> dict:
    """Writes the largest progressive JPEG up to the stream's size, or the smallest."""

    def coded(quality: int) -> bytes:
        buffer = io.BytesIO()
        options = {"progressive": True, "optimize": True, "subsampling": "4:2:0"}
        Image.fromarray(original).save(buffer, "JPEG", quality=quality, **options)
        return buffer.getvalue()

    low, high = 1, 96
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(coded(middle)) <= total else (low, middle)
    data = coded(low)
    files.write_bytes(folder / place / "progressive.jpg", data)
    curve = []
    for size in np.rint(np.geomspace(_SMALLEST_FILE, len(data), 2 * _POINTS)).astype(int).tolist():
        x_hat = _prefix_of_jpeg(data[:size])
        if x_hat is not None and x_hat.shape == original.shape:
            curve.append([size, _decibels(original, x_hat)])
    return {
        "kind": "prefix",
        "name": "JPEG",
        "note": "one progressive file, cut",
        "about": f"JPEG is one progressive file of {len(data):,} bytes, cut like the stream.",
        "file": f"{place}/progressive.jpg",
        "bytes": len(data),
        "curve": curve,
    }


def _prefix_of_jpeg(data: bytes) -> np.ndarray | None:
    """Returns the image decoded from a prefix of a JPEG, None where this fails."""
    try:
        # With an end marker, the library decodes the prefix.
        with Image.open(io.BytesIO(data + b"\xff\xd9")) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:  # Pillow raises any exception on cut files.
        return None


def _jpeg2000(folder: Path, place: str, original: np.ndarray, total: int) -> dict:
    found: dict[int, np.ndarray] = {}
    for size in np.rint(np.geomspace(min(_SMALLEST_FILE, total), total, _FILES)).astype(int):
        # A file may be a little larger than the requested size.
        for factor in (1.0, 0.98, 0.95, 0.9):
            count, x_hat = anchors.nearest(original, "jpeg2000", int(factor * size))
            if count <= size:
                break
        found[count] = x_hat
    pictures = []
    for count, x_hat in sorted(found.items()):
        file = _write_picture(folder, f"{place}/jpeg2000-{count}", x_hat)
        pictures.append({"bytes": count, "psnr": _decibels(original, x_hat), "file": file})
    return {
        "kind": "files",
        "name": "JPEG 2000",
        "note": "a file for each size",
        "about": (
            f"JPEG 2000 has a file for each of {len(pictures)} sizes, of which the largest that "
            f"has arrived is shown, as WebP of quality {page.QUALITY}; its PSNR is the file's."
        ),
        "files": pictures,
    }


def _decibels(original: np.ndarray, x_hat: np.ndarray) -> float:
    # JSON has no infinity.
    return round(min(metrics.psnr(original, x_hat), 99.0), 4)


def _write_picture(folder: Path, path: str, image: np.ndarray, lossless: bool = False) -> str:
    """Writes an image as a file that browsers read; returns its path."""
    data, suffix = page.encoded(image, lossless)
    files.write_bytes(folder / f"{path}.{suffix}", data)
    return f"{path}.{suffix}"

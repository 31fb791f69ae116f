"""Rate and quality of a family on a folder of images, from streams that are written and decoded.

Each image is compressed once. A point is a named layer or another cut. At each point, the image is
decoded from the bytes up to it alone, rounded to 8 bits, and compared with the original.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sae import files, images, metrics
from sae.coding import stream
from sae.config import LAYER_NAMES
from sae.errors import SaeError
from sae.evaluation import image_set, results, tables, workers
from sae.model import stores
from sae.model.stores import Store


def require_places(
    folder: str | Path,
    target: str | Path,
    save_images: str | Path | None = None,
    option: str = "--results",
    cuts: int = 0,
) -> None:
    """Refuses unusable folders for results or decoded images, before the measurement.

    Args:
      folder: folder of images.
      target: folder of all results.
      save_images: folder for the decoded images.
      option: command-line option that names the target.
      cuts: number of cuts, like that of `evaluate`.

    Raises:
      SaeError: there are no images, or a folder cannot be written into, holds results of
        other images, or would mix decoded images with measured ones.
    """
    found, place = images.find(folder), results.folder(target, folder)
    files.require_writable(place)
    image_set.require_own(place, folder, option)
    if save_images is None:
        return
    files.require_writable(save_images)
    if os.path.realpath(save_images) == os.path.realpath(folder):
        raise SaeError(f"Decoded images cannot go into {folder}, among its images; name another.")
    labels = _cut_labels(cuts) or LAYER_NAMES
    for path, label in itertools.product(_decoded_names(found).values(), labels):
        files.require_target(Path(save_images) / f"{path}_{label}.png", found)


def evaluate(
    folder: str | Path,
    store: Store,
    count: int | None = None,
    save_images: str | Path | None = None,
    cache_path: Path | None = None,
    effort: int = 0,
    cuts: int = 0,
) -> dict[str, list[dict]]:
    """Measures every point of the streams of a folder's images.

    Args:
      folder: folder of images, of any size and mode.
      store: checkpoints of the family.
      count: number of layers; all trained layers by default.
      save_images: folder for the decoded images, <image>_<label>.png. <image> is a name
        without its suffix, or with all suffixes where names would be equal without.
      cache_path: file of finished measurements, from which an interrupted call resumes.
      effort: effort of the latent optimization, like that of `codec.compress`.
      cuts: number of cuts of a progressive stream in place of the layers. They are evenly spaced in
        bytes from the end of the base to that of the last layer.

    Returns:
      For each point's label a row per image. A row has "image", "width", "height", "bytes" of the
      file up to the point, "bpp" = 8 * bytes / (width * height), "psnr-rgb" in dB, and
      "ms-ssim-rgb". "encode-seconds", for the whole stream, and "decode-seconds", up to the point,
      are processor time. Images that cannot be measured have no rows; a warning names them.

    Raises:
      SaeError: there are no images, none can be measured, or a layer is missing.
    """
    found = images.find(folder)
    if cuts and store.family.kind != "progressive":
        raise SaeError("Cuts within layers are of progressive families; leave out --cuts.")
    # These checks come first, so that a fault is reported once.
    metrics.require_ms_ssim()
    store.require(count)
    fingerprints = store.fingerprints(count)
    decoded = {}
    if save_images:
        decoded = {path: Path(save_images) / stem for path, stem in _decoded_names(found).items()}
    function = functools.partial(
        _measure, store=store, count=count, decoded=decoded, effort=effort, cuts=cuts
    )
    attempt = functools.partial(workers.attempt, function)
    subject = {"weights": fingerprints, "effort": effort, "cuts": cuts}
    tried = workers.each(attempt, found, store.family.name, cache_path, subject)
    for failure in tried:
        if isinstance(failure, str):
            warnings.warn(f"{failure} It is left out.", stacklevel=2)
    measured = [points for points in tried if not isinstance(points, str)]
    if not measured:
        raise SaeError(f"None of the {len(found)} images can be measured; name another folder.")
    return {
        label: [points[index][1] for points in measured]
        for index, (label, _) in enumerate(measured[0])
    }


def _cut_labels(cuts: int) -> list[str]:
    """Returns the labels of cuts in place of the layers."""
    return [str(number) for number in range(1, cuts + 1)]


def _decoded_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Returns a distinct prefix for the names of each image's decoded versions."""
    stems = {path: path.stem for path in paths}
    if len({os.path.normcase(stem) for stem in stems.values()}) < len(paths):
        return {path: path.name for path in paths}
    return stems


def save(
    points: dict[str, list[dict]],
    folder: str | Path,
    store: Store,
    target: str | Path = "results",
    effort: int = 0,
    cuts: int = 0,
) -> Path:
    """Writes `target`/<name of folder>/<curve>.json; returns its path.

    The curve is `results.curve_key` of family, effort and cuts. Points of higher layers in the file
    stay if they have the same weights and images.
    """
    family = store.family
    key = results.curve_key(family, effort, cuts)
    path = results.folder(target, folder) / f"{key}.json"
    fingerprints = store.fingerprints(None if cuts else len(points))
    weights = (
        dict.fromkeys(points, fingerprints[0]) if cuts else dict(zip(family.layers, fingerprints))
    )
    digests = image_set.digests(images.find(folder))
    kept = results.points_above(path, points, weights, digests)
    results.save(
        path,
        name=f"sae-{key}",
        description=f"Scalable auto-encoder, {family.name}" + results.setting(effort, cuts),
        settings=[{"label": label, "images": rows} for label, rows in points.items()] + kept.points,
        family=family.name,
        effort=effort,
        cuts=cuts,
        left_out=left_out(points, folder),
        digests=digests,
        optimized_for=family.metric,
        fingerprints={**weights, **kept.fingerprints},
    )
    return path


def left_out(points: dict[str, list[dict]], folder: str | Path) -> list[str]:
    """Returns the names of the images in a folder without rows."""
    measured = {row["image"] for rows in points.values() for row in rows}
    return [path.name for path in images.find(folder) if path.name not in measured]


def run(options: argparse.Namespace) -> int:
    """The command `evaluate`: measures all trained layers of a family and writes their results.

    Returns:
      The exit status: 1 where images were left out, else 0.
    """
    effort, cuts = options.effort, options.cuts
    require_places(options.folder, options.results, options.save_images, cuts=cuts)
    store = stores.store(options.family, options.checkpoints)
    key = results.curve_key(store.family, effort, cuts)
    cache_path = results.folder(options.results, options.folder) / f"{key}.partial"
    points = evaluate(options.folder, store, None, options.save_images, cache_path, effort, cuts)
    print(save(points, options.folder, store, options.results, effort, cuts))
    cache_path.unlink(missing_ok=True)
    print(tables.points(points))
    if missing := left_out(points, options.folder):
        print(f"Means without {', '.join(missing)}.")
    return 1 if missing else 0


def _measure(
    path: Path,
    store: Store,
    count: int | None,
    decoded: dict[Path, Path],
    effort: int,
    cuts: int,
) -> list[tuple[str, dict]]:
    """Compresses an image and decompresses it; returns label and row of each point."""
    from sae.coding import codec

    image = images.read(path)
    began = time.process_time()
    data = codec.compress(image, count, store.family.name, store.folder, effort=effort)
    encode_seconds = time.process_time() - began
    found = stream.parse(data)
    ends = list(zip(store.family.layers, found.ends[: found.layers]))
    if cuts:
        sizes = np.linspace(ends[0][1], ends[-1][1], cuts)
        ends = [(label, round(size)) for label, size in zip(_cut_labels(cuts), sizes)]
    decoder, decode_seconds = codec.Decoder(store.folder), 0.0
    points: list[tuple[str, dict]] = []
    for (label, end), begin in zip(ends, [0, *(end for _, end in ends)]):
        began = time.process_time()
        decoder.feed(data[begin:end])
        x_hat = decoder.image()
        decode_seconds += time.process_time() - began
        assert x_hat is not None, "a point has an image"
        row = {
            **results.row(path.name, image, x_hat, end),
            "encode-seconds": encode_seconds,
            "decode-seconds": decode_seconds,
        }
        points.append((label, row))
        if path in decoded:
            images.write_png(x_hat, f"{decoded[path]}_{label}.png")
    return points

"""A folder of images, measured: files really written, really decoded.

Each image is compressed once, to bytes with all layers; each layer's image is
decoded from the bytes up to it alone, rounded to 8 bits, and compared.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sae import files, images
from sae.coding import bitstream
from sae.config import LAYER_NAMES
from sae.errors import SaeError
from sae.evaluation import image_set, results, tables, workers
from sae.model import checkpoint
from sae.model.checkpoint import Store

if TYPE_CHECKING:
    from sae.model.cascade import Cascade


def require_places(
    folder: str | Path,
    target: str | Path,
    save_images: str | Path | None = None,
    option: str = "--results",
) -> None:
    """Refuses unusable folders for results or decoded images, before anything is measured.

    Args:
      folder: folder of images.
      target: folder of all results.
      save_images: folder for the decoded images.
      option: command-line option for another `target`.

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
    for path, name in itertools.product(_decoded_names(found).values(), LAYER_NAMES):
        files.require_target(Path(save_images) / f"{path}_{name}.png", found)


def evaluate(
    folder: str | Path,
    store: Store,
    names: Sequence[str] | None = None,
    save_images: str | Path | None = None,
    journal: Path | None = None,
    effort: int = 0,
) -> dict[str, list[dict]]:
    """Measures every layer on every image of a folder.

    Args:
      folder: images of any size and mode.
      store: the layers.
      names: of the layers, from the base upwards; all that are trained by default.
      save_images: folder for the decoded images, <image>_<layer>.png. <image> is a name
        without its suffix, or with all suffixes where names would be equal without.
      journal: file that keeps measurements, from which an interrupted call resumes.
      effort: effort of latent optimization, as in `codec.encode`.

    Returns:
      For each layer a row per image, but for those that cannot be measured, which a
      warning names: "image", "width", "height", "bytes" of the file up to the
      layer, "bpp" = 8 * bytes / (width * height), "bpp-layers" each layer's own
      share (the base's has the header), "bpp-estimated" from the likelihoods (of
      effort 0 alone), "psnr-rgb" in dB, "ms-ssim-rgb", and the processor's seconds,
      whatever else the machine does, for encoding all layers and for decoding up to
      this one.

    Raises:
      SaeError: there are no images, none can be measured, or a layer is missing.
    """
    found = images.find(folder)
    store.described(len(names) if names else None)
    # The codec is imported before building layers starts TensorFlow, whose threads it sets.
    from sae.coding import codec  # noqa: F401

    # Here, so that what is wrong with the checkpoints is said once and at first.
    layers = store.cascade(len(names) if names else None).layers
    names, fingerprints = zip(*((layer.name, layer.fingerprint) for layer in layers))
    decoded = {}
    if save_images:
        decoded = {path: Path(save_images) / stem for path, stem in _decoded_names(found).items()}
    function = functools.partial(_measure, store=store, names=names, decoded=decoded, effort=effort)
    title = f"{store.family.name} to {names[-1]}"
    subject = {"layers": fingerprints, "effort": effort}
    attempt = functools.partial(workers.attempt, function)
    tried = workers.each(attempt, found, title, journal, subject)
    for failure in tried:
        if isinstance(failure, str):
            warnings.warn(f"{failure} It is left out.", stacklevel=2)
    measured = [rows for rows in tried if not isinstance(rows, str)]
    if not measured:
        raise SaeError(f"None of the {len(found)} images can be measured; name another folder.")
    return {name: [rows[index] for rows in measured] for index, name in enumerate(names)}


def _decoded_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Returns a distinct beginning of the names of each image's decoded versions."""
    stems = {path: path.stem for path in paths}
    if len({os.path.normcase(stem) for stem in stems.values()}) < len(paths):
        return {path: path.name for path in paths}
    return stems


def save(
    rows: dict[str, list[dict]],
    folder: str | Path,
    store: Store,
    target: str | Path = "results",
    effort: int = 0,
) -> list[Path]:
    """Writes `target`/<name of folder>/<curve>/<layer>.json for each layer; returns the paths.

    The curve is `results.curve_key` of family and effort.
    """
    family, paths = store.family, []
    key = results.curve_key(family, effort)
    for name, images_of_layer in rows.items():
        path = results.folder(target, folder) / key / f"{name}.json"
        description = store.describe(name)
        assert description is not None, "its layers have been read"
        results.save(
            path,
            name=f"sae-{key.replace('/', '-')}-{name}",
            description=f"Scalable auto-encoder, {family.name} layers up to {name}"
            + (f", effort {effort}" if effort else ""),
            settings=[{"label": name, "images": images_of_layer}],
            layer=name,
            family=family.name,
            effort=effort,
            left_out=left_out(rows, folder),
            digests=image_set.digests(images.find(folder)),
            optimised_for=family.metric,
            fingerprint=description["fingerprint"],
            below=description["below"],
            configuration=description["layer"],
            steps=description["training"].get("options", {}).get("last_step"),
        )
        paths.append(path)
    return paths


def left_out(rows: dict[str, list[dict]], folder: str | Path) -> list[str]:
    """Returns the names of the images in a folder of which there are no rows."""
    measured = {row["image"] for images_of_layer in rows.values() for row in images_of_layer}
    return [path.name for path in images.find(folder) if path.name not in measured]


def run(options: argparse.Namespace) -> int:
    """The command `evaluate`: measures all trained layers of a family and writes their results.

    Returns 1 where images were left out, else 0.
    """
    require_places(options.folder, options.results, options.save_images)
    store = checkpoint.store(options.family, options.checkpoints)
    key, effort = results.curve_key(store.family, options.effort), options.effort
    journal = results.folder(options.results, options.folder) / f"{key}.partial"
    rows = evaluate(options.folder, store, None, options.save_images, journal, effort)
    for path in save(rows, options.folder, store, options.results, effort):
        print(path)
    journal.unlink(missing_ok=True)
    print(tables.layers(rows))
    if missing := left_out(rows, options.folder):
        print(f"Means without {', '.join(missing)}.")
    return 1 if missing else 0


def _measure(
    path: Path,
    store: Store,
    names: tuple[str, ...],
    decoded: dict[Path, Path],
    effort: int,
) -> list[dict]:
    """Compresses an image and decompresses it; returns a row for each layer."""
    from sae.coding import codec

    image, count = images.read(path), len(names)
    height, width = image.shape[:2]
    began = time.process_time()
    data = codec.compress(image, count, store.family.name, store.folder, effort)
    encode_seconds = time.process_time() - began
    records = bitstream.parse(data).records
    ends = [bitstream.size(records[: k + 1]) for k in range(count)]
    # Those of the latents that the analysis gives.
    estimates = [None] * count if effort else _estimates(image, store, count)
    decoder, decode_seconds = codec.Decoder(count, store.folder), 0.0
    rows: list[dict] = []
    for name, begin, end, estimate in zip(names, [0, *ends], ends, estimates):
        began = time.process_time()
        (x_hat,) = decoder.feed(data[begin:end])
        decode_seconds += time.process_time() - began
        shares = np.diff([0, *ends[: len(rows) + 1]]) * 8 / (width * height)
        rows.append(
            {
                **results.row(path.name, image, x_hat, end),
                "bpp-layers": shares.tolist(),
                "bpp-estimated": estimate,
                "encode-seconds": encode_seconds,
                "decode-seconds": decode_seconds,
            }
        )
        if path in decoded:
            images.write_png(x_hat, f"{decoded[path]}_{name}.png")
    return rows


def _estimates(image: np.ndarray, store: Store, count: int) -> list[float]:
    """Returns the bits per pixel that the likelihoods give, up to each layer."""
    import tensorflow as tf

    cascade = _cascade(store, count)
    x = tf.cast(images.pad(image, cascade.layers[0].stride)[None], tf.float32) / 255.0
    bits = [float(layer_bits[0]) for _, layer_bits in cascade.code(x)]
    return (np.cumsum(bits) / math.prod(image.shape[:2])).tolist()


@functools.lru_cache(maxsize=1)
def _cascade(store: Store, count: int) -> Cascade:
    return store.cascade(count)

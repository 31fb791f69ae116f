"""A folder of images, measured: files really written, really decoded.

Each image is compressed once, to bytes with all layers; each layer's image is
decoded from the bytes up to it alone, rounded to 8 bits, and compared.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from sae import images
from sae.coding import bitstream, codec
from sae.config import STRIDE
from sae.measuring import results, tables, workers
from sae.model import checkpoint
from sae.model.cascade import Cascade


def evaluate(
    folder: str | Path,
    metric: str,
    names: Sequence[str] | None = None,
    checkpoints: str | Path = checkpoint.DEFAULT_FOLDER,
    save_images: str | Path | None = None,
    journal: Path | None = None,
) -> dict[str, list[dict]]:
    """Measures every layer on every image of a folder.

    Args:
      folder: images of any size and mode.
      metric: "mse" or "ms-ssim", the family of the layers.
      names: the layers, from the base upwards; all that are trained by default.
      checkpoints: the folder of all checkpoints.
      save_images: where to keep the decoded images, as <image>_<layer>.png.
      journal: keeps what is measured, so that an interrupted call can go on.

    Returns:
      For each layer a row per image: "image", "width", "height", "bytes" of the
      file up to the layer, "bpp" = 8 * bytes / (width * height), "bpp-layers"
      each layer's own share (the base's has the header), "bpp-estimated" from
      the likelihoods, "psnr-rgb" in dB, "ms-ssim-rgb", and the seconds spent on
      encoding all layers and on decoding up to this one.

    Raises:
      SaeError: there are no images, one cannot be read, or a layer is missing.
    """
    found = images.find(folder)
    names = tuple(names or checkpoint.available(metric, checkpoints) or ("base",))
    # Here, so that what is wrong with the checkpoints is said once and at first.
    fingerprints = [
        layer.fingerprint for layer in checkpoint.load_cascade(metric, names, checkpoints).layers
    ]
    function = functools.partial(
        _measure, metric=metric, names=names, checkpoints=checkpoints, save_images=save_images
    )
    measured = workers.each(
        function, found, f"{metric} to {names[-1]}", journal, {"layers": fingerprints}
    )
    return {name: [rows[index] for rows in measured] for index, name in enumerate(names)}


def save(
    rows: dict[str, list[dict]],
    folder: str | Path,
    metric: str,
    checkpoints: str | Path = checkpoint.DEFAULT_FOLDER,
    target: str | Path = "results",
) -> list[Path]:
    """Writes `target`/<name of folder>/<metric>/<layer>.json for each layer; returns the paths."""
    paths = []
    for name, images_of_layer in rows.items():
        path = results.folder(target, folder) / metric / f"{name}.json"
        description = checkpoint.describe(metric, name, checkpoints)
        results.save(
            path,
            name=f"sae-{metric}-{name}",
            description=f"Scalable auto-encoder, {metric} layers up to {name}",
            settings=[{"label": name, "images": images_of_layer}],
            layer=name,
            metric=metric,
            fingerprint=description["fingerprint"],
            configuration=description["layer"],
            steps=description["training"].get("options", {}).get("last_step"),
        )
        paths.append(path)
    return paths


def run(options: argparse.Namespace) -> None:
    """The command `evaluate`: measures all trained layers of a family and writes their results."""
    journal = results.folder(options.results, options.folder) / f"{options.metric}.partial"
    rows = evaluate(
        options.folder, options.metric, None, options.checkpoints, options.save_images, journal
    )
    for path in save(rows, options.folder, options.metric, options.checkpoints, options.results):
        print(path)
    journal.unlink(missing_ok=True)
    print(tables.layers(rows))


def _measure(
    path: Path,
    metric: str,
    names: tuple[str, ...],
    checkpoints: str | Path,
    save_images: str | Path | None,
) -> list[dict]:
    """Compresses an image and decompresses it; returns a row for each layer."""
    image = images.read(path)
    height, width = image.shape[:2]
    began = time.perf_counter()
    data = codec.compress(image, len(names), metric, checkpoints)
    encode_seconds = time.perf_counter() - began
    records = bitstream.parse(data).records
    ends = [bitstream.size(records[: k + 1]) for k in range(len(names))]
    estimates = _estimates(image, metric, names, checkpoints)
    decoder, decode_seconds, rows = codec.Decoder(len(names), checkpoints), 0.0, []
    for name, begin, end, estimate in zip(names, [0, *ends], ends, estimates):
        began = time.perf_counter()
        (x_hat,) = decoder.feed(data[begin:end])
        decode_seconds += time.perf_counter() - began
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
        if save_images:
            images.write_png(x_hat, Path(save_images) / f"{path.stem}_{name}.png")
    return rows


def _estimates(
    image: np.ndarray, metric: str, names: tuple[str, ...], checkpoints: str | Path
) -> list[float]:
    """Returns the bits per pixel that the likelihoods give, up to each layer."""
    x = tf.cast(images.pad(image, STRIDE)[None], tf.float32) / 255.0
    cascade = _cascade(metric, names, checkpoints)
    bits = [float(layer_bits[0]) for _, layer_bits in cascade.code(x)]
    return (np.cumsum(bits) / math.prod(image.shape[:2])).tolist()


@functools.lru_cache(maxsize=1)
def _cascade(metric: str, names: tuple[str, ...], checkpoints: str | Path) -> Cascade:
    return checkpoint.load_cascade(metric, names, checkpoints)

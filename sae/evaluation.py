"""A folder of images, measured: files really written, really decoded.

Each image is compressed once, to bytes with all layers; each layer's image is
decoded from the bytes up to it alone, rounded to 8 bits, and compared.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from sae import bitstream, checkpoint, codec, images, metrics, results
from sae.config import STRIDE


def evaluate(
    folder: str | Path,
    metric: str,
    names: Sequence[str] | None = None,
    checkpoints: str | Path = checkpoint.DEFAULT_FOLDER,
    save_images: str | Path | None = None,
) -> dict[str, list[dict]]:
    """Measures every layer on every image of a folder.

    Args:
      folder: images of any size and mode.
      metric: "mse" or "ms-ssim", the family of the layers.
      names: the layers, from the base upwards; all that are trained by default.
      checkpoints: the folder of all checkpoints.
      save_images: where to keep the decoded images, as <image>_<layer>.png.

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
    cascade = checkpoint.load_cascade(metric, names, checkpoints)
    rows: dict[str, list[dict]] = {name: [] for name in names}
    for path in tqdm(found, unit="image", desc=f"{metric} layers to {names[-1]}"):
        image = images.read(path)
        decoded, measured = _measure(image, metric, len(names), checkpoints)
        estimates = _estimates(cascade, image)
        for name, x_hat, row, estimate in zip(names, decoded, measured, estimates):
            row = {"image": path.name, **row, "bpp-estimated": estimate}
            rows[name].append(row)
            if save_images:
                images.write_png(x_hat, Path(save_images) / f"{path.stem}_{name}.png")
    return rows


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
        path = Path(target) / Path(folder).resolve().name / metric / f"{name}.json"
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


def table(rows: list[dict]) -> str:
    """Returns the rows of one layer and their mean as text."""
    layers = len(rows[0]["bpp-layers"])
    titles = [f"{name:>8}" for name in (*checkpoint.LAYER_NAMES[:layers], "bpp", "est. bpp")]
    lines = [f"{'image':<20}{'size':>12}" + "".join(titles) + f"{'PSNR':>8}{'MS-SSIM':>9}"]
    for row in rows:
        size = f"{row['width']} x {row['height']}"
        lines.append(f"{row['image']:<20}{size:>12}" + _numbers(row))
    mean = {
        "bpp-layers": np.mean([row["bpp-layers"] for row in rows], axis=0),
        **{k: _mean(rows, k) for k in ("bpp", "bpp-estimated", "psnr-rgb", "ms-ssim-rgb")},
    }
    lines.append(f"{'mean':<32}" + _numbers(mean))
    return "\n".join(lines)


def run(options: argparse.Namespace) -> None:
    """The command `evaluate`: measures all trained layers of a family and writes their results."""
    rows = evaluate(options.folder, options.metric, None, options.checkpoints, options.save_images)
    for path in save(rows, options.folder, options.metric, options.checkpoints, options.results):
        print(path)
    for name, images_of_layer in rows.items():
        print(f"{name:<6}" + table(images_of_layer).splitlines()[-1])


def _numbers(row: dict) -> str:
    bpps = [*row["bpp-layers"], row["bpp"], row["bpp-estimated"]]
    ms_ssim = "-" if row["ms-ssim-rgb"] is None else f"{row['ms-ssim-rgb']:.4f}"
    return "".join(f"{bpp:8.4f}" for bpp in bpps) + f"{row['psnr-rgb']:8.2f}{ms_ssim:>9}"


def _mean(rows: list[dict], key: str) -> float | None:
    values = [row[key] for row in rows]
    return None if None in values else float(np.mean(values))


def _measure(
    image: np.ndarray, metric: str, layers: int, checkpoints: str | Path
) -> tuple[list[np.ndarray], list[dict]]:
    """Compresses an image and decompresses it; returns each layer's image and row."""
    height, width = image.shape[:2]
    began = time.perf_counter()
    data = codec.compress(image, layers, metric, checkpoints)
    encode_seconds = time.perf_counter() - began
    records = bitstream.parse(data).records
    ends = [bitstream.size(records[: k + 1]) for k in range(layers)]
    decoder, decode_seconds = codec.Decoder(checkpoints=checkpoints), 0.0
    decoded, rows = [], []
    for begin, end in zip([0, *ends], ends):
        began = time.perf_counter()
        decoded += decoder.feed(data[begin:end])
        decode_seconds += time.perf_counter() - began
        shares = np.diff([0, *ends[: len(decoded)]]) * 8 / (width * height)
        rows.append(
            {
                "width": width,
                "height": height,
                "bytes": end,
                "bpp": 8 * end / (width * height),
                "bpp-layers": shares.tolist(),
                "psnr-rgb": metrics.psnr(image, decoded[-1]),
                "ms-ssim-rgb": metrics.ms_ssim(image, decoded[-1]),
                "encode-seconds": encode_seconds,
                "decode-seconds": decode_seconds,
            }
        )
    return decoded, rows


def _estimates(cascade, image: np.ndarray) -> list[float]:
    """Returns the bits per pixel that the likelihoods give, up to each layer."""
    x = tf.cast(images.pad(image, STRIDE)[None], tf.float32) / 255.0
    bits = [float(layer_bits[0]) for _, layer_bits in cascade.code(x)]
    return (np.cumsum(bits) / math.prod(image.shape[:2])).tolist()

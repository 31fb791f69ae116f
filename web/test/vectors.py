"""Writes what the Python decoder gives, for the tests of the page's decoder.

    python web/test/vectors.py FOLDER [--checkpoints DIR --image FILE]

Random weights of a small architecture stand for a model. With --checkpoints and --image, streams of
a trained model are added.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import tensorflow as tf

from sae import images
from sae.coding import export, range_coder
from sae.coding import progressive_container as container
from sae.coding.progressive_codec import ProgressiveDecoder, compress
from sae.model import families
from sae.model.model_store import ModelStore, StoredModel
from sae.model.progressive import ProgressiveModel
from tests.progressive_models import TINY

FAMILY = families.named("progressive-mse")


def random_model() -> StoredModel:
    """Returns a small model with random weights, whose contexts depend on all they read.

    Its step is small, so that distances from means are large and streams have several chunks.
    """
    config = dataclasses.replace(TINY, step=0.02)
    tf.keras.utils.set_random_seed(1)
    model = ProgressiveModel(config)
    for variable in model.trainable_variables:
        variable.assign_add(tf.random.normal(variable.shape, stddev=0.05))
        if variable.name.endswith("output/bias:0"):
            # The last channel has the smallest scale, at which most elements are not coded.
            variable[-1].assign(-10.0)
    weights = {v.name.removesuffix(":0"): v.numpy() for v in model.trainable_variables}
    return StoredModel.rounded(config, weights)


def sample_image(height: int, width: int) -> np.ndarray:
    """Returns waves with noise, uint8 [H, W, 3]."""
    rows, columns = np.mgrid[:height, :width] / 10.0
    waves = np.sin(rows)[..., None] + np.sin(1.3 * columns)[..., None] * [1.0, 0.9, 0.8]
    noise = np.random.default_rng(0).normal(scale=9, size=waves.shape)
    return (128 + 40 * waves + noise).clip(0, 255).astype(np.uint8)


def write_codes(folder: Path) -> None:
    """Writes codes of trits, and how many of these each prefix determines."""
    rng = np.random.default_rng(0)
    cases = []
    for count, alpha in ((0, 1.0), (1, 1.0), (300, 0.05), (700, 0.4), (400, 3.0)):
        p = rng.dirichlet([alpha] * 3, count)
        low, high = np.rint(p.cumsum(1)[:, :2].T * 65536).astype(np.int64)
        symbols = np.sum(rng.random((count, 1)) > p.cumsum(1)[:, :2], axis=1)
        encoder = range_coder.Encoder()
        encoder.encode(symbols, low, high)
        code = encoder.finish()
        known = []
        for size in range(len(code) + 1):
            decoder = range_coder.Decoder()
            decoder.feed(code[:size])
            known.append(len(decoder.decode(low, high)))
        lists = {"low": low, "high": high, "symbols": symbols}
        lists = {key: value.tolist() for key, value in lists.items()}
        cases.append({**lists, "code": list(code), "known": known})
    (folder / "codes.json").write_text(json.dumps(cases))


def write_stream(
    folder: Path, name: str, data: bytes, checkpoints: Path, sizes: list[int], images_at: list[int]
) -> dict:
    """Writes a stream, and latents and images of its prefixes."""
    (folder / f"{name}.sae").write_bytes(data)
    values, cuts, before = [], [], 0
    decoder = ProgressiveDecoder(checkpoints)
    for size in sizes:
        decoder.feed(data[before:size])
        before = size
        reader = decoder.reader
        cut = {"bytes": size, "damaged": reader.damaged, "complete": reader.complete}
        if reader.header is not None:
            found = decoder._planes.decoded()
            cut["level"] = found.level
            values += found.y_hat.ravel(), found.expected.ravel()
        if reader.header is not None and size in images_at:
            cut["image"] = f"{name}-{size}.rgb"
            (folder / cut["image"]).write_bytes(decoder.image().tobytes())
        cuts.append(cut)
    np.concatenate(values).astype("<f4").tofile(folder / f"{name}.f32")
    return {"name": name, "cuts": cuts}


def write_case(folder: Path, store: ModelStore, name: str, image: np.ndarray, step: int) -> dict:
    """Writes a model, and streams of an image: sound and damaged."""
    export.write(folder / name, store.load(), store.family)
    data = compress(image, store)
    header = container.Reader()
    header.feed(data)
    ends = [header.header.size(end) for end in header.header.ends]
    first = len(header.header.pack())
    dense = range(first - 2, first + 12) if step > 1 else []
    sizes = sorted({*range(1, len(data), step), *dense, *ends, len(data)})
    damaged = bytearray(data)
    damaged[min(2500, len(data) - 3)] ^= 16
    streams = [
        write_stream(folder, f"{name}-sound", data, store.folder, sizes, [sizes[0], *ends]),
        write_stream(
            folder,
            f"{name}-damaged",
            bytes(damaged),
            store.folder,
            sorted({*sizes[::7], len(data)}),
            [len(data)],
        ),
    ]
    height, width, _ = image.shape
    return {
        "name": name,
        "depth": store.load().config.latent_depth,
        "size": [height, width],
        "ends": ends,
        "streams": streams,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--image", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    write_codes(options.folder)
    store = ModelStore(FAMILY, options.folder / "checkpoints")
    store.save(random_model(), {})
    cases = [write_case(options.folder, store, "small", sample_image(180, 150), 11)]
    # One position of the latent has one pass only, and two of a row have none of the odd rows.
    for height, width in ((16, 16), (9, 40)):
        name = f"tiny-{height}-{width}"
        cases.append(write_case(options.folder, store, name, sample_image(height, width), 1))
    # Transforms of so many positions are computed in tiles.
    cases.append(write_case(options.folder, store, "large", sample_image(1000, 1100), 70_001))
    if options.checkpoints and options.image:
        store = ModelStore(FAMILY, options.checkpoints)
        cases.append(write_case(options.folder, store, "real", images.read(options.image), 2711))
    (options.folder / "vectors.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main()

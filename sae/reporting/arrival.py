"""A page on which a stream arrives byte by byte, beside other codecs' files of the same bytes.

What scalability is for: any number of bytes of the one stream gives an image,
while another codec's file has to be made for a number of bytes beforehand.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sae import files, images, metrics
from sae.coding import codec
from sae.evaluation import anchors, results
from sae.model import stores
from sae.model.stores import Store
from sae.reporting import page


def run(options: argparse.Namespace) -> None:
    """The command `show`: writes the page of one image."""
    store = stores.store(options.family, options.checkpoints)
    image = images.read(options.image)
    name = Path(options.image).name
    target = Path(options.output) / f"show-{Path(name).stem}-{store.family.name}.html"
    files.require_target(target, [options.image])
    print(write(target, image, name, store, options.codecs))


def write(
    target: str | Path, image: np.ndarray, name: str, store: Store, peers: Sequence[str]
) -> Path:
    """Writes the page; returns its path.

    Args:
      target: where to write it.
      image: uint8 [H, W, 3].
      name: of the image.
      store: the layers of the stream.
      peers: keys of `anchors.CODECS`.
    """
    stream = _stream(image, store)
    ends = [step["bytes"] for step in stream["steps"]]
    others = [_peer(image, key, ends) for key in anchors.able(image, peers)]
    data = {
        "bytes": ends[-1],
        "pixels": image.shape[0] * image.shape[1],
        "size": [image.shape[1], image.shape[0]],
        "original": page.source(image),
        "panels": [stream, *others],
    }
    return page.write(target, "arrival.html", data, name=html.escape(name))


def _stream(image: np.ndarray, store: Store) -> dict:
    """Returns the panel of our stream: a step wherever a layer is complete."""
    data = codec.compress(image, None, store.family.name, store.folder)
    steps = [
        _step(image, x_hat, size, results.layer_label(label))
        for label, size, x_hat in codec.decode_points(data, store.folder)
    ]
    return {"name": f"SAE ({store.family.title}): one stream", "steps": steps}


def _peer(image: np.ndarray, key: str, sizes: Sequence[int]) -> dict:
    """Returns the panel of another codec: for each size the file that comes nearest to it."""
    steps: dict[int, dict] = {}
    for size in sizes:
        found, x_hat = anchors.nearest(image, key, size)
        steps[found] = _step(image, x_hat, found, f"{found:,} bytes")
    name = anchors.CODECS[key].name.split(" (")[0]
    return {
        "name": f"{name}: a file for each size",
        "steps": [steps[found] for found in sorted(steps)],
    }


def _step(image: np.ndarray, x_hat: np.ndarray, size: int, label: str) -> dict:
    return {
        "bytes": size,
        "label": label,
        "psnr": results.decibels(metrics.psnr(image, x_hat)),
        "source": page.source(x_hat),
    }

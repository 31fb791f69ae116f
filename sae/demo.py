"""`make demo`: the whole method in a few minutes, on the photos at hand.

It uses the released layers where there are some. Otherwise it trains base to EL3 for a few steps on
the sample photos of scikit-image. It measures every layer on Kodak where kodak/ has it, else on
sample photos that are not used in training.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from sae import files, images
from sae.config import DEFAULT_FOLDER, DEFAULT_RESULTS
from sae.errors import SaeError
from sae.evaluation import evaluate, image_set, results, tables
from sae.model import families, stores
from sae.model.layer_store import LayerStore
from sae.reporting import figures
from sae.training import presets

HELD_OUT = ("chelsea", "coffee")
_FIGURE = Path("plots") / "demo.png"
_LAYERS = ("base", "el1", "el2", "el3")
# Small patches and few steps suffice for a curve of the right shape.
_SHORT: dict[str, Any] = {"last_step": 400, "batchsize": 4, "patchsize": 128, "learning_rate": 3e-3}


def run(options: argparse.Namespace) -> None:
    """The command `demo`."""
    folder = Path(options.folder)
    files.require_target(_FIGURE)
    test = _kodak()
    if test:
        evaluate.require_places(test, folder / "results", option="--folder")
    trained, held_out = _photos(folder)
    store = stores.store("mse", DEFAULT_FOLDER)
    if not store.names():
        layers = LayerStore(families.published("mse"), folder / "checkpoints")
        print("There are no released weights; training base to EL3 for a short while.")
        _train(layers, trained)
        store = layers
    if not test:
        test = held_out
        print("kodak/ has no images (make kodak fetches them); testing on two sample photos.")

    rows = evaluate.evaluate(test, store)
    evaluate.save(rows, test, store, folder / "results")
    print("\n" + tables.points(rows))
    curves = results.curves(results.folder(folder / "results", test))
    # Published curves are added only where kodak/ has the images of Kodak.
    if test != held_out and not image_set.difference(DEFAULT_RESULTS, images.find(test)):
        shown = results.default(results.curves(DEFAULT_RESULTS))
        curves += [curve for curve in shown if curve.kind == "published"]
    figures.draw_rd(curves, _FIGURE)
    print(f"\nThe curve is drawn in {_FIGURE}.")


def _kodak() -> Path | None:
    """Returns the folder kodak/ if it has images."""
    folder = Path("kodak")
    try:
        return folder if images.find(folder) else None
    except SaeError:
        return None


def _train(store: LayerStore, photos: Path) -> None:
    from sae.coding.residual_codec import use_fixed_threads
    from sae.training.residual import train

    # The number of threads cannot be set once TensorFlow runs.
    use_fixed_threads()
    for name in _LAYERS:
        architecture, training = presets.residual(name, store.family)
        train(architecture, dataclasses.replace(training, **_SHORT), store, [photos])


def _photos(folder: Path) -> tuple[Path, Path]:
    """Writes the sample photos; returns the folders of training and held-out photos."""
    trained, held_out = folder / "photos", folder / "held-out"
    for name, photo in images.sample_photos().items():
        target = (held_out if name in HELD_OUT else trained) / f"{name}.png"
        if not target.exists():
            images.write_png(photo, target)
    return trained, held_out

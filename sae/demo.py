"""`make demo`: the whole method in a few minutes, on the photos at hand.

Uses the released layers where there are some, and otherwise trains base to
EL3 for a short while on the sample photos that ship inside scikit-image.
Measures every layer on Kodak where kodak/ has it, else on sample photos that
were not trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from sae import images
from sae.config import DEFAULT_FOLDER
from sae.measuring import evaluation, results, tables
from sae.model import checkpoint
from sae.model.presets import defaults
from sae.paper import figures
from sae.training.loop import train

HELD_OUT = ("chelsea", "coffee")
_LAYERS = ("base", "el1", "el2", "el3")
# Small patches and few steps: a curve with the right shape, not a good one.
_SHORT: dict[str, Any] = {"last_step": 400, "batchsize": 4, "patchsize": 128, "learning_rate": 3e-3}


def run(options: argparse.Namespace) -> None:
    """The command `demo`."""
    folder = Path(options.folder)
    store = checkpoint.store("mse", DEFAULT_FOLDER)
    trained, held_out = _photos(folder)
    if not store.names():
        store = dataclasses.replace(store, folder=folder / "checkpoints")
        print("There are no released layers; training base to EL3 for a short while.")
        for name in _LAYERS:
            architecture, training = defaults(name, store.family)
            train(architecture, dataclasses.replace(training, **_SHORT), store, [trained])
    kodak = Path("kodak")
    if list(kodak.glob("*.png")):
        test = kodak
    else:
        test = held_out
        print("kodak/ has no images (make kodak fetches them); testing on two sample photos.")

    rows = evaluation.evaluate(test, store)
    evaluation.save(rows, test, store, folder / "results")
    print("\n" + tables.layers(rows))
    curves = results.curves(results.folder(folder / "results", test))
    if test == kodak:
        shown = results.default(results.curves("results/kodak"))
        curves += [curve for curve in shown if curve.kind == "published"]
    figure = Path("plots") / "demo.png"
    figures.draw_rd(curves, figure)
    print(f"\nThe curve is drawn in {figure}.")


def _photos(folder: Path) -> tuple[Path, Path]:
    """Writes the sample photos; returns the folders of those to train on and those held out."""
    trained, held_out = folder / "photos", folder / "held-out"
    for name, photo in images.sample_photos().items():
        target = (held_out if name in HELD_OUT else trained) / f"{name}.png"
        if not target.exists():
            images.write_png(photo, target)
    return trained, held_out

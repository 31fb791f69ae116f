"""The command lines of the train_*.py and test_*.py scripts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sae.config import (
    DEFAULT_FOLDER,
    LAYER_NAMES,
    METRICS,
    PRESETS,
    LayerConfig,
    TrainingConfig,
    defaults,
)
from sae.errors import SaeError

_HELP = {
    "latent_depth": "channels of the latent",
    "hidden_filters": "channels between the convolutions",
    "gdn": "simplified, or paper: with the square and the root",
    "kind": "residual, as published, or conditional: on all that is decoded",
    "lmbda": "weight of the rate in bits per pixel",
    "last_step": "number of steps",
    "batchsize": "patches per step, over all devices",
    "patchsize": "side of a patch in pixels, a multiple of 16",
    "small_until": "fraction of the steps with patches of half the side",
    "learning_rate": "of Adam at first",
    "final_learning_rate": "of Adam at the last step",
    "decay_from": "fraction of the steps after which the learning rate falls",
    "noise": "half width of uniform noise added to the patches",
    "quantization": "noise for rounding, as published, or mixed: noise in the rate alone",
    "decoder_from": "fraction of the steps after which the decoder trains alone",
    "smallest_scale": "photos are shrunk by a random factor between this and 1",
    "crops": "patches cut from a photo each time it is decoded",
    "seed": "of the initial weights, the noise and the order of patches",
}
_CHOICES = {
    "gdn": ("simplified", "paper"),
    "kind": ("residual", "conditional"),
    "quantization": ("noise", "mixed"),
}
_SPELLINGS = {"lmbda": "lambda", "batchsize": "batch_size", "patchsize": "patch_size"}


def train(name: str, arguments: list[str] | None = None) -> None:
    """Trains layer `name` as the command line says, and exits."""
    _run(_train, _training_parser(name), arguments)


def test(name: str, arguments: list[str] | None = None) -> None:
    """Measures the layers up to `name` as the command line says, and exits."""
    _run(_test, _testing_parser(name), arguments)


def _training_parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"Trains {name}, on the lower layers as they stand in the checkpoints.",
        epilog="Options without a value here take the preset's; see sae/config.py.",
    )
    parser.set_defaults(name=name)
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="DIR", help="folders of training photos"
    )
    _add_common(parser)
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument(
        "--warm_start", metavar="DIR", help="begin with the weights of this layer's checkpoint"
    )
    parser.add_argument(
        "--strategy",
        choices=("auto", "single", "mirrored", "multiworker"),
        default="auto",
        help="auto: multiworker where TF_CONFIG is set, mirrored where there are several GPUs",
    )
    parser.add_argument("--save_every", type=float, default=180, help="seconds (180)")
    for field in _options():
        # Accepted with underscores, as in the original scripts, and with hyphens.
        names = {field.name, _SPELLINGS.get(field.name, field.name)}
        names |= {name.replace("_", "-") for name in names}
        parser.add_argument(
            *(f"--{name}" for name in sorted(names)),
            dest=field.name,
            metavar=None if field.name in _CHOICES else field.type.upper(),
            choices=_CHOICES.get(field.name),
            type={"int": int, "float": float, "str": str}[field.type],
            help=_HELP[field.name],
        )
    return parser


def _options() -> list[dataclasses.Field]:
    """Returns the fields of both configurations that have an option."""
    fields = dataclasses.fields(LayerConfig) + dataclasses.fields(TrainingConfig)
    return [field for field in fields if field.name in _HELP]


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", choices=METRICS, default="mse", help="the family (mse)")
    parser.add_argument("--checkpoints", type=Path, default=DEFAULT_FOLDER, metavar="DIR")


def _train(options: argparse.Namespace) -> None:
    given = {k: v for k, v in vars(options).items() if k in _HELP and v is not None}
    architecture, training = defaults(options.name, options.metric, options.preset)
    layer_fields = {field.name for field in dataclasses.fields(architecture)}
    architecture = dataclasses.replace(
        architecture, **{k: v for k, v in given.items() if k in layer_fields}
    )
    training = dataclasses.replace(
        training, **{k: v for k, v in given.items() if k not in layer_fields}
    )
    from sae.training.loop import train

    with _strategy(options.strategy).scope():
        train(
            architecture,
            training,
            options.metric,
            options.data,
            options.checkpoints,
            options.warm_start,
            options.save_every,
        )


def _strategy(name: str):
    """Returns the distribution strategy; must come before anything else of TensorFlow."""
    import tensorflow as tf

    if name == "auto":
        workers = len(
            json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}).get("worker", [])
        )
        name = "multiworker" if workers > 1 else "single"
        if workers <= 1 and len(tf.config.list_physical_devices("GPU")) > 1:
            name = "mirrored"
    if name == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _testing_parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"Compresses images with the layers up to {name}, decompresses them from "
        "the bytes alone, and measures rate and quality."
    )
    parser.set_defaults(name=name)
    _add_common(parser)
    parser.add_argument(
        "--kodak", type=Path, default=Path("kodak"), metavar="DIR", help="the images (kodak)"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="(results)"
    )
    parser.add_argument("--save_images", type=Path, metavar="DIR", help="keep the decoded images")
    return parser


def _test(options: argparse.Namespace) -> None:
    from sae.measuring import evaluation, tables

    names = LAYER_NAMES[: LAYER_NAMES.index(options.name) + 1]
    folder = options.kodak
    rows = evaluation.evaluate(
        folder, options.metric, names, options.checkpoints, options.save_images
    )
    last = {options.name: rows[options.name]}
    paths = evaluation.save(last, folder, options.metric, options.checkpoints, options.results)
    print(tables.images(rows[options.name]))
    print(f"Written to {paths[0]}.")


def _run(function: Callable, parser: argparse.ArgumentParser, arguments: list[str] | None) -> None:
    """Runs a script's function; a user's mistake is one sentence and exit status 2."""
    try:
        function(parser.parse_args(arguments))
    except SaeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

"""The command lines of the train_*.py and test_*.py scripts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sae.config import DEFAULT_FOLDER, LAYER_NAMES, METRICS, LayerConfig, TrainingConfig
from sae.errors import SaeError
from sae.model import families
from sae.model.presets import PRESETS, defaults

if TYPE_CHECKING:
    from sae.model.checkpoint import Store

_HELP = {
    "latent_depth": "channels of the latent",
    "hidden_filters": "channels between the convolutions",
    "gdn": "simplified, or paper: with the square and the root",
    "transforms": "paper, or shortcut: beside a matrix that begins as a cosine transform",
    "latent_support": "side of the convolutions that make and read the latent",
    "post_filter": "channels of two residual blocks that the image of shortcuts passes; 0: none",
    "step": "a conditional layer's latent is rounded to its multiples; images in [0, 1]",
    "kernel": "what is learned of a convolution: its taps or their Fourier coefficients",
    "prior_filters": "channels between the convolutions of a conditional layer's prior",
    "prior_support": "side of that prior's convolution over the layer's own latent",
    "prior_slices": "parts of the channels, of which that prior's later ones know the earlier",
    "lmbda": "weight of the rate in bits per pixel",
    "last_step": "number of steps",
    "batchsize": "patches per step, over all devices",
    "patchsize": "side of a patch in pixels, a multiple of 16",
    "small_until": "fraction of the steps with patches of half the side",
    "optimizer": "adam, or soap: Adam in the eigenbasis of Shampoo's preconditioner",
    "clip": "gradients are cut to so many times the average of their norm; 0: they are not",
    "learning_rate": "at first",
    "final_learning_rate": "at the last step",
    "decay_from": "fraction of the steps after which the learning rate falls",
    "noise": "half width of uniform noise added to the patches",
    "quantization": "noise for rounding, as published, or mixed: noise in the rate alone",
    "decoder_from": "fraction of the steps after which the decoder trains alone",
    "smallest_scale": "photos are shrunk by a random factor between this and 1",
    "warm_start": "begin with the weights of a checkpoint's folder, or of the layer: below",
    "crops": "patches cut from a photo each time it is decoded",
    "seed": "of the initial weights, the noise and the order of patches",
}
_CHOICES = {
    "gdn": ("simplified", "paper"),
    "transforms": ("paper", "shortcut"),
    "kernel": ("plain", "fourier"),
    "optimizer": ("adam", "soap"),
    "quantization": ("noise", "mixed"),
}
_SPELLINGS = {
    "lmbda": "lambda",
    "batchsize": "batch_size",
    "patchsize": "patch_size",
}


def train(name: str, arguments: list[str] | None = None) -> None:
    """Trains layer `name` as the command line says, and exits."""
    _run(_train, _training_parser(name), arguments)


def test(name: str, arguments: list[str] | None = None) -> None:
    """Measures the layers up to `name` as the command line says, and exits."""
    _run(_test, _testing_parser(name), arguments)


def _training_parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"Trains {name}, on the lower layers as they stand in the checkpoints.",
        epilog="Options without a value here take the preset's; see sae/model/presets.py.",
    )
    parser.set_defaults(name=name)
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="DIR", help="folders of training photos"
    )
    _add_common(parser)
    parser.add_argument(
        "--preset", choices=PRESETS, default="default", help="where options are not given (default)"
    )
    parser.add_argument(
        "--strategy",
        choices=("auto", "single", "cores", "mirrored", "multiworker"),
        default="auto",
        help="auto: multiworker where TF_CONFIG is set, mirrored where there are several GPUs, "
        "single elsewhere; cores: the batch divided among the cores of a machine without GPU",
    )
    parser.add_argument("--save_every", type=float, default=180, help="seconds (180)")
    parser.add_argument("--force", action="store_true", help="replace a finished layer")
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
    parser.add_argument(
        "--family",
        choices=[family.name for family in families.FAMILIES],
        help="(residual-mse, the paper's layers for MSE)",
    )
    parser.add_argument("--metric", choices=METRICS, help="its family with the paper's layers")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="of all layers (those beside the scripts)",
    )


def _store(options: argparse.Namespace) -> Store:
    """Returns the checkpoints of the family that the options name."""
    from sae.model.checkpoint import Store

    metric = options.metric or METRICS[0]
    family = families.named(options.family) if options.family else families.published(metric)
    if options.metric not in (None, family.metric):
        raise SaeError(f"The {family.name} family is not for {options.metric}; leave out --metric.")
    return Store(family, options.checkpoints)


def _train(options: argparse.Namespace) -> None:
    given = {k: v for k, v in vars(options).items() if k in _HELP and v is not None}
    store = _store(options)
    architecture, training = defaults(options.name, store.family, options.preset)
    layer_fields = {field.name for field in dataclasses.fields(architecture)}
    architecture = dataclasses.replace(
        architecture, **{k: v for k, v in given.items() if k in layer_fields}
    )
    training = dataclasses.replace(
        training, **{k: v for k, v in given.items() if k not in layer_fields}
    )
    with _strategy(options.strategy, training.batchsize).scope():
        from sae.training.loop import train

        train(architecture, training, store, options.data, options.save_every, options.force)


def _strategy(name: str, batchsize: int):
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
    if name == "cores":
        # One thread for each replica; TensorFlow's own division of operations gains less.
        replicas = max(n for n in range(1, (os.cpu_count() or 1) + 1) if batchsize % n == 0)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(replicas)
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * replicas,
        )
        return tf.distribute.MirroredStrategy(
            [f"CPU:{k}" for k in range(replicas)],
            cross_device_ops=tf.distribute.ReductionToOneDevice(),
        )
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
    from sae.measuring import evaluation, results, tables

    names = LAYER_NAMES[: LAYER_NAMES.index(options.name) + 1]
    store, folder = _store(options), options.kodak
    target = results.folder(options.results, folder) / store.family.name
    results.require_writable(target / f"{options.name}.json")
    rows = evaluation.evaluate(folder, store, names, options.save_images)
    last = {options.name: rows[options.name]}
    paths = evaluation.save(last, folder, store, options.results)
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

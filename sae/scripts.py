"""The command lines of the train_*.py and test_*.py scripts."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae import console
from sae.config import (
    CHOICES,
    LAYER_NAMES,
    METRICS,
    RANGES,
    TRAINING_FOLDER,
    LayerConfig,
    ProgressiveTrainingConfig,
    TrainingConfig,
    fault,
)
from sae.errors import SaeError
from sae.model import families, stores
from sae.model.families import Family
from sae.model.layer_store import LayerStore
from sae.model.progressive_config import ProgressiveConfig
from sae.model.stores import Store
from sae.training import presets

if TYPE_CHECKING:
    import tensorflow as tf

# Configurations whose fields are options, by kind of family.
_KINDS: dict[str, tuple[type, ...]] = {
    "residual": (LayerConfig, TrainingConfig),
    "progressive": (ProgressiveConfig, ProgressiveTrainingConfig),
}
_HELP = {
    "latent_depth": "number of latent channels",
    "hidden_filters": "number of channels between the convolutions",
    "gdn": "form of GDN; paper has the square and the root",
    "kernel": "parameterization of kernels: taps or Fourier coefficients",
    "lmbda": "weight of the rate, in bits per pixel, in the loss",
    "last_step": "number of steps",
    "batchsize": "number of patches per step, over all devices",
    "patchsize": "side of a patch in pixels, a multiple of 16",
    "small_until": "fraction of the steps before --decoder_from with patches of half the side",
    "optimizer": "optimizer; soap is Adam in the eigenbasis of Shampoo's preconditioner",
    "clip": "limit of the gradient norm as a multiple of its average; 0 for none",
    "learning_rate": "largest learning rate",
    "final_learning_rate": "learning rate at the last step",
    "decay_from": "fraction of the steps after which the learning rate falls to zero",
    "noise": "half width of uniform noise added to the patches",
    "quantization": "stand-in for rounding; mixed has noise in the rate alone",
    "cuts": "number of patches in a batch that are decoded at a cut within a plane",
    "cuts_from": "fraction of the steps after which there are such patches",
    "decoder_from": "fraction of the steps after which the decoder trains alone",
    "smallest_scale": "smallest of the random factors up to 1 by which photos are shrunk",
    "compute_dtype": "type of the products in convolutions",
    "seed": "seed of the initial weights, the noise and the order of patches",
}
_SPELLINGS = {
    "lmbda": "lambda",
    "batchsize": "batch_size",
    "patchsize": "patch_size",
}


def train(name: str, arguments: list[str] | None = None) -> None:
    """Trains layer `name` with the options of the command line, and exits."""
    _run(run_training, training_parser(name), arguments)


def test(name: str, arguments: list[str] | None = None) -> None:
    """Measures the layers up to `name` with the options of the command line, and exits."""
    _run(_test, testing_parser(name), arguments)


def training_parser(name: str) -> argparse.ArgumentParser:
    """Returns the parser of the script train_<name>.py."""
    parser = argparse.ArgumentParser(
        description=f"Trains {name} of a residual family, on the lower layers in the checkpoints. "
        "The base of a progressive family is the whole model.",
        epilog="Options without a value here take the preset's; see sae/training/presets.py.",
    )
    parser.set_defaults(name=name)
    add_training(parser)
    return parser


def add_training(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a training, all but the name of the layer."""
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="DIR", help="folders of training photos"
    )
    _add_common(parser)
    parser.add_argument(
        "--preset",
        choices=presets.PRESETS,
        default="default",
        help="values of the options not given [default]",
    )
    parser.add_argument(
        "--strategy",
        choices=("auto", "single", "cores", "mirrored", "multiworker"),
        default="auto",
        help="distribution strategy; cores divides the batch among the cores of a CPU [auto]",
    )
    parser.add_argument(
        "--save_every",
        type=_number("save_every", float),
        default=180,
        metavar="SECONDS",
        help="seconds between two saved states [180]",
    )
    parser.add_argument("--force", action="store_true", help="replacement of finished weights")
    for field in _options():
        # Options have underscores, as in the original scripts, or hyphens.
        names = {field.name, _SPELLINGS.get(field.name, field.name)}
        names |= {name.replace("_", "-") for name in names}
        kind = {"int": int, "float": float, "str": str}[str(field.type)]
        values = f"; {RANGES[field.name]}" if field.name in RANGES else ""
        parser.add_argument(
            *(f"--{name}" for name in sorted(names)),
            dest=field.name,
            metavar=None if field.name in CHOICES else str(field.type).upper(),
            choices=CHOICES.get(field.name),
            type=kind if kind is str else _number(field.name, kind),
            help=_HELP[field.name] + values + _only(field.name),
        )


def _only(name: str) -> str:
    """Returns the restriction of an option to a kind of family, "" where there is none."""
    kinds = [kind for kind in _KINDS if name in _fields(kind)]
    return f" ({kinds[0]} families)" if len(kinds) == 1 else ""


def _fields(kind: str) -> dict[str, dataclasses.Field]:
    """Returns the fields of a kind's configurations by name."""
    return {field.name: field for of in _KINDS[kind] for field in dataclasses.fields(of)}


def _number(name: str, kind: type) -> Callable[[str], float]:
    """Returns a reader of an option's number, which raises SaeError outside its range."""

    def read(text: str) -> float:
        value = kind(text)
        if reason := fault(name, value):
            raise SaeError(f"--{'lambda' if name == 'lmbda' else name} {reason}.")
        return value

    # Argparse's message about a malformed number has this name in it.
    read.__name__ = kind.__name__
    return read


def _options() -> list[dataclasses.Field]:
    """Returns the fields of all configurations that have an option, each name once."""
    fields = {name: field for kind in reversed(_KINDS) for name, field in _fields(kind).items()}
    return [fields[name] for name in _HELP]


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--family",
        choices=[family.name for family in families.FAMILIES],
        help="family of layers [residual-mse]",
    )
    parser.add_argument(
        "--metric", choices=METRICS, help="metric whose residual family is used [mse]"
    )
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=TRAINING_FOLDER,
        metavar="DIR",
        help="folder of all layers [checkpoints]",
    )


def _store(options: argparse.Namespace) -> Store:
    """Returns the checkpoints of the family that the options name."""
    metric = options.metric or METRICS[0]
    family = families.named(options.family) if options.family else families.published(metric)
    if options.metric not in (None, family.metric):
        raise SaeError(f"The {family.name} family is not for {options.metric}; leave out --metric.")
    return stores.of_family(family, options.checkpoints)


def configurations(options: argparse.Namespace, family: Family) -> list[Any]:
    """Returns the configurations of the preset, with the given options in place of its values.

    Raises:
      SaeError: an option is of the other kind of family.
    """
    given = {k: v for k, v in vars(options).items() if k in _HELP and v is not None}
    for name in given:
        if name not in _fields(family.kind):
            raise SaeError(f"--{name} is no option of {family.name}; leave it out.")
    if family.kind == "residual":
        found: tuple[Any, ...] = presets.residual(options.name, family, options.preset)
    else:
        found = presets.progressive(family, options.preset)
    parts = presets.split(given, *map(type, found))
    return [dataclasses.replace(one, **part) for one, part in zip(found, parts)]


def run_training(options: argparse.Namespace) -> None:
    """Trains the layer `options.name`, or a whole progressive model; the command `train`."""
    store = _store(options)
    architecture, training = configurations(options, store.family)
    if not isinstance(store, LayerStore):
        if options.name != LAYER_NAMES[0]:
            _report_whole_model(store, options.name)
            return
        if options.strategy not in ("auto", "single"):
            raise SaeError(f"{store.family.name} trains on one device; leave out --strategy.")
        options.strategy = "single"
    with _strategy(options.strategy, training.batchsize).scope():
        import tensorflow as tf

        from sae.training import progressive, residual

        train: Any = residual.train if isinstance(store, LayerStore) else progressive.train
        try:
            train(architecture, training, store, options.data, options.save_every, options.force)
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            raise SaeError(
                "There is not enough memory for this training; take a smaller --batchsize "
                "or --patchsize."
            ) from error


def _report_whole_model(store: Store, name: str) -> None:
    """Prints that a layer of a progressive family has no training of its own.

    Raises:
      SaeError: the model is not trained.
    """
    store.require()
    print(f"{name} of {store.family.name} is a cut of its one stream, and trained with base.")


def _strategy(name: str, batchsize: int) -> tf.distribute.Strategy:
    """Returns the distribution strategy; it has to be made before TensorFlow is used."""
    from sae.training import cluster

    machines = cluster.configuration() if name in ("auto", "multiworker") else {}
    import tensorflow as tf

    if name == "auto":
        name = "multiworker" if cluster.count(machines) > 1 else "single"
        if name == "single" and len(tf.config.list_physical_devices("GPU")) > 1:
            name = "mirrored"
    if name == "multiworker":
        return cluster.join(machines)
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "cores":
        # Each replica has one thread, which gains more than TensorFlow's division of operations.
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


def testing_parser(name: str) -> argparse.ArgumentParser:
    """Returns the parser of the script test_<name>.py."""
    parser = argparse.ArgumentParser(
        description=f"Compresses images with the layers up to {name}, decompresses them from "
        "the bytes alone, and measures rate and quality."
    )
    parser.set_defaults(name=name)
    _add_common(parser)
    parser.add_argument(
        "--kodak", type=Path, default=Path("kodak"), metavar="DIR", help="folder of images [kodak]"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of all results [results]",
    )
    parser.add_argument(
        "--save_images", type=Path, metavar="DIR", help="folder for the decoded images [none]"
    )
    return parser


def _test(options: argparse.Namespace) -> None:
    from sae.evaluation import evaluate, tables

    store, folder = _store(options), options.kodak
    count = LAYER_NAMES.index(options.name) + 1
    evaluate.require_places(folder, options.results, options.save_images)
    points = evaluate.evaluate(folder, store, count, options.save_images)
    path = evaluate.save(points, folder, store, options.results)
    print(tables.images(points[options.name]))
    print(f"Written to {path}.")


def _run(
    function: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
) -> None:
    """Runs a script's function, and exits as all commands do."""
    status = console.run(lambda: function(parser.parse_args(arguments)), prefix="")
    if status:
        sys.exit(status)

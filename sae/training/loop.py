"""The whole training of one layer: resumable, and saved alone."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from sae.config import STRIDE, LayerConfig, TrainingConfig
from sae.errors import SaeError
from sae.metrics import SMALLEST_MS_SSIM_SIDE
from sae.model.families import Family
from sae.model.layer_store import LayerStore
from sae.model.rate_distortion import RateDistortionLoss
from sae.model.residual import ResidualModel
from sae.model.residual_layer import ResidualLayer
from sae.provenance import provenance
from sae.training.optimizer import make_optimizer
from sae.training.patches import Patches
from sae.training.progress import Progress, remove_curves, require_finite
from sae.training.schedule import learning_rate, milestones, phases
from sae.training.state import TrainingState, differences
from sae.training.step import make_step, make_validation


def train(
    layer_config: LayerConfig,
    config: TrainingConfig,
    store: LayerStore,
    data: Sequence[str | Path],
    save_every: float = 180.0,
    force: bool = False,
) -> None:
    """Trains one layer and saves it alone, under checkpoints/<family>/<layer>/.

    Leaves a finished layer as it is, and resumes a training where it was
    interrupted: its state is saved every `save_every` seconds and on SIGINT
    and SIGTERM. Runs under the current distribution strategy; one process, the
    chief, writes. Curves for TensorBoard are in training/, next to the weights.

    Args:
      layer_config: the architecture.
      config: the training.
      store: where the layer goes, and the lower ones are.
      data: folders of photos.
      save_every: seconds.
      force: replace a finished layer.

    Raises:
      SaeError: the patches do not suit the layer, the metric or the devices, a
        lower layer is missing or has changed, the photos cannot be used, the
        checkpoint cannot be written, an unfinished training was begun with other
        options or photos, or the loss is no longer finite.
      KeyboardInterrupt: after a signal, when the state is saved.
    """
    strategy, name = tf.distribute.get_strategy(), layer_config.name
    title = f"{name} ({store.family.name})"
    lower = store.family.layers[: store.family.layers.index(name)]
    model = store.load(len(lower)) if lower else ResidualModel()
    below = model.layers[-1].fingerprint if model.layers else None
    asked = {**dataclasses.asdict(layer_config), **dataclasses.asdict(config), "below": below}
    if not force and _finished(store, name, title, asked):
        return

    chief = strategy.extended.should_checkpoint
    if chief:
        store.require_writable(name)
    _require_even(config.batchsize, strategy.num_replicas_in_sync)
    tf.keras.utils.set_random_seed(config.seed)
    layer = ResidualLayer(layer_config)
    _require_sides(config, store.family)
    patches = Patches(data, config)
    held_out = patches.validation()
    options = {**asked, "photos": patches.digest}
    optimizer = make_optimizer(config.optimizer, config.clip)
    loss = RateDistortionLoss(store.family.metric, config.lmbda)
    plan = phases(config)
    steps = {
        quantization: make_step(
            model, layer, loss, optimizer, quantization, config.noise, config.seed
        )
        for quantization in dict.fromkeys(phase.quantization for phase in plan)
    }
    validate = make_validation(model, layer, loss)

    state = TrainingState(store.path(name) / "training" / "state.npz", layer, optimizer, options)
    if not state.restore():
        state.progress = {"step": 0, "seconds": 0.0, "validation": []}
        if chief:
            remove_curves(state.path.parent)
    done = state.progress
    first = done["step"]
    writer = tf.summary.create_file_writer(str(state.path.parent)) if chief else None
    progress = Progress(config, first, name, writer)
    began, saved = time.monotonic() - done["seconds"], time.monotonic()
    batches = _batches(config, patches, first)
    # A pipeline that outlives the interpreter would hang. An open progress bar would share its
    # line with an error.
    with _stop_on_signal() as stopping, contextlib.closing(progress), contextlib.closing(batches):
        for number, quantization, batch in batches:
            rate = np.float32(learning_rate(config, number))
            terms = steps[quantization](batch, rate)
            done["step"] = number + 1
            done["seconds"] = time.monotonic() - began
            progress.step(number + 1, terms, rate)
            if chief and number + 1 in milestones(config):
                scores = validate(held_out)
                done["validation"].append({"step": number + 1, **scores})
                progress.validation(number + 1, scores)
            if stopping or time.monotonic() - saved > save_every:
                require_finite(number + 1, float(terms["loss"]))
                if chief:
                    state.save()
                saved = time.monotonic()
            if stopping:
                progress.close()
                print(f"Stopped after step {number + 1}; run the script again to go on.")
                raise KeyboardInterrupt
    print(f"{title}: loss {progress.loss:.6g} at step {config.last_step}")
    if chief:
        layer.round_weights()
        _require_weights(layer)
        layer.entropy_model.build_tables()
        ends = [0, *(phase.end for phase in plan)]
        record = {
            "options": options,
            "steps": {phase.name: phase.end - end for phase, end in zip(plan, ends)},
            "patches": config.last_step * config.batchsize,
            "hours": round(done["seconds"] / 3600, 3),
            "photos": patches.counts,
            "validation": done["validation"],
            **provenance(),
        }
        store.save(layer, below, record)
        state.path.unlink(missing_ok=True)
        _name_what_stands_on_another(store, layer)


def _batches(
    config: TrainingConfig, patches: Patches, first: int
) -> Generator[tuple[int, str, tf.Tensor], None, None]:
    """Yields the number, the quantization and the batch of every step from `first` on.

    Raises:
      SaeError: no more photos can be read.
    """
    strategy = tf.distribute.get_strategy()
    for phase in phases(config):
        if first >= phase.end:
            continue

        def pipeline(context, first=first, side=phase.patchsize):
            batchsize = context.get_per_replica_batch_size(config.batchsize)
            replicas = context.num_replicas_in_sync // context.num_input_pipelines
            return patches.dataset(batchsize, first * replicas, context.input_pipeline_id, side)

        batches, failure = iter(strategy.distribute_datasets_from_function(pipeline)), None
        while first < phase.end and not failure:
            try:
                batch = next(batches)
            except tf.errors.OpError as error:
                failure = patches.failure or SaeError(
                    f"No batch of patches could be made: {error.message}"
                )
            else:
                yield first, phase.quantization, batch
                first += 1
        # The pipeline must be released first, since the traceback of the exception would keep it.
        del batches
        if failure:
            raise failure


def _require_even(batchsize: int, replicas: int) -> None:
    if batchsize % replicas:
        raise SaeError(
            f"A batch of {batchsize} cannot be divided among {replicas} devices; take a "
            f"--batchsize that is a multiple of {replicas}."
        )


def _require_weights(layer: ResidualLayer) -> None:
    """Raises SaeError where rounded weights exceed the range of float16, or are not numbers."""
    if not layer.finite:
        raise SaeError(
            f"The weights of {layer.name} are not finite after the last step; remove its saved "
            "state, and train with a lower --learning_rate."
        )


def _finished(store: LayerStore, name: str, title: str, asked: dict) -> bool:
    """Returns whether a layer is finished, and prints it."""
    description = store.metadata(name)
    if description is None:
        return False
    found = {**description["layer"], **description["training"].get("options", {})}
    print(f"{title} is trained already and stays as it is; --force replaces it.")
    if changes := differences(found, asked):
        print(f"It was trained otherwise: {'; '.join(changes)}.")
    return True


def _name_what_stands_on_another(store: LayerStore, layer: ResidualLayer) -> None:
    """Names the higher layers where they were trained on what this layer was before."""
    upper = store.family.layers[store.family.layers.index(layer.name) + 1 :]
    described = {name: found for name in upper if (found := store.metadata(name))}
    names = list(described)
    if names and described[names[0]]["below"] != layer.fingerprint:
        print(f"What stands on another {layer.name} can no longer be used; train it again:")
        for name in names:
            print(f"    {store.command(name, '--force')}")


def _require_sides(config: TrainingConfig, family: Family) -> None:
    ends = [0, *(phase.end for phase in phases(config))]
    for phase, end in zip(phases(config), ends):
        side = phase.patchsize
        if phase.end > end and side % STRIDE:
            raise SaeError(
                f"Patches of {side} x {side} pixels do not suit: take multiples of {STRIDE}."
            )
        if phase.end > end and family.metric == "ms-ssim" and side < SMALLEST_MS_SSIM_SIDE:
            raise SaeError(
                f"MS-SSIM needs patches of {SMALLEST_MS_SSIM_SIDE} x {SMALLEST_MS_SSIM_SIDE} "
                f"pixels or more, and these have {side} x {side}: change --patchsize or "
                "--small_until."
            )


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[list]:
    """Yields a list that fills when SIGINT or SIGTERM arrives, so that a step can finish."""
    received: list = []
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

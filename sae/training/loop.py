"""One layer, trained on frozen lower layers.

`train` is the whole training of a layer and `make_step` its single step: the
loss is distortion + lmbda * rate, and only the new layer's variables move.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from sae import images
from sae.config import LAYER_NAMES, STRIDE, LayerConfig, TrainingConfig
from sae.errors import SaeError
from sae.metrics import SMALLEST_MS_SSIM_SIDE
from sae.model import checkpoint
from sae.model.bottleneck import uniform_noise
from sae.model.cascade import Cascade
from sae.model.distortion import DISTORTIONS
from sae.model.layer import Layer, build
from sae.provenance import provenance
from sae.training.patches import Patches
from sae.training.state import TrainingState


def make_step(
    cascade: Cascade,
    layer: Layer,
    metric: str,
    config: TrainingConfig,
    optimizer: tf.keras.optimizers.Optimizer | None = None,
) -> tuple[Callable, tuple[np.ndarray, np.ndarray]]:
    """Returns the training step of a layer, and example arguments for it.

    Args:
      cascade: the frozen layers below.
      layer: the layer to train.
      metric: names the distortion.
      config: lmbda, noise, quantization, seed and the sizes are used.
      optimizer: a new Adam by default. Its step counter is the training's.

    Returns:
      A tf.function (patches: uint8 [B, P, P, 3], learning_rate: float32 []) ->
      {"loss", "bpp", "distortion"}, means over the batch, where B is the batch
      of one pipeline; and (patches, learning_rate) to trace it with. Called
      under a distribution strategy it takes that strategy's distributed
      batches. It compiles under XLA.
    """
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    optimizer = optimizer or tf.keras.optimizers.Adam()
    variables = layer.trainable_variables
    optimizer.build(variables)
    distortion_of = DISTORTIONS[metric]

    def replica_step(patches, learning_rate):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = tf.stack(
            [config.seed + 1_000_003 * tf.cast(replica, tf.int64), optimizer.iterations]
        )
        x = tf.cast(patches, tf.float32) / 255.0
        if config.noise:
            # Another stream of the same generator: the latent's has positive counts.
            x += 2 * config.noise * uniform_noise(tf.shape(x), seed * [1, -1] - [0, 1])
        context = tf.nest.map_structure(tf.stop_gradient, cascade.context(x))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            x_hat, bits = layer.training_step_terms(x, context, seed, config.quantization)
            bpp = tf.reduce_mean(bits) / config.patchsize**2
            distortion = tf.reduce_mean(distortion_of(x, x_hat))
            loss = distortion + config.lmbda * bpp
        gradients = tape.gradient(loss, variables)
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply_gradients(
            [(g / replicas, v) for g, v in zip(gradients, variables) if g is not None]
        )
        return {"loss": loss, "bpp": bpp, "distortion": distortion}

    @tf.function
    def step(patches, learning_rate):
        metrics = strategy.run(replica_step, (patches, learning_rate))
        return {k: strategy.reduce("MEAN", v, axis=None) for k, v in metrics.items()}

    side = config.patchsize
    example = np.zeros((config.batchsize, side, side, 3), np.uint8), np.float32(0.0)
    return step, example


def make_validation(
    cascade: Cascade, layer: Layer, metric: str, config: TrainingConfig
) -> Callable[[np.ndarray], dict[str, float]]:
    """Returns a function patches -> means of loss, bpp, distortion and psnr, latents rounded."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def terms(patches):
        x = tf.cast(patches, tf.float32) / 255.0
        context = cascade.context(x)
        contribution, _, bits = layer.code(x, context)
        x_hat = context.x_hat + contribution
        mse = tf.reduce_mean(tf.square(x - tf.clip_by_value(x_hat, 0.0, 1.0)), axis=(1, 2, 3))
        return {
            "bpp": bits / config.patchsize**2,
            "distortion": DISTORTIONS[metric](x, x_hat),
            "psnr": -10.0 * tf.math.log(mse) / math.log(10.0),
        }

    def validate(patches):
        batches = [terms(patches[k : k + 8]) for k in range(0, len(patches), 8)]
        means = {k: float(np.mean(np.concatenate([b[k] for b in batches]))) for k in batches[0]}
        return {"loss": means["distortion"] + config.lmbda * means["bpp"], **means}

    return validate


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Returns the rate of a step: constant, then half a cosine down to the final rate.

    The decoder's own steps at the end go down once more, from a tenth of the
    first rate.
    """
    joint = config.joint_steps
    first, begin, end = config.learning_rate, config.decay_from * joint, joint
    if step >= joint:
        first, begin, end = config.learning_rate / 10, joint, config.last_step
    progress = min(max((step - begin) / max(end - begin, 1), 0.0), 1.0)
    final = min(config.final_learning_rate, first)
    return final + (first - final) * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    layer_config: LayerConfig,
    config: TrainingConfig,
    metric: str,
    data: Sequence[str | Path],
    checkpoints: str | Path = checkpoint.DEFAULT_FOLDER,
    warm_start: str | Path | None = None,
    save_every: float = 180.0,
) -> None:
    """Trains one layer and saves it alone under checkpoints/<metric>/<layer>/.

    Does nothing where that training is finished, and resumes it where it was
    interrupted: its state is saved every `save_every` seconds and on SIGINT
    and SIGTERM. Runs under the current distribution strategy; one process, the
    chief, writes. Curves for TensorBoard are in training/ beside the weights.

    Args:
      layer_config: the architecture.
      config: the training.
      metric: "mse" or "ms-ssim".
      data: folders of photos.
      checkpoints: the folder of all checkpoints, the lower layers among them.
      warm_start: folder of a checkpoint whose weights to begin with, of this
        layer or, but for the latent's side, of another one.
      save_every: seconds.

    Raises:
      SaeError: the patches do not suit the layers or the metric, a lower layer
        is missing or has changed, the photos cannot be used, an unfinished
        training was begun with other options, or the loss is no longer finite.
      KeyboardInterrupt: after a signal, when the state is saved.
    """
    _require_sides(config, metric)
    strategy = tf.distribute.get_strategy()
    name, target = layer_config.name, checkpoint.folder(checkpoints, metric, layer_config.name)
    cascade = checkpoint.load_cascade(metric, LAYER_NAMES[: LAYER_NAMES.index(name)], checkpoints)
    options = {
        **dataclasses.asdict(layer_config),
        **dataclasses.asdict(config),
        "below": cascade.layers[-1].fingerprint if cascade.layers else None,
        "warm_start": str(warm_start) if warm_start else None,
    }
    finished = checkpoint.describe(metric, name, checkpoints)
    if finished and finished["training"]["options"] == options:
        print(f"{name} ({metric}) is trained already; remove {target} to train it again.")
        return

    patches = Patches(data, config)
    held_out = patches.validation()
    tf.keras.utils.set_random_seed(config.seed)
    layer = build(layer_config, cascade.layers)
    origin = _warm_start(layer, metric, Path(warm_start)) if warm_start else None
    optimizer = tf.keras.optimizers.Adam()
    small = dataclasses.replace(config, patchsize=config.patchsize // 2)
    rounded = dataclasses.replace(config, quantization="rounded")
    small_step, _ = make_step(cascade, layer, metric, small, optimizer)
    joint_step, _ = make_step(cascade, layer, metric, config, optimizer)
    decoder_step, _ = make_step(cascade, layer, metric, rounded, optimizer)
    validate = make_validation(cascade, layer, metric, config)

    state = TrainingState(target / "training" / "state.npz", layer, optimizer, options)
    if not state.restore():
        state.progress = {"step": 0, "seconds": 0.0, "validation": []}
    progress = state.progress
    first = progress["step"]

    def batches_from(first):
        """Yields the number, the function and the batch of every step."""
        for end, train_step, side in (
            (config.small_steps, small_step, small.patchsize),
            (config.joint_steps, joint_step, config.patchsize),
            (config.last_step, decoder_step, config.patchsize),
        ):
            if first >= end:
                continue

            def pipeline(context, first=first, side=side):
                batchsize = context.get_per_replica_batch_size(config.batchsize)
                replicas = context.num_replicas_in_sync // context.num_input_pipelines
                return patches.dataset(batchsize, first * replicas, context.input_pipeline_id, side)

            batches = iter(strategy.distribute_datasets_from_function(pipeline))
            for step in range(first, end):
                yield step, train_step, next(batches)
            first = end

    chief = strategy.extended.should_checkpoint
    writer = tf.summary.create_file_writer(str(state.path.parent)) if chief else None
    report = _Report(config, first, name, writer)
    began, saved = time.monotonic() - progress["seconds"], time.monotonic()
    with _stop_on_signal() as stopping:
        for step, train_step, batch in batches_from(first):
            rate = np.float32(learning_rate(config, step))
            terms = train_step(batch, rate)
            progress["step"] = step + 1
            progress["seconds"] = time.monotonic() - began
            report.step(step + 1, terms, rate)
            if chief and step + 1 in _milestones(config.last_step):
                scores = validate(held_out)
                progress["validation"].append({"step": step + 1, **scores})
                report.validation(step + 1, scores)
            if stopping or time.monotonic() - saved > save_every:
                _require_finite(step + 1, terms)
                if chief:
                    state.save()
                saved = time.monotonic()
            if stopping:
                report.close()
                print(f"Stopped after step {step + 1}; run the script again to go on.")
                raise KeyboardInterrupt
    report.close()
    print(f"{name} ({metric}): loss {report.loss:.6g} at step {config.last_step}")
    if chief:
        layer.build_tables()
        record = {
            "options": options,
            "steps": {
                "on half patches": config.small_steps,
                "on whole patches": config.joint_steps - config.small_steps,
                "of the decoder alone": config.last_step - config.joint_steps,
            },
            "patches": config.last_step * config.batchsize,
            "hours": round(progress["seconds"] / 3600, 3),
            "photos": {
                Path(folder).name: len(images.find(folder, recursive=True)) for folder in data
            },
            "validation": progress["validation"],
            "warm_start": origin,
            **provenance(),
        }
        checkpoint.save_layer(layer, metric, options["below"], record, checkpoints)
        state.path.unlink(missing_ok=True)


def _milestones(last_step: int) -> set[int]:
    """Returns the steps after which to validate: 20, evenly spread, the last among them."""
    return {round(last_step * k / 20) for k in range(1, 21)}


def _warm_start(layer: Layer, metric: str, folder: Path) -> dict:
    """Gives a layer the weights of a checkpoint; returns their origin.

    Where the checkpoint has fewer channels, the further ones stay fresh. Of
    another layer the latent's side stays fresh as a whole: channels that one
    never uses would come with a prior that keeps them silent. The origin has
    the record of its training where that is continued: for the same layer and
    metric.
    """
    try:
        description = json.loads((folder / "layer.json").read_text())
        source = description["layer"]["name"]
        origin = {
            "metric": description["metric"],
            "layer": source,
            "fingerprint": description["fingerprint"],
        }
        training = description["training"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaeError(f"{folder} holds no checkpoint to begin with ({error}).") from error
    arrays = {name: array.copy() for name, array in layer.arrays().items()}
    found = checkpoint.load_arrays(folder / "weights.npz")
    for name, array in arrays.items():
        if source != layer.config.name and name.startswith(layer.latent_side):
            continue
        if name in found and found[name].ndim == array.ndim:
            block = tuple(slice(min(sides)) for sides in zip(array.shape, found[name].shape))
            array[block] = found[name][block]
    layer.set_arrays(arrays)
    continued = (origin["metric"], source) == (metric, layer.config.name)
    return {**origin, "training": training} if continued else origin


def _require_sides(config: TrainingConfig, metric: str) -> None:
    side = config.patchsize // 2 if config.small_steps else config.patchsize
    if side % STRIDE or config.patchsize % STRIDE:
        raise SaeError(
            f"Patches of {side} x {side} pixels do not suit: take multiples of {STRIDE}."
        )
    if metric == "ms-ssim" and side < SMALLEST_MS_SSIM_SIDE:
        raise SaeError(
            f"MS-SSIM needs patches of {SMALLEST_MS_SSIM_SIDE} x {SMALLEST_MS_SSIM_SIDE} pixels "
            f"or more, and these have {side} x {side}: change --patchsize or --small_until."
        )


def _require_finite(step: int, terms: dict) -> None:
    loss = float(terms["loss"])
    if not math.isfinite(loss):
        raise SaeError(
            f"The loss is {loss} at step {step}; run the script again to go back to the last "
            "saved state, or remove it and train with a lower --learning_rate."
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


class _Report:
    """Progress bar and TensorBoard curves; silent without a writer.

    Attributes:
      loss: as last reported.
    """

    def __init__(self, config: TrainingConfig, first: int, name: str, writer):
        self.config, self.writer, self.last = config, writer, (first, time.monotonic())
        self.loss = math.nan
        self.bar = tqdm(
            total=config.last_step, initial=first, desc=name, unit="step", disable=writer is None
        )

    def step(self, step: int, terms: dict, rate: float) -> None:
        """Reports every tenth step."""
        if step % 10 and step != self.config.last_step:
            return
        _require_finite(step, terms)
        values = {name: float(value) for name, value in terms.items()}
        self.loss = values["loss"]
        earlier, now = self.last, time.monotonic()
        self.last = step, now
        values["images/s"] = (step - earlier[0]) * self.config.batchsize / (now - earlier[1])
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()})
        self._curves(step, "train", {**values, "learning_rate": rate})

    def validation(self, step: int, scores: dict) -> None:
        """Reports the scores on held-out photos."""
        shown = "  ".join(f"{k} {v:.5g}" for k, v in scores.items())
        self.bar.write(f"step {step}: held-out {shown}")
        self._curves(step, "held-out", scores)

    def close(self) -> None:
        self.bar.close()

    def _curves(self, step: int, group: str, values: dict) -> None:
        if self.writer:
            with self.writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(f"{group}/{name}", value)

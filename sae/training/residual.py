"""The training of one residual layer, on frozen layers below."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from sae.training import loop
from sae.training.optimizer import make_optimizer
from sae.training.patches import Patches
from sae.training.residual_step import make_step, make_validation
from sae.training.schedule import learning_rate, milestones, phases
from sae.training.state import not_finite, report_finished


def train(
    layer_config: LayerConfig,
    config: TrainingConfig,
    store: LayerStore,
    data: Sequence[str | Path],
    save_every: float = 180.0,
    force: bool = False,
) -> None:
    """Trains one layer and saves it alone, in checkpoints/<family>/<layer>/.

    A finished layer stays as it is, and an interrupted training is resumed. Runs under the current
    distribution strategy.

    Args:
      layer_config: architecture of the layer.
      config: hyperparameters of the training.
      store: checkpoints of the family, with the layers below.
      data: folders of photos.
      save_every: seconds between two saved states.
      force: whether a finished layer is replaced.

    Raises:
      SaeError: the patches do not suit the layer, the metric or the devices; a layer below is
        missing or has changed; the photos cannot be used; the checkpoint cannot be written; or as
        `loop.run`.
      KeyboardInterrupt: after a signal, when the state is saved.
    """
    name = layer_config.name
    lower = store.family.layers[: store.family.layers.index(name)]
    below = store.load(len(lower)) if lower else ResidualModel()
    options = {**dataclasses.asdict(layer_config), **dataclasses.asdict(config)}
    options["below"] = below.layers[-1].fingerprint if below.layers else None
    if not force and _finished(store, name, options):
        return
    strategy = tf.distribute.get_strategy()
    if strategy.extended.should_checkpoint:
        store.require_writable(name)
    _require_even(config.batchsize, strategy.num_replicas_in_sync)
    _require_sides(config, store.family)
    tf.keras.utils.set_random_seed(config.seed)
    layer = ResidualLayer(layer_config)
    patches = Patches(data, config.patchsize, config.smallest_scale, config.seed)
    loop.run(ResidualStage(layer, below, config, store, patches, options), save_every)


class ResidualStage(loop.Stage):
    """The training of one layer.

    Args:
      layer: layer with fresh weights.
      below: frozen layers below.
      config: hyperparameters of the training.
      store: checkpoints of the family.
      patches: patches of the training photos.
      options: JSON object of both configurations and the fingerprint of the layer below.
    """

    def __init__(
        self,
        layer: ResidualLayer,
        below: ResidualModel,
        config: TrainingConfig,
        store: LayerStore,
        patches: Patches,
        options: dict[str, Any],
    ):
        self.title = f"{layer.name} ({store.family.name})"
        self.folder = store.path(layer.name) / "training"
        self.batchsize, self.last_step = config.batchsize, config.last_step
        self.options = {**options, "photos": patches.digest}
        self._layer, self._config, self._store, self._patches = layer, config, store, patches
        self._below = options["below"]
        self._optimizer = make_optimizer(config.optimizer, config.clip)
        loss = RateDistortionLoss(store.family.metric, config.lmbda)
        self._steps = {
            method: make_step(
                below, layer, loss, self._optimizer, method, config.noise, config.seed
            )
            for method in dict.fromkeys(phase.quantization for phase in phases(config))
        }
        self._validate = make_validation(below, layer, loss)
        self._held_out = patches.validation()

    def batches(self, first: int) -> Generator[Any, None, None]:
        strategy = tf.distribute.get_strategy()
        for phase in phases(self._config):
            if first >= phase.end:
                continue

            def pipeline(context, first=first, side=phase.patchsize):
                batchsize = context.get_per_replica_batch_size(self.batchsize)
                replicas = context.num_replicas_in_sync // context.num_input_pipelines
                return self._patches.dataset(
                    batchsize, first * replicas, context.input_pipeline_id, side
                )

            dataset = strategy.distribute_datasets_from_function(pipeline)
            for batch in self._patches.each(iter(dataset), phase.end - first):
                yield phase.quantization, batch
            first = phase.end

    def step(self, number: int, batch: Any) -> dict[str, Any]:
        quantization, patches = batch
        rate = np.float32(learning_rate(self._config, number))
        return {**self._steps[quantization](patches, rate), "learning_rate": rate}

    def milestones(self) -> set[int]:
        return milestones(self._config)

    def validate(self) -> dict[str, float]:
        return self._validate(self._held_out)

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"layer/{name}": array for name, array in self._layer.arrays().items()}
        for index, variable in enumerate(self._optimizer.variables):
            arrays[f"optimizer/{index}"] = variable.numpy()
        return arrays

    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        prefix = "layer/"
        self._layer.set_arrays(
            {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
        )
        for index, variable in enumerate(self._optimizer.variables):
            variable.assign(arrays[f"optimizer/{index}"])

    def finish(self, record: dict[str, Any]) -> None:
        layer, plan = self._layer, phases(self._config)
        layer.round_weights()
        if not layer.finite:
            raise not_finite(layer.name)
        layer.entropy_model.build_tables()
        ends = [0, *(phase.end for phase in plan)]
        steps = {phase.name: phase.end - end for phase, end in zip(plan, ends)}
        record = {**record, "steps": steps, "photos": self._patches.counts}
        self._store.save(layer, self._below, record)
        self._report_what_stands_on_another()

    def _report_what_stands_on_another(self) -> None:
        """Names the higher layers where they were trained on another version of this one."""
        store, name = self._store, self._layer.name
        upper = store.family.layers[store.family.layers.index(name) + 1 :]
        metadata = {other: found for other in upper if (found := store.metadata(other))}
        names = list(metadata)
        if names and metadata[names[0]]["below"] != self._layer.fingerprint:
            print(f"These layers were trained on another {name}; train them again:")
            for other in names:
                print(f"    {store.command(other, '--force')}")


def _finished(store: LayerStore, name: str, options: dict[str, Any]) -> bool:
    """Returns whether a layer is finished; if so, prints this."""
    metadata = store.metadata(name)
    if metadata is None:
        return False
    earlier = {**metadata["layer"], **metadata["training"].get("options", {})}
    report_finished(f"{name} ({store.family.name})", earlier, options)
    return True


def _require_even(batchsize: int, replicas: int) -> None:
    if batchsize % replicas:
        raise SaeError(
            f"A batch of {batchsize} cannot be divided among {replicas} devices; take a "
            f"--batchsize that is a multiple of {replicas}."
        )


def _require_sides(config: TrainingConfig, family: Family) -> None:
    ends = [0, *(phase.end for phase in phases(config))]
    for phase, end in zip(phases(config), ends):
        if phase.end > end:
            require_side(phase.patchsize, family, "--patchsize or --small_until")


def require_side(side: int, family: Family, options: str) -> None:
    """Raises SaeError where patches of a side suit neither the transforms nor the metric.

    Args:
      side: side of the patches in pixels.
      family: family of the model.
      options: options that change the side.
    """
    if side % STRIDE:
        raise SaeError(
            f"Patches of {side} x {side} pixels do not suit: take multiples of {STRIDE}."
        )
    if family.metric == "ms-ssim" and side < SMALLEST_MS_SSIM_SIDE:
        raise SaeError(
            f"MS-SSIM needs patches of {SMALLEST_MS_SSIM_SIDE} x {SMALLEST_MS_SSIM_SIDE} "
            f"pixels or more, and these have {side} x {side}: change {options}."
        )

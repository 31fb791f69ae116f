"""The training of a progressive model: one run for all planes.

Every image of a batch is decoded at the end of one plane. The loss is the mean of w_p (D_p +
lambda_p R_p), where R_p is the whole rate up to there. Some images are decoded at a cut within a
plane, with weights interpolated on a logarithmic scale.

The bits of all planes of all images train the entropy models, with the weights that they have on
average. For the latent, bits have the weights in the loss of their own image. Rounded values change
at the boundaries of intervals, and near them gradients of rate and distortion pass to the latent.

The learning rate does not depend on the number of steps until it decays to zero at the end. The
result is a moving average of the weights over the last part of the steps, by a power law (Karras et
al., CVPR 2024).

At the end, symbols in training patches are counted for the tables of the codec.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from sae.config import ProgressiveTrainingConfig
from sae.errors import SaeError
from sae.model.model_store import ModelStore, StoredModel
from sae.model.modules import plane_weights
from sae.model.plane_tables import PlaneTables
from sae.model.progressive import ProgressiveModel
from sae.model.progressive_config import PLANES, ProgressiveConfig
from sae.model.progressive_transforms import Decoded
from sae.model.quantization import NEAR_DIGIT, NEAR_INTEGER, boundary_weights
from sae.model.rate_distortion import DISTORTIONS, RateDistortionLoss, psnr
from sae.training import loop
from sae.training.optimizer import SOAP
from sae.training.patches import Patches
from sae.training.residual import require_side
from sae.training.state import not_finite, report_finished
from sae.training.symbol_counts import counted

# Number of steps between two validations.
_VALIDATE_EVERY = 2000
# Number of batches whose symbols are counted for the tables.
_COUNTED = 64


def train(
    model_config: ProgressiveConfig,
    config: ProgressiveTrainingConfig,
    store: ModelStore,
    data: Sequence[str | Path],
    save_every: float = 180.0,
    force: bool = False,
) -> None:
    """Trains a model and saves it in checkpoints/<family>/.

    A finished model stays as it is, and an interrupted training is resumed.

    Args:
      model_config: architecture of the model.
      config: hyperparameters of the training.
      store: checkpoint of the family.
      data: folders of photos.
      save_every: seconds between two saved states.
      force: whether a finished model is replaced.

    Raises:
      SaeError: the patches do not suit the model or the metric, the photos cannot be used, or the
        checkpoint cannot be written; or as `loop.run`.
      KeyboardInterrupt: after a signal, when the state is saved.
    """
    options = {**dataclasses.asdict(model_config), **dataclasses.asdict(config)}
    if store.names() and not force:
        metadata = store.metadata()
        earlier = {**metadata["config"], **metadata["training"].get("options", {})}
        report_finished(store.family.name, earlier, options)
        return
    store.require_writable()
    require_side(config.patchsize, store.family, "--patchsize")
    if config.patchsize > config.photo_side:
        raise SaeError(
            f"Patches have at most {config.photo_side} x {config.photo_side} pixels; change "
            "--patchsize."
        )
    if config.cuts > config.batchsize:
        raise SaeError(
            f"A batch of {config.batchsize} patches cannot have {config.cuts} cuts; lower --cuts "
            "or raise --batchsize."
        )
    patches = Patches(data, config.photo_side, config.smallest_scale, config.seed)
    trainer = Trainer(model_config, config, store.family.metric)
    loop.run(ProgressiveStage(trainer, store, patches, options), save_every)


class ProgressiveStage(loop.Stage):
    """The training of a whole model.

    Args:
      trainer: model and optimizer.
      store: checkpoint of the family.
      patches: patches of the training photos.
      options: JSON object of both configurations.
    """

    # These options may change: the learning rate depends on them in the last steps, if at all.
    free = frozenset(
        {"last_step", "decay_from", "decoder_from", "cuts", "cuts_from", "rates", "compute_dtype"}
    )

    def __init__(
        self, trainer: Trainer, store: ModelStore, patches: Patches, options: dict[str, Any]
    ):
        config = trainer.config
        self.title, self.folder = store.family.name, store.path / "training"
        self.batchsize, self.last_step = config.batchsize, config.last_step
        self.options = {**options, "photos": patches.digest}
        self._trainer, self._store, self._patches = trainer, store, patches
        self._held_out = patches.validation()

    def batches(self, first: int) -> Generator[Any, None, None]:
        side = self._trainer.config.patchsize
        dataset = self._patches.dataset(self.batchsize, first, side=side)
        yield from self._patches.each(iter(dataset), self.last_step - first)

    def step(self, number: int, batch: Any) -> dict[str, Any]:
        return self._trainer.step(number, batch)

    def milestones(self) -> set[int]:
        return {*range(_VALIDATE_EVERY, self.last_step, _VALIDATE_EVERY), self.last_step}

    def validate(self) -> dict[str, float]:
        with self._trainer.averaged():
            scores = self._trainer.validate(self._held_out)
        return {
            f"plane_{plane}/{name}": value
            for plane, row in enumerate(scores)
            for name, value in row.items()
        }

    def arrays(self) -> dict[str, np.ndarray]:
        return self._trainer.arrays()

    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._trainer.set_arrays(arrays)

    def finish(self, record: dict[str, Any]) -> None:
        weights = self._trainer.average_by_name()
        if not all(np.isfinite(weight).all() for weight in weights.values()):
            raise not_finite(self.title)
        model = StoredModel.rounded(self._trainer.model.config, weights)
        # These patches are as large as those of validation.
        batches = iter(self._patches.dataset(self.batchsize, self.last_step))
        counts = counted(model, self._patches.each(batches, min(_COUNTED, self.last_step)))
        model = model.with_tables(PlaneTables.computed(counts))
        self._store.save(model, {**record, "photos": self._patches.counts})


class Trainer:
    """Model, optimizer and average of the weights, with the functions that update them.

    Args:
      model_config: architecture of the model.
      config: hyperparameters of the training.
      metric: metric of the distortion, a key of `sae.model.rate_distortion.DISTORTIONS`.
    """

    def __init__(
        self, model_config: ProgressiveConfig, config: ProgressiveTrainingConfig, metric: str
    ):
        tf.keras.utils.set_random_seed(config.seed)
        self.config, self._metric = config, metric
        self.model = ProgressiveModel(model_config, tf.as_dtype(config.compute_dtype))
        self.variables = self.model.trainable_variables
        # Refreshing larger bases costs more time than it saves.
        self.optimizer = SOAP(clip=config.clip, largest_basis=512)
        self.optimizer.build(self.variables)
        self.average = [tf.Variable(v, trainable=False) for v in self.variables]
        self._lambdas = np.array(config.lambdas, np.float32)
        self._weights = np.array(config.weights, np.float32)
        self._update = self._update_function(self.variables)
        # These steps leave latents unchanged.
        self._update_decoder = self._update_function(self.model.decoder_variables)
        self._scores = tf.function(self._score)

    def step(self, number: int, patches: tf.Tensor) -> dict[str, Any]:
        """Takes a training step on patches, uint8 [B, P, P, 3]; returns values to display."""
        config = self.config
        cuts = config.cuts if number >= config.cuts_from * config.last_step else 0
        fixed = number >= config.decoder_from * config.last_step
        update = self._update_decoder if fixed else self._update
        rate = np.float32(self.learning_rate(number))
        loss = update(patches, self.batch_levels(number, cuts), rate, cuts)
        return {"loss": loss, "learning_rate": rate}

    def learning_rate(self, number: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        config = self.config
        rise = min(1.0, (number + 1) / config.warmup)
        rate = config.learning_rate * rise * min(1.0, (config.constant / (number + 1)) ** 0.5)
        begin = config.decay_from * config.last_step
        left = (config.last_step - number) / max(1.0, config.last_step - begin)
        return rate * min(1.0, left)

    def batch_levels(self, number: int, cuts: int = 0) -> np.ndarray:
        """Returns the level of each image in a step, float32 [B], those of cuts first.

        The ends of all planes are about equally frequent.

        Args:
          number: number of the step.
          cuts: number of images that are decoded at a cut.
        """
        rng = np.random.default_rng([self.config.seed, 2, number])
        count = self.config.batchsize - cuts
        ends = np.concatenate([rng.permutation(PLANES) for _ in range(max(1, count))])[:count]
        return np.array([*rng.uniform(0, PLANES - 1, cuts), *ends], np.float32)

    def _loss(self, x, levels, cuts=0):
        count = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
        # These are the weights of each plane's bits, [B, planes], by decoded share.
        costs = self._weights * self._lambdas
        come = tf.clip_by_value(levels[:, None] - np.arange(PLANES, dtype=np.float32) + 1, 0, 1)
        item_costs = _interpolated(costs, levels)[:, None] * come
        usual = np.array([costs[p:].sum() / PLANES for p in range(PLANES)], np.float32)

        y = self.model.analysis(x)
        planes = self.model.code(y, tf.unstack(tf.transpose(item_costs / usual)))
        rate = tf.add_n(
            [u * tf.reduce_mean(b) / count for u, b in zip(usual.tolist(), planes.bits)]
        )

        decoded = self._decoded(planes, levels, cuts)
        change = y - tf.stop_gradient(y)
        share = tf.where(tf.equal(decoded.width, 1.0), NEAR_INTEGER, NEAR_DIGIT)
        weights = boundary_weights(y - decoded.y_hat, decoded.width, share)
        x_hat = self.model.synthesis(
            decoded._replace(y_hat=decoded.y_hat + weights * change), levels
        )
        distortion = DISTORTIONS[self._metric](x, x_hat)
        return tf.reduce_mean(_interpolated(self._weights, levels) * distortion) + rate

    def _decoded(self, planes, levels, cuts):
        """Returns the decoded latents of all images."""
        images = np.arange(cuts, self.config.batchsize, dtype=np.int32)
        which = tf.stack([tf.cast(levels[cuts:], tf.int32), images], -1)
        ends = zip(*(planes.end(p) for p in range(PLANES)))
        parts = [Decoded(*(tf.gather_nd(tf.stack(values), which) for values in ends))]
        if cuts:
            few, lower = tf.nest.map_structure(lambda v: v[:cuts], planes), levels[:cuts] < 1
            pair = [few.cut(p, tf.clip_by_value(levels[:cuts] - (p - 1), 0, 1)) for p in (1, 2)]
            lower = lower[:, None, None, None]
            parts.insert(0, Decoded(*(tf.where(lower, *values) for values in zip(*pair))))
        return Decoded(*(tf.concat(values, 0) for values in zip(*parts)))

    def _update_function(self, variables):
        """Returns the function of a step that updates variables."""

        @tf.function
        def update(patches, levels, learning_rate, cuts):
            x = tf.cast(patches, tf.float32) / 255.0
            with tf.GradientTape() as tape:
                loss = self._loss(x, levels, cuts)
            gradients = tape.gradient(loss, variables)
            self.optimizer.learning_rate.assign(learning_rate)
            self.optimizer.apply_gradients(zip(gradients, variables))
            number = tf.cast(self.optimizer.iterations, tf.float32)
            kept = (1.0 - 1.0 / number) ** (self.config.average + 1.0)
            for average, variable in zip(self.average, self.variables):
                average.assign(kept * average + (1.0 - kept) * variable)
            return loss

        return update

    def _score(self, patches):
        """Returns loss, bpp, distortion and PSNR of each image, [B], for each plane's end."""
        x, bits, rows = tf.cast(patches, tf.float32) / 255.0, 0.0, []
        planes = self.model.code(self.model.analysis(x))
        for p, lmbda in enumerate(self.config.lambdas):
            bits += planes.bits[p]
            x_hat = self.model.synthesis(planes.end(p), tf.fill(tf.shape(x)[:1], float(p)))
            terms = RateDistortionLoss(self._metric, lmbda).terms(x, x_hat, bits)
            rows.append({**terms, "psnr": psnr(x, x_hat)})
        return rows

    def validate(self, patches: np.ndarray) -> list[dict[str, float]]:
        """Returns for each plane's end the means of loss, bpp, distortion and psnr."""
        batches = [self._scores(patches[k : k + 8]) for k in range(0, len(patches), 8)]
        return [
            {k: float(np.mean(np.concatenate([part[k] for part in parts]))) for k in parts[0]}
            for parts in zip(*batches)
        ]

    @contextlib.contextmanager
    def averaged(self):
        """Replaces the weights by their average."""
        kept = [v.numpy() for v in self.variables]
        for variable, average in zip(self.variables, self.average):
            variable.assign(average)
        try:
            yield
        finally:
            for variable, value in zip(self.variables, kept):
                variable.assign(value)

    def average_by_name(self) -> dict[str, np.ndarray]:
        """Returns the average of the weights by name."""
        return {_key(v): average.numpy() for v, average in zip(self.variables, self.average)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the state of the training as arrays by name."""
        arrays = {}
        for variable, average in zip(self.variables, self.average):
            arrays[f"weights/{_key(variable)}"] = variable.numpy()
            arrays[f"average/{_key(variable)}"] = average.numpy()
        for variable in self.optimizer.variables:
            arrays[f"optimizer/{_key(variable)}"] = variable.numpy()
        return arrays

    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores the result of `arrays`; raises KeyError or ValueError where it does not fit."""
        for variable, average in zip(self.variables, self.average):
            variable.assign(arrays[f"weights/{_key(variable)}"])
            average.assign(arrays[f"average/{_key(variable)}"])
        for variable in self.optimizer.variables:
            variable.assign(arrays[f"optimizer/{_key(variable)}"])


def _interpolated(values: Sequence[float] | np.ndarray, levels: tf.Tensor) -> tf.Tensor:
    """Returns values of the planes at levels, interpolated linearly in their logarithm."""
    logarithms = np.log(values, dtype=np.float32)
    return tf.exp(tf.linalg.matvec(plane_weights(levels, PLANES), logarithms))


def _key(variable: tf.Variable) -> str:
    return variable.name.removesuffix(":0")

"""The training of a progressive model: one run for all planes.

Every image of a batch is decoded at the end of one plane or several, and the loss is the mean of
w_p (D_p + lambda_p R_p), R_p the whole rate up to there and w_p about 1 / (lambda_p R_p). Some are
decoded at a cut within a plane, where the weights are interpolated on a logarithmic scale. The
entropy models learn from all images at once: each plane's bits count for their variables as they
would on average, and for the latent as the image's own loss has them. The learning rate falls in
a way that no number of steps decides. A moving average of the weights over the last part of all
steps is what is measured (Karras et al., CVPR 2024, for its power law).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from sae import console
from sae.config import TrainingConfig
from sae.model.arrays import load_arrays, save_arrays
from sae.model.progressive import ProgressiveModel
from sae.model.progressive_config import PLANES, ProgressiveConfig
from sae.model.progressive_transforms import Decoded
from sae.model.rate_distortion import DISTORTIONS
from sae.training.optimizer import SOAP
from sae.training.patches import Patches
from sae.training.progress import require_finite


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hyperparameters of the training of a progressive model.

    Attributes:
      metric: metric of the distortion, a key of `sae.model.rate_distortion.DISTORTIONS`.
      lambdas: weight of the rate in bits per pixel, for each plane.
      rates: approximate bits per pixel at the planes' ends, for the weights of their losses.
      batchsize: number of patches per step.
      ends: number of planes, 1 to 3, at whose ends a patch is decoded in one step.
      patchsize: side of a patch in pixels.
      held_out_side: side of the held-out patches in pixels.
      smallest_side: smallest side of shrunk photos in pixels.
      cuts: number of patches in a batch that are decoded at a cut within a plane.
      commitment: weight of the squared distance of a latent from its rounded value, for each
        plane, as a multiple of its share in the distortion. The gradient that passes the rounding
        unchanged takes latents away from these values; a weight of one balances that.
      learning_rate: learning rate from step `warmup` to step `constant`. Later it falls with the
        inverse of the square root of the number of steps.
      warmup: number of steps over which the learning rate rises.
      constant: number of steps after which it falls.
      average: exponent of the average of weights; it spans about 1 / `average` of the steps.
      clip: limit of gradient norms as a multiple of their moving average.
      seed: seed of the initial weights, the planes and the order of patches.
    """

    metric: str = "mse"
    lambdas: tuple[float, ...] = (3000.0, 3000.0 / 9, 3000.0 / 81)
    rates: tuple[float, ...] = (0.12, 0.55, 1.7)
    batchsize: int = 8
    ends: int = 1
    patchsize: int = 128
    held_out_side: int = 256
    smallest_side: int = 256
    cuts: int = 0
    commitment: tuple[float, ...] = (0.5, 0.5, 0.5)
    learning_rate: float = 4e-3
    warmup: int = 100
    constant: int = 5000
    average: float = 12.0
    clip: float = 2.0
    seed: int = 0

    @property
    def weights(self) -> np.ndarray:
        """Weight of each plane's loss, float32."""
        return 1 / np.multiply(self.lambdas, self.rates, dtype=np.float32)

    def rate_of_step(self, number: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        rise = min(1.0, (number + 1) / self.warmup)
        return self.learning_rate * rise * min(1.0, (self.constant / (number + 1)) ** 0.5)


class Trainer:
    """Model, optimizer and average of the weights, with the functions that update them.

    Args:
      config: architecture of the model.
      settings: hyperparameters of the training.
      compute_dtype: type of products in convolutions.
    """

    def __init__(self, config: ProgressiveConfig, settings: Settings, compute_dtype: tf.DType):
        tf.keras.utils.set_random_seed(settings.seed)
        self.settings = settings
        self.model = ProgressiveModel(config, compute_dtype)
        self.variables = self.model.trainable_variables
        # Refreshing larger bases costs more time than it saves.
        self.optimizer = SOAP(clip=settings.clip, largest_basis=512)
        self.optimizer.build(self.variables)
        # Images of the reconstructions in a step: an image has one at a cut, or one at each end.
        whole = np.arange(settings.cuts, settings.batchsize)
        images = [*range(settings.cuts), *np.tile(whole, settings.ends)]
        self._images = np.array(images, np.int32)
        self.average = [tf.Variable(v, trainable=False) for v in self.variables]
        self.step = self._step_function(self.variables)
        # The latents stay as they are in these steps.
        self.decoder_step = self._step_function(self.model.decoder_variables)
        self.scores = tf.function(self._scores)

    def batch_levels(self, number: int) -> np.ndarray:
        """Returns the level of each reconstruction in a step, float32, in the order of `_images`.

        Levels of an image differ. The ends of all planes are about equally frequent.
        """
        settings = self.settings
        rng = np.random.default_rng([settings.seed, 2, number])
        count = settings.batchsize - settings.cuts
        rounds = [rng.permutation(PLANES) for _ in range(count)]
        if settings.ends == 1:
            ends = np.concatenate(rounds)[:count]
        else:
            ends = np.transpose([planes[: settings.ends] for planes in rounds]).ravel()
        levels = [*rng.uniform(0, PLANES - 1, settings.cuts), *ends]
        return np.array(levels, np.float32)

    def _loss(self, x, levels):
        settings = self.settings
        count = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
        # Weights of each plane's bits, [reconstructions, planes]; that of a cut plane is its share.
        costs = settings.weights * np.array(settings.lambdas, np.float32)
        come = tf.clip_by_value(levels[:, None] - np.arange(PLANES, dtype=np.float32) + 1, 0, 1)
        item_costs = _interpolated(costs, levels)[:, None] * come
        usual = np.array([costs[p:].sum() / PLANES for p in range(PLANES)], np.float32)
        of_image = tf.math.unsorted_segment_mean(item_costs, self._images, settings.batchsize)

        y = self.model.analysis(x)
        planes = self.model.code(y, tf.unstack(tf.transpose(of_image / usual)))
        rate = tf.add_n(
            [u * tf.reduce_mean(b) / count for u, b in zip(usual.tolist(), planes.bits)]
        )

        decoded, y = self._decoded(planes, levels), tf.gather(y, self._images)
        distance = tf.reduce_sum(tf.square(y - decoded.y_hat), (1, 2, 3)) / count
        # The linear path is nearly orthonormal, so that this is the distance as a distortion.
        distance *= (255.0 * self.model.config.step) ** 2
        decoded = decoded._replace(y_hat=y + tf.stop_gradient(decoded.y_hat - y))
        x_hat = self.model.synthesis(decoded, levels)
        distortion = DISTORTIONS[settings.metric](tf.gather(x, self._images), x_hat)
        distortion += _interpolated(settings.commitment, levels) * distance
        distortion = tf.math.unsorted_segment_mean(
            _interpolated(settings.weights, levels) * distortion, self._images, settings.batchsize
        )
        return tf.reduce_mean(distortion) + rate

    def _decoded(self, planes, levels):
        """Returns the decoded latents of all reconstructions, those at cuts first."""
        cuts = self.settings.cuts
        which = tf.stack([tf.cast(levels[cuts:], tf.int32), self._images[cuts:]], -1)
        ends = zip(*(planes.end(p) for p in range(PLANES)))
        parts = [Decoded(*(tf.gather_nd(tf.stack(values), which) for values in ends))]
        if cuts:
            few, lower = tf.nest.map_structure(lambda v: v[:cuts], planes), levels[:cuts] < 1
            pair = [few.cut(p, tf.clip_by_value(levels[:cuts] - (p - 1), 0, 1)) for p in (1, 2)]
            lower = lower[:, None, None, None]
            parts.insert(0, Decoded(*(tf.where(lower, *values) for values in zip(*pair))))
        return Decoded(*(tf.concat(values, 0) for values in zip(*parts)))

    def _step_function(self, variables):
        """Returns the function of patches, levels and learning rate that updates variables."""

        @tf.function
        def step(patches, levels, learning_rate):
            x = tf.cast(patches, tf.float32) / 255.0
            with tf.GradientTape() as tape:
                loss = self._loss(x, levels)
            gradients = tape.gradient(loss, variables)
            self.optimizer.learning_rate.assign(learning_rate)
            self.optimizer.apply_gradients(zip(gradients, variables))
            number = tf.cast(self.optimizer.iterations, tf.float32)
            kept = (1.0 - 1.0 / number) ** (self.settings.average + 1.0)
            for average, variable in zip(self.average, self.variables):
                average.assign(kept * average + (1.0 - kept) * variable)
            return loss

        return step

    def _scores(self, patches):
        """Returns loss, bpp, distortion and PSNR at each plane's end, [planes, 4, B]."""
        x = tf.cast(patches, tf.float32) / 255.0
        count, bpp, rows = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32), 0.0, []
        planes = self.model.code(self.model.analysis(x))
        for p, lmbda in enumerate(self.settings.lambdas):
            bpp += planes.bits[p] / count
            level = tf.fill(tf.shape(x)[:1], float(p))
            x_hat = self.model.synthesis(planes.end(p), level)
            distortion = DISTORTIONS[self.settings.metric](x, x_hat)
            error = tf.reduce_mean(tf.square(x - tf.clip_by_value(x_hat, 0.0, 1.0)), (1, 2, 3))
            psnr = -10.0 * tf.math.log(error) / np.log(10.0)
            rows.append(tf.stack([distortion + lmbda * bpp, bpp, distortion, psnr]))
        return tf.stack(rows)

    def validate(self, patches: np.ndarray) -> list[dict[str, float]]:
        """Returns for each plane's end the means of loss, bpp, distortion and psnr."""
        batches = [self.scores(patches[k : k + 8]).numpy() for k in range(0, len(patches), 8)]
        means = np.concatenate(batches, -1).mean(-1)
        return [dict(zip(("loss", "bpp", "distortion", "psnr"), map(float, row))) for row in means]

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

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the state of the training as arrays by name."""
        arrays = {}
        for variable, average in zip(self.variables, self.average):
            arrays[f"weights/{_key(variable)}"] = variable.numpy()
            arrays[f"average/{_key(variable)}"] = average.numpy()
        for variable in self.optimizer.variables:
            arrays[f"optimizer/{_key(variable)}"] = variable.numpy()
        return arrays

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Restores the result of `arrays`; raises KeyError or ValueError where it does not fit."""
        for variable, average in zip(self.variables, self.average):
            variable.assign(arrays[f"weights/{_key(variable)}"])
            average.assign(arrays[f"average/{_key(variable)}"])
        for variable in self.optimizer.variables:
            variable.assign(arrays[f"optimizer/{_key(variable)}"])


def _interpolated(values: Sequence[float] | np.ndarray, levels: tf.Tensor) -> tf.Tensor:
    """Returns values of the planes at levels, interpolated linearly in their logarithm."""
    nodes = np.arange(PLANES, dtype=np.float32)
    shares = tf.nn.relu(1.0 - tf.abs(levels[:, None] - nodes))
    return tf.exp(tf.linalg.matvec(shares, np.log(values, dtype=np.float32)))


def _key(variable: tf.Variable) -> str:
    return variable.name.removesuffix(":0")


class Run:
    """A training in a folder, saved every few minutes and resumed where it was saved.

    `state.npz` has the state of the training, `log.jsonl` a line for each validation.

    Args:
      folder: folder of the run.
      trainer: model and optimizer.
      patches: training photos.
      held_out: patches for validation, uint8 [N, S, S, 3].
    """

    def __init__(self, folder: Path, trainer: Trainer, patches: Patches, held_out: np.ndarray):
        self.folder, self.trainer, self.patches = folder, trainer, patches
        self._held_out = held_out
        self.hours = 0.0
        self._state = folder / "state.npz"
        if self._state.exists():
            arrays = load_arrays(self._state)
            trainer.set_arrays(arrays)
            self.hours = float(arrays["hours"])

    @property
    def number(self) -> int:
        """Number of steps taken."""
        return int(self.trainer.optimizer.iterations)

    def save(self) -> None:
        """Writes the state."""
        hours = np.array(self.hours)
        save_arrays(self._state, {**self.trainer.arrays(), "hours": hours})

    def train(
        self,
        minutes: float = math.inf,
        last_step: float = math.inf,
        save_every: float = 240.0,
        validate_every: int = 2000,
        decay_from: float = math.inf,
        decoder_from: float = math.inf,
    ) -> None:
        """Trains until the first of several ends, or until SIGTERM or SIGINT, and saves.

        Args:
          minutes: duration of this part in minutes.
          last_step: number of steps in all.
          decay_from: number of steps from which the learning rate falls to 0 at `last_step`.
          decoder_from: number of steps after which latents are fixed.
          save_every: seconds between two saved states.
          validate_every: number of steps between two validations.

        Raises:
          SaeError: the loss is no longer finite.
        """
        trainer, settings = self.trainer, self.trainer.settings
        stopping: list[int] = []
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda number, _: stopping.append(number))
        side = settings.patchsize
        batches = iter(self.patches.dataset(settings.batchsize, self.number, side=side))
        writer = tf.summary.create_file_writer(str(self.folder))
        began = last = saved = time.monotonic()
        while not stopping and time.monotonic() - began < 60 * minutes and self.number < last_step:
            number = self.number
            rate = settings.rate_of_step(number)
            if number >= decay_from:
                rate *= (last_step - number) / (last_step - decay_from)
            step = trainer.decoder_step if number >= decoder_from else trainer.step
            loss = step(next(batches), trainer.batch_levels(number), np.float32(rate))
            now = time.monotonic()
            self.hours, last = self.hours + (now - last) / 3600, now
            if (number + 1) % 100 == 0:
                require_finite(number + 1, float(loss))
                with writer.as_default(step=number + 1):
                    tf.summary.scalar("train/loss", loss)
                    tf.summary.scalar("train/learning_rate", rate)
            if (number + 1) % validate_every == 0:
                self._validate(writer)
                last = time.monotonic()
            if now - saved > save_every:
                self.save()
                saved = time.monotonic()
        self._validate(writer)
        self.save()

    def _validate(self, writer: tf.summary.SummaryWriter) -> None:
        raw = self.trainer.validate(self._held_out)
        with self.trainer.averaged():
            average = self.trainer.validate(self._held_out)
        line = {"step": self.number, "hours": round(self.hours, 3), "raw": raw, "average": average}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        with writer.as_default(step=self.number):
            for plane, scores in enumerate(average):
                for name, value in scores.items():
                    tf.summary.scalar(f"held-out/plane_{plane}/{name}", value)
        shown = "  ".join(f"{s['loss']:.2f} {s['bpp']:.4f} {s['psnr']:.3f}" for s in average)
        print(
            f"step {self.number}, {self.hours:.2f} h: {shown} | raw "
            f"{'  '.join(format(s['loss'], '.2f') for s in raw)}",
            flush=True,
        )


def _parser(settings: Settings, config: ProgressiveConfig) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="DIR", help="folders of training photos"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="minutes of this part")
    parser.add_argument("--last_step", type=float, default=math.inf, help="number of steps in all")
    parser.add_argument(
        "--decay_from",
        type=float,
        default=math.inf,
        help="number of steps from which the learning rate falls to 0 at the last",
    )
    parser.add_argument(
        "--decoder_from", type=float, default=math.inf, help="steps after which latents are fixed"
    )
    parser.add_argument("--learning_rate", type=float, default=settings.learning_rate)
    parser.add_argument("--batchsize", type=int, default=settings.batchsize)
    parser.add_argument("--ends", type=int, default=settings.ends)
    parser.add_argument("--commitment", type=float, nargs=PLANES, default=settings.commitment)
    parser.add_argument("--cuts", type=int, default=settings.cuts)
    parser.add_argument("--smallest_side", type=int, default=settings.smallest_side)
    parser.add_argument("--hidden_filters", type=int, default=config.hidden_filters)
    parser.add_argument(
        "--validate_every", type=int, default=2000, help="steps between validations [%(default)s]"
    )
    parser.add_argument(
        "--save_every", type=float, default=240.0, help="seconds between states [%(default)s]"
    )
    parser.add_argument("--bfloat16", action="store_true", help="convolutions in bfloat16")
    parser.add_argument("--threads", type=int, default=1, help="number of threads [%(default)s]")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains a model in a folder, and resumes a training that was saved there."""
    settings, config = Settings(), ProgressiveConfig()
    options = _parser(settings, config).parse_args(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    settings = dataclasses.replace(
        settings,
        learning_rate=options.learning_rate,
        batchsize=options.batchsize,
        ends=options.ends,
        cuts=options.cuts,
        commitment=tuple(options.commitment),
        smallest_side=options.smallest_side,
    )
    config = dataclasses.replace(config, hidden_filters=options.hidden_filters)
    dtype = tf.bfloat16 if options.bfloat16 else tf.float32

    def command() -> None:
        options.folder.mkdir(parents=True, exist_ok=True)
        held_out, patches = (
            Patches(options.data, TrainingConfig(1.0, 1, patchsize=side, seed=settings.seed))
            for side in (settings.held_out_side, settings.smallest_side)
        )
        trainer = Trainer(config, settings, dtype)
        run = Run(options.folder, trainer, patches, held_out.validation())
        run.train(
            options.minutes,
            options.last_step,
            options.save_every,
            options.validate_every,
            options.decay_from,
            options.decoder_from,
        )

    return console.run(command, prefix="")


if __name__ == "__main__":
    sys.exit(main())

"""Time of a training step, and of a bare loop over the same Keras layers.

    python benchmarks/train_step.py [--data DIR ...] [--steps 20] [--rounds 5]

The model is the base layer, with batches of 8, 256 x 256 pixels and 48 filters. The loops take
turns, so that a busy machine slows all of them alike, and the median round counts:

- soap: the project's step, fed by its input pipeline, as in train_base.py;
- adam: the same with Adam on Fourier kernels;
- bare: the same Keras layers, the same loss, Adam; no pipeline, no layers below;
- library: likewise, with tensorflow-compression's layers as they come, whose
  kernels are transformed by FFT.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from sae import images
from sae.config import LayerConfig
from sae.model import families
from sae.model.rate_distortion import RateDistortionLoss
from sae.model.residual import ResidualModel
from sae.model.residual_layer import ResidualLayer
from sae.model.residual_transforms import make_analysis, make_synthesis
from sae.training import presets
from sae.training.optimizer import SOAP
from sae.training.patches import Patches
from sae.training.residual_step import make_step

ARCHITECTURE, TRAINING = presets.residual("base", families.published("mse"))
FOURIER = dataclasses.replace(ARCHITECTURE, kernel="fourier")


def sae_loop(folders: list[Path], architecture: LayerConfig, optimizer) -> Callable[[int], None]:
    """Returns a function that takes so many steps of the project's training."""
    loss, layer = RateDistortionLoss("mse", TRAINING.lmbda), ResidualLayer(architecture)
    step = make_step(ResidualModel(), layer, loss, optimizer, TRAINING.quantization)
    patches = Patches(folders, TRAINING.patchsize, TRAINING.smallest_scale, TRAINING.seed)
    batches = iter(patches.dataset(TRAINING.batchsize))

    def loop(steps):
        for _ in range(steps):
            terms = step(next(batches), np.float32(1e-3))
        float(terms["loss"])

    return loop


def bare_loop(analysis: Callable, synthesis: Callable) -> Callable[[int], None]:
    """Returns a function that takes so many steps of the plainest training loop."""
    prior = tfc.NoisyDeepFactorized(batch_shape=(ARCHITECTURE.latent_depth,))
    model = tfc.ContinuousBatchedEntropyModel(prior, coding_rank=3, compression=False)
    optimizer = tf.keras.optimizers.Adam(1e-3)
    side = TRAINING.patchsize
    x = tf.random.uniform((TRAINING.batchsize, side, side, 3))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            y_tilde, bits = model(analysis(x), training=True)
            distortion = tf.reduce_mean(tf.square(x - synthesis(y_tilde))) * 3 * 255**2
            loss = distortion + TRAINING.lmbda * tf.reduce_mean(bits) / side**2
        variables = tape.watched_variables()
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    def loop(steps):
        for _ in range(steps):
            loss = step()
        float(loss)

    return loop


def library_transforms() -> tuple[Callable, Callable]:
    """Returns both transforms in the library's own, default layers."""
    filters, depth = ARCHITECTURE.hidden_filters, ARCHITECTURE.latent_depth

    def conv(depth, support, down=1, up=1, bias=True):
        return tfc.SignalConv2D(
            depth,
            support,
            corr=down > 1,
            strides_down=down,
            strides_up=up,
            padding="same_zeros",
            use_bias=bias,
        )

    analysis = tf.keras.Sequential(
        [
            conv(filters, 9, down=4), tfc.GDN(),
            conv(filters, 5, down=2), tfc.GDN(),
            conv(depth, 5, down=2, bias=False),
        ]
    )  # fmt: skip
    synthesis = tf.keras.Sequential(
        [
            conv(filters, 5, up=2), tfc.GDN(inverse=True),
            conv(filters, 5, up=2), tfc.GDN(inverse=True),
            conv(3, 9, up=4),
        ]
    )  # fmt: skip
    return analysis, synthesis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", type=Path, help="photos (scikit-image's samples)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as samples:
        if not options.data:
            for name, photo in images.sample_photos().items():
                images.write_png(photo, Path(samples) / f"{name}.png")
        folders = options.data or [Path(samples)]
        loops = {
            "soap": sae_loop(folders, ARCHITECTURE, SOAP()),
            "adam": sae_loop(folders, FOURIER, tf.keras.optimizers.Adam()),
            "bare": bare_loop(make_analysis(FOURIER), make_synthesis(FOURIER)),
            "library": bare_loop(*library_transforms()),
        }
        seconds = {name: [] for name in loops}
        for loop in loops.values():
            loop(3)
        for _ in range(options.rounds):
            for name, loop in loops.items():
                began = time.perf_counter()
                loop(options.steps)
                seconds[name].append((time.perf_counter() - began) / options.steps)
    bare = np.median(seconds["bare"])
    print(f"{'loop':<10}{'ms/step':>9}{'of bare':>9}")
    for name, rounds in seconds.items():
        print(f"{name:<10}{np.median(rounds) * 1e3:>9.1f}{np.median(rounds) / bare:>9.2f}")


if __name__ == "__main__":
    main()

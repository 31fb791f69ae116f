"""Hyperparameters, their ranges and defaults; `sae/training/presets.py` has the values in use.

A residual layer has an architecture, `LayerConfig`, which is stored with the weights, and a
training, `TrainingConfig`. A progressive model has `sae.model.progressive_config.ProgressiveConfig`
and `ProgressiveTrainingConfig`.
"""

from __future__ import annotations

import dataclasses
import reprlib
from pathlib import Path
from typing import NamedTuple

from sae.errors import SaeError

# Pixels per position of a latent, in each direction.
STRIDE = 16
# Default of the largest number of pixels of an image.
MAX_PIXELS = 10**9

LAYER_NAMES = ("base", "el1", "el2", "el3", "el4")
METRICS = ("mse", "ms-ssim")

# Modules of these choices are slow to import: other codecs, qualities of a curve, and formats of
# figures and of tables.
ANCHORS = ("jpeg", "jpeg2000", "webp", "avif")
PEERS = ANCHORS[:3]
QUALITIES = ("psnr", "ms-ssim", "ms-ssim-db")
FIGURE_FORMATS = ("pdf", "pgf", "png")
TABLE_FORMATS = ("markdown", "latex", "json")

# Number of steps of the latent optimization of a layer, by effort.
EFFORTS = (0, 20, 30, 50, 70, 100, 130, 170, 230, 300)

# The released weights and their results are inside the package in a wheel, and next to it in a
# clone.
_PACKAGE = Path(__file__).resolve().parent
INSTALLED = (_PACKAGE / "shipped").is_dir()
_DATA = _PACKAGE / "shipped" if INSTALLED else _PACKAGE.parent
DEFAULT_FOLDER = _DATA / "checkpoints"
DEFAULT_RESULTS = _DATA / "results/kodak"
# Trainings do not write into an installed package.
TRAINING_FOLDER = Path("checkpoints") if INSTALLED else DEFAULT_FOLDER


# Fields with a few values, each implemented in `sae.model` or `sae.training`.
CHOICES = {
    "name": LAYER_NAMES,
    "kind": ("residual",),
    "gdn": ("simplified", "paper"),
    "kernel": ("plain", "fourier"),
    "optimizer": ("adam", "soap"),
    "quantization": ("noise", "mixed"),
    "compute_dtype": ("float32", "bfloat16"),
}


class Range(NamedTuple):
    """An interval of numbers.

    Attributes:
      low: smallest number.
      high: largest number.
      above: whether `low` itself is excluded.
    """

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, (int, float)):
            return False
        beyond = self.low < value if self.above else self.low <= value
        return beyond and value <= self.high

    def __str__(self) -> str:
        return f"{'above ' if self.above else ''}{self.low:.10g} to {self.high:.10g}"


# Outside these ranges, a model cannot be trained or cannot be coded.
RANGES = {
    "latent_depth": Range(1, 2048),
    "hidden_filters": Range(1, 2048),
    "lmbda": Range(0, 1e9, above=True),
    "last_step": Range(1, 10**9),
    "batchsize": Range(1, 2**16),
    "patchsize": Range(16, 2**14),
    "small_until": Range(0, 1),
    "clip": Range(0, 1e9),
    "learning_rate": Range(0, 100, above=True),
    "final_learning_rate": Range(0, 100),
    "noise": Range(0, 1),
    "decoder_from": Range(0, 1),
    "decay_from": Range(0, 1),
    "cuts": Range(0, 2**16),
    "cuts_from": Range(0, 1),
    "photo_side": Range(16, 2**14),
    "warmup": Range(1, 10**9),
    "constant": Range(1, 10**9),
    "average": Range(0, 10**4),
    "smallest_scale": Range(0, 1, above=True),
    "seed": Range(0, 2**32 - 1),
    "save_every": Range(0, 1e9),
}


def fault(name: str, value: object) -> str | None:
    """Returns the reason why a field of a configuration cannot have a value, None where it can.

    Args:
      name: name of the field.
      value: value, of any JSON type.
    """
    kinds: dict[str, tuple[type | tuple[type, ...], str]] = {
        "int": (int, "a whole number"),
        "float": ((int, float), "a number"),
        "str": (str, "a text"),
    }
    types, words = kinds[_TYPES[name]]
    right = isinstance(value, types)
    # True and False are integers in Python.
    right = right and not isinstance(value, bool)
    if choices := CHOICES.get(name):
        words, right = f"one of {', '.join(choices)}", right and value in choices
    elif numbers := RANGES.get(name):
        words, right = f"{words}, {numbers}", right and value in numbers
    return None if right else f"has to be {words}, and is {reprlib.repr(value)}"


def _check(config: LayerConfig | TrainingConfig | ProgressiveTrainingConfig) -> None:
    """Raises SaeError where a field has a value that it cannot have."""
    for field in dataclasses.fields(config):
        if field.name != "rates" and (reason := fault(field.name, getattr(config, field.name))):
            raise SaeError(f"{field.name} {reason}.")


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """The architecture of one layer.

    Attributes:
      name: name of the layer, "base", "el1", ...
      latent_depth: number of latent channels.
      hidden_filters: number of channels between the convolutions.
      gdn: form of GDN: "simplified", y = x / (beta + gamma |x|), or "paper",
        y = x / sqrt(beta + gamma x^2) as in the publication.
      kind: kind of the layer, always "residual".
      kernel: parameterization of a convolution: "plain", its taps, or "fourier", their Fourier
        coefficients.

    A new field requires a default, which then holds for weights that were saved without it.
    """

    name: str
    latent_depth: int
    hidden_filters: int = 48
    gdn: str = "simplified"
    kind: str = "residual"
    kernel: str = "fourier"

    def __post_init__(self):
        _check(self)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The training of one layer; the loss is distortion + lmbda * rate.

    A new field requires a default, which then holds for trainings recorded without it.

    Attributes:
      lmbda: weight of the rate in bits per pixel; `sae.model.rate_distortion` has the distortion.
      last_step: number of steps.
      batchsize: number of patches per step, over all replicas.
      patchsize: side of the square patches in pixels, a multiple of 16.
      small_until: fraction of the steps before `decoder_from` with patches of half that side, which
        take a quarter of the time.
      optimizer: "adam" or "soap" (`sae.training.optimizer`).
      clip: limit of gradient norms as a multiple of their moving average, for SOAP; 0 for none.
      learning_rate: learning rate in the first 30 % of the steps before `decoder_from`.
      final_learning_rate: learning rate at the last step, reached along half a cosine.
      noise: half width of uniform noise added to the patches, on the scale of [0, 1].
      quantization: method of `sae.model.quantization.quantized` until `decoder_from`.
      decoder_from: fraction of the steps after which synthesis transform and prior train alone, on
        rounded latents.
      smallest_scale: smallest of the random factors up to 1 by which photos are shrunk.
      seed: seed of the initial weights, the noise and the order of the patches.
    """

    lmbda: float
    last_step: int
    batchsize: int = 8
    patchsize: int = 256
    small_until: float = 0.0
    optimizer: str = "adam"
    clip: float = 0.0
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-5
    noise: float = 0.0
    quantization: str = "noise"
    decoder_from: float = 1.0
    smallest_scale: float = 0.5
    seed: int = 0

    def __post_init__(self):
        _check(self)


@dataclasses.dataclass(frozen=True)
class ProgressiveTrainingConfig:
    """The training of a progressive model; `sae.training.progressive` describes the loss.

    Attributes:
      lmbda: weight of the rate in bits per pixel in plane 0; each plane above has a seventh of the
        weight below it. At these weights, steps that differ by three suit all planes.
      last_step: number of steps.
      batchsize: number of patches per step.
      cuts: number of patches in a batch that are decoded at a cut, not at the end of a plane.
      cuts_from: fraction of the steps after which there are such patches.
      patchsize: side of a patch in pixels, a multiple of 16.
      photo_side: smallest side to which photos are shrunk, and side of the held-out patches, in
        pixels.
      rates: rates in bits per pixel, from which `weights` follows.
        Plane 0 has a higher one than it reaches, since it is only the end of a curve.
      learning_rate: learning rate from step `warmup` to step `constant`. Later it is inversely
        proportional to the square root of the number of steps.
      warmup: number of steps over which the learning rate rises.
      constant: number of steps after which the learning rate falls.
      decay_from: fraction of the steps after which the learning rate falls linearly to zero.
      decoder_from: fraction of the steps after which latents are fixed.
      average: exponent of the average of weights, which spans about 1 / `average` of the steps.
      clip: limit of gradient norms as a multiple of their moving average.
      smallest_scale: smallest of the random factors up to 1 by which photos are shrunk.
      compute_dtype: type of the products in convolutions.
      seed: seed of the initial weights, the planes and the order of patches.
    """

    lmbda: float
    last_step: int
    batchsize: int = 8
    cuts: int = 1
    cuts_from: float = 0.5
    patchsize: int = 128
    photo_side: int = 256
    rates: tuple[float, ...] = (0.2, 0.4, 1.2)
    learning_rate: float = 4e-3
    warmup: int = 100
    constant: int = 5000
    decay_from: float = 0.85
    decoder_from: float = 0.98
    average: float = 12.0
    clip: float = 2.0
    smallest_scale: float = 0.5
    compute_dtype: str = "float32"
    seed: int = 0

    def __post_init__(self):
        _check(self)

    @property
    def lambdas(self) -> tuple[float, ...]:
        """Weight of the rate in each plane."""
        return tuple(self.lmbda / 7**plane for plane in range(len(self.rates)))

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of the loss of each plane."""
        return tuple(1 / (lmbda * rate) for lmbda, rate in zip(self.lambdas, self.rates))


_TYPES = {
    **{
        # Annotations in this file are strings.
        field.name: str(field.type)
        for kind in (LayerConfig, ProgressiveTrainingConfig, TrainingConfig)
        for field in dataclasses.fields(kind)
    },
    "save_every": "float",
}

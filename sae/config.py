"""Every hyper-parameter there is; `sae/model/presets.py` has their values.

A layer has two sets of them: `LayerConfig` is what a decoder must know and is
stored with the weights; `TrainingConfig` is how the weights were found.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

LAYER_NAMES = ("base", "el1", "el2", "el3", "el4")
METRICS = ("mse", "ms-ssim")

# Choices of the command line whose modules are slow to import: codecs that are measured beside
# ours, qualities of a curve, formats of figures and of tables.
ANCHORS = ("jpeg", "jpeg2000", "webp", "avif")
PEERS = ANCHORS[:3]
QUALITIES = ("psnr", "ms-ssim", "ms-ssim-db")
FIGURE_FORMATS = ("pdf", "pgf", "png")
TABLE_FORMATS = ("markdown", "latex", "json")

# Steps of the search for a layer's latent, by the effort asked for.
EFFORTS = (0, 20, 30, 50, 70, 100, 130, 170, 230, 300)
# Coarsenesses of latents are multiples of this.
COARSENESS_UNIT = 1 / 8


# The released weights, and what was measured of them: a wheel has them inside the package, a
# clone beside it.
_PACKAGE = Path(__file__).resolve().parent
INSTALLED = (_PACKAGE / "shipped").is_dir()
_DATA = _PACKAGE / "shipped" if INSTALLED else _PACKAGE.parent
DEFAULT_FOLDER = _DATA / "checkpoints"
DEFAULT_RESULTS = _DATA / "results/kodak"
# Trainings change nothing inside an installed package.
TRAINING_FOLDER = Path("checkpoints") if INSTALLED else DEFAULT_FOLDER


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """The architecture of one layer.

    Attributes:
      name: "base", "el1", ...
      latent_depth: channels of the latent y.
      hidden_filters: channels between the convolutions.
      gdn: "simplified", y = x / (beta + gamma |x|), or "paper",
        y = x / sqrt(beta + gamma x^2) as in the publication.
      kind: which class of `sae.model.layer` codes the layer: "residual", as published, or
        "conditional".
      transforms: which of `sae.model.transforms.TRANSFORMS`.
      latent_support: side of the convolutions that make and read the latent.
      post_filter: channels of two residual blocks that the image of "shortcut" transforms passes;
        0 for none.
      step: of a conditional layer's latent, which is rounded to multiples of it, on the scale
        of images in [0, 1].
      kernel: what is learned of a convolution: "plain", its taps, or "fourier",
        their Fourier coefficients.
      prior_filters: channels between the convolutions of a conditional layer's prior.
      prior_support: side of that prior's convolution over the layer's own latent.
      prior_slices: of the latent's channels, in which that prior codes a position, each but
        the first as large as all before it together.

    A field added here needs a default: weights that were saved without it have that.
    """

    name: str
    latent_depth: int
    hidden_filters: int = 48
    gdn: str = "simplified"
    kind: str = "residual"
    transforms: str = "paper"
    latent_support: int = 5
    post_filter: int = 0
    step: float = 1.0
    kernel: str = "fourier"
    prior_filters: int = 64
    prior_support: int = 5
    prior_slices: int = 1


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How one layer is trained; the loss is distortion + lmbda * rate.

    A field added here needs a default: trainings recorded without it had that.

    Attributes:
      lmbda: weight of the rate in bits per pixel. The distortion beside it is
        described in `sae.model.objective`.
      last_step: number of steps.
      batchsize: patches per step, over all replicas.
      patchsize: side of the square patches in pixels, a multiple of 16.
      small_until: fraction of the steps before `decoder_from` whose patches have
        half that side, which makes four steps of one.
      optimizer: "adam" or "soap" (`sae.training.optimizer`).
      clip: the norm of a variable's gradient is cut to so many times its moving average;
        0 to leave gradients as they are. For SOAP.
      learning_rate: of the optimizer, until `decay_from`.
      final_learning_rate: reached at the last step along half a cosine.
      decay_from: fraction of those steps after which the rate starts to fall.
      noise: half width of uniform noise added to the patches, images in [0, 1].
      quantization: what stands for rounding until `decoder_from`: "noise", as
        published, or "mixed": noise in the rate alone (`sae.model.layer`).
      decoder_from: fraction of the steps after which the synthesis transform and
        the prior train alone, on rounded latents.
      smallest_scale: photos are shrunk by a random factor between this and 1.
      warm_start: weights to begin with: "" for fresh ones, "below" for those of the
        layer below, or the folder of a checkpoint (`sae.training.warm_start`).
      crops: patches cut from a photo each time it is decoded.
      seed: of the initial weights, the noise and the order of the patches.
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
    decay_from: float = 0.3
    noise: float = 0.0
    quantization: str = "noise"
    decoder_from: float = 1.0
    smallest_scale: float = 0.5
    warm_start: str = ""
    crops: int = 8
    seed: int = 0

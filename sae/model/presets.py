"""The hyper-parameters of the paper, and of the preset that trains better.

The paper is Jia et al., "Layered Image Compression using Scalable
Auto-encoder", MIPR 2019.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sae.config import LAYER_NAMES, LayerConfig, TrainingConfig
from sae.errors import SaeError
from sae.model.families import Family

_DEPTH = {"base": 48, "el1": 48, "el2": 96, "el3": 144, "el4": 192}

# Those of MS-SSIM are published (50, 30, 10, 0.5) without the scale of the distortion beside
# them; these put the layers at 0.11, 0.29, 0.58 and 1.13 bits per pixel on Kodak.
_LAMBDA = {
    "mse": {"base": 3000.0, "el1": 1000.0, "el2": 300.0, "el3": 100.0, "el4": 30.0},
    "ms-ssim": {"base": 450.0, "el1": 110.0, "el2": 38.0, "el3": 10.0},
}

# As published. The steps of EL2 are not, and are taken to be those of EL1.
_PAPER: dict[str, dict[str, Any]] = {
    "base": {"batchsize": 8, "learning_rate": 1e-4, "last_step": 100_000},
    "el1": {"batchsize": 1, "learning_rate": 1e-3, "last_step": 500_000},
    "el2": {"batchsize": 1, "learning_rate": 1e-5, "last_step": 500_000},
    "el3": {"batchsize": 1, "learning_rate": 1e-4, "last_step": 50_000},
    "el4": {"batchsize": 1, "learning_rate": 1e-4, "last_step": 50_000},
}


def _default(name: str, family: Family) -> tuple[LayerConfig, TrainingConfig]:
    mse, base = family.metric == "mse", name == LAYER_NAMES[0]
    layer = LayerConfig(name, _DEPTH[name], kernel="plain")
    return layer, TrainingConfig(
        _LAMBDA[family.metric][name],
        last_step=20_000 if base else 15_000,
        quantization="mixed",
        decoder_from=0.97,
        optimizer="soap",
        # At 5e-3, MS-SSIM lost at step 4,760 of the base what it had learned. A base for MSE learns
        # faster unclipped.
        clip=0.0 if mse and base else 2.0,
        learning_rate=5e-3 if base else 3e-3,
        # MS-SSIM has no room for its five scales on patches of 128 pixels.
        patchsize=256 if mse else 176,
        small_until=0.95 if mse else 0.0,
    )


def _paper(name: str, family: Family) -> tuple[LayerConfig, TrainingConfig]:
    rate = _PAPER[name]["learning_rate"]
    return LayerConfig(name, _DEPTH[name], gdn="paper"), TrainingConfig(
        _LAMBDA[family.metric][name],
        **_PAPER[name],
        final_learning_rate=rate,
        noise=0.001,
        smallest_scale=1.0,
    )


def _tiny(name: str, family: Family) -> tuple[LayerConfig, TrainingConfig]:
    layer = LayerConfig(name, latent_depth=8, hidden_filters=8)
    return layer, TrainingConfig(
        _LAMBDA[family.metric][name],
        last_step=20,
        batchsize=2,
        patchsize=64 if family.metric == "mse" else 176,
        learning_rate=1e-2,
    )


PRESETS = {"default": _default, "paper": _paper, "tiny": _tiny}


def defaults(
    name: str, family: Family, preset: str = "default"
) -> tuple[LayerConfig, TrainingConfig]:
    """Returns the configuration of layer `name` of a family in a preset.

    Raises:
      SaeError: the family has no such layer.
    """
    if name not in family.layers:
        raise SaeError(
            f"The {family.name} family has no {name}; its layers are {', '.join(family.layers)}."
        )
    layer, training = PRESETS[preset](name, family)
    return dataclasses.replace(layer, kind=family.kind), training

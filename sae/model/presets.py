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

# Of the conditional layers. As many frequencies as are worth coding. A base could be rounded best
# in steps of sqrt(26 lambda) / 255 without any training; higher layers learn faster with 0.7 of it.
_CONDITIONAL_DEPTH = {"base": 96, "el1": 192, "el2": 288, "el3": 352, "el4": 448}
_STEP = {"base": 1.1, "el1": 0.45, "el2": 0.25, "el3": 0.14, "el4": 0.08}

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
    conditional = family.kind == "conditional"
    steps, small, joint = 20_000 if base else 15_000, 0.95, 0.97
    if conditional:
        steps, small, joint = 40_000 if base else 20_000, 1.0, 0.99
        layer = dataclasses.replace(
            layer,
            latent_depth=_CONDITIONAL_DEPTH[name],
            hidden_filters=80,
            transforms="shortcut",
            latent_support=3,
            post_filter=0 if name in LAYER_NAMES[:2] else 16,
            step=_STEP[name],
            prior_filters=96,
            prior_support=3,
            # The parts of the base's latent depend most on one another.
            prior_slices=6 if base else 4,
        )
    return layer, TrainingConfig(
        _LAMBDA[family.metric][name],
        last_step=steps,
        quantization="mixed",
        decoder_from=joint,
        optimizer="soap",
        # At 5e-3, MS-SSIM lost at step 4,760 of the base what it had learned. A base for MSE learns
        # faster unclipped, and conditional layers for MSE do without.
        clip=0.0 if mse and (base or conditional) else 2.0,
        # At 5e-3, a conditional EL1 lost at step 4,570 what it had learned.
        learning_rate=5e-3 if base else 3e-3,
        # A conditional layer learns faster from the weights below, a residual one far slower.
        warm_start="below" if conditional and not base else "",
        # MS-SSIM has no room for its five scales on patches of 128 pixels.
        patchsize=256 if mse else 176,
        small_until=small if mse else 0.0,
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
    layer = LayerConfig(name, latent_depth=8, hidden_filters=8, prior_filters=8)
    if family.kind == "conditional":
        layer = dataclasses.replace(
            layer,
            transforms="shortcut",
            post_filter=0 if name == LAYER_NAMES[0] else 4,
            step=_STEP[name],
            prior_slices=3,
        )
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

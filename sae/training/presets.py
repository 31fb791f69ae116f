"""The settings of every training as literal tables, with a row for each layer or model.

`default` has the settings of the released residual layers, and those of one run of a progressive
model. Released progressive models changed settings on the way; their cards list the changes.
`paper` has the settings of Jia et al. (MIPR 2019), and `tiny` has those of tests of a few seconds.
Other fields have their defaults in `sae/config.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sae.config import LayerConfig, ProgressiveTrainingConfig, TrainingConfig
from sae.errors import SaeError
from sae.model.families import Family
from sae.model.progressive_config import ProgressiveConfig

PRESETS = ("default", "paper", "tiny")

# Weight of the rate in bits per pixel. The published weights for MS-SSIM (50, 30, 10, 0.5) lack the
# scale of the distortion. With those here, the released layers have 0.14, 0.31, 0.65 and 1.21 bits
# per pixel on Kodak.
_LAMBDA = {
    "residual-mse": {"base": 3000.0, "el1": 1000.0, "el2": 300.0, "el3": 100.0, "el4": 30.0},
    "residual-ms-ssim": {"base": 450.0, "el1": 110.0, "el2": 38.0, "el3": 10.0},
}
_LATENT_DEPTH = {"base": 48, "el1": 48, "el2": 96, "el3": 144, "el4": 192}

_DEFAULT: dict[str, dict[str, Any]] = {
    "base": {"last_step": 20_000, "learning_rate": 5e-3},
    "el1": {"last_step": 15_000, "learning_rate": 3e-3},
    "el2": {"last_step": 15_000, "learning_rate": 3e-3},
    "el3": {"last_step": 15_000, "learning_rate": 3e-3},
    "el4": {"last_step": 15_000, "learning_rate": 3e-3},
}
_DEFAULT_SHARED: dict[str, Any] = {
    "kernel": "plain",
    "optimizer": "soap",
    "clip": 2.0,
    "quantization": "mixed",
    "decoder_from": 0.97,
}
_DEFAULT_BY_METRIC: dict[str, dict[str, Any]] = {
    "mse": {"patchsize": 256, "small_until": 0.95},
    # Patches of 128 pixels are too small for the five scales.
    "ms-ssim": {"patchsize": 176, "small_until": 0.0},
}

# The number of steps of EL2 is not published; here it is that of EL1.
_PAPER: dict[str, dict[str, Any]] = {
    "base": {"batchsize": 8, "learning_rate": 1e-4, "last_step": 100_000},
    "el1": {"batchsize": 1, "learning_rate": 1e-3, "last_step": 500_000},
    "el2": {"batchsize": 1, "learning_rate": 1e-5, "last_step": 500_000},
    "el3": {"batchsize": 1, "learning_rate": 1e-4, "last_step": 50_000},
    "el4": {"batchsize": 1, "learning_rate": 1e-4, "last_step": 50_000},
}
_PAPER_SHARED: dict[str, Any] = {"gdn": "paper", "noise": 0.001, "smallest_scale": 1.0}

_TINY_SHARED: dict[str, Any] = {
    "latent_depth": 8,
    "hidden_filters": 8,
    "last_step": 20,
    "batchsize": 2,
    "learning_rate": 1e-2,
}
_TINY_PATCHSIZE = {"mse": 64, "ms-ssim": 176}

_PROGRESSIVE: dict[str, dict[str, Any]] = {
    "progressive-mse": {"lmbda": 3000.0, "patchsize": 128, "last_step": 160_000},
    "progressive-ms-ssim": {"lmbda": 450.0, "patchsize": 176, "last_step": 160_000},
}
_TINY_PROGRESSIVE: dict[str, Any] = {
    "plane_depths": (8, 10, 12),
    "hidden_filters": 8,
    "analysis_blocks": 1,
    "synthesis_blocks": 1,
    "slices": (2, 2),
    "context_filters": 8,
    "slice_embedding": 6,
    "plane_filters": 8,
    "last_step": 20,
    "batchsize": 3,
    "photo_side": 176,
    "warmup": 1,
}


def residual(
    name: str, family: Family, preset: str = "default"
) -> tuple[LayerConfig, TrainingConfig]:
    """Returns architecture and training of a residual layer.

    Args:
      name: name of the layer.
      family: family of the layer, a residual one.
      preset: name of a preset, one of `PRESETS`.

    Raises:
      SaeError: the family has no such layer.
    """
    if name not in family.layers:
        raise SaeError(
            f"The {family.name} family has no {name}; its layers are {', '.join(family.layers)}."
        )
    values = {
        "default": {**_DEFAULT_SHARED, **_DEFAULT_BY_METRIC[family.metric], **_DEFAULT[name]},
        "paper": {
            **_PAPER_SHARED,
            **_PAPER[name],
            # The learning rate is constant.
            "final_learning_rate": _PAPER[name]["learning_rate"],
        },
        "tiny": {**_TINY_SHARED, "patchsize": _TINY_PATCHSIZE[family.metric]},
    }[preset]
    if preset == "default" and (name, family.metric) == ("base", "mse"):
        # A base for MSE converges faster without clipping.
        values["clip"] = 0.0
    values = {
        "name": name,
        "lmbda": _LAMBDA[family.name][name],
        "latent_depth": _LATENT_DEPTH[name],
        **values,
    }
    layer, training = split(values, LayerConfig, TrainingConfig)
    return LayerConfig(**layer), TrainingConfig(**training)


def progressive(
    family: Family, preset: str = "default"
) -> tuple[ProgressiveConfig, ProgressiveTrainingConfig]:
    """Returns architecture and training of a progressive model.

    Args:
      family: family of the model, a progressive one.
      preset: name of a preset, "default" or "tiny".

    Raises:
      SaeError: there is no such preset of progressive families.
    """
    if preset == "paper":
        raise SaeError(f"The paper has no {family.name}; choose a residual family, or no preset.")
    values = dict(_PROGRESSIVE[family.name])
    if preset == "tiny":
        values |= _TINY_PROGRESSIVE
    model, training = split(values, ProgressiveConfig, ProgressiveTrainingConfig)
    return ProgressiveConfig(**model), ProgressiveTrainingConfig(**training)


def split(values: dict[str, Any], *kinds: type) -> list[dict[str, Any]]:
    """Returns the values that belong to each of several configurations.

    Raises:
      KeyError: a value belongs to none of them.
    """
    names = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
    if unknown := set(values) - set().union(*names):
        raise KeyError(min(unknown))
    return [{k: v for k, v in values.items() if k in of_kind} for of_kind in names]

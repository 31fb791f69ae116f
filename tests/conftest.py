"""Shared fixtures: tiny layers with random weights, and a folder of photos."""

from __future__ import annotations

import dataclasses

import pytest

from sae import images
from sae.config import LAYER_NAMES, defaults


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with the embedded sample photos."""
    folder = tmp_path_factory.mktemp("photos")
    for name, photo in images.sample_photos().items():
        images.write_png(photo, folder / f"{name}.png")
    return folder


def save_tiny(folder, names, kind):
    """Saves tiny mse layers of a kind, random but with spread latents."""
    import tensorflow as tf

    from sae.model import checkpoint
    from sae.model.layer import build

    tf.keras.utils.set_random_seed(1)
    layers = []
    for name in names:
        config = defaults(name, preset="tiny")[0]
        layer = build(dataclasses.replace(config, kind=kind), layers)
        arrays = layer.arrays()
        # Latents far from zero, so that rounding and coding have something to do.
        for part in ("real", "imag"):
            arrays[f"analysis/conv_2/kernel_{part}"] *= 30
            arrays[f"synthesis/conv_2/kernel_{part}"] *= 0.03
        layer.set_arrays(arrays)
        layer.build_tables()
        below = layers[-1].fingerprint if layers else None
        checkpoint.save_layer(layer, "mse", below, {"options": {}}, folder)
        layers.append(layer)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory):
    """Checkpoints of five residual layers."""
    return save_tiny(tmp_path_factory.mktemp("checkpoints"), LAYER_NAMES, "residual")


@pytest.fixture(scope="session")
def conditional_checkpoints(tmp_path_factory):
    """Checkpoints of three conditional layers."""
    return save_tiny(tmp_path_factory.mktemp("conditional"), LAYER_NAMES[:3], "conditional")


@pytest.fixture(scope="session")
def conditional_cascade(conditional_checkpoints):
    """The layers in `conditional_checkpoints`."""
    from sae.model import checkpoint

    return checkpoint.load_cascade("mse", checkpoints=conditional_checkpoints)


@pytest.fixture(scope="session")
def tiny_cascade(tiny_checkpoints):
    """The layers in `tiny_checkpoints`."""
    from sae.model import checkpoint

    return checkpoint.load_cascade("mse", checkpoints=tiny_checkpoints)


@pytest.fixture
def tiny_config():
    """Architecture and training of a layer, by name, that takes a second to train."""

    def config(name, **changes):
        architecture, training = defaults(name, preset="tiny")
        return architecture, dataclasses.replace(training, **changes)

    return config

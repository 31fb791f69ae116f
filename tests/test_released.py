"""Released layers against stored streams: old files must stay readable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sae import images, metrics
from sae.coding import codec
from sae.model import families
from sae.model.layer_store import LayerStore
from sae.model.model_store import ModelStore
from sae.training import presets
from sae.training.state import differences

pytestmark = pytest.mark.slow

# coffee.png is a part of the photo of that name in scikit-image (CC0).
DATA = Path(__file__).resolve().parent / "data"

# PSNR in dB of the stored stream's first layers, decoded when it was made.
STORED = {
    "residual-mse": (28.4464, 29.8864),
    "residual-ms-ssim": (25.052, 26.5184),
    "progressive-mse": (29.5064, 32.4507, 33.3372, 35.5221, 36.8496),
    "progressive-ms-ssim": (28.0668, 30.1302, 30.7232, 31.9714, 32.4262),
}

RESIDUAL = ("residual-mse", "residual-ms-ssim")
PROGRESSIVE = ("progressive-mse", "progressive-ms-ssim")


@pytest.mark.parametrize("family", STORED)
def test_a_stored_stream_decodes_as_ever(family):
    photo = images.read(DATA / "coffee.png")
    stored = (DATA / f"coffee-{family}.sae").read_bytes()
    decoded = [x_hat for _, _, x_hat in codec.decode_points(stored)]
    for x_hat, psnr in zip(decoded, STORED[family]):
        assert metrics.psnr(photo, x_hat) == pytest.approx(psnr, abs=0.01)
    assert len(decoded) == len(STORED[family])


@pytest.mark.parametrize("family", STORED)
def test_an_encoder_makes_the_stored_stream(family):
    photo = images.read(DATA / "coffee.png")
    stored = (DATA / f"coffee-{family}.sae").read_bytes()
    made = codec.compress(photo, len(STORED[family]), family)
    # Another processor may round a latent that lies half way to the other side.
    assert made == stored or abs(len(made) - len(stored)) <= max(8, len(stored) // 500)
    # Format, family, and size or weights.
    assert made[:13] == stored[:13]


@pytest.mark.parametrize("family", RESIDUAL)
def test_released_layers_are_whole_and_recorded(family):
    family = families.named(family)
    store = LayerStore(family)
    assert store.names() == family.layers
    for layer in store.load().layers:
        record = store.metadata(layer.config.name)["training"]
        assert {"options", "patches", "hours", "photos", "validation", "packages"} <= set(record)
        assert all(array.dtype != "float64" for array in layer.arrays().values())
        asked = [dataclasses.asdict(part) for part in presets.residual(layer.name, family)]
        assert differences(record["options"], {**asked[0], **asked[1]}) == []


@pytest.mark.parametrize("family", PROGRESSIVE)
def test_released_models_are_whole_and_recorded(family):
    store = ModelStore(families.named(family))
    model, record = store.load(), store.metadata()["training"]
    assert model.unfitting() is None and model.fingerprint == store.metadata()["fingerprint"]
    assert model.config == presets.progressive(store.family)[0]
    assert {"options", "patches", "hours", "photos", "validation", "packages"} <= set(record)
    assert all(array.dtype != "float64" for array in model.arrays.values())

"""Shared fixtures: tiny layers with random weights, and a folder of photos."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
from hypothesis import HealthCheck, settings
from progressive_models import SMALL, random_model

from sae import images
from sae.config import LAYER_NAMES
from sae.model import families
from sae.training import presets

# How long an example takes depends on what else the machine does.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")

# Begun first, so that no worker is left alone with them at the end.
LONGEST = ("test_training.py", "test_smoke.py", "test_codec.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with the embedded sample photos."""
    folder = tmp_path_factory.mktemp("photos")
    for name, photo in images.sample_photos().items():
        images.write_png(photo, folder / f"{name}.png")
    return folder


def save_tiny(folder, family, names):
    """Saves tiny layers of a family, random but with spread latents; returns their store."""
    import tensorflow as tf

    from sae.coding.residual_codec import use_fixed_threads
    from sae.model.layer_store import LayerStore
    from sae.model.residual_layer import ResidualLayer

    # Their number cannot be set once TensorFlow runs.
    use_fixed_threads()

    tf.keras.utils.set_random_seed(1)
    store, layers = LayerStore(families.named(family), folder), []
    for name in names:
        layer = ResidualLayer(presets.residual(name, store.family, "tiny")[0])
        arrays = layer.arrays()
        # Latents far from zero, so that rounding and coding have something to do.
        for part in ("real", "imag"):
            for name, scale in (("analysis", 30), ("synthesis", 0.03)):
                arrays[f"{name}/conv_2/kernel_{part}"] *= scale
        layer.set_arrays(arrays)
        layer.entropy_model.build_tables()
        below = layers[-1].fingerprint if layers else None
        store.save(layer, below, {"options": {"lmbda": 100.0}})
        layers.append(layer)
    return store


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory):
    """Five residual layers."""
    return save_tiny(tmp_path_factory.mktemp("checkpoints"), "residual-mse", LAYER_NAMES)


@pytest.fixture(scope="session")
def tiny_checkpoints(tiny_store):
    """The folder of `tiny_store`."""
    return tiny_store.folder


@pytest.fixture(scope="session")
def tiny_model(tiny_store):
    """The model in `tiny_store`."""
    return tiny_store.load()


@pytest.fixture(scope="session")
def ms_ssim_store(tmp_path_factory):
    """Two layers for MS-SSIM."""
    return save_tiny(tmp_path_factory.mktemp("ms-ssim"), "residual-ms-ssim", LAYER_NAMES[:2])


@pytest.fixture(scope="session")
def progressive_store(tmp_path_factory):
    """A small progressive model with random weights, near those of its initial state."""
    from sae.model.model_store import ModelStore

    store = ModelStore(families.named("progressive-mse"), tmp_path_factory.mktemp("progressive"))
    store.save(random_model(SMALL, 0.002), {})
    return store


@pytest.fixture
def browser():
    """A headless Chromium that has said nothing severe when the test is over."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="there is no selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("there is no Chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless", "no-sandbox", "disable-gpu", "window-size=1200,2400"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        browser.implicitly_wait(20)
        yield browser
        assert not [log for log in browser.get_log("browser") if log["level"] == "SEVERE"]


@pytest.fixture
def tiny_config():
    """Architecture and training of a residual layer, by name, that takes a second to train."""

    def config(name, **changes):
        architecture, training = presets.residual(name, families.named("residual-mse"), "tiny")
        return architecture, dataclasses.replace(training, **changes)

    return config

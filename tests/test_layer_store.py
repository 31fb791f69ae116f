"""Checkpoints: one layer each, exact, chained by fingerprints."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from sae.config import LAYER_NAMES
from sae.errors import SaeError
from sae.model import stores
from sae.model.residual import ResidualModel
from sae.model.residual_layer import ResidualLayer


@pytest.fixture
def store(tiny_store, tmp_path):
    """A copy to damage."""
    folder = shutil.copytree(tiny_store.folder, tmp_path / "checkpoints")
    return dataclasses.replace(tiny_store, folder=folder)


def strings(model: ResidualModel) -> list[bytes]:
    x = tf.constant(np.random.default_rng(3).uniform(size=(1, 48, 64, 3)), tf.float32)
    x_hat, found = tf.zeros_like(x), []
    for layer in model.layers:
        y_hat = tf.round(layer.analysis(x - x_hat))
        x_hat += layer.synthesis(y_hat)
        found.append(layer.compress(y_hat).numpy()[0])
    return found


def test_a_restored_layer_is_the_same(tiny_model, tiny_store):
    again = tiny_store.load()
    assert [a.fingerprint for a in again.layers] == [b.fingerprint for b in tiny_model.layers]
    assert strings(again) == strings(tiny_model)


@pytest.mark.slow
def test_a_fresh_process_makes_the_same_strings(tiny_model, tiny_checkpoints):
    script = (
        "import sys; sys.path[:0] = ['.', 'tests']\n"
        "from test_layer_store import strings\n"
        "from sae.coding.residual_codec import use_fixed_threads\n"
        "from sae.model import stores\n"
        "use_fixed_threads()\n"
        f"model = stores.store('residual-mse', {str(tiny_checkpoints)!r}).load()\n"
        "print(' '.join(s.hex() for s in strings(model)))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert [bytes.fromhex(s) for s in output.split()] == strings(tiny_model)


def test_a_copy_saved_again_is_the_same(tiny_model, store, tmp_path):
    layer = tiny_model.layers[0]
    dataclasses.replace(store, folder=tmp_path / "copy").save(layer, None, {})
    (again,) = dataclasses.replace(store, folder=tmp_path / "copy").load().layers
    assert again.fingerprint == layer.fingerprint


def test_weights_rounded_to_float16_take_half_the_place(store):
    (layer,) = store.load(1).layers
    path = store.path("base") / "weights.npz"
    before = path.stat().st_size
    layer.round_weights()
    layer.entropy_model.build_tables()
    store.save(layer, None, {})
    (again,) = store.load(1).layers
    assert again.fingerprint == layer.fingerprint
    with np.load(path) as arrays:
        kinds = {name: arrays[name].dtype for name in arrays.files}
    assert {str(kind) for name, kind in kinds.items() if "cdf" not in name} == {"float16"}
    assert path.stat().st_size < before


def test_nothing_is_pickled(tiny_checkpoints):
    for path in tiny_checkpoints.rglob("weights.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert {arrays[k].dtype.str for k in arrays.files} <= {"<f2", "<f4", "<i4"}


def test_the_layers_at_hand_stop_at_a_gap(store):
    assert store.names() == LAYER_NAMES
    shutil.rmtree(store.path("el2"))
    assert store.names() == ("base", "el1")
    assert len(store.load().layers) == 2
    assert stores.store("residual-ms-ssim", store.folder).names() == ()


def test_a_metric_stands_for_its_best_family(store):
    assert stores.store("mse", store.folder).family.name == "residual-mse"
    assert stores.store("residual-mse", store.folder) == store
    with pytest.raises(SaeError, match="no family psnr; choose one of progressive-mse"):
        stores.store("psnr", store.folder)


def test_a_missing_layer_names_the_script(store):
    shutil.rmtree(store.path("el1"))
    with pytest.raises(SaeError, match=r"train_el1\.py --family residual-mse --checkpoints"):
        store.load(5)


def test_each_description_is_read_once(store, monkeypatch):
    read, original = [], Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda p, **k: read.append(p) or original(p, **k))
    store.load()
    assert len(read) == len(set(read)) == len(LAYER_NAMES)


# Of weights that were released before some of the fields of their configurations were there.
RELEASED = {
    "residual-mse": "1e738a8f 577b9d68 b9bacdd4 c66908dd f7b11a97",
    "residual-ms-ssim": "68276647 0b16a8bd 0d71a7cb 077895cf",
}


@pytest.mark.parametrize("family", RELEASED)
def test_fingerprints_outlive_new_fields(family):
    layers = stores.store(family).load().layers
    assert " ".join(layer.fingerprint[:8] for layer in layers) == RELEASED[family]


def test_a_field_that_is_not_its_default_has_another_fingerprint(tiny_config):
    def fingerprint(**changes):
        tf.keras.utils.set_random_seed(1)
        return ResidualLayer(dataclasses.replace(tiny_config("base")[0], **changes)).fingerprint

    assert fingerprint(kernel="fourier") == fingerprint()
    assert fingerprint(kernel="plain") != fingerprint()


def test_a_layer_on_a_changed_one_is_refused(store):
    (layer,) = store.load(1).layers
    arrays = layer.arrays()
    arrays["synthesis/conv_2/bias"] += 0.1
    layer.set_arrays(arrays)
    store.save(layer, None, {})
    with pytest.raises(SaeError, match=r"trained on another base.*train_el1\.py.*--force"):
        store.load()


def test_another_familys_layer_is_refused(store):
    shutil.copytree(store.folder / "residual-mse", store.folder / "residual-ms-ssim")
    with pytest.raises(SaeError, match="of the residual-mse family"):
        stores.store("residual-ms-ssim", store.folder).load()


@pytest.mark.parametrize("name", ["weights.npz", "layer.json"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b'{"format": 1}'])
def test_a_damaged_file_is_one_sentence(store, name, content):
    (store.path("base") / name).write_bytes(content)
    with pytest.raises(SaeError, match=name):
        store.load()


def test_weights_of_another_layer_are_refused(store):
    shutil.copy(store.path("el1") / "weights.npz", store.path("base") / "weights.npz")
    with pytest.raises(SaeError, match=r"not what layer\.json describes"):
        store.load()
    path = store.path("base") / "layer.json"
    metadata = json.loads(path.read_text())
    metadata["layer"]["hidden_filters"] = 9
    path.write_text(json.dumps(metadata))
    with pytest.raises(SaeError, match="another kind of layer"):
        store.load()

"""Checkpoints: one layer each, exact, chained by fingerprints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from sae.config import LAYER_NAMES
from sae.errors import SaeError
from sae.model import checkpoint
from sae.model.cascade import Cascade
from sae.model.layer import Context


@pytest.fixture
def folder(tiny_checkpoints, tmp_path):
    """A copy to damage."""
    return shutil.copytree(tiny_checkpoints, tmp_path / "checkpoints")


def strings(cascade: Cascade) -> list[bytes]:
    x = tf.constant(np.random.default_rng(3).uniform(size=(1, 48, 64, 3)), tf.float32)
    context, found = Context.empty(x.shape), []
    for layer in cascade.layers:
        string = layer.compress(x, context)
        context = context.extended(*layer.decompress(string, context, (48, 64)))
        found.append(string.numpy()[0])
    return found


def test_a_restored_layer_is_the_same(tiny_cascade, tiny_checkpoints):
    again = checkpoint.load_cascade("mse", checkpoints=tiny_checkpoints)
    assert [a.fingerprint for a in again.layers] == [b.fingerprint for b in tiny_cascade.layers]
    assert strings(again) == strings(tiny_cascade)


def test_a_fresh_process_makes_the_same_strings(tiny_cascade, tiny_checkpoints):
    script = (
        "import sys; sys.path[:0] = ['.', 'tests']\n"
        "from test_checkpoint import strings\n"
        "from sae.model import checkpoint\n"
        f"cascade = checkpoint.load_cascade('mse', checkpoints={str(tiny_checkpoints)!r})\n"
        "print(' '.join(s.hex() for s in strings(cascade)))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert [bytes.fromhex(s) for s in output.split()] == strings(tiny_cascade)


def test_a_copy_saved_again_is_the_same(tiny_checkpoints, tmp_path):
    layer = checkpoint.load_layer("mse", "base", tiny_checkpoints)
    checkpoint.save_layer(layer, "mse", None, {}, tmp_path)
    assert checkpoint.load_layer("mse", "base", tmp_path).fingerprint == layer.fingerprint


def test_nothing_is_pickled(tiny_checkpoints):
    for path in tiny_checkpoints.rglob("weights.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert {arrays[k].dtype.str for k in arrays.files} <= {"<f4", "<i4"}


def test_the_layers_at_hand_stop_at_a_gap(folder):
    assert checkpoint.available("mse", folder) == LAYER_NAMES
    shutil.rmtree(folder / "mse" / "el2")
    assert checkpoint.available("mse", folder) == ("base", "el1")
    assert len(checkpoint.load_cascade("mse", checkpoints=folder).layers) == 2
    assert checkpoint.available("ms-ssim", folder) == ()


def test_a_missing_layer_names_the_script(folder):
    shutil.rmtree(folder / "mse" / "el1")
    with pytest.raises(SaeError, match=r"train_el1\.py --metric mse"):
        checkpoint.load_cascade("mse", LAYER_NAMES, folder)


def test_a_layer_on_a_changed_one_is_refused(folder):
    layer = checkpoint.load_layer("mse", "base", folder)
    arrays = layer.arrays()
    arrays["synthesis/conv_2/bias"] += 0.1
    layer.set_arrays(arrays)
    checkpoint.save_layer(layer, "mse", None, {}, folder)
    with pytest.raises(SaeError, match=r"trained on another base.*train_el1\.py"):
        checkpoint.load_cascade("mse", LAYER_NAMES, folder)


def test_another_familys_layer_is_refused(folder):
    shutil.copytree(folder / "mse", folder / "ms-ssim")
    with pytest.raises(SaeError, match="of the mse family"):
        checkpoint.load_cascade("ms-ssim", checkpoints=folder)


@pytest.mark.parametrize("name", ["weights.npz", "layer.json"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b'{"format": 1}'])
def test_a_damaged_file_is_one_sentence(folder, name, content):
    (folder / "mse" / "base" / name).write_bytes(content)
    with pytest.raises(SaeError, match=name):
        checkpoint.load_layer("mse", "base", folder)


def test_weights_of_another_layer_are_refused(folder):
    shutil.copy(folder / "mse" / "el1" / "weights.npz", folder / "mse" / "base" / "weights.npz")
    with pytest.raises(SaeError, match=r"not what layer\.json describes"):
        checkpoint.load_layer("mse", "base", folder)
    path = folder / "mse" / "base" / "layer.json"
    description = json.loads(path.read_text())
    description["layer"]["hidden_filters"] = 9
    path.write_text(json.dumps(description))
    with pytest.raises(SaeError, match="another kind of layer"):
        checkpoint.load_layer("mse", "base", folder)

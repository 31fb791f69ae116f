"""Training: the step, the loop, resuming, and several workers."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from sae.config import CHOICES
from sae.errors import SaeError
from sae.model import families, residual_transforms
from sae.model.arrays import load_arrays
from sae.model.layer_store import LayerStore
from sae.model.rate_distortion import RateDistortionLoss
from sae.model.residual import ResidualModel
from sae.model.residual_layer import ResidualLayer
from sae.training import presets, residual
from sae.training.optimizer import make_optimizer
from sae.training.residual import train
from sae.training.residual_step import make_step
from sae.training.schedule import learning_rate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(tmp_path):
    """A place for residual layers."""
    return LayerStore(families.named("residual-mse"), tmp_path)


def step_of(
    below,
    config,
    count=3,
    metric="mse",
    jit_compile=False,
    optimizer=None,
    family=None,
    quantization=None,
):
    """Takes some steps of el1 on layers below; returns their terms, and the layer."""
    tf.keras.utils.set_random_seed(5)
    family = family or families.published(metric)
    layer = ResidualLayer(presets.residual("el1", family, "tiny")[0])
    step = make_step(
        below,
        layer,
        RateDistortionLoss(metric, config.lmbda),
        optimizer or tf.keras.optimizers.Adam(),
        quantization or config.quantization,
        config.noise,
    )
    if jit_compile:
        step = tf.function(step, jit_compile=True)
    rng = np.random.default_rng(0)
    shape = (config.batchsize, config.patchsize, config.patchsize, 3)
    terms = []
    for _ in range(count):
        values = step(rng.integers(0, 256, shape, np.uint8), np.float32(1e-3))
        terms.append({name: float(value) for name, value in values.items()})
    return terms, layer


def base_of(model):
    return ResidualModel(model.layers[:1])


def test_the_step_trains_its_own_layer_alone(tiny_model, tiny_config):
    before = [layer.fingerprint for layer in tiny_model.layers]
    fresh = step_of(base_of(tiny_model), tiny_config("el1")[1], count=0)[1].arrays()
    terms, layer = step_of(base_of(tiny_model), tiny_config("el1")[1])
    assert [layer.fingerprint for layer in tiny_model.layers] == before
    assert all(np.any(array != fresh[name]) for name, array in layer.arrays().items())
    assert set(terms[0]) == {"loss", "bpp", "distortion"}
    assert terms[0]["loss"] == pytest.approx(terms[0]["distortion"] + 1000 * terms[0]["bpp"])


@pytest.mark.parametrize("name", ["tiny_store", "ms_ssim_store"])
def test_decoder_steps_leave_what_makes_the_latent_alone(name, tiny_config, request):
    store = request.getfixturevalue(name)
    below, family = store.load(1), store.family
    config = tiny_config("el1")[1]
    fresh = step_of(below, config, count=0, family=family)[1].arrays()
    _, layer = step_of(below, config, family=family, quantization="rounded")
    for name, array in layer.arrays().items():
        assert np.all(array == fresh[name]) == name.startswith("analysis")


@pytest.mark.parametrize(("metric", "patchsize"), [("mse", 64), ("ms-ssim", 176)])
def test_xla_and_plain_step_agree(tiny_config, metric, patchsize):
    config = tiny_config("el1", patchsize=patchsize, noise=0.001)[1]
    fresh = step_of(ResidualModel(), config, count=0)[1].arrays()

    def gradients(jit_compile):
        # Plain descent: Adam makes whole steps of gradients that are all but zero.
        optimizer = tf.keras.optimizers.SGD()
        terms, layer = step_of(
            ResidualModel(), config, 1, metric, jit_compile=jit_compile, optimizer=optimizer
        )
        return terms[0], {name: a - fresh[name] for name, a in layer.arrays().items()}

    (terms, plain), (xla_terms, xla) = gradients(False), gradients(True)
    assert xla_terms == pytest.approx(terms, rel=1e-3)
    for name, array in plain.items():
        tolerance = 0.01 * np.abs(array).max()
        np.testing.assert_allclose(xla[name], array, atol=tolerance, rtol=0, err_msg=name)


def test_xla_and_plain_step_agree_on_a_frozen_layer(tiny_model, tiny_config):
    config = tiny_config("el1")[1]
    (plain,), _ = step_of(base_of(tiny_model), config, 1)
    (xla,), _ = step_of(base_of(tiny_model), config, 1, jit_compile=True)
    # Sums in another order flip the rounding of single latents of the base.
    assert xla == pytest.approx(plain, rel=1e-2)


def test_the_learning_rate_falls_along_half_a_cosine(tiny_config):
    config = tiny_config(
        "base", last_step=1200, decoder_from=5 / 6, learning_rate=1.0,
        final_learning_rate=0.01,
    )[1]  # fmt: skip
    rates = [learning_rate(config, step) for step in range(1201)]
    assert rates[:301] == [1.0] * 301
    assert rates[650] == pytest.approx((1.0 + 0.01) / 2, rel=1e-2)
    assert rates[999] == pytest.approx(0.01, rel=1e-2)
    assert rates[1000] == 0.1 and rates[1200] == pytest.approx(0.01)
    falling = rates[300:1000], rates[1000:]
    assert all(a >= b for part in falling for a, b in zip(part, part[1:]))


def test_layers_train_in_order(photos, store, tiny_config, capsys):
    with pytest.raises(SaeError, match=r"train_base\.py"):
        train(*tiny_config("el1", last_step=4), store, [photos])
    train(*tiny_config("base", last_step=4), store, [photos])
    base = (store.path("base") / "weights.npz").read_bytes()
    train(*tiny_config("el1", last_step=4), store, [photos])
    assert (store.path("base") / "weights.npz").read_bytes() == base
    el1 = store.metadata("el1")
    assert el1["below"] == store.metadata("base")["fingerprint"]
    assert el1["training"]["patches"] == 8
    assert el1["training"]["validation"][-1]["step"] == 4
    assert el1["training"]["steps"] == {
        "on half patches": 0, "on whole patches": 4, "of the decoder alone": 0,
    }  # fmt: skip


def test_a_finished_layer_stays_unless_told_otherwise(photos, store, tiny_config, capsys):
    train(*tiny_config("base", last_step=2), store, [photos])
    for name in ("el1", "el2"):
        below = store.load().layers
        layer = ResidualLayer(tiny_config(name)[0])
        layer.entropy_model.build_tables()
        store.save(layer, below[-1].fingerprint, {})

    def files():
        return {path: path.read_bytes() for path in store.folder.rglob("*.*") if path.is_file()}

    before = files()
    capsys.readouterr()
    train(*tiny_config("base", last_step=2), store, [photos])
    said = capsys.readouterr().out
    assert "base (residual-mse) is trained already" in said and "otherwise" not in said
    train(*tiny_config("base", last_step=3), store, [photos])
    said = capsys.readouterr().out
    assert "--force replaces it" in said and "last_step was 2, is 3" in said
    assert files() == before
    train(*tiny_config("base", last_step=3), store, [photos], force=True)
    assert files() != before
    # Of the curves, those of the layer that is there.
    assert len(list((store.path("base") / "training").glob("events.*"))) == 1
    said = capsys.readouterr().out.splitlines()[-2:]
    assert said == [f"    {store.command(name, '--force')}" for name in ("el1", "el2")]
    with pytest.raises(SaeError, match=r"another base.*train_el1\.py.*--force"):
        train(*tiny_config("el2", last_step=2), store, [photos])


def test_an_unfinished_training_is_not_resumed_with_other_photos(
    photos, store, tiny_config, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LayerStore, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        train(*tiny_config("base", last_step=2), store, [photos], save_every=0)
    other = store.folder / "photos"
    shutil.copytree(photos, other)
    (other / "astronaut.png").unlink()
    with pytest.raises(SaeError, match="photos was"):
        train(*tiny_config("base", last_step=2), store, [other])


@pytest.mark.parametrize(
    ("metric", "sides", "said"),
    [
        ("mse", {"patchsize": 40}, "multiples of 16"),
        ("mse", {"patchsize": 48, "small_until": 0.5}, "24 x 24"),
        ("ms-ssim", {"patchsize": 256, "small_until": 0.5}, "176 x 176"),
    ],
)
def test_patches_that_do_not_suit_are_refused(photos, tmp_path, tiny_config, metric, sides, said):
    with pytest.raises(SaeError, match=said):
        store = LayerStore(families.published(metric), tmp_path)
        train(*tiny_config("base", **sides), store, [photos])


def test_a_folder_that_cannot_be_written_is_refused_before_all_else(store, tiny_config):
    nowhere = store.folder / "a file"
    nowhere.touch()
    with pytest.raises(SaeError, match="a file is a file; name a folder"):
        train(*tiny_config("base"), dataclasses.replace(store, folder=nowhere), ["absent"])
    (store.folder / "residual-mse").touch()
    with pytest.raises(SaeError, match="residual-mse is a file; name a folder"):
        train(*tiny_config("base"), store, ["absent"])
    other = dataclasses.replace(store, folder=store.folder / "other")
    (other.path("base") / "weights.npz").mkdir(parents=True)
    with pytest.raises(SaeError, match=r"weights\.npz is a folder"):
        train(*tiny_config("base"), other, ["absent"])


def test_a_batch_is_divided_evenly_or_refused():
    residual._require_even(9, 3)
    with pytest.raises(SaeError, match="batch of 8 cannot be divided among 3 devices"):
        residual._require_even(8, 3)


@pytest.mark.parametrize("strategy", ["single", "cores"])
def test_a_training_without_photos_any_more_ends(photos, tmp_path, strategy):
    folder = shutil.copytree(photos, tmp_path / "photos")
    program = (
        "import os, sys\n"
        "from sae import scripts\n"
        "from sae.training import loop\n"
        "step = loop.Progress.step\n"
        "def stepped(*arguments):\n"
        "    for name in os.listdir(sys.argv[1]):\n"
        "        os.unlink(os.path.join(sys.argv[1], name))\n"
        "    loop.Progress.step = step\n"
        "    step(*arguments)\n"
        "loop.Progress.step = stepped\n"
        "scripts.train('base', sys.argv[2:])\n"
    )
    command = script(folder, tmp_path / "checkpoints", "--strategy", strategy, steps=100_000)
    ended = subprocess.run(
        [sys.executable, "-c", program, str(folder), *command[2:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        "None of the training photos can be read; check the folders of --data."
    )


def test_choices_are_those_of_the_modules():
    modules = {
        "kernel": residual_transforms.KERNELS,
        "gdn": residual_transforms._GDN,
    }
    assert {name: set(CHOICES[name]) for name in modules} == {k: set(v) for k, v in modules.items()}
    assert all(make_optimizer(name) for name in CHOICES["optimizer"])


def test_patches_may_be_one_position_wide(photos, tmp_path):
    family = families.named("residual-mse")
    architecture, training = presets.residual("base", family, "tiny")
    training = dataclasses.replace(training, last_step=2, patchsize=16)
    train(architecture, training, LayerStore(family, tmp_path), [photos])
    assert LayerStore(family, tmp_path).names() == ("base",)


def script(photos, folder, *options, steps=60):
    return [
        sys.executable, str(ROOT / "train_base.py"), "--data", str(photos), "--preset", "tiny",
        "--checkpoints", str(folder), "--last_step", str(steps), *options,
    ]  # fmt: skip


def test_killed_and_resumed_is_never_killed(photos, tmp_path, store):
    # The patches grow in the middle.
    options = ("--small_until", "0.5")
    subprocess.run(script(photos, tmp_path / "whole", *options), check=True)
    state = tmp_path / "killed" / "residual-mse" / "base" / "training" / "state.npz"
    for _ in range(2):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = subprocess.Popen(
            script(photos, tmp_path / "killed", *options, "--save_every", "0")
        )
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert process.poll() is None, "the training ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    note = json.loads(str(load_arrays(state)["note"]))
    assert 0 < note["progress"]["step"] < 60
    subprocess.run(script(photos, tmp_path / "killed", *options), check=True)
    assert not state.exists()
    whole, killed = (
        dataclasses.replace(store, folder=tmp_path / name).metadata("base")
        for name in ("whole", "killed")
    )
    for one, other in zip(whole["training"]["validation"], killed["training"]["validation"]):
        assert one == pytest.approx(other, rel=1e-4)
    ours, theirs = (
        dataclasses.replace(store, folder=tmp_path / name).load().layers[0].arrays()
        for name in ("whole", "killed")
    )
    for name in ours:
        # Within a step of float16.
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4, rtol=1e-3, err_msg=name)


def test_a_signal_saves_and_other_options_are_refused(photos, tmp_path):
    process = subprocess.Popen(script(photos, tmp_path, steps=100_000), stderr=subprocess.PIPE)
    while b"loss=" not in process.stderr.read1():
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 130
    state = tmp_path / "residual-mse" / "base" / "training" / "state.npz"
    before = state.read_bytes()
    refused = subprocess.run(
        script(photos, tmp_path, "--batchsize", "4", steps=100_000), capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "batchsize was 2, is 4" in refused.stderr.splitlines()[-1]
    assert state.read_bytes() == before


def test_cores_share_a_batch(photos, tmp_path):
    losses = {}
    for strategy in ("single", "cores"):
        command = script(photos, tmp_path / strategy, "--strategy", strategy, steps=4)
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        losses[strategy] = float(re.search(r"loss (\S+) at step 4", said)[1])
        record = json.loads(next((tmp_path / strategy).rglob("layer.json")).read_text())["training"]
        assert record["patches"] == 4 * record["options"]["batchsize"]
    # The same patches, but for every replica noise of its own in place of rounding.
    assert losses["cores"] == pytest.approx(losses["single"], rel=0.05)
    assert losses["cores"] != losses["single"] or os.cpu_count() == 1


def test_a_chief_and_a_worker_take_the_same_steps(photos, tmp_path):
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    cluster = {kind: [f"127.0.0.1:{port}"] for kind, port in zip(("chief", "worker"), ports)}
    workers = []
    for kind in cluster:
        # Nobody waits for a machine that does not train.
        machines = {**cluster, "ps": ["127.0.0.1:1"]}
        task = {"cluster": machines, "task": {"type": kind, "index": 0}}
        workers.append(
            subprocess.Popen(
                script(photos, tmp_path / "checkpoints", steps=6),
                env={**os.environ, "TF_CONFIG": json.dumps(task)},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    lines = [worker.communicate(timeout=300)[0].splitlines()[-1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert lines[0] == lines[1] and "loss" in lines[0]
    written = {
        p.name for p in (tmp_path / "checkpoints").rglob("*") if p.suffix in (".npz", ".json")
    }
    assert written == {"weights.npz", "layer.json"}
    shutil.rmtree(tmp_path / "checkpoints")

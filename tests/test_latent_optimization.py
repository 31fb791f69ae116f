"""Latent optimization: never worse, the same each time, and an ordinary stream."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st

import sae
from sae import images
from sae.coding import latent_optimization
from sae.coding.latent_optimization import optimized
from sae.coding.objectives import ResidualObjective
from sae.config import EFFORTS
from sae.errors import SaeError
from sae.evaluation import bdrate, evaluate, results
from sae.model.rate_distortion import RateDistortionLoss
from sae.reporting import figures
from tools import result_tables

pytestmark = pytest.mark.slow

STORES = ("tiny_store", "ms_ssim_store")


@pytest.fixture(scope="module")
def photo():
    """A photo, uint8 [45, 60, 3]."""
    return images.sample_photos()["astronaut"][100:145, 200:260]


def value(x, x_hat, y_hat, layer, loss):
    """Returns the loss of a rounded latent."""
    y_hat, bits = layer.rate(y_hat)
    return float(loss.terms(x, x_hat + layer.synthesis(y_hat), bits)["loss"][0])


@pytest.mark.parametrize(
    ("name", "window"),
    [*((name, latent_optimization._WINDOW) for name in STORES), ("tiny_store", 12)],
)
def test_it_finds_better_latents(name, window, request, monkeypatch):
    monkeypatch.setattr(latent_optimization, "_WINDOW", window)
    store = request.getfixturevalue(name)
    photo = images.sample_photos()["coffee"][:224, :176]
    x = tf.cast(photo[None], tf.float32) / 255
    x_hat, done = tf.zeros_like(x), []
    for layer in store.load(2).layers:
        loss = RateDistortionLoss(store.family.metric, 100.0)
        y, objective = layer.analysis(x - x_hat), ResidualObjective(layer, loss)
        y_hat = tf.round(optimized(x, x_hat, y, objective, 3, progress=lambda: done.append(1)))
        assert value(x, x_hat, y_hat, layer, loss) < value(x, x_hat, y, layer, loss)
        x_hat += layer.synthesis(y_hat)
    assert len(done) == 2 * latent_optimization.count_steps(3, photo.shape[:2])
    assert (len(done) > 2 * EFFORTS[3]) == (window == 12)


def test_the_padding_does_not_count(tiny_model):
    layer = tiny_model.layers[0]
    x = np.random.default_rng(1).random((1, 48, 64, 3), np.float32)
    objective = ResidualObjective(layer, RateDistortionLoss("mse", 100.0))
    step, measure = latent_optimization._functions(objective)
    inside = np.zeros((1, 48, 64, 1), np.float32)
    inside[:, :40, :50] = 1
    y_hat = tf.round(layer.analysis(x))
    losses = []
    for padding in (0.0, 1.0):
        part = latent_optimization.Part(
            tf.constant(np.where(inside, x, padding)),
            tf.constant(inside),
            tf.zeros(x.shape),
            tf.ones((3, 4, 1)),
        )
        start = latent_optimization._State(y_hat + 0.3, y_hat * 0, y_hat * 0)
        state = step(start, 0, 0.0, part)
        losses.append((float(measure(y_hat, part)), state.y.numpy()))
    assert losses[0][0] == losses[1][0]
    np.testing.assert_array_equal(losses[0][1], losses[1][1])


@given(st.integers(1, 300), st.integers(1, 300))
@example(2 * latent_optimization._MARGIN, 2 * latent_optimization._MARGIN + 1)
def test_windows_make_up_the_latent(height, width):
    counts, found = np.zeros((height, width), int), latent_optimization.windows((height, width))
    for rows, columns in found:
        optimized = rows.optimized().numpy()[:, None] * columns.optimized().numpy()
        counts[rows.window(), columns.window()] += optimized.astype(int)
        for span, side in ((rows, height), (columns, width)):
            assert span.first == 0 or span.first - span.start >= latent_optimization._MARGIN
            assert span.last == side or span.stop - span.last >= latent_optimization._MARGIN
    assert (counts == 1).all()
    assert len({tuple(span.stop - span.start for span in pair) for pair in found}) == 1


@pytest.mark.parametrize("name", STORES)
def test_streams_are_ordinary_and_the_same_each_time(name, photo, request):
    store = request.getfixturevalue(name)
    options = {"layers": 2, "checkpoints": store.folder, "effort": 1}
    data = sae.compress(photo, family=store.family.name, **options)
    assert data == sae.compress(photo, family=store.family.name, **options)
    assert data != sae.compress(photo, 2, store.family.name, store.folder)
    decoded = sae.decompress(data, checkpoints=store.folder)
    assert (decoded.shape, decoded.dtype) == (photo.shape, np.uint8)


def test_a_step_is_traced_once_for_each_shape(tiny_model, monkeypatch):
    monkeypatch.setattr(latent_optimization, "_WINDOW", 9)
    layer, loss = tiny_model.layers[0], RateDistortionLoss("mse", 123.0)
    objective = ResidualObjective(layer, loss)
    x = tf.random.stateless_uniform((1, 160, 160, 3), (1, 2))
    for _ in range(2):
        optimized(x, tf.zeros_like(x), layer.analysis(x), objective, 1)
    # An equal objective has the same functions.
    functions = latent_optimization._functions(ResidualObjective(layer, loss))
    assert [function.experimental_get_tracing_count() for function in functions] == [1, 1]


def test_what_cannot_be_optimized_is_refused(photo, tiny_store, tmp_path):
    for wrong in (-1, 10):
        with pytest.raises(SaeError, match="0 to 9"):
            sae.compress(photo, family="residual-mse", effort=wrong)
    shutil.copytree(tiny_store.folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "residual-mse" / "base" / "layer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "training": {}}))
    with pytest.raises(SaeError, match="lambda"):
        sae.compress(photo, checkpoints=tmp_path, effort=1)
    assert sae.compress(photo, checkpoints=tmp_path)


def test_optimized_latents_are_a_curve_of_their_own(photo, tiny_store, tmp_path):
    images.write_png(photo, tmp_path / "set/photo.png")
    for chosen in (0, 1):
        points = evaluate.evaluate(tmp_path / "set", tiny_store, effort=chosen)
        evaluate.save(points, tmp_path / "set", tiny_store, tmp_path / "results", chosen)
    found = results.curves(tmp_path / "results/set")
    assert [(curve.key, curve.effort) for curve in found] == [
        ("residual-mse", 0),
        ("residual-mse-effort-1", 1),
    ]
    data = sae.compress(photo, checkpoints=tiny_store.folder, effort=1)
    assert found[1].images[-1][0]["bytes"] == len(data)
    (saved,) = figures.saved_by_effort(found).values()
    assert saved[0][1] == 0 and saved[1][1] == bdrate.delta(found[1], found[0], "psnr").rate
    figure = figures.effort({"residual-mse": saved})
    assert figures.save(figure, tmp_path / "effort", ("png",))
    table = result_tables.efforts(found)
    assert "| residual-mse-effort-1 | 20 | " in table and f"| {saved[1][1]:+.1f} % |" in table

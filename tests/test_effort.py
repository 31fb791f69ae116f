"""The search for latents: never worse, the same each time, and an ordinary stream."""

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
from sae.coding import effort
from sae.config import EFFORTS
from sae.errors import SaeError
from sae.evaluation import bdrate, evaluate, results
from sae.model.layer import Context
from sae.model.objective import Objective
from sae.reporting import figures
from tools import result_tables

pytestmark = pytest.mark.slow

STORES = ("tiny_store", "ms_ssim_store")


@pytest.fixture(scope="module")
def photo():
    """A photo, uint8 [45, 60, 3]."""
    return images.sample_photos()["astronaut"][100:145, 200:260]


def loss(x, y_hat, context, layer, objective):
    """Returns the loss of a rounded latent."""
    y_hat, bits = layer.rate(y_hat, context)
    return float(objective.terms(x, layer.synthesise(y_hat, context), bits)["loss"][0])


@pytest.mark.parametrize(
    ("name", "window"), [*((name, effort._WINDOW) for name in STORES), ("tiny_store", 12)]
)
def test_it_finds_better_latents(name, window, request, monkeypatch):
    monkeypatch.setattr(effort, "_WINDOW", window)
    store = request.getfixturevalue(name)
    photo = images.sample_photos()["coffee"][:224, :176]
    x = tf.cast(photo[None], tf.float32) / 255
    context = plain = Context.empty(x.shape)
    done = []
    for layer in store.cascade(2).layers:
        objective = Objective(store.family.metric, 100.0)
        y_hat = effort.search(x, context, layer, objective, 3, progress=lambda: done.append(1))
        analysed = tf.round(layer.analyse(x, context))
        np.testing.assert_array_equal(y_hat, np.round(y_hat))
        before, after = (loss(x, y, context, layer, objective) for y in (analysed, y_hat))
        assert after < before
        context = plain.extended(layer, y_hat)
    assert len(done) == 2 * effort.count_steps(3, photo.shape[:2], 16)
    assert (len(done) > 2 * EFFORTS[3]) == (window == 12)


def test_only_what_is_in_the_image_counts(tiny_cascade):
    layer = tiny_cascade.layers[0]
    x = np.random.default_rng(1).random((1, 48, 64, 3), np.float32)
    objective = Objective("mse", 100.0)
    step, measure = effort._functions(layer, objective)
    inside = np.zeros((1, 48, 64, 1), np.float32)
    inside[:, :40, :50] = 1
    y_hat = tf.round(layer.analyse(x, Context.empty(x.shape)))
    losses = []
    for padding in (0.0, 1.0):
        part = effort._Part(
            tf.constant(np.where(inside, x, padding)),
            tf.constant(inside),
            tf.zeros(x.shape),
            (),
            tf.ones((3, 4, 1)),
        )
        state = step(effort._State(y_hat + 0.3, y_hat * 0, y_hat * 0), 0, 0.0, part)
        losses.append((float(measure(y_hat, part)), state.y.numpy()))
    assert losses[0][0] == losses[1][0]
    np.testing.assert_array_equal(losses[0][1], losses[1][1])


@given(st.integers(1, 300), st.integers(1, 300))
@example(2 * effort._MARGIN, 2 * effort._MARGIN + 1)
def test_windows_make_up_the_latent(height, width):
    counts, found = np.zeros((height, width), int), effort.windows((height, width))
    for rows, columns in found:
        searched = rows.searched().numpy()[:, None] * columns.searched().numpy()
        counts[rows.window(), columns.window()] += searched.astype(int)
        for span, side in ((rows, height), (columns, width)):
            assert span.first == 0 or span.first - span.start >= effort._MARGIN
            assert span.last == side or span.stop - span.last >= effort._MARGIN
    assert (counts == 1).all()
    assert len({tuple(span.stop - span.start for span in pair) for pair in found}) == 1


@pytest.mark.parametrize("name", STORES)
def test_streams_are_ordinary_and_the_same_each_time(name, photo, request):
    store = request.getfixturevalue(name)
    options = {"layers": 2, "checkpoints": store.folder, "effort": 1}
    data = sae.compress(photo, family=store.family.name, **options)
    assert data == sae.compress(photo, family=store.family.name, **options)
    assert data != sae.compress(photo, 2, store.family.name, store.folder)
    assert sae.extend(sae.truncate(data, 1), photo, **options) == data
    decoded = sae.decompress(data, checkpoints=store.folder)
    assert (decoded.shape, decoded.dtype) == (photo.shape, np.uint8)


def test_a_step_is_traced_once_for_each_shape(tiny_cascade, monkeypatch):
    monkeypatch.setattr(effort, "_WINDOW", 9)
    layer, objective = tiny_cascade.layers[0], Objective("mse", 123.0)
    x = tf.random.stateless_uniform((1, 160, 160, 3), (1, 2))
    for _ in range(2):
        effort.search(x, Context.empty(x.shape), layer, objective, 1)
    functions = effort._functions(layer, objective)
    assert [function.experimental_get_tracing_count() for function in functions] == [1, 1]


def test_what_cannot_be_searched_is_said(photo, tiny_store, tmp_path):
    for wrong in (-1, 10):
        with pytest.raises(SaeError, match="0 to 9"):
            sae.compress(photo, checkpoints=tiny_store.folder, effort=wrong)
    shutil.copytree(tiny_store.folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "residual-mse" / "base" / "layer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "training": {}}))
    with pytest.raises(SaeError, match="lambda"):
        sae.compress(photo, checkpoints=tmp_path, effort=1)
    assert sae.compress(photo, checkpoints=tmp_path)


def test_a_search_is_measured_beside_the_plain_latents(photo, tiny_store, tmp_path):
    images.write_png(photo, tmp_path / "set/photo.png")
    for chosen in (0, 1):
        rows = evaluate.evaluate(tmp_path / "set", tiny_store, effort=chosen)
        evaluate.save(rows, tmp_path / "set", tiny_store, tmp_path / "results", chosen)
    found = results.curves(tmp_path / "results/set")
    assert [(curve.key, curve.effort) for curve in found] == [
        ("residual-mse", 0),
        ("residual-mse/effort-1", 1),
    ]
    data = sae.compress(photo, checkpoints=tiny_store.folder, effort=1)
    assert found[1].images[-1][0]["bytes"] == len(data)
    (saved,) = figures.saved_by_effort(found).values()
    assert saved[0][1] == 0 and saved[1][1] == bdrate.delta(found[1], found[0], "psnr").rate
    figure = figures.effort({"residual-mse": saved})
    assert figures.save(figure, tmp_path / "effort", ("png",))
    table = result_tables.efforts(found)
    assert "| residual-mse/effort-1 | 20 | " in table and f"| {saved[1][1]:+.1f} % |" in table

"""Exported ONNX files: the context models to the integer, and what decoders need besides."""

from __future__ import annotations

import json

import integer_reference
import numpy as np
import onnxruntime
import pytest
from progressive_models import SMALL, random_model

from sae.__main__ import main
from sae.coding.export_onnx import export
from sae.config import LAYER_NAMES
from sae.model.families import Family
from sae.model.model_store import ModelStore


@pytest.fixture(scope="module")
def model():
    return random_model(SMALL, 0.1)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    store = ModelStore(Family("progressive-mse", 5, "progressive", "mse", LAYER_NAMES), folder)
    store.save(model, {})
    export(store, folder / "onnx")
    return folder / "onnx"


def run(folder, name, **inputs):
    session = onnxruntime.InferenceSession(
        folder / f"{name}.onnx", providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 6)])
def test_plane_0_has_the_parameters_of_the_reference(model, folder, size):
    draw, context, slices = np.random.default_rng(5), {}, []
    for k, channels in enumerate(SMALL.slice_sizes):
        values = np.zeros((1, *size, channels), np.int16)
        slices.append(values[0])
        for number, (row, column) in enumerate(integer_reference.PASSES):
            rows, columns = slice(row, None, 2), slice(column, None, 2)
            if values[0, rows, columns].size == 0:
                continue
            name, inputs = f"plane_0_slice_{k}", {"pass": np.array([number])}
            means, scales = run(folder, name, values=values, **inputs, **context)
            expected = integer_reference.of_pass(model.arrays, slices, number)
            np.testing.assert_array_equal(means[0], expected[0])
            np.testing.assert_array_equal(scales[0], expected[1])
            assert (means.dtype, scales.dtype) == (np.int16, np.uint8)
            # Some are beyond what networks read.
            values[0, rows, columns] = np.rint(draw.laplace(scale=8, size=expected[0].shape))
        if k < len(SMALL.slice_sizes) - 1:
            found = run(folder, f"plane_0_channel_context_{k}", values=values, **context)
            context = {"context": found[0]}


@pytest.mark.parametrize("size", [(1, 1), (7, 4)])
@pytest.mark.parametrize("plane", [1, 2])
def test_planes_above_have_the_parameters_of_the_reference(model, folder, plane, size):
    draw = np.random.default_rng(6)
    planes = [
        np.rint(draw.laplace(scale=8 * 3**p, size=(*size, depth))).astype(np.int16)
        for p, depth in enumerate(SMALL.plane_depths[:plane])
    ]
    means, scales = integer_reference.of_plane(model.arrays, planes)
    assert np.ptp(means) > 8 and np.ptp(scales) > 8
    inputs = {f"plane_{p}": q[None] for p, q in enumerate(planes)}
    found = run(folder, f"plane_{plane}", **inputs)
    np.testing.assert_array_equal(found[0][0], means)
    np.testing.assert_array_equal(found[1][0], scales)


def test_tables_and_settings_are_exported(model, folder):
    with np.load(folder / "tables.npz") as tables:
        for name, table in vars(model.tables).items():
            np.testing.assert_array_equal(tables[name], table)
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["fingerprint"] == model.fingerprint
    assert settings["config"]["plane_depths"] == [*SMALL.plane_depths]


def test_the_command_writes_a_model(progressive_store, tmp_path, capsys):
    checkpoints = ["--checkpoints", str(progressive_store.folder)]
    assert main(["export", str(tmp_path / "onnx"), *checkpoints]) == 0
    settings = json.loads((tmp_path / "onnx/settings.json").read_text())
    assert settings["fingerprint"] == progressive_store.fingerprints()[0]
    assert (tmp_path / "onnx/synthesis.onnx").stat().st_size > 10_000
    assert main(["export", str(tmp_path / "x"), "--family", "residual-mse"]) == 2
    assert "residual-mse is not progressive" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()

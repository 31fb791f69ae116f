"""Points of a progressive family: the named layers, or cuts in place of them."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

import sae
from sae import images, metrics
from sae.__main__ import main
from sae.coding import stream
from sae.errors import SaeError
from sae.evaluation import evaluate, results
from sae.model import stores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of two images."""
    folder = tmp_path_factory.mktemp("evaluate") / "set"
    for name in ("coffee", "chelsea"):
        images.write_png(images.sample_photos()[name][100:148, 100:164], folder / f"{name}.png")
    return folder


def measured(points):
    """Returns the rows of points but for their seconds."""
    return {
        label: [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
        for label, rows in points.items()
    }


def ends(folder, store, name="coffee.png"):
    data = sae.compress(folder / name, family=store.family.name, checkpoints=store.folder)
    return stream.parse(data).ends


def test_named_layers_are_points_of_a_progressive_stream(folder, progressive_store):
    points = measured(evaluate.evaluate(folder, progressive_store))
    assert list(points) == list(progressive_store.family.layers)
    sizes = [rows[1]["bytes"] for rows in points.values()]
    assert points["base"][1]["image"] == "coffee.png"
    assert sizes == list(ends(folder, progressive_store))
    # Fewer layers are the first of these points.
    two = measured(evaluate.evaluate(folder, progressive_store, 2))
    assert two == {label: points[label] for label in ("base", "el1")}


def test_cuts_are_even_in_bytes(folder, progressive_store, tmp_path):
    points = evaluate.evaluate(folder, progressive_store, save_images=tmp_path / "out", cuts=4)
    assert list(points) == ["1", "2", "3", "4"]
    sizes = [rows[1]["bytes"] for rows in points.values()]
    first, *_, last = ends(folder, progressive_store)
    assert sizes == [round(first + (last - first) * k / 3) for k in range(4)]
    assert images.read(tmp_path / "out/coffee_4.png").shape == (48, 64, 3)
    path = evaluate.save(points, folder, progressive_store, tmp_path, cuts=4)
    assert path == tmp_path / "set/progressive-mse-cuts-4.json"
    (curve,) = results.curves(tmp_path / "set")
    assert (curve.cuts, curve.labels, curve.regular) == (4, list(points), False)
    assert set(curve.fingerprints.values()) == {progressive_store.metadata()["fingerprint"]}


def test_cuts_are_of_progressive_families(folder):
    with pytest.raises(SaeError, match="leave out --cuts"):
        evaluate.evaluate(folder, stores.store("residual-mse"), cuts=4)


def test_images_of_cuts_replace_none_that_are_measured(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/coffee_3.png").symlink_to(copy / "coffee.png")
    places = copy, tmp_path / "results", tmp_path / "out"
    evaluate.require_places(*places)
    with pytest.raises(SaeError, match=r"coffee"):
        evaluate.require_places(*places, cuts=3)


def test_the_command_measures_a_progressive_family(folder, progressive_store, tmp_path, capsys):
    places = ["--checkpoints", str(progressive_store.folder), "--results", str(tmp_path)]
    assert main(["evaluate", str(folder), *places]) == 0
    assert main(["evaluate", str(folder), *places, "--cuts", "2"]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "set/progressive-mse-cuts-2.json") in printed and "el4 " in printed
    found = results.curves(tmp_path / "set")
    assert [curve.key for curve in found] == ["progressive-mse", "progressive-mse-cuts-2"]
    assert main(["families", *places[:3], str(tmp_path / "set")]) == 0
    listed = capsys.readouterr().out
    fingerprint = progressive_store.metadata()["fingerprint"][:8]
    assert listed.startswith("progressive-mse: ") and listed.count(fingerprint) == 5
    assert f"{found[0].bpp[4]:.4f}" in listed


def test_results_of_other_weights_are_not_shown(folder, progressive_store, tmp_path, capsys):
    store = dataclasses.replace(progressive_store, folder=tmp_path)
    shutil.copytree(progressive_store.folder, tmp_path, dirs_exist_ok=True)
    points = evaluate.evaluate(folder, store, 1)
    path = evaluate.save(points, folder, store, tmp_path / "results")
    text = path.read_text()
    mean = results.mean(points["base"])["bpp"]
    other = text.replace('"base": "', '"base": "0')
    for written, base in ((text, f"{mean:.4f}"), (other, "-"), (text.replace("base", "x"), "-")):
        path.write_text(written)
        places = ["--checkpoints", str(tmp_path), "--results", str(path.parent)]
        assert main(["families", *places]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
        assert [row[2] for row in rows] == [base, "-", "-", "-", "-"]


def test_what_measures_is_required_before_the_work(folder, progressive_store, monkeypatch, capsys):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    checkpoints = ["--checkpoints", str(progressive_store.folder)]
    assert main(["evaluate", str(folder), "--family", "progressive-mse", *checkpoints]) == 2
    assert "pip install 'sae[tensorflow]'" in capsys.readouterr().err

"""Results of one set of images, kept apart from those of another, and whole when one fails."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sae import images
from sae.__main__ import main, parser
from sae.errors import SaeError
from sae.evaluation import evaluate, image_set, results, workers


def paint(path, value=0, size=16):
    images.write_png(np.full((size, size, 3), value, np.uint8), path)


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Evaluates a folder as the command line does, with a stub for the codec."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 1)

    def points(path, decoded, **_):
        image = images.read(path)
        if image[0, 0, 0] == 13:
            raise MemoryError
        if image[0, 0, 0] == 14:
            raise ValueError("Shapes\nand so on")
        labels = ("base", "el1")
        for label in labels:
            if path in decoded:
                images.write_png(image, f"{decoded[path]}_{label}.png")
        return [(label, results.row(path.name, image, 1 - image, 9)) for label in labels]

    # The codec would import TensorFlow.
    monkeypatch.setattr(evaluate, "_measure", points)

    def measure(*words):
        return main(["evaluate", "--family", "residual-mse", *map(str, words)])

    return measure


def saved(folder="results"):
    return {path: path.read_bytes() for path in Path(folder).rglob("*.json")}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a.png": 0}, {"b.png": 0}),
        ({"a.png": 0}, {"a.png": 1}),
        ({"a.png": 0, "b.png": 1}, {"a.png": 0, "c.png": 1}),
        ({"a.png": 0, "b.png": 1}, {"a.png": 0, "b.png": 2}),
    ],
)
@pytest.mark.parametrize("digests", [True, False])
def test_other_images_do_not_take_the_place_of_results(first, second, digests, measure, capsys):
    for top, values in (("x1", first), ("x2", second)):
        for name, value in values.items():
            # Results without digests have the sizes.
            paint(f"{top}/test/{name}", value, 16 if digests else 16 + value)
    assert measure("x1/test") == 0
    if not digests:
        for path in Path("results").rglob("*.json"):
            path.write_text(path.read_text().replace('"digests"', '"unknown"'))
    before = saved()
    assert measure("x2/test") == 2
    said = capsys.readouterr().err
    assert "results/test has results of other images" in said and "--results" in said
    assert saved() == before
    assert measure("x2/test", "--results", "elsewhere") == 0
    assert measure("x1/test") == 0


def test_a_set_that_grows_is_the_same(measure):
    paint("set/a.png")
    assert measure("set") == 0
    paint("set/b.png")
    assert measure("set") == 0
    path = Path("results/set/residual-mse.json")
    document = results.load(path)
    assert list(document["digests"]) == ["a.png", "b.png"]
    assert document["digests"] == image_set.digests(images.find("set"))
    os.remove("set/b.png")
    assert measure("set") == 0
    assert list(results.load(path)["digests"]) == ["a.png"]


def test_images_that_fail_are_left_out_and_named(measure, capsys):
    for name, value in (("a", 0), ("b", 13), ("c", 14), ("e", 1)):
        paint(f"set/{name}.png", value)
    Path("set/d.png").write_text("no image")
    assert measure("set") == 1
    said = capsys.readouterr()
    assert "set/b.png cannot be measured (the memory does not suffice)" in said.err
    assert "set/c.png cannot be measured (ValueError: Shapes)" in said.err
    assert "set/d.png is not an image" in said.err
    assert "Means without b.png, c.png, d.png." in said.out
    document = results.load("results/set/residual-mse.json")
    assert document["labels"] == ["base", "el1"]
    for rows in document["images"]:
        assert [row["image"] for row in rows] == ["a.png", "e.png"]
    assert document["left_out"] == ["b.png", "c.png", "d.png"]


def test_decoded_images_keep_apart(measure):
    paint("set/a.png")
    paint("other/a.png", 1)
    os.rename("other/a.png", "set/a.jpg")
    paint("set/b.png")
    assert measure("set", "--save_images", "out") == 0
    assert len(os.listdir("out")) == 6
    os.remove("set/a.jpg")
    assert measure("set", "--save_images", "single", "--results", "second") == 0
    assert sorted(os.listdir("single")) == ["a_base.png", "a_el1.png", "b_base.png", "b_el1.png"]


def test_decoded_images_replace_none_that_are_measured(measure, capsys):
    paint("set/a.png")
    os.mkdir("out")
    os.symlink("../set/a.png", "out/a_el1.png")
    before = Path("set/a.png").read_bytes()
    assert measure("set", "--save_images", "out") == 2
    assert measure("set", "--save_images", "set") == 2
    assert Path("set/a.png").read_bytes() == before and os.listdir("set") == ["a.png"]


def test_a_failure_is_no_result_to_go_on_from(tmp_path):
    path, journal, answers = tmp_path / "a.png", tmp_path / "journal", ["It failed.", ["row"]]
    paint(path)
    assert workers.each(lambda _: answers.pop(0), [path], "", journal) == ["It failed."]
    assert workers.each(lambda _: answers.pop(0), [path], "", journal) == [["row"]]
    assert workers.each(lambda _: answers.pop(0), [path], "", journal) == [["row"]]


def end_or_name(path):
    if path.name == "3.png":
        os.kill(os.getpid(), 9)
    return [path.name]


def test_an_image_that_ends_its_process_is_the_only_one_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    paths = [tmp_path / f"{index}.png" for index in range(8)]
    for path in paths:
        paint(path)
    found = workers.each(end_or_name, paths, "")
    assert [one for one in found if isinstance(one, list)] == [
        [path.name] for path in paths if path.name != "3.png"
    ]
    assert "3.png" in found[3] and isinstance(found[3], str)


def test_results_of_one_folder_by_another_name_are_its_own(tmp_path):
    paint(tmp_path / "set/a.png")
    options = parser().parse_args(["evaluate", str(tmp_path / "set")])
    evaluate.require_places(options.folder, tmp_path / "results")
    with pytest.raises(SaeError, match="no image"):
        os.mkdir(tmp_path / "void")
        evaluate.require_places(tmp_path / "void", tmp_path / "results")

"""Measuring by all cores, and going on where it stopped."""

from __future__ import annotations

import json

import pytest

from sae import images
from sae.measuring import anchors, results, workers


@pytest.fixture
def paths(photos, tmp_path):
    """Ten small images."""
    found = []
    for index in range(10):
        photo = images.read(photos / "coffee.png")[: 100 + index, :120]
        images.write_png(photo, tmp_path / "set" / f"{index}.png")
        found.append(tmp_path / "set" / f"{index}.png")
    return found


def test_several_processes_keep_the_order(paths):
    sizes = workers.each(images.size, paths, "sizes")
    assert sizes == [(120, 100 + index) for index in range(10)]


def test_an_interrupted_call_goes_on(paths, tmp_path):
    journal, calls = tmp_path / "journal", []

    def function(path):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [path.name]

    with pytest.raises(KeyboardInterrupt):
        workers.each(function, paths[:6], "names", journal)
    # Cut short in its last line, as when the machine stops.
    journal.write_text(journal.read_text()[:-5])
    expected = [[path.name] for path in paths[:6]]
    assert workers.each(function, paths[:6], "names", journal) == expected
    assert len(calls) == 3 + 5
    assert workers.each(function, paths[:6], "names", journal) == expected
    assert len(calls) == 8
    # Another subject, or another image under the same name, is measured anew.
    workers.each(function, paths[:6], "names", journal, {"weights": "other"})
    assert len(calls) == 14
    images.write_png(images.read(paths[1]), paths[0])
    workers.each(function, paths[:6], "names", journal)
    assert len(calls) == 15


@pytest.mark.parametrize("key", anchors.CODECS)
def test_other_codecs_are_measured_in_files(key, paths, tmp_path):
    image = images.read(paths[0])
    values = anchors.CODECS[key].values
    sizes = [anchors.coded(image, key, value)[0] for value in (values[1], values[-2])]
    assert sizes[0] < sizes[1]
    target = sum(sizes) // 2
    size, decoded = anchors.nearest(image, key, target)
    assert size == pytest.approx(target, rel=0.1)
    assert decoded.shape == image.shape


def test_anchors_are_written_as_results(paths, tmp_path):
    for path in paths[2:]:
        path.unlink()
    written = anchors.measure("jpeg", tmp_path / "set", tmp_path / "results")
    document = json.loads(written.read_text())
    assert document["results"]["bpp"] == sorted(document["results"]["bpp"])
    for setting in document["images"]:
        assert [row["image"] for row in setting] == ["0.png", "1.png"]
        assert all(
            row["bpp"] == 8 * row["bytes"] / (row["width"] * row["height"]) for row in setting
        )
    assert [path.name for path in written.parent.iterdir()] == ["jpeg.json"]
    (curve,) = results.curves(tmp_path / "results" / "set")
    assert curve.key == "anchors/jpeg" and curve.kind == "measured"

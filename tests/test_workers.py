"""Measuring by all cores, and going on where it stopped."""

from __future__ import annotations

import argparse
import json
import math
import re

import numpy as np
import pytest

from sae import images
from sae.errors import SaeError
from sae.evaluation import anchors, results, workers
from sae.reporting import page


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


def anchor_options(tmp_path, *codecs):
    return argparse.Namespace(
        folder=tmp_path / "set", results=tmp_path / "results", codecs=list(codecs)
    )


def test_anchors_leave_out_what_cannot_be_read_or_coded(tmp_path, capsys):
    folder = tmp_path / "set"
    images.write_png(np.zeros((16, 16, 3), np.uint8), folder / "flat.png")
    images.write_png(np.zeros((1, 16384, 3), np.uint8), folder / "wide.png")
    (folder / "damaged.png").write_text("no image")
    with pytest.warns(UserWarning) as caught:
        assert anchors.run(anchor_options(tmp_path, "webp", "jpeg")) == 1
    said = [str(one.message) for one in caught]
    assert sum("damaged.png" in one for one in said) == 1
    assert any(re.search(r"wide\.png .* WebP .* 16384 x 1 pixels", one) for one in said)
    printed = capsys.readouterr().out
    assert "Means of WebP (Pillow) without damaged.png, wide.png." in printed
    assert "Means of JPEG (Pillow) without damaged.png." in printed
    jpeg, webp = results.curves(tmp_path / "results" / "set")
    assert [row["image"] for row in jpeg.images[0]] == ["flat.png", "wide.png"]
    assert [row["image"] for row in webp.images[0]] == ["flat.png"]
    # A flat image is exact, and so no point of a curve.
    assert None in webp.psnr and None not in [point[1] for point in webp.points("psnr")]
    (folder / "flat.png").unlink()
    with pytest.raises(SaeError, match=r"WebP .* none of the images"), pytest.warns(UserWarning):
        anchors.run(anchor_options(tmp_path, "webp"))
    (folder / "wide.png").unlink()
    with pytest.raises(SaeError, match="None of the 1"), pytest.warns(UserWarning):
        anchors.run(anchor_options(tmp_path, "jpeg"))


def test_a_codec_that_cannot_is_not_shown():
    wide = np.zeros((1, 16384, 3), np.uint8)
    with pytest.warns(UserWarning, match="WebP .* is not shown"):
        assert anchors.able(wide, ["webp", "jpeg"]) == ["jpeg"]
    assert page.source(wide).startswith("data:image/png;base64,")


def test_anchors_say_first_where_they_cannot_write(tmp_path):
    (tmp_path / "results").touch()
    with pytest.raises(SaeError, match="Cannot write into"):
        anchors.run(anchor_options(tmp_path, "jpeg"))


def test_a_damaged_journal_is_passed_over(tmp_path):
    (tmp_path / "journal").write_bytes(b'\xff\n3\n[["a"], 1]\n["a", 1]\n[1, 2, 3]\n')
    (tmp_path / "a.png").touch()
    assert workers.each(lambda path: [1], [tmp_path / "a.png"], "", tmp_path / "journal") == [[1]]
    with pytest.raises(SaeError, match="Cannot write"):
        workers.each(lambda path: [1], [tmp_path / "a.png"], "", tmp_path / "a.png" / "journal")


def test_parts_of_a_page_are_put_in_as_they_are(tmp_path):
    data = {"text": "</script><!--<script>"}
    names = ("title", "origin", "curves", "anchor", "deltas", "layers", "rows")
    parts = {**dict.fromkeys(names, ""), "title": "{{data}} {{quality}}"}
    text = page.write(tmp_path / "a.html", "report.html", data, **parts).read_text()
    assert "auto-encoder: {{data}} {{quality}}" in text and "</script><!--" not in text
    with pytest.raises(ValueError, match="JSON"):
        page.write(tmp_path / "b.html", "report.html", {"psnr": math.inf}, **parts)

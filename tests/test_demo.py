"""The demo, outside a clone and on images of one's own; stubs stand for the codec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sae import demo, images
from sae.__main__ import main
from sae.config import DEFAULT_RESULTS
from sae.evaluation import evaluate, image_set, results


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The curves that a demo in an empty folder draws."""
    found = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo.figures, "draw_rd", lambda curves, path: found.extend(curves))
    monkeypatch.setattr(demo, "_photos", lambda folder: (folder / "photos", folder / "held-out"))

    def rows(folder, store):
        names = [path.name for path in images.find(folder)]
        image = np.zeros((8, 8, 3), np.uint8)
        measured = {"encode-seconds": 1.0, "decode-seconds": 1.0}
        return {
            layer: [{**results.row(name, image, image + 9, 9), **measured} for name in names]
            for layer in store.names()
        }

    monkeypatch.setattr(evaluate, "evaluate", rows)
    return found


def paint(path, size):
    images.write_png(np.zeros((size[1], size[0], 3), np.uint8), path)


@pytest.mark.parametrize(
    ("path", "size", "published"),
    [
        ("kodak/mine.png", (8, 8), False),
        ("kodak/kodim01.png", (8, 8), False),
        ("kodak/kodim01.png", (768, 512), True),
        ("runs/demo/held-out/coffee.png", (8, 8), False),
    ],
)
def test_published_curves_are_compared_with_kodak_alone(path, size, published, drawn, monkeypatch):
    paint(path, size)
    # Painted images of the size of Kodak's stand for them.
    recorded = [found.get(Path(path).name) for found in image_set._recorded(DEFAULT_RESULTS)]
    digests = {(768, 512): next(filter(lambda one: isinstance(one, str), recorded), "other")}
    monkeypatch.setattr(image_set, "_digest", lambda path: digests.get(images.size(path), "other"))
    assert main(["demo"]) == 0
    assert {"ours"} <= {curve.kind for curve in drawn}
    assert any(curve.kind == "published" for curve in drawn) == published


def test_a_demo_keeps_to_its_own_results(drawn, capsys):
    paint("kodak/mine.png", (8, 8))
    assert main(["demo"]) == 0
    Path("kodak/mine.png").unlink()
    paint("kodak/yours.png", (8, 8))
    assert main(["demo"]) == 2
    assert "--folder" in capsys.readouterr().err
    assert main(["demo", "--folder", "other"]) == 0

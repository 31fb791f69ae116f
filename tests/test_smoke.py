"""From photos to an RD figure with the scripts themselves, in seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sae
from sae import images, scripts
from sae.coding import stream
from sae.config import LAYER_NAMES
from sae.evaluation import results
from sae.reporting import figures

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """Tiny base and EL1, trained with the scripts' command lines."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("base", "el1"):
        scripts.train(
            name, ["--data", str(photos), "--preset", "tiny", "--checkpoints", str(folder)]
        )
    return folder


@pytest.fixture
def test_images(photos, tmp_path):
    """Landscape, portrait and odd sizes."""
    folder = tmp_path / "set"
    photo = images.read(photos / "astronaut.png")
    images.write_png(photo[:200, :304], folder / "landscape.png")
    images.write_png(photo[:201, :179], folder / "portrait.png")
    return folder


def test_train_test_and_draw(trained, test_images, tmp_path, capsys):
    for name in ("base", "el1"):
        scripts.test(
            name,
            [
                *("--kodak", str(test_images), "--checkpoints", str(trained)),
                *("--results", str(tmp_path / "results"), "--save_images", str(tmp_path)),
            ],
        )
    printed = capsys.readouterr().out
    assert "portrait.png" in printed and "179 x 201" in printed
    decoded = images.read(tmp_path / "portrait_el1.png")
    assert decoded.shape == (201, 179, 3)

    written = json.loads((tmp_path / "results" / "set" / "residual-mse.json").read_text())
    for rows, bpp in zip(written["images"], written["results"]["bpp"]):
        for row in rows:
            assert row["bpp"] == 8 * row["bytes"] / (row["width"] * row["height"])
        assert bpp == pytest.approx(np.mean([row["bpp"] for row in rows]))
    for base, el1 in zip(*written["images"]):
        data = sae.compress(test_images / base["image"], family="residual-mse", checkpoints=trained)
        assert [base["bytes"], el1["bytes"]] == list(stream.parse(data).ends)

    curve = results.curves(tmp_path / "results" / "set")[0]
    assert curve.labels == ["base", "el1"]
    # The base alone leaves what was measured of the layer above.
    scripts.test(
        "base",
        [
            *("--kodak", str(test_images), "--checkpoints", str(trained)),
            *("--results", str(tmp_path / "results")),
        ],
    )
    (again,) = results.curves(tmp_path / "results" / "set")
    assert (again.labels, again.bpp, again.psnr) == (curve.labels, curve.bpp, curve.psnr)
    assert again.images[1] == curve.images[1] and again.fingerprints == curve.fingerprints
    figures.draw_rd([curve], tmp_path / "rd.png")
    assert Image.open(tmp_path / "rd.png").size[0] > 300


def test_errors_are_one_sentence(tmp_path, photos):
    def run(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    el1 = run("train_el1.py", "--data", photos, "--checkpoints", tmp_path)
    assert el1.returncode == 2
    assert el1.stderr.splitlines()[-1].endswith(
        f"python train_base.py --family residual-mse --checkpoints {tmp_path} makes it."
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    missing = run("test_base.py", "--kodak", empty)
    assert missing.returncode == 2 and str(empty) in missing.stderr
    assert len(missing.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", LAYER_NAMES)
def test_every_layer_has_its_scripts(name):
    for kind in ("train", "test"):
        text = (ROOT / f"{kind}_{name}.py").read_text()
        assert f'{kind}("{name}")' in text and text.count("import") == 1


def test_released_layers_measure_on_kodak(tmp_path):
    kodak = ROOT / "kodak"
    if not list(kodak.glob("kodim*.png")):
        pytest.skip("kodak/ has no images; `make kodak` fetches them")
    if not (ROOT / "checkpoints" / "residual-mse" / "base" / "layer.json").exists():
        pytest.skip("there are no released layers")
    shutil.copy(kodak / "kodim23.png", tmp_path)
    scripts.test("base", ["--kodak", str(tmp_path), "--results", str(tmp_path / "results")])
    path = next((tmp_path / "results").rglob("residual-mse.json"))
    found = json.loads(path.read_text())["results"]
    assert found["bpp"][0] < 0.15 and found["psnr-rgb"][0] > 26

"""The page that decodes streams in the browser: what is written, served, and shown.

`make web` builds the page. `npm ci` in web/browser installs the browser that the last test drives.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from progressive_models import TINY, random_model

from sae import images, metrics
from sae.__main__ import main
from sae.coding import export
from sae.coding.progressive_codec import ProgressiveDecoder, compress
from sae.errors import SaeError
from sae.model import families
from sae.model.model_store import ModelStore
from sae.reporting import server, viewer

WEB = Path(__file__).parents[1] / "web"
PAGE_FILES = ("index.html", "page.js", "page.css", "worker.js")

needs_build = pytest.mark.skipif(
    not all((viewer._BUILD / name).is_file() for name in PAGE_FILES), reason="run `make web`"
)


@pytest.fixture
def store(tmp_path):
    store = ModelStore(families.named("progressive-mse"), tmp_path / "checkpoints")
    store.save(random_model(TINY, 0.02), {"steps": 0})
    return store


def sample(height, width):
    rows, columns = np.mgrid[:height, :width] / 10.0
    waves = np.sin(rows)[..., None] + np.sin(1.3 * columns)[..., None] * [1.0, 0.9, 0.8]
    noise = np.random.default_rng(0).normal(scale=25, size=waves.shape)
    return (128 + 40 * waves + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A folder that stands for a build of the page."""
    folder = tmp_path / "build"
    folder.mkdir()
    for name in PAGE_FILES:
        (folder / name).write_text(name)
    monkeypatch.setattr(viewer, "_BUILD", folder)
    return folder


def test_the_files_of_a_model_have_its_arrays(tmp_path):
    model = random_model(TINY, 0.02)
    export.write(tmp_path, model, families.named("progressive-mse"))
    described = json.loads((tmp_path / "model.json").read_text())
    data = (tmp_path / "weights.bin").read_bytes()
    assert described["bytes"] == len(data) and described["fingerprint"] == model.fingerprint
    names = {name for name in model.arrays if not name.startswith("analysis/")}
    assert {array["name"] for array in described["arrays"]} == names
    for array in described["arrays"]:
        stored = model.arrays[array["name"]]
        found = np.frombuffer(data, array["dtype"], stored.size, array["offset"])
        np.testing.assert_array_equal(found.reshape(array["shape"]), stored)


def test_a_page_has_all_that_its_index_names(built, store, tmp_path):
    image = sample(180, 200)
    stream = compress(image, store)
    entries = [viewer.Entry("a b/c", stream, image), viewer.Entry("a b c", stream[:200])]
    path = viewer.write(tmp_path / "page", entries, store)
    assert path.read_text() == "index.html"
    index = json.loads((path.parent / "index.json").read_text())
    first, second = index["images"]
    assert (path.parent / first["stream"]).read_bytes() == stream
    assert (path.parent / second["stream"]).read_bytes() == stream[:200]
    for entry in index["images"]:
        for key in ("preview", "thumbnail", "original"):
            assert key not in entry or (path.parent / entry[key]).is_file()
    decoder = ProgressiveDecoder(store.folder)
    decoder.feed(stream)
    expected = round(metrics.psnr(image, decoder.image()), 4)
    assert first["curve"][-1] == [len(stream), expected]
    assert not {"curve", "others", "original"} & set(second)
    for other in first["others"]:
        for file in other.get("files", [other]):
            assert (path.parent / file["file"]).is_file()
    # The same page may be written again.
    viewer.write(tmp_path / "page", entries[1:], store)


def test_a_page_is_refused_with_one_sentence(built, store, tmp_path):
    image = sample(40, 40)
    stream = compress(image, store)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("")
    with pytest.raises(SaeError, match="other files"):
        viewer.write(tmp_path / "other", [viewer.Entry("x", stream)], store)
    with pytest.raises(SaeError, match="the image that was compressed"):
        viewer.write(tmp_path / "page", [viewer.Entry("x", stream, image[:20])], store)
    with pytest.raises(SaeError, match="before its header"):
        viewer.write(tmp_path / "page", [viewer.Entry("x", stream[:5])], store)
    with pytest.raises(SaeError, match="no stream"):
        viewer.write(tmp_path / "page", [], store)
    with pytest.raises(SaeError, match="no page"):
        server.serve(tmp_path / "other")
    (built / "page.js").unlink()
    with pytest.raises(SaeError, match="make web"):
        viewer.write(tmp_path / "page", [viewer.Entry("x", stream)], store)


def test_show_and_serve_are_commands(built, store, tmp_path, monkeypatch, capsys):
    image = sample(64, 80)
    images.write_png(image, tmp_path / "photo.png")
    checkpoints = ["--checkpoints", str(store.folder)]
    page = tmp_path / "page"
    assert main(["show", str(tmp_path / "photo.png"), "--output", str(page), *checkpoints]) == 0
    assert str(page / "index.html") in capsys.readouterr().out
    index = json.loads((page / "index.json").read_text())
    assert index["images"][0]["name"] == "photo.png" and "original" in index["images"][0]
    assert main(["show", str(tmp_path / "photo.png"), "--family", "residual-mse"]) == 2
    assert "residual-mse has none" in capsys.readouterr().err

    shown = []

    def serve(folder, port, ready):
        listed = json.loads((Path(folder) / "index.json").read_text())["images"]
        shown.append((port, [(one["name"], "original" in one) for one in listed]))

    monkeypatch.setattr(server, "serve", serve)
    assert main(["serve", str(page), "--port", "0"]) == 0
    (tmp_path / "photo.sae").write_bytes(compress(image, store))
    (tmp_path / "other.sae").write_bytes(compress(image[:32], store))
    assert main(["serve", str(tmp_path), *checkpoints]) == 0
    assert shown[0] == (0, [("photo.png", True)])
    assert shown[1] == (8000, [("other.sae", False), ("photo.sae", True)])
    assert main(["serve", str(built)]) == 2
    assert "no progressive stream" in capsys.readouterr().err


@pytest.fixture
def served():
    """Serves folders until the end of the test."""

    def serve(folder):
        listening, addresses = threading.Event(), []

        def ready(address):
            addresses.append(address)
            listening.set()

        threading.Thread(target=server.serve, args=(folder, 0, ready), daemon=True).start()
        assert listening.wait(20)
        return addresses[0]

    return serve


def test_files_are_served_with_their_types(served, tmp_path):
    for name in ("index.html", "worker.js", "library.wasm"):
        (tmp_path / name).write_bytes(b"x")
    address = served(tmp_path)
    types = {"": "text/html", "worker.js": "text/javascript", "library.wasm": "application/wasm"}
    for name, kind in types.items():
        with urllib.request.urlopen(address + name) as response:
            assert response.read() == b"x" and response.headers.get_content_type() == kind


@needs_build
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.skipif(
    not (WEB / "browser" / "node_modules").is_dir(), reason="run `npm ci` in web/browser"
)
def test_a_browser_shows_what_python_decodes(store, served, tmp_path):
    image, other = sample(192, 240), sample(150, 90)
    streams = [compress(image, store), compress(other, store)]
    entries = [viewer.Entry("first", streams[0], image), viewer.Entry("second", streams[1])]
    page = viewer.write(tmp_path / "page", entries, store).parent
    broken = bytearray(streams[0])
    broken[-1] ^= 1
    (tmp_path / "broken.sae").write_bytes(broken)
    command = ["node", str(WEB / "browser" / "drive.js"), served(page), str(tmp_path)]
    run = subprocess.run(
        [*command, str(tmp_path / "broken.sae")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NODE_OPTIONS": ""},
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["failures"] == [] and "damaged" in seen["error"]
    assert len(seen["images"]) == 9
    for shown in seen["images"]:
        stream = {"second": streams[1], "damaged": bytes(broken)}.get(shown["name"], streams[0])
        original = other if shown["name"] == "second" else image
        decoder = ProgressiveDecoder(store.folder)
        decoder.feed(stream[: shown["bytes"]])
        expected = decoder.image()
        height, width, _ = original.shape
        pixels = np.fromfile(tmp_path / f"{shown['name']}.rgba", np.uint8)
        found = pixels.reshape(height, width, 4)[..., :3].astype(int)
        assert np.abs(found - expected).max() <= 1, shown
        if shown["name"] not in ("second", "damaged"):
            decibels = float(shown["label"].split(", ")[-1].removesuffix(" dB"))
            assert decibels == pytest.approx(metrics.psnr(image, expected), abs=0.02)

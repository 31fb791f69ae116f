"""Streams of a progressive model: cut, fed, damaged, and coded in tiles."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sae import images
from sae.coding import progressive_codec
from sae.coding.progressive_codec import ProgressiveDecoder, compress
from sae.coding.progressive_container import Reader, pack
from sae.config import EFFORTS
from sae.errors import SaeError
from sae.model import tiling
from sae.model.model_store import StoredModel


@pytest.fixture
def store(progressive_store, tmp_path):
    """A copy to change."""
    folder = shutil.copytree(progressive_store.folder, tmp_path / "checkpoints")
    return dataclasses.replace(progressive_store, folder=folder)


@pytest.fixture
def model(store):
    return store.load()


@pytest.fixture(scope="module")
def image():
    rows, columns = np.mgrid[:150, :90] / 10.0
    waves = np.sin(rows)[..., None] + np.sin(1.3 * columns)[..., None] * [1.0, 0.9, 0.8]
    noise = np.random.default_rng(0).normal(scale=9, size=waves.shape)
    return (128 + 40 * waves + noise).astype(np.uint8)


def decoded(store, *parts):
    decoder = ProgressiveDecoder(store.folder)
    for part in parts:
        decoder.feed(part)
    return decoder


def psnr(image, other):
    return -10 * np.log10(np.mean((image / 255.0 - other / 255.0) ** 2))


def test_a_stream_is_decoded_at_any_cut(store, image):
    data = compress(image, store)
    header = decoded(store, data).reader.header
    sizes = [header.size(end) for end in header.ends]
    found = [psnr(image, decoded(store, data[:size]).image()) for size in sizes]
    assert sizes[-1] == len(data)
    # The random distributions here mislead within planes.
    ends = found[::2]
    assert ends == sorted(ends) and ends[-1] > ends[0] + 0.5
    start = len(header.pack())
    for size in (*range(start, start + 8), *range(start, len(data), 97)):
        cut = decoded(store, data[:size])
        assert cut.image().shape == image.shape and not cut.reader.complete
    assert decoded(store, data[: start - 1]).image() is None


def test_bytes_fed_in_pieces_give_the_same(store, image):
    data = compress(image, store)
    whole = decoded(store, data)
    pieces = decoded(store, *(data[k : k + 501] for k in range(0, len(data), 501)))
    assert whole.reader.complete and pieces.reader.complete
    np.testing.assert_array_equal(whole.image(), pieces.image())


def test_damage_ends_the_image_before_it(store, image):
    data = compress(image, store)
    assert len(data) > 3000
    damaged = bytearray(data)
    damaged[2048 + 700] ^= 4
    sound = decoded(store, data[:2048])
    for parts in ([bytes(damaged)], [bytes(damaged[:3000]), bytes(damaged[3000:])]):
        found = decoded(store, *parts)
        assert found.reader.damaged and not found.reader.complete
        np.testing.assert_array_equal(found.image(), sound.image())


def test_large_images_are_coded_in_tiles(store, image, monkeypatch):
    codec, _ = progressive_codec.load(store)
    y = codec.analysis(image)
    x_hat = decoded(store, compress(image, store)).image()
    original = tiling.in_tiles

    def small(*arguments):
        return original(*arguments, positions=3)

    monkeypatch.setattr(progressive_codec, "in_tiles", small)
    np.testing.assert_allclose(codec.analysis(image), y, atol=1e-5)
    tiles = decoded(store, compress(image, store)).image()
    assert np.abs(tiles.astype(int) - x_hat).max() <= 1


def test_one_pixel_is_an_image(store):
    image = np.full((1, 1, 3), 77, np.uint8)
    assert decoded(store, compress(image, store)).image().shape == (1, 1, 3)


def test_a_stream_of_other_weights_is_refused(store, image, model):
    data = compress(image, store)
    arrays = {**model.arrays, "synthesis/matrix": model.arrays["synthesis/matrix"] * 2}
    store.save(StoredModel(model.config, arrays), {})
    with pytest.raises(SaeError, match="was made with weights"):
        decoded(store, data)


def test_an_image_beyond_the_memory_is_refused_before_it_is_decoded(store, image):
    header = decoded(store, compress(image, store)).reader.header
    large = header._replace(width=30_000, height=30_000)
    with pytest.raises(SaeError, match="30000 x 30000"):
        decoded(store, pack(large, b"\0" * header.ends[-1]))


def test_a_checkpoint_returns_its_model(store, model):
    restored = store.load()
    assert restored.config == model.config and restored.fingerprint == model.fingerprint
    assert set(restored.arrays) == set(model.arrays)
    other = dataclasses.replace(model.config, step=1.2)
    assert StoredModel(other, model.arrays).fingerprint != model.fingerprint


def test_damaged_checkpoints_are_refused(store, model):
    path = store.path / "model.json"
    sound = json.loads(path.read_text())
    for change, words in (
        ("no JSON", "no JSON"),
        ({**sound, "family": "other"}, "progressive-mse family"),
        ({"format": 1}, "fields have to be"),
        ({**sound, "config": {"depth": 1}}, "of no progressive model"),
        *(({**sound, "config": config}, "no JSON object") for config in (None, [], "x")),
        *(
            ({**sound, "config": {**sound["config"], **values}}, words)
            for values, words in (
                ({"step": math.nan}, "no quantization step"),
                ({"step": 0}, "no quantization step"),
                ({"step": "x"}, "no quantization step"),
                ({"plane_depths": []}, "nondecreasing"),
                ({"plane_depths": [8, 10, 10**9]}, "no number"),
                ({"context_filters": "y"}, "no number"),
                ({"slices": [100]}, "slices"),
                ({"synthesis_blocks": 40}, "synthesis/block_2/depthwise"),
                ({"synthesis_blocks": 0}, "synthesis/block_0/depthwise"),
                ({"hidden_filters": 64}, "analysis/conv_0/kernel"),
                ({"slices": [2]}, "plane_0/slice_0/embed"),
            )
        ),
        ("[" * 200_000, "nested too deeply"),
        ({**sound, "format": True}, "format 1"),
        ({**sound, "training": None}, "training"),
        *(({**sound, "fingerprint": value}, "hexadecimal") for value in (5, None, "zz")),
        ({**sound, "fingerprint": "0" * 64}, "not what model.json describes"),
    ):
        path.write_text(change if isinstance(change, str) else json.dumps(change))
        with pytest.raises(SaeError, match=words):
            store.load()
    path.unlink()
    with pytest.raises(SaeError, match="no trained progressive-mse"):
        store.load()


@pytest.mark.slow
def test_optimized_latents_have_a_lower_loss(store, image, model):
    store.save(model, {"options": {"lmbda": 300.0, "last_step": 1}})
    losses, weights = store.losses()
    done = []
    data = compress(image, store, 3, lambda k, count: done.append((k, count)))
    assert done[-1] == (EFFORTS[3], EFFORTS[3]) and len(done) == EFFORTS[3]

    def loss(stream):
        header, total = decoded(store, stream).reader.header, 0.0
        for of_plane, weight, end in zip(losses, weights, header.ends[::2]):
            x_hat = decoded(store, stream[: header.size(end)]).image()
            error = 3 * np.mean((image - x_hat.astype(float)) ** 2)
            total += weight * (error + of_plane.lmbda * 8 * end / image[..., 0].size)
        return total

    assert loss(data) < loss(compress(image, store))
    store.save(model, {})
    with pytest.raises(SaeError, match="no lambda"):
        compress(image, store, 1)


def test_the_container_is_that_of_the_codec(store, image):
    reader = Reader()
    reader.feed(compress(image, store))
    assert reader.complete and reader.header.family == store.family
    assert (reader.header.width, reader.header.height) == (90, 150)


def test_tensorflow_is_not_imported(store, image):
    images.write_png(image, store.folder / "image.png")
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TENSORFLOW, store.folder],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    data = (store.folder / "image.sae").read_bytes()
    assert data == compress(image, store)
    found = images.read(store.folder / "decoded.png")
    np.testing.assert_array_equal(found, decoded(store, data).image())


_WITHOUT_TENSORFLOW = """
import importlib.abc, sys
from pathlib import Path

class Forbidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_compression", "skimage"):
            raise ImportError(f"{name} is forbidden")

sys.meta_path.insert(0, Forbidden())
import sae, sae.__main__
from sae import images, metrics
from sae.coding import codec, export_onnx, plane_coder, stream, transcode
from sae.model import families
from sae.model.model_store import ModelStore

family = families.named("progressive-mse")
folder = Path(sys.argv[1])
data = sae.compress(folder / "image.png", checkpoints=folder)
(folder / "image.sae").write_bytes(data)
images.write_png(sae.decompress(data, checkpoints=folder), folder / "decoded.png")
export_onnx.export(ModelStore(family, folder), folder / "onnx")
"""

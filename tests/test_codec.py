"""Images to streams and back, the same for families of both kinds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest

import sae
from sae import images
from sae.coding import codec, stream
from sae.errors import SaeError
from sae.metrics import psnr


@pytest.fixture(scope="module", params=["tiny_store", "progressive_store"])
def store(request):
    """A store of each kind, with five layers."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def photo():
    """A photo, uint8 [45, 60, 3]."""
    return images.sample_photos()["astronaut"][100:145, 200:260]


@pytest.fixture(scope="module")
def data(photo, store):
    """The whole stream of the photo."""
    return sae.compress(photo, checkpoints=store.folder)


def test_streams_are_taken_by_name_or_open(data, store, tmp_path):
    path = tmp_path / "photo.sae"
    path.write_bytes(data)
    expected = sae.decompress(data, checkpoints=store.folder)
    with path.open("rb") as file:
        for source in (path, str(path), bytearray(data), memoryview(data), file):
            decoded = sae.decompress(source, checkpoints=store.folder)
            np.testing.assert_array_equal(decoded, expected)
    assert sae.truncate(path, 2) == sae.truncate(data, 2)
    with pytest.raises(SaeError, match="Cannot read"):
        sae.decompress(tmp_path / "absent.sae", checkpoints=store.folder)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (17, 40), (40, 17)])
def test_round_trip_at_every_layer(height, width, store):
    image = images.sample_photos()["coffee"][100 : 100 + height, 100 : 100 + width]
    data = sae.compress(image, checkpoints=store.folder)
    points = list(codec.decode_points(data, store.folder))
    assert [name for name, *_ in points] == list(store.family.layers)
    for count, (_, end, x_hat) in enumerate(points, start=1):
        assert (x_hat.shape, x_hat.dtype) == (image.shape, np.uint8)
        cut = sae.truncate(data, count)
        assert cut == data[:end]
        for decoded in (
            sae.decompress(data, count, checkpoints=store.folder),
            sae.decompress(cut, checkpoints=store.folder),
        ):
            np.testing.assert_array_equal(decoded, x_hat)
    assert len({x_hat.tobytes() for *_, x_hat in points}) > 1


def test_fewer_layers_are_a_beginning_of_the_stream(photo, data, store):
    for count in (1, 3):
        part = sae.compress(photo, count, checkpoints=store.folder)
        assert part == sae.truncate(data, count)


def test_a_decoder_goes_on_from_where_it_was(photo, data, store):
    decoder = sae.Decoder(store.folder)
    assert decoder.header is None and decoder.image() is None
    ends = stream.parse(data).ends
    for start in range(0, len(data), 50):
        decoder.feed(data[start : start + 50])
        assert decoder.layers == sum(end <= start + 50 for end in ends)
    assert decoder.complete and not decoder.damaged
    almost = sae.Decoder(store.folder)
    almost.feed(data[:-1])
    assert almost.layers == stream.parse(data[:-1]).layers == len(ends) - 1
    assert (decoder.header.family, decoder.header.width) == (store.family, 60)
    expected = sae.decompress(data, checkpoints=store.folder)
    np.testing.assert_array_equal(decoder.image(), expected)
    with pytest.raises(SaeError, match="takes bytes, not int"):
        decoder.feed(65)
    # What follows a stream is ignored.
    decoder.feed(b"more")
    np.testing.assert_array_equal(decoder.image(), expected)


def test_limits_of_the_length_are_kept(photo, data, store):
    ends = stream.parse(data).ends
    for limit in (ends[1] + 3, ends[3]):
        part = sae.compress(photo, checkpoints=store.folder, max_bytes=limit)
        assert part == sae.truncate(data, max_bytes=limit) and len(part) <= limit
        bpp = 8 * limit / (45 * 60)
        assert sae.compress(photo, checkpoints=store.folder, max_bpp=bpp) == part
    with pytest.raises(SaeError, match="allow as many"):
        sae.compress(photo, checkpoints=store.folder, max_bytes=5)
    for name in ("max_bytes", "max_bpp", "psnr"):
        with pytest.raises(SaeError, match="a number above 0, not -1"):
            sae.compress(photo, checkpoints=store.folder, **{name: -1})


@pytest.mark.slow
def test_a_stream_ends_where_it_reaches_a_psnr(photo, data, store):
    points = codec.decode_points(data, store.folder)
    found = {name: psnr(photo, x_hat) for name, _, x_hat in points}
    target = sorted(found.values())[2] - 1e-3
    part = sae.compress(photo, checkpoints=store.folder, psnr=target)
    assert data.startswith(part) and len(part) < len(data)
    assert psnr(photo, sae.decompress(part, checkpoints=store.folder)) >= target
    first = next(k for k, value in enumerate(found.values()) if value >= target)
    end = stream.parse(data).ends[first]
    assert len(part) == end if store.family.kind == "residual" else len(part) <= end
    assert sae.compress(photo, checkpoints=store.folder, psnr=99) == data
    least = sae.compress(photo, checkpoints=store.folder, psnr=1.0)
    assert len(least) == stream.parse(data).smallest


def test_a_damaged_stream_is_decoded_up_to_the_damage(data, store):
    damaged = bytearray(data)
    damaged[-8] ^= 1
    sound = stream.parse(bytes(damaged)).size
    with pytest.warns(UserWarning, match=f"damaged after byte {sound}"):
        image = sae.decompress(bytes(damaged), checkpoints=store.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sae.decompress(data[:sound], checkpoints=store.folder)
    np.testing.assert_array_equal(image, expected)


def test_more_layers_than_there_are_is_a_warning(data, store):
    with pytest.warns(UserWarning, match="Complete layers of the stream: 2; 5 were requested"):
        sae.decompress(sae.truncate(data, 2), 5, checkpoints=store.folder)


def test_changed_weights_are_others(data, store, tmp_path):
    shutil.copytree(store.folder, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "0" * 64}))
    for decode in (
        sae.decompress,
        lambda data, checkpoints: sae.Decoder(checkpoints).feed(data),
    ):
        with pytest.raises(SaeError, match=r"made with weights .* name the checkpoints|not what"):
            decode(data, checkpoints=tmp_path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), "not uint8"),
        (np.zeros((4, 4, 4), np.uint8), "not uint8"),
        (np.zeros((4, 4, 3), np.float32), "not float32"),
        (np.zeros((0, 4, 3), np.uint8), "not uint8"),
        ("absent.png", "No such file"),
        (b"bytes", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_bad_images_are_refused(image, message, store):
    with pytest.raises(SaeError, match=message):
        sae.compress(image, checkpoints=store.folder)


def test_what_does_not_exist_is_refused(photo, store):
    for layers in (0, -1, 6):
        with pytest.raises(SaeError, match="1 to 5 layers"):
            sae.compress(photo, layers, checkpoints=store.folder)
    with pytest.raises(SaeError, match="no family psnr"):
        sae.compress(photo, family="psnr", checkpoints=store.folder)
    with pytest.raises(SaeError, match="The effort is 0 to 9"):
        sae.compress(photo, checkpoints=store.folder, effort=10)
    with pytest.raises(SaeError, match=r"no trained (base|progressive-ms-ssim)"):
        sae.compress(photo, family="ms-ssim", checkpoints=store.folder)


def test_an_image_larger_than_memory_is_refused(data, store, monkeypatch):
    monkeypatch.setattr(
        os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 9}[name]
    )
    with pytest.raises(SaeError, match="memory"):
        sae.decompress(data, checkpoints=store.folder)


def test_the_limit_of_pixels_holds_both_ways(photo, data, store):
    with pytest.raises(SaeError, match="limit"):
        sae.compress(photo, checkpoints=store.folder, max_pixels=45 * 60 - 1)
    with pytest.raises(SaeError, match="limit"):
        sae.decompress(data, checkpoints=store.folder, max_pixels=45 * 60 - 1)


def test_importing_the_package_does_not_import_tensorflow():
    program = "import sys, sae; sae.truncate, sae.SaeError; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

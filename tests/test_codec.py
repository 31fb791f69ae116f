"""Streams: what is decoded is what was encoded, wherever, however and from however much."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sae
from sae import images
from sae.coding import bitstream, codec
from sae.config import LAYER_NAMES
from sae.errors import SaeError
from sae.model import families
from sae.model.checkpoint import Store
from sae.model.layer import Context, Layer, build
from sae.model.presets import defaults

LAYERS = len(LAYER_NAMES)


@pytest.fixture(scope="module")
def photo():
    """A photo, uint8 [45, 60, 3]."""
    return images.sample_photos()["astronaut"][100:145, 200:260]


@pytest.fixture(scope="module")
def stream(photo, tiny_checkpoints):
    """The photo, with all five layers."""
    return sae.compress(photo, checkpoints=tiny_checkpoints)


@pytest.fixture(scope="module")
def ends(stream):
    """The size of the stream after each layer."""
    records = bitstream.parse(stream).records
    return [bitstream.size(records[: count + 1]) for count in range(LAYERS)]


@pytest.mark.slow
def test_streams_are_taken_by_name_or_open(photo, stream, tiny_checkpoints, tmp_path):
    path = tmp_path / "photo.sae"
    path.write_bytes(stream)
    expected = sae.decompress(stream, checkpoints=tiny_checkpoints)
    with path.open("rb") as file:
        for source in (path, str(path), bytearray(stream), memoryview(stream), file):
            decoded = sae.decompress(source, checkpoints=tiny_checkpoints)
            np.testing.assert_array_equal(decoded, expected)
    assert sae.extend(sae.truncate(path, 2), photo, checkpoints=tiny_checkpoints) == stream
    with pytest.raises(SaeError, match="Cannot read"):
        sae.decompress(tmp_path / "absent.sae", checkpoints=tiny_checkpoints)


def test_a_decoder_says_of_changed_weights_that_they_are_others(stream, tiny_store, tmp_path):
    shutil.copytree(tiny_store.folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "residual-mse" / "base" / "layer.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "fingerprint": "0" * 64}))
    for decode in (
        sae.decompress,
        lambda data, checkpoints: sae.Decoder(None, checkpoints).feed(data),
    ):
        with pytest.raises(SaeError, match=r"base was made with weights .* name the checkpoints"):
            decode(stream, checkpoints=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (17, 40), (40, 17)])
def test_round_trip_at_every_layer(height, width, tiny_checkpoints):
    image = images.sample_photos()["coffee"][100 : 100 + height, 100 : 100 + width]
    data = sae.compress(image, checkpoints=tiny_checkpoints)
    stages = sae.Decoder(checkpoints=tiny_checkpoints).feed(data)
    assert len(stages) == LAYERS
    for count, stage in enumerate(stages, start=1):
        assert (stage.shape, stage.dtype) == (image.shape, np.uint8)
        decoded = sae.decompress(data, count, checkpoints=tiny_checkpoints)
        np.testing.assert_array_equal(decoded, stage)
        prefix = sae.compress(image, count, checkpoints=tiny_checkpoints)
        assert data.startswith(prefix)
        assert prefix == sae.truncate(data, count)
        np.testing.assert_array_equal(sae.decompress(prefix, checkpoints=tiny_checkpoints), decoded)
    assert len({stage.tobytes() for stage in stages}) > 1


@pytest.mark.slow
def test_encoder_and_decoder_see_the_same_contexts(photo, tiny_checkpoints, monkeypatch):
    seen = {"write": [], "read": []}

    def spy(verb):
        original = getattr(Layer, verb)

        def spied(layer, latent, context, *size):
            seen[verb].append(context)
            return original(layer, latent, context, *size)

        monkeypatch.setattr(Layer, verb, spied)

    spy("write")
    spy("read")
    data = sae.compress(photo, checkpoints=tiny_checkpoints)
    assert not seen["read"], "an encoder decodes nothing"
    sae.decompress(data, checkpoints=tiny_checkpoints)
    assert len(seen["write"]) == len(seen["read"]) == LAYERS
    for index, (ours, theirs) in enumerate(zip(seen["write"], seen["read"])):
        np.testing.assert_array_equal(ours.x_hat, theirs.x_hat)
        assert len(ours.latents) == len(theirs.latents) == index
        for y_hat, other in zip(ours.latents, theirs.latents):
            np.testing.assert_array_equal(y_hat, other)


def test_the_image_is_the_clipped_and_rounded_sum(photo, tiny_checkpoints, tiny_cascade):
    data = sae.compress(photo, checkpoints=tiny_checkpoints)
    context = Context.empty((1, 48, 64, 3))
    for layer, record in zip(tiny_cascade.layers, bitstream.parse(data).records):
        context = context.extended(layer, layer.read([record.string], context, (48, 64)))
    expected = np.rint(255 * np.clip(context.x_hat[0, :45, :60], 0, 1)).astype(np.uint8)
    np.testing.assert_array_equal(sae.decompress(data, checkpoints=tiny_checkpoints), expected)


def test_cut_anywhere_decodes_the_complete_layers(stream, ends, tiny_checkpoints):
    whole = sae.Decoder(checkpoints=tiny_checkpoints).feed(stream)
    cuts = {
        0,
        1,
        12,
        13,
        14,
        *(end + d for end in ends for d in (-1, 0, 1)),
        *range(0, ends[-1], 97),
    }
    for cut in sorted(c for c in cuts if c <= len(stream)):
        complete = sum(end <= cut for end in ends)
        if not complete:
            with pytest.raises(SaeError):
                sae.decompress(stream[:cut], checkpoints=tiny_checkpoints)
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            decoded = sae.decompress(stream[:cut], checkpoints=tiny_checkpoints)
        np.testing.assert_array_equal(decoded, whole[complete - 1])
        last = f"{bitstream.layer_name(complete - 1)} is its last layer"
        assert any(last in str(warning.message) for warning in caught) == (cut not in ends)


def test_decoder_gives_each_image_when_its_layer_is_complete(stream, ends, tiny_checkpoints):
    decoder, expected = sae.Decoder(checkpoints=tiny_checkpoints), []
    assert decoder.header is None
    for start in range(0, len(stream), 50):
        found = decoder.feed(stream[start : start + 50])
        expected += found
        assert len(expected) == sum(end <= start + 50 for end in ends)
    assert decoder.header == (families.named("residual-mse"), 60, 45)
    for image, other in zip(expected, sae.Decoder(checkpoints=tiny_checkpoints).feed(stream)):
        np.testing.assert_array_equal(image, other)


def test_decoder_stops_at_the_layers_asked_for(stream, tiny_checkpoints):
    assert len(sae.Decoder(layers=2, checkpoints=tiny_checkpoints).feed(stream + b"more")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("present", [1, 2, 4])
@pytest.mark.parametrize("wanted", [None, LAYERS])
def test_layers_added_later_are_the_same_bytes(present, wanted, photo, stream, tiny_checkpoints):
    shorter = sae.truncate(stream, present)
    assert sae.extend(shorter, photo, wanted, checkpoints=tiny_checkpoints) == stream


def test_extending_a_cut_stream_replaces_what_was_cut(photo, stream, ends, tiny_checkpoints):
    with pytest.warns(UserWarning, match="el1 is its last layer"):
        extended = sae.extend(stream[: ends[1] + 5], photo, checkpoints=tiny_checkpoints)
    assert extended == stream


def test_extend_refuses_what_it_cannot_do(photo, stream, tiny_checkpoints):
    with pytest.raises(SaeError, match="5 layers already"):
        sae.extend(stream, photo, checkpoints=tiny_checkpoints)
    with pytest.raises(SaeError, match="60 x 45 pixels, and the image"):
        sae.extend(sae.truncate(stream, 1), photo[:-1], checkpoints=tiny_checkpoints)


@pytest.mark.slow
def test_targets_take_the_fewest_layers_that_reach_them(photo, ends, tiny_checkpoints):
    def bpp(end):
        return 8 * end / (45 * 60)

    for count in (1, 3):
        encoded = codec.encode(photo, checkpoints=tiny_checkpoints, target_bpp=bpp(ends[count - 1]))
        assert (encoded.layers, len(encoded.data)) == (count, ends[count - 1])
        assert encoded.bpp == pytest.approx(bpp(len(encoded.data)))
    beyond = codec.encode(photo, checkpoints=tiny_checkpoints, target_bpp=1000)
    assert beyond.layers == LAYERS

    stages = sae.Decoder(checkpoints=tiny_checkpoints).feed(beyond.data)
    mse = [np.mean(np.square(stage.astype(float) - photo)) for stage in stages]
    psnr = [10 * np.log10(255**2 / value) for value in mse]
    target = sorted(psnr)[2]
    encoded = codec.encode(photo, checkpoints=tiny_checkpoints, target_psnr=target - 1e-3)
    first = next(index for index, value in enumerate(psnr) if value >= target - 1e-3)
    assert encoded.layers == first + 1
    assert encoded.psnr == pytest.approx(psnr[first], abs=1e-3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), "not uint8"),
        (np.zeros((4, 4, 4), np.uint8), "not uint8"),
        (np.zeros((4, 4, 3), np.float32), "not float32"),
        (np.zeros((0, 4, 3), np.uint8), "not uint8"),
        ("absent.png", "No such file"),
    ],
)
def test_bad_images_are_refused(image, message, tiny_checkpoints):
    with pytest.raises(SaeError, match=message):
        sae.compress(image, checkpoints=tiny_checkpoints)


def test_layers_that_do_not_exist_are_refused(photo, stream, tiny_checkpoints):
    for layers in (0, -1, 6):
        with pytest.raises(SaeError, match="layer"):
            sae.compress(photo, layers, checkpoints=tiny_checkpoints)
    with pytest.raises(SaeError, match="no family psnr"):
        sae.compress(photo, family="psnr", checkpoints=tiny_checkpoints)
    with pytest.raises(SaeError, match=r"train_base\.py --family residual-ms-ssim"):
        sae.compress(photo, family="ms-ssim", checkpoints=tiny_checkpoints)
    with pytest.warns(UserWarning, match="5 layers were asked for"):
        sae.decompress(sae.truncate(stream, 2), 5, checkpoints=tiny_checkpoints)
    header, records, _ = bitstream.parse(stream)
    with pytest.raises(SaeError, match="1 to 5 layers"):
        sae.decompress(
            bitstream.pack(header, [*records, records[-1]]), checkpoints=tiny_checkpoints
        )


def save_tiny(folder, seed, names=LAYER_NAMES[:2], **changes):
    """Saves tiny layers with random weights; returns their store."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    store, below = Store(families.named("residual-mse"), folder), None
    for name in names:
        config = defaults(name, store.family, "tiny")[0]
        layer = build(dataclasses.replace(config, **changes))
        arrays = layer.arrays()
        for part in ("real", "imag"):
            arrays[f"analysis/conv_2/kernel_{part}"] *= 30
        layer.set_arrays(arrays)
        layer.build_tables()
        store.save(layer, below, {})
        below = layer.fingerprint
    return store


@pytest.mark.slow
def test_other_weights_are_refused_and_the_cache_does_not_outlive_them(photo, stream, tmp_path):
    save_tiny(tmp_path, seed=2)
    with pytest.raises(SaeError, match="Layer base was made with weights"):
        sae.decompress(stream, 2, checkpoints=tmp_path)
    first = sae.compress(photo, checkpoints=tmp_path)
    save_tiny(tmp_path, seed=3)
    assert sae.compress(photo, checkpoints=tmp_path) != first
    with pytest.raises(SaeError, match="Layer base was made with weights"):
        sae.decompress(first, checkpoints=tmp_path)


def test_a_size_that_the_string_cannot_fill_is_refused_before_allocation(
    stream, tiny_checkpoints, monkeypatch
):
    header, records, _ = bitstream.parse(stream)
    forged = bitstream.pack(header._replace(width=9_000, height=9_000), records)

    def allocate(*_):
        raise AssertionError("allocated")

    monkeypatch.setattr(Context, "empty", allocate)
    with pytest.raises(SaeError, match="cannot fill 9000 x 9000"):
        sae.decompress(forged, checkpoints=tiny_checkpoints)


def test_an_image_larger_than_memory_is_refused(stream, tiny_checkpoints, monkeypatch):
    monkeypatch.setattr(
        os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 9}[name]
    )
    with pytest.raises(SaeError, match="memory"):
        sae.decompress(stream, checkpoints=tiny_checkpoints)


def test_the_limit_of_pixels_holds_both_ways(photo, stream, tiny_checkpoints):
    with pytest.raises(SaeError, match="limit"):
        codec.encode(photo, checkpoints=tiny_checkpoints, max_pixels=45 * 60 - 1)
    with pytest.raises(SaeError, match="limit"):
        sae.decompress(stream, checkpoints=tiny_checkpoints, max_pixels=45 * 60 - 1)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_strings_decode_or_are_refused(data, stream, tiny_checkpoints):
    """Checksums are made to match, so that the strings reach the range decoder."""
    header, records, _ = bitstream.parse(stream)
    index = data.draw(st.integers(0, LAYERS - 1))
    string = bytearray(records[index].string)
    for _ in range(data.draw(st.integers(0, 4))):
        string[data.draw(st.integers(0, len(string) - 1))] = data.draw(st.integers(0, 255))
    string = string[: data.draw(st.integers(0, len(string)))]
    string += data.draw(st.binary(max_size=20))
    records[index] = records[index]._replace(string=bytes(string))
    try:
        decoded = sae.decompress(bitstream.pack(header, records), checkpoints=tiny_checkpoints)
    except SaeError as error:
        assert bitstream.layer_name(index) in str(error)
    else:
        assert decoded.shape == (45, 60, 3)


_ELSEWHERE = """
import sys
import numpy as np
import sae
image, stream, decoded, checkpoints = sys.argv[1:]
data = sae.compress(np.load(image), checkpoints=checkpoints)
with open(stream, "wb") as file:
    file.write(data)
decoder = sae.Decoder(checkpoints=checkpoints)
images = decoder.feed(data)
# Before rounding to 8 bit, which hides most of what may differ.
np.savez(decoded, images=images, x_hat=decoder._coder._context.x_hat)
"""


def elsewhere(photo, checkpoints, folder, threads=None, one_core=False):
    """Encodes and decodes in a process of its own; returns the stream, images and x_hat."""
    np.save(folder / "image.npy", photo)
    names = (folder / "image.npy", folder / "stream.sae", folder / "decoded.npz", checkpoints)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    if threads:
        environment |= {"TF_NUM_INTRAOP_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    pin = (lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})) if one_core else None
    subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, *map(str, names)],
        check=True,
        env=environment,
        preexec_fn=pin,
    )
    decoded = np.load(folder / "decoded.npz")
    return (folder / "stream.sae").read_bytes(), decoded["images"], decoded["x_hat"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_processes_with_other_numbers_of_threads_and_other_copies_decode_alike(tmp_path):
    # Wide layers and this size, since others happen to give the same sums anyway.
    store = save_tiny(tmp_path / "a", seed=1, hidden_filters=48)
    image = images.sample_photos()["coffee"][:272, :304]
    data, decoded, x_hat = elsewhere(image, tmp_path / "a", tmp_path)

    copy, below = dataclasses.replace(store, folder=tmp_path / "b"), None
    for layer in store.cascade().layers:
        copy.save(layer, below, {"copy": True})
        below = layer.fingerprint
    for threads, one_core in ((1, True), (3, False)):
        others = elsewhere(image, tmp_path / "b", tmp_path, threads, one_core)
        assert others[0] == data
        np.testing.assert_array_equal(others[1], decoded)
        np.testing.assert_array_equal(others[2], x_hat)


def test_importing_the_package_does_not_import_tensorflow():
    program = "import sys, sae; sae.truncate, sae.SaeError; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [5, 9, 19])
def test_kodak_round_trip(number, tiny_checkpoints):
    path = f"kodak/kodim{number:02}.png"
    if not os.path.exists(path):
        pytest.skip("kodak/ is empty; make kodak fetches the images")
    image = images.read(path)
    data = sae.compress(image, checkpoints=tiny_checkpoints)
    for stage in sae.Decoder(checkpoints=tiny_checkpoints).feed(data):
        assert stage.shape == image.shape

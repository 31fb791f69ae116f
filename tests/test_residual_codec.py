"""Streams of residual families: sums of layers, alike in all processes, refused where damaged."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sae
from sae import images
from sae.coding import residual_codec
from sae.coding import residual_container as container
from sae.config import LAYER_NAMES
from sae.errors import SaeError
from sae.model import families
from sae.model.layer_store import LayerStore
from sae.model.residual_layer import ResidualLayer
from sae.training import presets


@pytest.fixture(scope="module")
def photo():
    """A photo, uint8 [45, 60, 3]."""
    return images.sample_photos()["astronaut"][100:145, 200:260]


@pytest.fixture(scope="module")
def stream(photo, tiny_checkpoints):
    """The photo, with all five layers."""
    return sae.compress(photo, checkpoints=tiny_checkpoints)


def read(data):
    """Returns header and records of a stream."""
    reader = container.Reader()
    reader.feed(data)
    return reader.header, reader.records


def test_the_image_is_the_clipped_and_rounded_sum(photo, stream, tiny_checkpoints, tiny_model):
    x_hat = tf.zeros((1, 48, 64, 3))
    for layer, record in zip(tiny_model.layers, read(stream)[1]):
        x_hat += layer.synthesis(layer.decompress([record.string], (48, 64)))
    expected = np.rint(255 * np.clip(x_hat[0, :45, :60], 0, 1)).astype(np.uint8)
    np.testing.assert_array_equal(sae.decompress(stream, checkpoints=tiny_checkpoints), expected)


def test_an_encoder_decodes_nothing(photo, tiny_checkpoints, monkeypatch):
    def decompress(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ResidualLayer, "decompress", decompress)
    sae.compress(photo, checkpoints=tiny_checkpoints)


def test_cut_anywhere_decodes_the_complete_layers(stream, tiny_checkpoints):
    ends = container.ends(read(stream)[1])
    decoder, whole, start = sae.Decoder(tiny_checkpoints), [], 0
    for end in ends:
        decoder.feed(stream[start:end])
        whole.append(decoder.image())
        start = end
    near = {end + d for end in ends for d in (-1, 0, 1)}
    for cut in sorted(c for c in {14, 15, *near, *range(14, ends[-1], 97)} if c <= len(stream)):
        complete = sum(end <= cut for end in ends)
        if not complete:
            with pytest.raises(SaeError, match="ends before its base"):
                sae.decompress(stream[:cut], checkpoints=tiny_checkpoints)
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            decoded = sae.decompress(stream[:cut], checkpoints=tiny_checkpoints)
        np.testing.assert_array_equal(decoded, whole[complete - 1])
        expected = f"cut short; {LAYER_NAMES[complete - 1]} is its last"
        assert any(expected in str(w.message) for w in caught) == (cut not in ends)


def test_a_damaged_base_cannot_be_decoded(stream, tiny_checkpoints):
    damaged = bytearray(stream)
    damaged[30] ^= 1
    with pytest.raises(SaeError, match="damaged in its base layer"):
        sae.decompress(bytes(damaged), checkpoints=tiny_checkpoints)


def save_tiny(folder, seed, names=LAYER_NAMES[:2], **changes):
    """Saves tiny layers with random weights; returns their store."""
    tf.keras.utils.set_random_seed(seed)
    store, below = LayerStore(families.named("residual-mse"), folder), None
    for name in names:
        config = presets.residual(name, store.family, "tiny")[0]
        layer = ResidualLayer(dataclasses.replace(config, **changes))
        arrays = layer.arrays()
        for part in ("real", "imag"):
            arrays[f"analysis/conv_2/kernel_{part}"] *= 30
        layer.set_arrays(arrays)
        layer.entropy_model.build_tables()
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


def test_a_layer_without_weights_is_refused(stream, tmp_path):
    save_tiny(tmp_path, seed=1)
    own = sae.compress(images.sample_photos()["coffee"][:32, :32], checkpoints=tmp_path)
    header, records = read(own)
    longer = container.pack(header, [*records, records[-1]])
    with pytest.raises(SaeError, match="Layer el2 of the stream has no trained weights here"):
        sae.decompress(longer, checkpoints=tmp_path)


def test_a_size_that_the_string_cannot_fill_is_refused_before_allocation(
    stream, tiny_checkpoints, monkeypatch
):
    header, records = read(stream)
    forged = container.pack(header._replace(width=9_000, height=9_000), records)

    def allocate(*_):
        raise AssertionError("allocated")

    monkeypatch.setattr(residual_codec, "_synthesis", allocate)
    monkeypatch.setattr(ResidualLayer, "decompress", allocate)
    with pytest.raises(SaeError, match="cannot fill 9000 x 9000"):
        sae.decompress(forged, checkpoints=tiny_checkpoints)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_strings_decode_or_are_refused(data, stream, tiny_checkpoints):
    """Checksums are made to match, so that the strings reach the range decoder."""
    header, records = read(stream)
    index = data.draw(st.integers(0, len(records) - 1))
    string = bytearray(records[index].string)
    for _ in range(data.draw(st.integers(0, 4))):
        string[data.draw(st.integers(0, len(string) - 1))] = data.draw(st.integers(0, 255))
    string = string[: data.draw(st.integers(0, len(string)))]
    string += data.draw(st.binary(max_size=20))
    records[index] = records[index]._replace(string=bytes(string))
    try:
        decoded = sae.decompress(container.pack(header, records), checkpoints=tiny_checkpoints)
    except SaeError as error:
        assert LAYER_NAMES[index] in str(error)
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
decoder = sae.Decoder(checkpoints)
decoder.feed(data)
# Before rounding to 8 bit, which hides most of what may differ.
np.savez(decoded, images=decoder.image(), x_hat=decoder._decoder._state._x_hat)
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
    for layer in store.load().layers:
        copy.save(layer, below, {"copy": True})
        below = layer.fingerprint
    for threads, one_core in ((1, True), (3, False)):
        others = elsewhere(image, tmp_path / "b", tmp_path, threads, one_core)
        assert others[0] == data
        np.testing.assert_array_equal(others[1], decoded)
        np.testing.assert_array_equal(others[2], x_hat)

"""What a stream of any version holds, and shorter streams of it."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.coding import progressive_container, residual_container, stream
from sae.errors import SaeError
from sae.model import families

RESIDUAL = residual_container.pack(
    residual_container.Header(families.named("residual-mse"), 100, 80),
    [residual_container.Record(bytes([k] * 4), bytes(50 + 100 * k)) for k in range(5)],
)
_PROGRESSIVE_HEADER = progressive_container.Header(
    families.named("progressive-mse"), b"abcd", 100, 80, (50, 400, 1000, 3000, 9000)
)
PROGRESSIVE = progressive_container.pack(_PROGRESSIVE_HEADER, bytes(range(250)) * 36)
STREAMS = {"residual": RESIDUAL, "progressive": PROGRESSIVE}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_whole_stream(kind):
    found = stream.parse(STREAMS[kind])
    assert (found.family.name, found.width, found.height) == (f"{kind}-mse", 100, 80)
    assert found.size == found.ends[-1] == len(STREAMS[kind])
    assert (found.layers, found.last_layer, found.damaged) == (5, "el4", False)
    assert found.bpp == 8 * len(STREAMS[kind]) / 8000
    assert len(found.fingerprints) == 5
    # Bytes after the last layer are of no stream.
    assert stream.parse(STREAMS[kind] + b"more")._replace(size=0) == found._replace(size=0)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("layers", [1, 3, 5])
def test_layers_are_kept(kind, layers):
    data = STREAMS[kind]
    cut = stream.truncate(data, layers)
    assert data.startswith(cut) and stream.parse(cut).layers == layers
    assert stream.truncate(cut) == cut
    with pytest.raises(SaeError, match=f"layers of the stream: {layers}; {layers + 1} cannot"):
        stream.truncate(cut, layers + 1)


@given(st.sampled_from(sorted(STREAMS)), st.integers(1, 12_000))
def test_limits_of_bytes_and_of_bits_per_pixel_are_kept(kind, size):
    data = STREAMS[kind]
    whole = stream.parse(data)
    if size < whole.smallest:
        with pytest.raises(SaeError, match=f"has {whole.smallest} bytes"):
            stream.truncate(data, max_bytes=size)
        return
    cut = stream.truncate(data, max_bytes=size)
    assert data.startswith(cut) and len(cut) <= size
    # No longer beginning is within the limit.
    if kind == "progressive":
        assert len(cut) == min(size, len(data))
    else:
        assert len(cut) == max(end for end in whole.ends if end <= size)
    assert stream.truncate(data, max_bpp=(size + 0.5) * 8 / 8000) == cut
    found = stream.parse(cut)
    assert found.size == len(cut) and found.layers == sum(e <= len(cut) for e in whole.ends)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_damaged_stream_ends_before_the_damage(kind):
    data = bytearray(STREAMS[kind])
    whole = stream.parse(data)
    data[-20] ^= 1
    found = stream.parse(bytes(data))
    assert found.damaged and whole.ends[2] < found.size < len(data)
    cut = stream.truncate(bytes(data))
    assert cut == STREAMS[kind][: found.size] and not stream.parse(cut).damaged


@pytest.mark.parametrize("kind", STREAMS)
def test_a_rate_above_all_keeps_the_whole_stream(kind):
    assert stream.truncate(STREAMS[kind], max_bpp=1e308) == STREAMS[kind]


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["max_bytes", "max_bpp"])
def test_a_limit_is_a_number_above_0(name, limit):
    with pytest.raises(SaeError, match=f"a number above 0, not {limit}"):
        stream.truncate(PROGRESSIVE, **{name: limit})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"Not an image at all, but a line of text.", "not an .sae stream"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "not an .sae stream"),
        (b"SA", "ends within its header"),
        (b"SAE\x01" + RESIDUAL[4:], "version 1, and this program reads versions 3 and 4"),
        (RESIDUAL[:13], "ends within its header"),
        (PROGRESSIVE[:12], "ends within its header"),
        (PROGRESSIVE[:10] + b"\x01" + PROGRESSIVE[11:], "checksum does not match"),
    ],
    ids=["empty", "text", "image", "magic", "version", "residual", "progressive", "checksum"],
)
def test_no_stream_is_one_sentence(data, message):
    for function in (stream.parse, stream.truncate):
        with pytest.raises(SaeError, match=message) as caught:
            function(data)
        assert "\n" not in str(caught.value)


def test_a_residual_stream_without_its_base_holds_nothing():
    assert stream.parse(RESIDUAL[:60]).layers == 0
    with pytest.raises(SaeError, match="ends before its base layer"):
        stream.truncate(RESIDUAL[:60])
    damaged = RESIDUAL[:30] + bytes([RESIDUAL[30] ^ 1]) + RESIDUAL[31:]
    with pytest.raises(SaeError, match="is damaged in its base layer"):
        stream.truncate(damaged)
    with pytest.raises(SaeError, match="at least one layer"):
        stream.truncate(RESIDUAL, 0)


@pytest.mark.parametrize("kind", STREAMS)
def test_the_limit_of_pixels_is_adjustable(kind):
    assert stream.parse(STREAMS[kind], max_pixels=8000).width == 100
    with pytest.raises(SaeError, match="limit of 7999"):
        stream.parse(STREAMS[kind], max_pixels=7999)


def test_neither_streams_nor_images_import_tensorflow():
    program = "import sys, sae.coding.stream, sae.images; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

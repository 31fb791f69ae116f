"""The container: what is packed is parsed, and what is not a stream is refused in a sentence."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.coding import bitstream
from sae.coding.bitstream import Header, Parser, Record
from sae.errors import SaeError
from sae.model import families

RECORDS = [Record(b"\x01\x02\x03\x04", b"base string"), Record(b"abcd", b""), Record(b"wxyz", b"!")]
HEADER = Header(families.named("residual-mse"), 768, 512)
STREAM = bitstream.pack(HEADER, RECORDS)

headers = st.builds(
    Header,
    family=st.sampled_from(families.FAMILIES),
    width=st.integers(1, 30_000),
    height=st.integers(1, 30_000),
)
records = st.lists(
    st.builds(Record, st.binary(min_size=4, max_size=4), st.binary(max_size=40)),
    min_size=1,
    max_size=6,
)


def ends(records):
    """Returns the size of the stream after each layer."""
    return [bitstream.size(records[: count + 1]) for count in range(len(records))]


def test_bytes_are_those_of_the_format_document():
    raw = b"SAE" + bytes([3, 2]) + struct.pack("<II", 3, 2) + b"\x08"
    first = struct.pack("<I", 2) + b"FPFP" + b"xy"
    second = struct.pack("<I", 0) + b"fpfp"
    expected = raw + first + struct.pack("<I", zlib.crc32(raw + first))
    expected += second + struct.pack("<I", zlib.crc32(raw + first + second))
    packed = bitstream.pack(
        Header(families.named("residual-ms-ssim"), width=3, height=2),
        [Record(b"FPFP", b"xy"), Record(b"fpfp", b"")],
    )
    assert packed == expected


@given(headers, records)
def test_parse_returns_what_was_packed(header, records):
    data = bitstream.pack(header, records)
    assert bitstream.parse(data) == (header, records, False)
    assert len(data) == bitstream.size(records)


@given(headers, records)
def test_overhead_is_at_most_24_bytes_and_12_per_layer(header, records):
    strings = sum(len(record.string) for record in records)
    assert len(bitstream.pack(header, records)) - strings <= 24 + 12 * len(records)


@given(headers, records, st.data())
def test_cut_anywhere_gives_the_complete_layers(header, records, data):
    stream = bitstream.pack(header, records)
    cut = data.draw(st.integers(0, len(stream)))
    complete = [end for end in ends(records) if end <= cut]
    if not complete:
        with pytest.raises(SaeError):
            bitstream.parse(stream[:cut])
        return
    parsed = bitstream.parse(stream[:cut])
    assert parsed == (header, records[: len(complete)], cut != complete[-1])


@given(headers, records, st.data())
def test_fed_in_pieces_gives_the_same_layers_each_as_soon_as_it_is_complete(header, records, data):
    stream = bitstream.pack(header, records)
    places = st.lists(st.integers(0, len(stream)), max_size=8)
    cuts = [0, *sorted(data.draw(places)), len(stream)]
    parser, found = Parser(), []
    for start, stop in zip(cuts, cuts[1:]):
        found += parser.feed(stream[start:stop])
        assert len(found) == sum(end <= stop for end in ends(records))
    assert (parser.header, found, parser.pending) == (header, records, 0)


def test_truncating_is_cutting_and_appending_is_extending():
    for count in (1, 2, 3):
        shorter = bitstream.truncate(STREAM, count)
        assert shorter == STREAM[: len(shorter)] == bitstream.pack(HEADER, RECORDS[:count])
    with pytest.raises(SaeError, match="3 complete layers"):
        bitstream.truncate(STREAM, 4)


@pytest.mark.parametrize("layers", [0, -1])
def test_no_layers_are_refused(layers):
    with pytest.raises(SaeError, match="at least one layer"):
        bitstream.parse(STREAM, layers)


@pytest.mark.parametrize("position", range(len(STREAM)))
def test_every_changed_byte_is_seen(position):
    damaged = bytearray(STREAM)
    damaged[position] ^= 0x40
    try:
        parsed = bitstream.parse(bytes(damaged))
    except SaeError:
        return
    # A length that has grown past the end looks like a cut, and only that.
    assert parsed.cut
    assert parsed.records == RECORDS[: len(parsed.records)]
    assert len(parsed.records) < len(RECORDS)


def test_a_record_of_another_stream_is_seen():
    other = bitstream.pack(HEADER, [RECORDS[0]._replace(string=b"BASE string"), *RECORDS[1:]])
    end = ends(RECORDS)[0]
    with pytest.raises(SaeError, match="el1 is damaged"):
        bitstream.parse(STREAM[:end] + other[end:])


def test_layers_below_a_damaged_one_can_still_be_read():
    damaged = STREAM[:-1] + bytes([STREAM[-1] ^ 1])
    with pytest.raises(SaeError, match=r"el2 is damaged.*the 2 below it can be decoded"):
        bitstream.parse(damaged)
    assert bitstream.parse(damaged, layers=2) == (HEADER, RECORDS[:2], False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"Not an image at all, but a line of text.", "not an .sae stream"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "not an .sae stream"),
        (b"SA", "ends before its base layer"),
        (b"SAE\x01" + STREAM[4:], "version 1"),
        (STREAM[:4] + b"\x07" + STREAM[5:], "no family of code 7"),
        (STREAM[:5] + bytes(4) + STREAM[9:], "0 x 512"),
        (STREAM[:5] + b"\xff" * 8 + STREAM[13:], "limit of 1000000000"),
        (STREAM[:13] + bytes(1) + STREAM[14:], "steps of 0"),
        (STREAM[:14], "ends before its base layer"),
        (STREAM[:14] + b"\xff" * 4 + STREAM[18:], "ends before its base layer"),
    ],
)
def test_bad_streams_are_refused_in_one_sentence(data, message):
    with pytest.raises(SaeError, match=message) as caught:
        bitstream.parse(data)
    assert "\n" not in str(caught.value)


def test_the_limit_of_pixels_is_adjustable():
    pixels = HEADER.width * HEADER.height
    assert bitstream.parse(STREAM, max_pixels=pixels).header == HEADER
    with pytest.raises(SaeError, match="limit"):
        bitstream.parse(STREAM, max_pixels=pixels - 1)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_parsed_or_refused(data):
    for candidate in (
        data,
        STREAM[:5] + data,
        STREAM[:14] + data,
        STREAM[: ends(RECORDS)[0]] + data,
    ):
        try:
            parsed = bitstream.parse(candidate)
        except SaeError:
            continue
        assert candidate.startswith(bitstream.pack(parsed.header, parsed.records))


def test_neither_the_container_nor_the_package_imports_tensorflow():
    program = "import sys, sae.coding.bitstream, sae.images; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

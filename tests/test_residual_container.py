"""The container of residual families: what is packed is read, and damage is found."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.coding import residual_container as container
from sae.coding.residual_container import Header, Reader, Record
from sae.errors import SaeError
from sae.model import families

RECORDS = [Record(b"\x01\x02\x03\x04", b"base string"), Record(b"abcd", b""), Record(b"wxyz", b"!")]
HEADER = Header(families.named("residual-mse"), 768, 512)
STREAM = container.pack(HEADER, RECORDS)

headers = st.builds(
    Header,
    family=st.sampled_from([f for f in families.FAMILIES if f.kind == "residual"]),
    width=st.integers(1, 30_000),
    height=st.integers(1, 30_000),
)
records = st.lists(
    st.builds(Record, st.binary(min_size=4, max_size=4), st.binary(max_size=40)),
    min_size=1,
    max_size=4,
)


def read(data):
    """Returns a reader that has taken a stream."""
    reader = Reader()
    reader.feed(data)
    return reader


def test_bytes_are_those_of_the_format_document():
    raw = b"SAE" + bytes([3, 2]) + struct.pack("<II", 3, 2) + b"\x08"
    first = struct.pack("<I", 2) + b"FPFP" + b"xy"
    second = struct.pack("<I", 0) + b"fpfp"
    expected = raw + first + struct.pack("<I", zlib.crc32(raw + first))
    expected += second + struct.pack("<I", zlib.crc32(raw + first + second))
    header = Header(families.named("residual-ms-ssim"), width=3, height=2)
    assert container.pack(header, [Record(b"FPFP", b"xy"), Record(b"fpfp", b"")]) == expected


@given(headers, records)
def test_what_was_packed_is_read(header, records):
    data = container.pack(header, records)
    reader = read(data)
    assert (reader.header, reader.records, reader.damaged) == (header, records, False)
    assert not reader.damaged and reader.complete == (len(records) == len(header.family.layers))
    assert container.ends(records)[-1] == len(data)
    assert len(data) - sum(len(record.string) for record in records) == 14 + 12 * len(records)


@given(headers, records, st.data())
def test_each_layer_is_read_as_soon_as_it_is_complete(header, records, data):
    stream = container.pack(header, records)
    places = st.lists(st.integers(0, len(stream)), max_size=8)
    cuts = [0, *sorted(data.draw(places)), len(stream)]
    reader, found = Reader(), []
    for start, stop in zip(cuts, cuts[1:]):
        found += reader.feed(stream[start:stop])
        assert len(found) == sum(end <= stop for end in container.ends(records))
    assert found == records


@pytest.mark.parametrize("position", range(4, len(STREAM)))
def test_every_changed_byte_is_found(position):
    damaged = bytearray(STREAM)
    damaged[position] ^= 0x40
    try:
        reader = read(bytes(damaged))
    except SaeError:
        return
    # A length that has grown past the end looks like a cut, and only that.
    assert reader.damaged or not reader.complete
    assert reader.records == RECORDS[: len(reader.records)]
    assert len(reader.records) < len(RECORDS)
    assert reader.feed(STREAM[14:]) == [] or not reader.damaged


def test_a_record_of_another_stream_is_damage():
    other = container.pack(HEADER, [RECORDS[0]._replace(string=b"BASE string"), *RECORDS[1:]])
    end = container.ends(RECORDS)[0]
    reader = read(STREAM[:end] + other[end:])
    assert reader.damaged and reader.records == RECORDS[:1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (STREAM[:4] + b"\x07" + STREAM[5:], "no family of code 7"),
        (STREAM[:4] + b"\x05" + STREAM[5:], "of no residual family"),
        (STREAM[:5] + bytes(4) + STREAM[9:], "0 x 512"),
        (STREAM[:5] + b"\xff" * 8 + STREAM[13:], "limit of 1000000000"),
        (STREAM[:13] + bytes(1) + STREAM[14:], "of no residual family"),
    ],
)
def test_a_damaged_header_is_one_sentence(data, message):
    with pytest.raises(SaeError, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200), st.sampled_from([5, 14, container.ends(RECORDS)[0]]))
def test_arbitrary_bytes_are_read_or_refused(data, kept):
    candidate = STREAM[:kept] + data
    try:
        reader = read(candidate)
    except SaeError:
        return
    if reader.header is not None:
        assert candidate.startswith(container.pack(reader.header, reader.records))

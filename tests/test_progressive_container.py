"""The container of progressive streams: cut, damaged, fed in pieces, or no stream at all."""

from __future__ import annotations

import binascii
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.coding import progressive_container as container
from sae.coding.progressive_container import Header, Reader
from sae.errors import SaeError
from sae.model import families

FAMILY = families.named("progressive-mse")


@st.composite
def streams(draw):
    """Returns a header and a code, often one that ends near the end of a chunk."""
    size = draw(st.sampled_from((0, 1, 300, 2000, 2010, 2044, 4070, 9000))) + draw(
        st.integers(0, 40)
    )
    code = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(size)
    ends = sorted(draw(st.lists(st.integers(0, size), min_size=4, max_size=4)))
    sizes = draw(st.tuples(*[st.integers(1, 30_000)] * 2))
    return Header(FAMILY, b"abcd", *sizes, (*ends, size)), code


def test_bytes_are_those_of_the_format_document():
    header = Header(FAMILY, b"\1\2\3\4", 3, 300, (1, 1, 2, 4, 6))
    start = b"SAE" + bytes([4, FAMILY.code, 1, 2, 3, 4, 3, 172, 2, 1, 0, 1, 2, 2])
    data = start + struct.pack("<H", binascii.crc_hqx(start, 0)) + b"string"
    assert container.pack(header, b"string") == data + struct.pack("<I", zlib.crc32(data))


@given(streams(), st.data())
def test_a_stream_is_read_however_it_comes(stream, data):
    header, code = stream
    packed = container.pack(header, code)
    reader, position = Reader(), 0
    while position < len(packed):
        count = data.draw(st.integers(1, len(packed)))
        reader.feed(packed[position : position + count])
        position += count
        assert code.startswith(reader.code)
    assert (reader.header, reader.code, reader.complete) == (header, code, True)
    reader.feed(b"what follows is ignored")
    assert reader.code == code and not reader.damaged


@given(streams())
def test_sizes_are_the_shortest_prefixes(stream):
    header, code = stream
    packed = container.pack(header, code)
    assert header.size(len(code)) == len(packed)
    for end in header.ends[:-1]:
        size = header.size(end)
        reader = Reader()
        reader.feed(packed[:size])
        assert reader.header == header and len(reader.code) >= end
        reader = Reader()
        reader.feed(packed[: size - 1])
        assert reader.header is None or len(reader.code) < end or end == len(code)


@given(streams(), st.integers(0, 2**20), st.integers(0, 7))
def test_damage_ends_the_code_before_it(stream, place, bit):
    header, code = stream
    damaged = bytearray(container.pack(header, code))
    place %= len(damaged)
    damaged[place] ^= 1 << bit
    reader = Reader()
    try:
        reader.feed(bytes(damaged))
    except SaeError as error:
        assert place < len(header.pack()) and str(error).endswith(".")
        return
    # A damaged number in the header may say that more bytes come.
    assert reader.damaged or not reader.complete
    assert len(reader.code) <= max(0, place) or reader.header is None


@given(st.binary(max_size=80))
def test_other_bytes_are_refused_in_a_sentence_or_incomplete(data):
    for given_data in (data, b"SAE\4" + bytes([FAMILY.code]) + data):
        reader = Reader()
        try:
            reader.feed(given_data)
        except SaeError as error:
            assert str(error).endswith(".")
        else:
            assert not reader.complete


@pytest.mark.parametrize(
    ("sizes", "words"),
    [((0, 5), "no image has 0 x 5 pixels"), ((4000, 3000), "more than the limit of 1000")],
)
def test_sizes_of_no_image_are_refused(sizes, words):
    reader = Reader(max_pixels=1000)
    with pytest.raises(SaeError, match=words):
        reader.feed(container.pack(Header(FAMILY, b"abcd", *sizes, (0,) * 5), b""))

"""The .sae container: bytes to strings and back, without TensorFlow.

A header, then one record per layer, base first; docs/FORMAT.md gives every
byte. Nothing in the header depends on the number of layers, so a stream cut
after a record is the stream of fewer layers, and a layer is added at the end.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from sae import files
from sae.errors import SaeError
from sae.model import families
from sae.model.families import Family

MAGIC, VERSION = b"SAE", 3
MAX_PIXELS = 10**9
FINGERPRINT_BYTES = 4

# Magic, version, code of the family, width, height; the last byte is not used.
_HEADER = struct.Struct("<3sBBIIB")
_UNUSED = 8
# Length of the string, fingerprint of the layer; the string follows.
_RECORD = struct.Struct(f"<I{FINGERPRINT_BYTES}s")
# CRC-32 of all that stands before it, other CRCs left out.
_CHECKSUM = struct.Struct("<I")

HEADER_BYTES = _HEADER.size
RECORD_BYTES = _RECORD.size + _CHECKSUM.size


class Header(NamedTuple):
    """The properties of the image of a stream.

    Attributes:
      family: of the layers.
      width, height: of the image, in pixels.
    """

    family: Family
    width: int
    height: int


class Record(NamedTuple):
    """One layer of a stream.

    Attributes:
      fingerprint: the first 4 bytes of the SHA-256 of the layer's weights.
      string: what the layer's entropy coder wrote.
    """

    fingerprint: bytes
    string: bytes


class Stream(NamedTuple):
    """A parsed stream.

    Attributes:
      header: properties of its image.
      records: its complete layers, base first; at least one.
      cut: whether more bytes follow them, of a layer that is not complete.
    """

    header: Header
    records: list[Record]
    cut: bool


def layer_name(index: int) -> str:
    """Returns the name of layer `index`: "base", "el1", ..."""
    return f"el{index}" if index else "base"


def size(records: Iterable[Record]) -> int:
    """Returns the bytes of the stream that holds these records."""
    return HEADER_BYTES + sum(RECORD_BYTES + len(record.string) for record in records)


def pack(header: Header, records: Iterable[Record]) -> bytes:
    """Returns the stream of an image and its layers, base first."""
    family, width, height = header
    parts = [_HEADER.pack(MAGIC, VERSION, family.code, width, height, _UNUSED)]
    crc = zlib.crc32(parts[0])
    for record in records:
        part = _RECORD.pack(len(record.string), record.fingerprint) + record.string
        crc = zlib.crc32(part, crc)
        parts += part, _CHECKSUM.pack(crc)
    return b"".join(parts)


class Parser:
    """Reads a stream as its bytes arrive.

    Nothing is allocated beyond the bytes that were fed.

    Args:
      max_pixels: larger images are refused.
      layers: take no more layers than this; what follows them is passed over.

    Attributes:
      header: None until its bytes have come.
      records: the complete layers so far, their checksums verified.
      pending: how many bytes have come of what is not complete yet.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS, layers: int | None = None):
        self.header: Header | None = None
        self.records: list[Record] = []
        self._max_pixels = max_pixels
        self._layers = layers
        self._buffer = bytearray()
        self._crc = 0

    @property
    def pending(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Record]:
        """Takes the next bytes of the stream; returns the layers that they complete.

        Raises:
          SaeError: this is no .sae stream, of an unknown version or family, its
            image has no pixels or too many, or a checksum does not match. The
            layers before that one stay in `records`.
        """
        self._buffer += data
        if self.header is None:
            self._read_header()
        complete = len(self.records)
        while self.header is not None:
            if len(self.records) == self._layers:
                self._buffer.clear()
            if not self._read_record():
                break
        return self.records[complete:]

    def _read_header(self) -> None:
        start = bytes(self._buffer[: len(MAGIC)])
        if start != MAGIC[: len(start)]:
            raise SaeError("This is not an .sae stream; make one with `python -m sae compress`.")
        if len(self._buffer) > len(MAGIC) and self._buffer[len(MAGIC)] != VERSION:
            raise SaeError(
                f"This .sae stream is of version {self._buffer[len(MAGIC)]}, and this program "
                f"reads version {VERSION}; use the program that wrote it."
            )
        if len(self._buffer) < _HEADER.size:
            return
        raw = self._take(_HEADER.size)
        _, _, code, width, height, unused = _HEADER.unpack(raw)
        family = families.of_code(code)
        if family is None:
            raise SaeError(
                f"There is no family of code {code}: the header is damaged, or the stream was "
                "made before version 1.0."
            )
        if width * height == 0:
            raise SaeError(f"The header is damaged: no image has {width} x {height} pixels.")
        if unused != _UNUSED:
            raise SaeError(f"The header is damaged: its last byte is not {_UNUSED}.")
        if width * height > self._max_pixels:
            raise SaeError(
                f"The stream says its image has {width} x {height} pixels, more than the limit "
                f"of {self._max_pixels}; raise the limit if that is right."
            )
        self.header = Header(family, width, height)
        self._crc = zlib.crc32(raw)

    def _read_record(self) -> bool:
        if len(self._buffer) < _RECORD.size:
            return False
        length, fingerprint = _RECORD.unpack_from(self._buffer)
        if len(self._buffer) < RECORD_BYTES + length:
            return False
        raw = self._take(_RECORD.size + length)
        self._crc = zlib.crc32(raw, self._crc)
        if _CHECKSUM.unpack(self._take(_CHECKSUM.size)) != (self._crc,):
            index = len(self.records)
            below = f"; the {index} below it can be decoded" if index else ""
            raise SaeError(
                f"Layer {layer_name(index)} is damaged: its checksum does not match{below}."
            )
        self.records.append(Record(fingerprint, raw[_RECORD.size :]))
        return True

    def _take(self, count: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken


def parse(data: bytes, layers: int | None = None, max_pixels: int = MAX_PIXELS) -> Stream:
    """Reads a whole stream.

    Args:
      data: the stream, possibly cut short.
      layers: read no more layers than this; what follows them is not looked at.
      max_pixels: larger images are refused.

    Raises:
      SaeError: as `Parser.feed`, or the base layer is not complete.
    """
    if not data:
        raise SaeError("The .sae stream is empty.")
    if layers is not None and layers < 1:
        raise SaeError(f"A stream has at least one layer; {layers} were asked for.")
    parser = Parser(max_pixels, layers)
    parser.feed(data)
    if not parser.records:
        raise SaeError("The .sae stream ends before its base layer does; nothing can be decoded.")
    assert parser.header is not None, "records come after a header"
    return Stream(parser.header, parser.records, cut=parser.pending > 0)


def truncate(data: files.Bytes, layers: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """Returns the stream of the first `layers` layers.

    Args:
      data: the stream, or the name of its file, or the file.
      layers: to keep.
      max_pixels: larger images are refused.

    Raises:
      SaeError: as `parse`, or the stream does not have so many.
    """
    stream = parse(files.read_bytes(data), layers, max_pixels)
    if len(stream.records) < layers:
        raise SaeError(
            f"The stream has {len(stream.records)} complete layers; {layers} cannot be kept."
        )
    return pack(stream.header, stream.records)

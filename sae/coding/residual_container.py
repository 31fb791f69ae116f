"""The .sae container of residual families, version 3: a header, then one record per layer.

docs/FORMAT.md describes every byte. Nothing in the header depends on the number of layers. A stream
cut after a record is therefore the stream of fewer layers.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sae.coding.header import FINGERPRINT_BYTES, MAGIC, family_of, require_size
from sae.config import MAX_PIXELS
from sae.errors import SaeError
from sae.model.families import Family

VERSION = 3

# Magic, version, code of the family, width, height; the last byte is always the same.
_HEADER = struct.Struct("<3sBBIIB")
_LAST_BYTE = 8
# Length of the string, fingerprint of the layer; the string follows.
_RECORD = struct.Struct(f"<I{FINGERPRINT_BYTES}s")
# CRC-32 of all bytes before it, except other CRCs.
_CHECKSUM = struct.Struct("<I")

HEADER_BYTES = _HEADER.size
RECORD_BYTES = _RECORD.size + _CHECKSUM.size


class Header(NamedTuple):
    """The properties of a stream.

    Attributes:
      family: family of the layers.
      width, height: size of the image in pixels.
    """

    family: Family
    width: int
    height: int


class Record(NamedTuple):
    """One layer of a stream.

    Attributes:
      fingerprint: the first 4 bytes of the SHA-256 of the layer's weights.
      string: output of the layer's entropy coder.
    """

    fingerprint: bytes
    string: bytes


def ends(records: Sequence[Record]) -> list[int]:
    """Returns the number of bytes of a stream up to the end of each record."""
    found, size = [], HEADER_BYTES
    for record in records:
        size += RECORD_BYTES + len(record.string)
        found.append(size)
    return found


def pack(header: Header, records: Iterable[Record]) -> bytes:
    """Returns the stream of an image and its layers, base first."""
    family, width, height = header
    parts = [_HEADER.pack(MAGIC, VERSION, family.code, width, height, _LAST_BYTE)]
    crc = zlib.crc32(parts[0])
    for record in records:
        part = _RECORD.pack(len(record.string), record.fingerprint) + record.string
        crc = zlib.crc32(part, crc)
        parts += part, _CHECKSUM.pack(crc)
    return b"".join(parts)


class Reader:
    """Reads a stream as its bytes arrive.

    Only the bytes that were fed take memory.

    Args:
      max_pixels: largest number of pixels of an image.

    Attributes:
      header: properties of the stream, None until they have arrived.
      records: complete layers so far, with verified checksums.
      damaged: whether a checksum is wrong; all that follows is ignored.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS):
        self.header: Header | None = None
        self.records: list[Record] = []
        self.damaged = False
        self._max_pixels = max_pixels
        self._buffer = bytearray()
        self._crc = 0

    @property
    def complete(self) -> bool:
        """Whether all layers of the family have arrived."""
        return self.header is not None and len(self.records) == len(self.header.family.layers)

    def feed(self, data: bytes) -> list[Record]:
        """Takes the next bytes of the stream; returns the layers that they complete.

        Raises:
          SaeError: the header is damaged, or its image has too many pixels.
        """
        if self.damaged or self.complete:
            return []
        self._buffer += data
        if self.header is None:
            self._read_header()
        before = len(self.records)
        while not self.complete and self._read_record():
            pass
        return self.records[before:]

    def _read_header(self) -> None:
        if len(self._buffer) < _HEADER.size:
            return
        raw = self._take(_HEADER.size)
        _, _, code, width, height, last = _HEADER.unpack(raw)
        family = family_of(code)
        require_size(width, height, self._max_pixels)
        if last != _LAST_BYTE or family.kind != "residual":
            raise SaeError("The header is of no residual family; fetch the stream again.")
        self.header = Header(family, width, height)
        self._crc = zlib.crc32(raw)

    def _read_record(self) -> bool:
        if self.header is None or len(self._buffer) < _RECORD.size:
            return False
        length, fingerprint = _RECORD.unpack_from(self._buffer)
        if len(self._buffer) < RECORD_BYTES + length:
            return False
        raw = self._take(_RECORD.size + length)
        self._crc = zlib.crc32(raw, self._crc)
        if _CHECKSUM.unpack(self._take(_CHECKSUM.size)) != (self._crc,):
            self.damaged = True
            self._buffer.clear()
            return False
        self.records.append(Record(fingerprint, raw[_RECORD.size :]))
        return True

    def _take(self, count: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

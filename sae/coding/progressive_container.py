"""The .sae container of progressive families, version 4: a header and one code, cut anywhere.

Header and code form a sequence of data bytes. A CRC-32 of all data bytes so far stands after every
2,044 of them, and after the last. docs/FORMAT.md describes every byte. Any prefix of a stream that
includes the header is a stream.
"""

from __future__ import annotations

import binascii
import itertools
import struct
import zlib
from typing import NamedTuple

from sae.coding.header import FINGERPRINT_BYTES, MAGIC, family_of, require_size
from sae.config import MAX_PIXELS
from sae.errors import SaeError
from sae.model.families import Family

VERSION = 4

_CHUNK = 2048
_CHECKSUM = struct.Struct("<I")
_DATA = _CHUNK - _CHECKSUM.size
# Magic, version, code of the family, and fingerprint of the model; sizes follow.
_START = struct.Struct(f"<3sBB{FINGERPRINT_BYTES}s")
# CRC-CCITT of the header up to it.
_HEADER_CHECKSUM = struct.Struct("<H")
_LARGEST_NUMBER = 2**32


class Header(NamedTuple):
    """The properties of a stream.

    Attributes:
      family: family of the model.
      fingerprint: the first 4 bytes of the SHA-256 of the model.
      width, height: size of the image in pixels.
      ends: number of bytes of the code up to the end of each named layer.
    """

    family: Family
    fingerprint: bytes
    width: int
    height: int
    ends: tuple[int, ...]

    def pack(self) -> bytes:
        """Returns the bytes of the header."""
        steps = [end - start for start, end in zip((0, *self.ends), self.ends)]
        packed = _START.pack(MAGIC, VERSION, self.family.code, self.fingerprint)
        packed += b"".join(map(_varint, (self.width, self.height, *steps)))
        return packed + _HEADER_CHECKSUM.pack(binascii.crc_hqx(packed, 0))

    def size(self, code_bytes: int) -> int:
        """Returns the length of the shortest prefix of the stream with a part of the code.

        Args:
          code_bytes: number of bytes of the code, at most `ends[-1]`.
        """
        data = len(self.pack()) + code_bytes
        whole = code_bytes == self.ends[-1]
        checksums = -(-data // _DATA) if whole else (data - 1) // _DATA
        return data + _CHECKSUM.size * checksums


def pack(header: Header, code: bytes) -> bytes:
    """Returns the stream of a code.

    Args:
      header: properties of the stream; the code ends where its last layer does.
      code: code of the latent.
    """
    data = header.pack() + code
    checksum, chunks = 0, list[bytes]()
    for start in range(0, len(data), _DATA):
        chunk = data[start : start + _DATA]
        checksum = zlib.crc32(chunk, checksum)
        chunks += chunk, _CHECKSUM.pack(checksum)
    return b"".join(chunks)


class Reader:
    """Reads a stream as its bytes arrive.

    Args:
      max_pixels: largest number of pixels of an image.

    Attributes:
      header: properties of the stream, None until they have arrived.
      damaged: whether a checksum is wrong; all that follows is ignored.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS):
        self.header: Header | None = None
        self.damaged = False
        self._max_pixels = max_pixels
        self._verified = bytearray()
        # Bytes after the last verified chunk; number and checksum of the data bytes before them.
        self._rest = bytearray()
        self._before = self._checksum = 0
        self._header_bytes = 0

    @property
    def code(self) -> bytes:
        """The code so far.

        Its last bytes, in an incomplete chunk, are not verified. They are removed if the complete
        chunk is damaged.
        """
        return bytes(self._verified) + self._of_code(self._rest[: self._chunk_bytes()])

    @property
    def complete(self) -> bool:
        """Whether the whole code has arrived and is verified."""
        return self.header is not None and len(self._verified) == self.header.ends[-1]

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream.

        Raises:
          SaeError: the header is damaged, or its image has too many pixels.
        """
        self._rest += data
        if self.header is None:
            self._read_header()
        while size := self._chunk_bytes():
            if len(self._rest) < size + _CHECKSUM.size:
                break
            (checksum,) = _CHECKSUM.unpack_from(self._rest, size)
            self._checksum = zlib.crc32(self._rest[:size], self._checksum)
            self.damaged = self._checksum != checksum
            if not self.damaged:
                self._verified += self._of_code(self._rest[:size])
                self._before += size
                del self._rest[: size + _CHECKSUM.size]

    def _chunk_bytes(self):
        """Returns the number of data bytes in the next chunk, 0 where there is none."""
        if self.header is None or self.damaged:
            return 0
        return min(_DATA, self._header_bytes + self.header.ends[-1] - self._before)

    def _of_code(self, data):
        """Returns the bytes of the code in data that follow the verified chunks."""
        return bytes(data[max(0, self._header_bytes - self._before) :])

    def _read_header(self) -> None:
        data = bytes(self._rest)
        if len(data) < _START.size:
            return
        _, _, code, fingerprint = _START.unpack_from(data)
        family = family_of(code)
        if family.kind != "progressive":
            raise SaeError("The header is of no progressive family; fetch the stream again.")
        numbers, position = [], _START.size
        for _ in range(2 + len(family.layers)):
            number, position = _read_varint(data, position)
            if number is None:
                return
            numbers.append(number)
        if len(data) < position + _HEADER_CHECKSUM.size:
            return
        (checksum,) = _HEADER_CHECKSUM.unpack_from(data, position)
        if checksum != binascii.crc_hqx(data[:position], 0):
            raise SaeError(
                "The header is damaged, its checksum does not match; fetch the stream again."
            )
        width, height, *steps = numbers
        require_size(width, height, self._max_pixels)
        ends = tuple(itertools.accumulate(steps))
        self.header = Header(family, fingerprint, width, height, ends)
        self._header_bytes = position + _HEADER_CHECKSUM.size


def _varint(number: int) -> bytes:
    """Returns a number in groups of seven bits, lowest first, with a high bit where more follow."""
    packed = bytearray()
    while number > 127:
        packed.append(number & 127 | 128)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def _read_varint(data: bytes, position: int) -> tuple[int | None, int]:
    """Returns a number and the position after it; None where it has not arrived.

    Raises:
      SaeError: the number is larger than any in a header.
    """
    number = 0
    for shift in range(0, 35, 7):
        if position == len(data):
            return None, position
        number |= (data[position] & 127) << shift
        position += 1
        if data[position - 1] < 128:
            if number >= _LARGEST_NUMBER:
                break
            return number, position
    raise SaeError("The header is damaged: a number has more than 32 bits; fetch the stream again.")

"""The contents of a stream, and cuts of it, without decoding and without TensorFlow."""

from __future__ import annotations

import math
import sys
from typing import NamedTuple, Union

from sae import files
from sae.coding import header, progressive_container, residual_container
from sae.config import MAX_PIXELS
from sae.errors import SaeError
from sae.model.families import Family

_Reader = Union[residual_container.Reader, progressive_container.Reader]
_READERS: dict[int, type[_Reader]] = {
    residual_container.VERSION: residual_container.Reader,
    progressive_container.VERSION: progressive_container.Reader,
}


class Stream(NamedTuple):
    """A stream, possibly cut short.

    Attributes:
      family: family of the weights.
      fingerprints: the first 4 bytes of the SHA-256 of the weights of each layer in `ends`.
      width, height: size of the image in pixels.
      ends: number of bytes up to the end of each named layer. A progressive stream has all of them
        in its header, even where it is cut; a residual one has those of its complete layers.
      smallest: number of bytes of the shortest prefix that can be decoded.
      size: number of bytes that are there, up to the damage, if any.
      damaged: whether the checksum after these bytes is wrong.
    """

    family: Family
    fingerprints: tuple[bytes, ...]
    width: int
    height: int
    ends: tuple[int, ...]
    smallest: int
    size: int
    damaged: bool

    @property
    def layers(self) -> int:
        """Number of complete layers."""
        return sum(end <= self.size for end in self.ends)

    @property
    def last_layer(self) -> str | None:
        """Name of the last complete layer, None where there is none."""
        return self.family.layers[self.layers - 1] if self.layers else None

    @property
    def bpp(self) -> float:
        """Bits per pixel."""
        return 8 * self.size / (self.width * self.height)


def require_version(version: int) -> None:
    """Raises SaeError where this program cannot decode a version."""
    if version not in _READERS:
        raise SaeError(
            f"This .sae stream is of version {version}, and this program reads versions "
            f"{' and '.join(map(str, _READERS))}; use the program that wrote it."
        )


def require_limits(limits: dict[str, float | None]) -> None:
    """Raises SaeError where a limit, None for none, is no positive number."""
    for name, limit in limits.items():
        if limit is not None and not 0 < limit < math.inf:
            raise SaeError(f"A limit of {name} is a number above 0, not {limit}.")


def require_base(found: Stream) -> None:
    """Raises SaeError where a residual stream has no complete layer."""
    if found.family.kind == "residual" and not found.layers:
        raise SaeError(
            "The .sae stream is damaged in its base layer; fetch the stream again."
            if found.damaged
            else "The .sae stream ends before its base layer does; nothing can be decoded."
        )


def parse(data: bytes, max_pixels: int = MAX_PIXELS) -> Stream:
    """Returns the contents of a stream.

    Raises:
      SaeError: the data are no stream, its header is damaged or not complete, or its image has more
        pixels than the limit.
    """
    if not data:
        raise SaeError("The .sae stream is empty.")
    version = header.version(data)
    if version is not None:
        require_version(version)
        found = _READERS[version](max_pixels)
        found.feed(data)
    if version is None or found.header is None:
        raise SaeError("The .sae stream ends within its header; nothing can be decoded.")
    head, size = found.header, len(data)
    if isinstance(found, residual_container.Reader):
        ends = residual_container.ends(found.records)
        fingerprints = [record.fingerprint for record in found.records]
        if found.damaged or found.complete:
            size = ends[-1] if ends else residual_container.HEADER_BYTES
        smallest = ends[0] if ends else sys.maxsize
    else:
        head = found.header
        smallest, ends = head.size(0), [head.size(end) for end in head.ends]
        fingerprints = [head.fingerprint] * len(ends)
        size = head.size(len(found.code)) if found.damaged else min(size, ends[-1])
    return Stream(
        head.family,
        tuple(fingerprints),
        head.width,
        head.height,
        tuple(ends),
        smallest,
        size,
        found.damaged,
    )


def truncate(
    data: files.Bytes,
    layers: int | None = None,
    *,
    max_bytes: int | None = None,
    max_bpp: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> bytes:
    """Returns the longest prefix of a stream within limits and before damage, itself a stream.

    A progressive stream is cut at any byte after its header, a residual one after a layer.

    Args:
      data: stream, or its file, by name or open.
      layers: largest number of named layers.
      max_bytes: largest number of bytes.
      max_bpp: largest number of bits per pixel.
      max_pixels: largest number of pixels of an image.

    Raises:
      SaeError: as `parse`, a limit is not above 0, fewer layers are complete, or no prefix within
        the limits can be decoded.
    """
    require_limits({"bpp": max_bpp, "bytes": max_bytes})
    data = files.read_bytes(data)
    found = parse(data, max_pixels)
    size = found.size
    if layers is not None:
        if layers < 1:
            raise SaeError(f"A stream has at least one layer; {layers} cannot be kept.")
        if found.layers < layers:
            raise SaeError(
                f"Complete layers of the stream: {found.layers}; {layers} cannot be kept."
            )
        size = found.ends[layers - 1]
    if max_bpp is not None:
        # A rate computed from a number of bytes has to give that number.
        limit = math.floor(min(max_bpp * found.width * found.height / 8 + 1e-6, sys.maxsize))
        max_bytes = limit if max_bytes is None else min(limit, max_bytes)
    if max_bytes is not None:
        size = min(size, max_bytes)
    if found.family.kind == "residual":
        size = max((end for end in found.ends if end <= size), default=0)
    if size < found.smallest:
        require_base(found)
        raise SaeError(
            f"The shortest beginning of the stream that can be decoded has {found.smallest} bytes; "
            "allow as many."
        )
    return data[:size]

"""The common parts of all headers: magic, version, family, size of the image."""

from __future__ import annotations

from sae import memory
from sae.errors import SaeError
from sae.model import families
from sae.model.families import Family

MAGIC = b"SAE"
# Position of the version.
_VERSION = len(MAGIC)
FINGERPRINT_BYTES = 4
# Bytes per pixel at the peak, by kind of family (benchmarks/codec.py measures them).
_MEMORY = {"residual": 230, "progressive": 125}


def version(data: bytes) -> int | None:
    """Returns the version of a stream, None where it has not arrived.

    Raises:
      SaeError: the data are no stream.
    """
    if data[:_VERSION] != MAGIC[: len(data)]:
        raise SaeError("This is not an .sae stream; make one with `python -m sae compress`.")
    return data[_VERSION] if len(data) > _VERSION else None


def family_of(code: int) -> Family:
    """Returns the family with a code.

    Raises:
      SaeError: no family has it.
    """
    family = families.of_code(code)
    if family is None:
        raise SaeError(
            f"There is no family of code {code}: the header is damaged, or the stream was made by "
            "another version of sae."
        )
    return family


def require_size(width: int, height: int, max_pixels: int) -> None:
    """Raises SaeError where an image has no pixels or more than the limit."""
    if width * height == 0:
        raise SaeError(
            f"The header is damaged, no image has {width} x {height} pixels; fetch the stream "
            "again."
        )
    if width * height > max_pixels:
        raise SaeError(
            f"According to the header, the image has {width} x {height} pixels, more than the "
            f"limit of {max_pixels}; raise the limit if that is right."
        )


def require_memory(family: Family, width: int, height: int, name: str = "An image") -> None:
    """Raises SaeError where the memory does not suffice to code an image."""
    count = width * height * _MEMORY[family.kind]
    memory.require(count, f"{name} of {width} x {height} pixels")

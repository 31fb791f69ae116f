"""Samples of a picture of any depth, and their opacity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from sae.images.metadata import Metadata, Unreadable, tiff_tags

_EIGHT_BIT_MODES = frozenset(
    [
        *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"),
        *("CMYK", "YCbCr", "LAB", "HSV"),
    ]
)
# Tags of TIFF and some of their values.
_SUBFILE, _SUBFILES, _COLOR_MAP = 254, 330, 320
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES, _FORMAT = 258, 259, 262, 284, 339
_MIN_IS_WHITE, _YCBCR, _UNCOMPRESSED, _SEPARATE = 0, 6, 1, 2
_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_CONVERT = "convert it to unsigned ones of 8 or 16"


class Samples(NamedTuple):
    """The samples of a picture.

    Attributes:
      color: image of mode L, RGB, CMYK or LAB, or samples uint16 [H, W] or [H, W, 3].
      maximum: value of a sample at full range.
      alpha: opacity of each pixel, uint8 [H, W]; None where all are opaque.
    """

    color: Image.Image | np.ndarray
    maximum: int
    alpha: np.ndarray | None


def depth(image: ImageFile.ImageFile, metadata: Metadata) -> int:
    """Returns the bits per sample of an opened image in its file.

    Raises:
      Unreadable: samples of this kind are not read.
    """
    if image.format == "TIFF":
        return tiff_depth(tiff_tags(image))
    if image.mode == "F":
        raise Unreadable(f"has floating-point samples of 32 bits; {_CONVERT}")
    if metadata.depths:
        return max(metadata.depths)
    if image.format == "PPM":
        # The largest value is given where the samples have to be scaled by it.
        arguments = image.tile[0].args
        largest = 65535 if image.mode == "I" else 255
        if isinstance(arguments, tuple):
            largest = arguments[1]
        return largest.bit_length()
    if image.mode in _EIGHT_BIT_MODES:
        return 8
    raise Unreadable(f"has more than 8 bits per sample in {image.format}; convert it to PNG")


def tiff_depth(tags: Mapping[int, Any]) -> int:
    """Returns the bits per sample from the tags of a TIFF; raises Unreadable as `depth` does."""
    depths = tags.get(_BITS, (1,))
    kinds = [_FORMATS[number] for number in tags.get(_FORMAT, ()) if number in _FORMATS]
    if kinds or max(depths) > 16:
        raise Unreadable(
            f"has {kinds[0] if kinds else 'unsigned'} samples of {max(depths)} bits; {_CONVERT}"
        )
    if tags.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED:
        if tags.get(_PHOTOMETRIC) == _YCBCR:
            raise Unreadable("has YCbCr samples without JPEG; convert it to RGB")
        if tags.get(_PLANES) == _SEPARATE and not (len(depths) == 3 and set(depths) == {8}):
            raise Unreadable("has its components in planes of their own; interleave them")
    return max(depths)


def unread_tiff(file: BinaryIO) -> str:
    """Returns why Pillow cannot open a TIFF, as a predicate."""
    try:
        file.seek(0)
        header = file.read(8)
        # The header of a large TIFF has an offset of 8 bytes.
        header += file.read(8) if 43 in header[2:4] else b""
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        bits, photometric = tiff_depth(tags), tags.get(_PHOTOMETRIC)
    except Unreadable as error:
        return str(error)
    except Exception as error:  # Pillow raises any exception on damaged files.
        return f"is a damaged TIFF ({error})"
    return (
        f"has {len(tags.get(_BITS, (1,)))} samples of {bits} bits in photometric interpretation "
        f"{photometric}, which are not read; convert it to RGB of 8 or 16 bits"
    )


def is_reduced(image: ImageFile.ImageFile) -> bool:
    """Returns whether the first picture of a TIFF is a reduced one of another in the file."""
    tags = tiff_tags(image)
    return bool(tags.get(_SUBFILE, 0) & 1) and _SUBFILES in tags


def of(image: ImageFile.ImageFile, metadata: Metadata, bits: int) -> Samples:
    """Decodes the samples of an opened image.

    Args:
      image: opened image.
      metadata: metadata of its file.
      bits: number of bits per sample.
    """
    if image.format == "PNG" and (bits == 16 or metadata.transparent):
        return _png(image, metadata)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Samples(*_gray(image, bits), None)
    color = _scaled(image, metadata.depths) if image.format == "JPEG2000" else image
    if color.mode == "P" and max(tiff_tags(image).get(_COLOR_MAP, (256,))) < 256:
        # Some programs write palettes of 8 bits, and Pillow keeps the upper 8 of 16.
        table = np.reshape(tiff_tags(image)[_COLOR_MAP], (3, -1)).T
        color = Image.fromarray(table.astype(np.uint8)[np.asarray(color)])
    if color.mode == "1" and image.format == "PSD":
        # Here 1 is black.
        color = ImageOps.invert(color.convert("L"))
    if color.has_transparency_data:
        layered = color.convert("RGBA")
        color = color.getchannel("L") if color.mode == "LA" else layered.convert("RGB")
        return Samples(color, 255, np.asarray(layered.getchannel("A")))
    if color.mode == "1":
        color = color.convert("L")
    elif color.mode not in ("L", "RGB", "CMYK", "LAB"):
        color = color.convert("RGB")
    return Samples(color, 255, None)


def _gray(image: Image.Image, bits: int) -> tuple[np.ndarray, int]:
    """Returns gray samples of more than 8 bits, uint16 [H, W], and their full range."""
    samples: np.ndarray = np.asarray(image).astype(np.uint16)
    # Pillow scales samples of PPM and JPEG 2000 to 16 bits, but not those of TIFF.
    maximum = (1 << bits) - 1 if image.format == "TIFF" else 65535
    if tiff_tags(image).get(_PHOTOMETRIC) == _MIN_IS_WHITE:
        samples = maximum - samples
    return samples, maximum


def _png(image: ImageFile.ImageFile, metadata: Metadata) -> Samples:
    """Returns the samples of a PNG of 16 bits, or of one with a transparent color."""
    full, alpha = (1 << metadata.depths[0]) - 1, None
    color: Image.Image | np.ndarray
    if full == 65535:
        color = samples = _png16(image, metadata)
        if len(metadata.depths) in (2, 4):
            alpha = (samples[..., -1] >> 8).astype(np.uint8)
            color = samples[..., 0] if len(metadata.depths) == 2 else samples[..., :3]
    else:
        # Images of mode "L" or "RGB" do not include the transparent color.
        color = image.convert("L") if image.mode == "1" else image
        samples = np.asarray(color) // (255 // full)
    if metadata.transparent:
        match = samples == np.array(metadata.transparent, np.uint16)
        opaque = ~(match if samples.ndim == 2 else match.all(axis=2))
        alpha = opaque.astype(np.uint8) * 255
    return Samples(color, max(full, 255), alpha)


def _png16(image: ImageFile.ImageFile, metadata: Metadata) -> np.ndarray:
    """Returns both bytes of the samples of a PNG, uint16 [H, W] or [H, W, 2, 3 or 4]."""
    components = len(metadata.depths)
    if components == 1:
        return np.asarray(image)
    if components == 2:
        # As four components of 8 bits, the bytes are decoded unchanged.
        return _as_if(image, "RGBA").view(">u2").astype(np.uint16)
    # Pillow keeps the upper of two bytes, or the lower if it reads them in the other order.
    upper = np.asarray(image).astype(np.uint16)
    with Image.open(metadata.file) as other:
        return upper << 8 | _as_if(other, "RGB;16L" if components == 3 else "RGBA;16L")


def _as_if(image: ImageFile.ImageFile, raw_mode: str) -> np.ndarray:
    """Decodes samples in the layout of a raw mode of Pillow."""
    image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    return np.asarray(image)


def _scaled(image: Image.Image, depths: Sequence[int]) -> Image.Image:
    """Scales samples of fewer than 8 bits, stored in the upper bits, to full range."""
    if image.mode in ("P", "PA") or min(depths, default=8) >= 8:
        return image
    bands = image.getbands()
    table = []
    for depth in (*depths, *(8,) * len(bands))[: len(bands)]:
        lost, maximum = max(0, 8 - depth), (1 << min(depth, 8)) - 1
        table += [(value >> lost) * 255 // maximum for value in range(256)]
    return image.point(table)

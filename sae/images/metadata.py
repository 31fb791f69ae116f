"""Metadata of PNG, BMP, JPEG 2000 and AVIF files that Pillow does not provide."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Union

from PIL import ExifTags, Image, TiffImagePlugin

from sae.images import colors

Source = Union[str, Path, BinaryIO]


class Unreadable(Exception):
    """The reason why pixels cannot be read, as a predicate of the file's name."""


class Metadata(NamedTuple):
    """The metadata of a file.

    Attributes:
      file: path or binary file for Pillow to read.
      depths: bits per sample of each component, as far as known.
      colors: description of the colors; None where there is none.
      info: entries of Pillow's `Image.info`, of EXIF and XMP data.
      frames: number of frames, as far as known.
      transparent: sample of a PNG without alpha channel that is transparent.
      damaged: names of the metadata that cannot be read.
    """

    file: Source
    depths: tuple[int, ...] = ()
    colors: colors.Description = None
    info: dict = {}  # noqa: RUF012
    frames: int = 1
    transparent: tuple[int, ...] | None = None
    damaged: tuple[str, ...] = ()


def of(source: Source) -> Metadata:
    """Reads the metadata of a file.

    Raises:
      OSError: the file cannot be read.
      Unreadable: Pillow would decode its kind of pixels incorrectly.
    """
    if not isinstance(source, (str, Path)):
        source.seek(0)
        return _of(source, source)
    with open(source, "rb") as file:
        return _of(source, file)


def without(source: Source) -> BinaryIO | None:
    """Returns a file without the metadata that Pillow may fail on; None where it has none."""
    if isinstance(source, (str, Path)):
        data = Path(source).read_bytes()
    else:
        source.seek(0)
        data = source.read()
    if data.startswith(b"\xff\xd8"):
        # These bytes begin the index of pictures in a JPEG; the first match is its own.
        return io.BytesIO(data.replace(b"MPF\0", b"none", 1))
    if data[4:8] == b"ftyp":
        # The properties of an AVIF contain the list of its items.
        begin = max(4, data.find(b"meta"))
        end = begin + int.from_bytes(data[begin - 4 : begin], "big")
        meta = data[begin:end].replace(b"Exif", b"none")
        return io.BytesIO(data[:begin] + meta + data[end:])
    return None


def _of(source: Source, file: BinaryIO) -> Metadata:
    head = file.read(16)
    file.seek(0)
    if head.startswith(_PNG):
        return _png(file)
    if head.startswith(b"BM"):
        return Metadata(source, colors=_bmp_colors(file.read(_BMP_HEADERS), file))
    try:
        if head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
            return _jpeg2000(source, file.read())
        if head[4:8] == b"ftyp":
            return _avif(source, file.read())
    except (IndexError, StopIteration, struct.error):
        return Metadata(source, damaged=("boxes",))
    return Metadata(source)


def colors_of(image: Image.Image, metadata: Metadata, exif: Image.Exif) -> colors.Description:
    """Returns the color description of an opened image and its file."""
    if profile := image.info.get("icc_profile"):
        return profile
    if metadata.colors is not None:
        return metadata.colors
    if found := _tiff_colors(tiff_tags(image)):
        return found
    space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
    if space == _ADOBE_RGB:
        return colors.ADOBE_RGB
    if space == _UNCALIBRATED:
        # `get_ifd` fails where the file lacks this directory.
        present = ExifTags.IFD.Interop in exif.get_ifd(ExifTags.IFD.Exif)
        interop = exif.get_ifd(ExifTags.IFD.Interop) if present else {}
        index = interop.get(ExifTags.Interop.InteropIndex)
        return colors.ADOBE_RGB if index == "R03" else colors.Unknown("an uncalibrated EXIF space")
    return None


# These are values of EXIF's ColorSpace. The first is written by cameras, against the standard.
_ADOBE_RGB, _UNCALIBRATED = 2, 0xFFFF
_WHITE_POINT, _PRIMARIES, _TRANSFER = 318, 319, 301


def tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """Returns the tags of an opened TIFF, none of another image."""
    if image.format != "TIFF":
        return {}
    assert isinstance(image, TiffImagePlugin.TiffImageFile), "Pillow opens TIFFs as these"
    return image.tag_v2


def _tiff_colors(tags: Mapping[int, Any]) -> colors.Description:
    primaries = (*tags.get(_WHITE_POINT, colors.SRGB_PRIMARIES[:2]), *tags.get(_PRIMARIES, ()))
    if _TRANSFER in tags:
        return colors.Unknown("a TIFF transfer function")
    if _PRIMARIES not in tags:
        return None
    return colors.from_gamma(None, [float(value) for value in primaries])


# BMP

# Length of the headers of version 5.
_BMP_HEADERS = 14 + 124
# Values of the color space: primaries and exponents in the header, a profile in this file, or in
# another.
_CALIBRATED, _EMBEDDED, _LINKED = 0, b"DEBM", b"KNIL"


def _bmp_colors(head: bytes, file: BinaryIO) -> colors.Description:
    """Returns the colors that headers of version 4 or 5 describe."""
    size = int.from_bytes(head[14:18], "little")
    if size not in (108, 124) or len(head) < 14 + size:
        return None
    space = head[70:74]
    if size == 124 and space in (_EMBEDDED, _LINKED):
        if space == _LINKED:
            return colors.Unknown("a profile in another file")
        begin, length = struct.unpack("<II", head[126:134])
        file.seek(14 + begin)
        return file.read(length)
    if int.from_bytes(space, "little") != _CALIBRATED:
        return None
    points = struct.unpack("<9I", head[74:110])
    exponents = struct.unpack("<3I", head[110:122])
    if not any(points) or not all(exponents):
        return None
    if len(set(exponents)) > 1:
        return colors.Unknown("an exponent for each color")
    # Some programs write the exponent of the encoding instead, which is below one.
    exponent = exponents[0] / 2**16
    return colors.from_gamma(min(exponent, 1 / exponent), _chromaticities(points))


def _chromaticities(points: tuple[int, ...]) -> tuple[float, ...]:
    """Returns CIE x and y of white, red, green and blue from X, Y and Z of the last three."""
    xyz = [points[k : k + 3] for k in (0, 3, 6)]
    primaries = [v / (sum(point) or 1) for point in xyz for v in point[:2]]
    sums = [sum(values) for values in zip(*xyz)]
    # Some programs write x, y and z, which do not add up to white.
    relative = max(map(sum, xyz)) < 1.01 * min(map(sum, xyz))
    white = colors.SRGB_PRIMARIES[:2] if relative else [v / sum(sums) for v in sums[:2]]
    return (*white, *primaries)


# PNG

_PNG = b"\x89PNG\r\n\x1a\n"
# Larger profiles and texts are taken for damage.
_MOST_INFLATED = 1 << 26


def _png(file: BinaryIO) -> Metadata:
    """Splits a PNG into its pixels and their metadata.

    Pillow gets only the chunks of the pixels. It would refuse a whole file for a damaged or long
    text, and it ignores some descriptions of colors.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    pixels = io.BytesIO()
    found: dict[bytes, bytes] = {}
    damaged: list[str] = []
    pixels.write(file.read(8))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        # A damaged length may have any value.
        body, check = file.read(min(length, end - file.tell())), file.read(4)
        key = body.split(b"\0", 1)[0] if kind in _TEXTS else kind
        if not kind[0] & 0x20 or kind == b"tRNS":
            pixels.write(head + body + check)
        elif key in _CHUNKS and check != struct.pack(">I", zlib.crc32(kind + body)):
            damaged.append(kind.decode())
            continue
        if key in _CHUNKS:
            found.setdefault(key, body)
        if kind == b"IEND":
            break
    pixels.seek(0)
    facts: dict[str, Any] = {"info": _NO_EXIF}
    for name, parse in (("colors", _png_colors), ("info", _png_info), ("frames", _png_frames)):
        try:
            facts[name] = parse(found)
        except (ValueError, struct.error, zlib.error, IndexError):
            damaged.append(name)
    depths, transparent = _png_samples(found)
    return Metadata(pixels, depths, transparent=transparent, damaged=tuple(damaged), **facts)


def _png_samples(found: dict[bytes, bytes]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Returns the depths of all components, and the transparent color where there is one."""
    header = found.get(b"IHDR", b"")
    if len(header) != 13 or header[9] not in _COMPONENTS:
        return (), None
    depth, components = header[8], _COMPONENTS[header[9]]
    transparent = found.get(b"tRNS", b"")
    if header[9] not in (0, 2) or len(transparent) != 2 * components:
        return (depth,) * components, None
    values = struct.unpack(f">{components}H", transparent)
    return (depth,) * components, tuple(value & ((1 << depth) - 1) for value in values)


# Components by color type: gray, RGB, palette, and gray and RGB with alpha.
_COMPONENTS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_RAW_EXIF, _XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"
# Texts are listed by keyword, other chunks by type.
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_CHUNKS = (
    *(b"IHDR", b"tRNS", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"),
    *(b"eXIf", b"acTL", _RAW_EXIF, _XMP),
)
# Without an EXIF entry, Pillow decodes the pixels to search for one behind them.
_NO_EXIF = {"exif": b""}


def _png_colors(found: dict[bytes, bytes]) -> colors.Description:
    if b"cICP" in found:
        primaries, transfer, matrix, full = struct.unpack(">4B", found[b"cICP"])
        if matrix or not full:
            return colors.Unknown("samples that are no RGB of full range")
        return colors.from_code_points(primaries, transfer)
    if b"iCCP" in found:
        try:
            return _inflated(found[b"iCCP"].split(b"\0", 1)[1][1:])
        except (zlib.error, IndexError):
            return colors.Unknown("a damaged color profile")
    if b"sRGB" in found:
        return colors.SRGB
    gamma = primaries = None
    if b"gAMA" in found:
        gamma = struct.unpack(">I", found[b"gAMA"])[0] / 100_000
    if b"cHRM" in found:
        primaries = [value / 100_000 for value in struct.unpack(">8I", found[b"cHRM"])]
    if gamma is None and primaries is None:
        return None
    return colors.from_gamma(gamma, primaries)


def _png_info(found: dict[bytes, bytes]) -> dict:
    info = dict(_NO_EXIF)
    if b"eXIf" in found:
        info["exif"] = found[b"eXIf"]
    elif _RAW_EXIF in found:
        text = found[_RAW_EXIF][len(_RAW_EXIF) + 1 :]
        # A compressed text begins with the method 0.
        text = _inflated(text[1:]) if text.startswith(b"\0") else text
        info["exif"] = bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    if _XMP in found:
        # The text follows flag and method of compression, language, and translated keyword.
        rest = found[_XMP][len(_XMP) + 1 :]
        text = rest[2:].split(b"\0", 2)[2]
        info["xmp"] = _inflated(text) if rest[0] else text
    return info


def _png_frames(found: dict[bytes, bytes]) -> int:
    return struct.unpack_from(">I", found[b"acTL"])[0] if b"acTL" in found else 1


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, _MOST_INFLATED)
    if not inflater.eof:
        raise zlib.error("The data is cut short or too large.")
    return inflated


# Boxes of JPEG 2000 and AVIF

_Boxes = Iterator[tuple[bytes, bytes]]


def _boxes(data: bytes) -> _Boxes:
    """Yields the type and the content of each box."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        begin, end = at + 8, at + length
        if length == 1 and at + 16 <= len(data):
            begin, end = at + 16, at + struct.unpack_from(">Q", data, at + 8)[0]
        elif length == 0:
            end = len(data)
        if end < begin:
            return
        yield kind, data[begin:end]
        at = end


def _jpeg2000(source: Source, data: bytes) -> Metadata:
    depths: tuple[int, ...] = ()
    description: colors.Description = None
    # The components follow Rsiz and the sizes and offsets of image and tiles.
    at = data.find(b"\xff\x4f\xff\x51") + 40
    if at >= 40 and len(data) >= at + 2:
        (count,) = struct.unpack_from(">H", data, at)
        depths = tuple((size & 0x7F) + 1 for size in data[at + 2 : at + 2 + 3 * count : 3])
    for kind, header in _boxes(data):
        for inner, content in _boxes(header) if kind == b"jp2h" else ():
            if inner == b"pclr" and max(size & 0x7F for size in content[3 : 3 + content[2]]) > 7:
                raise Unreadable("has a palette of more than 8 bits per sample; convert it to 8")
            if inner == b"colr" and description is None:
                description = _jpeg2000_colors(content)
    return Metadata(source, depths, description)


# Enumerated color spaces: black and white, CMYK, sRGB, gray, and sYCC, decoded to sRGB.
_SRGB_OR_NONE = (0, 12, 15, 16, 17, 18)


def _jpeg2000_colors(content: bytes) -> colors.Description:
    method, number = content[0], int.from_bytes(content[3:7], "big")
    if method in (2, 3):
        return content[3:]
    if method == 1:
        if number in _SRGB_OR_NONE:
            return None if number == 12 else colors.SRGB
        return colors.Unknown(f"the enumerated color space {number} of JPEG 2000")
    return colors.Unknown(f"a color space by method {method} of JPEG 2000")


# Bytes before the inner boxes, for the boxes that lead to a picture's properties.
_LEAD = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0}
_LEAD.update({b"stbl": 0, b"stsd": 8, b"av01": 78})


def _avif(source: Source, data: bytes) -> Metadata:
    depths: tuple[int, ...] = ()
    description: colors.Description = None
    for kind, content in _avif_properties(data):
        if kind == b"pixi":
            depths = tuple(content[5 : 5 + content[4]])
        elif kind == b"av1C" and not depths:
            # The bits are high_bitdepth and twelve_bit.
            depths = ({0: 8, 2: 10, 3: 12}.get(content[2] >> 5 & 3, 8),)
        elif kind == b"colr" and content.startswith(b"nclx"):
            description = colors.from_code_points(*struct.unpack_from(">HH", content, 4))
    return Metadata(source, depths, description)


def _avif_properties(data: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the properties of the primary image, or all where none is named."""
    leaves = list(_leaves(data))
    found = dict(reversed(leaves))
    properties = [leaf for leaf in leaves if leaf[0] in (b"pixi", b"av1C", b"colr")]
    if b"pitm" not in found or b"ipma" not in found:
        return properties
    meta = next(content for kind, content in _boxes(data) if kind == b"meta")
    iprp = next(content for kind, content in _boxes(meta[4:]) if kind == b"iprp")
    ipco = next(content for kind, content in _boxes(iprp) if kind == b"ipco")
    listed, pitm = list(_boxes(ipco)), found[b"pitm"]
    primary = int.from_bytes(pitm[4 : 6 if pitm[0] == 0 else 8], "big")
    chosen = [index for item, index in _associations(found[b"ipma"]) if item == primary]
    return [listed[index - 1] for index in chosen if 0 < index <= len(listed)]


def _leaves(data: bytes) -> _Boxes:
    """Yields the boxes that hold no others, in order."""
    for kind, content in _boxes(data):
        if kind in _LEAD:
            yield from _leaves(content[_LEAD[kind] :])
        else:
            yield kind, content


def _associations(ipma: bytes) -> Iterator[tuple[int, int]]:
    """Yields pairs of an item and the index of one of its properties."""
    version, wide = ipma[0], ipma[3] & 1
    (count,), at = struct.unpack_from(">I", ipma, 4), 8
    for _ in range(count):
        (item,) = struct.unpack_from(">I" if version else ">H", ipma, at)
        at += 4 if version else 2
        number, at = ipma[at], at + 1
        for _ in range(number):
            # The first bit marks essential properties.
            if wide:
                yield item, struct.unpack_from(">H", ipma, at)[0] & 0x7FFF
            else:
                yield item, ipma[at] & 0x7F
            at += 2 if wide else 1

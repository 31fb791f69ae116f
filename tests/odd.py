"""Odd image files, written by hand, and what they show."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import tifffile

COMPONENTS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(samples: np.ndarray, depth: int, color_type: int, *chunks: bytes) -> io.BytesIO:
    """Writes samples [H, W] or [H, W, C] as a PNG, with chunks before its pixels."""
    height, width = samples.shape[:2]
    rows = packed(samples.reshape(height, -1), depth)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return io.BytesIO(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunks)
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


def packed(rows: np.ndarray, depth: int) -> list[bytes]:
    """Packs samples [H, N] into bits, the upper first."""
    bits = rows[..., None] >> np.arange(depth - 1, -1, -1) & 1
    return [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits]


def gray_profile(gamma: float) -> bytes:
    """Returns an ICC profile of gray with a power curve."""
    white = struct.pack(">3i", *(round(65536 * value) for value in (0.9642, 1.0, 0.8249)))
    tags = [
        (b"wtpt", b"XYZ " + bytes(4) + white),
        (b"kTRC", b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma)) + bytes(2)),
    ]
    start, table = 132 + 12 * len(tags), b""
    for name, data in tags:
        table += name + struct.pack(">II", start, len(data))
        start += len(data)
    head = struct.pack(">I4xI4s4s4s12x4s28x", start, 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    head = (head + white).ljust(128, b"\0") + struct.pack(">I", len(tags))
    return head + table + b"".join(data for _, data in tags)


def tiff_gray(samples: np.ndarray, depth: int, photometric: int = 1) -> io.BytesIO:
    """Writes gray samples [H, W] of any depth as a TIFF of one strip, in Intel's order."""
    height, width = samples.shape
    data = b"".join(packed(samples, depth))
    tags = [(256, width), (257, height), (258, depth), (259, 1), (262, photometric)]
    tags += [(273, 8), (277, 1), (278, height), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    return io.BytesIO(header + data + struct.pack("<H", len(tags)) + entries + bytes(4))


def tiff(samples: np.ndarray, **options) -> io.BytesIO:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    file.seek(0)
    return file


def pnm(samples: np.ndarray, maximum: int, plain: bool) -> io.BytesIO:
    """Writes samples [H, W] or [H, W, 3] as PGM or PPM."""
    kind = {(2, True): 2, (3, True): 3, (2, False): 5, (3, False): 6}[samples.ndim, plain]
    data = samples.astype(">u2" if maximum > 255 else "u1").tobytes()
    if plain:
        data = " ".join(map(str, samples.reshape(-1))).encode() + b"\n"
    header = f"P{kind}\n# odd\n{samples.shape[1]} {samples.shape[0]}\n{maximum}\n"
    return io.BytesIO(header.encode() + data)


def files() -> Iterator[tuple[str, io.BytesIO, np.ndarray]]:
    """Yields names, files and what they show: samples as shares of the full range."""
    rng = np.random.default_rng(7)

    def noise(shape, maximum):
        return rng.integers(0, maximum, shape, np.int64, endpoint=True)

    for height, width in ((1, 1), (1, 9), (5, 3), (13, 17)):
        for color_type, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 4: (8, 16), 6: (8, 16)}.items():
            for depth in depths:
                most = (1 << depth) - 1
                samples = noise((height, width, COMPONENTS[color_type]), most)
                if color_type in (4, 6):
                    samples[..., -1] = most
                colors = samples[..., : 3 if color_type in (2, 6) else 1]
                name = f"png {depth} {color_type} {height}x{width}"
                yield name, png(samples, depth, color_type), colors / most
        for depth in (1, 2, 4, 8, 12, 16):
            for photometric in (0, 1):
                samples = noise((height, width), (1 << depth) - 1)
                if (depth, photometric) == (12, 0):
                    continue
                shares = samples / ((1 << depth) - 1)
                name = f"tiff {depth} {photometric} {height}x{width}"
                # Samples of 16 bits are in the order of the file.
                packable = samples.astype(np.uint16).byteswap() if depth == 16 else samples
                shown = shares if photometric else 1 - shares
                yield name, tiff_gray(packable, depth, photometric), shown[..., None]
        for maximum in (1, 3, 100, 255, 256, 1000, 1023, 4095, 65534, 65535):
            for plain in (False, True):
                for shape in ((height, width), (height, width, 3)):
                    samples = noise(shape, maximum)
                    name = f"pnm {maximum} {plain} {shape}"
                    shares = (samples / maximum).reshape(height, width, -1)
                    yield name, pnm(samples, maximum, plain), shares
        for dtype, most in ((np.uint8, 255), (np.uint16, 65535)):
            for order in "<>":
                for compression in (None, "zlib"):
                    samples = noise((height, width, 3), most)
                    options = {"byteorder": order, "compression": compression}
                    name = f"tiff rgb {most} {options} {height}x{width}"
                    file = tiff(samples.astype(dtype), photometric="rgb", **options)
                    yield name, file, samples / most

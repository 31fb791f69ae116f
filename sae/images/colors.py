"""Conversion of colors from the description in a file to 8-bit sRGB."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple, Union

import numpy as np
from PIL import Image, ImageCms

_SRGB = ImageCms.createProfile("sRGB")
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}
# By default, curves of gray are sampled too coarsely for dark linear ones.
_EXACT = ImageCms.Flags.NOOPTIMIZE
# Number of samples converted at a time, as 32-bit floats.
_STRIP = 1 << 20


class Space(NamedTuple):
    """A color space given by its primaries and its transfer curve.

    Attributes:
      primaries: CIE x and y of white, red, green and blue.
      exponent: exponent from samples in [0, 1] to linear light; None for sRGB's curve.
    """

    primaries: tuple[float, ...]
    exponent: float | None


class Unknown(NamedTuple):
    """A description that cannot be converted, as the subject of a warning."""

    name: str


# An ICC profile is given as bytes. None stands for no description, or that of sRGB.
Description = Union[bytes, Space, Unknown, None]

_D65 = (0.3127, 0.3290)
SRGB_PRIMARIES = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
SRGB = Space(SRGB_PRIMARIES, None)
ADOBE_RGB = Space((*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), 563 / 256)

# Code points of ITU-T H.273, of which 2 is "unspecified".
_PRIMARIES = {
    1: SRGB_PRIMARIES,
    2: SRGB_PRIMARIES,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
# Other curves are left out: displays do not invert those of cameras, and the rest exceed the
# range of sRGB.
_EXPONENTS = {2: None, 4: 2.2, 5: 2.8, 8: 1.0, 13: None}


def from_code_points(primaries: int, transfer: int) -> Description:
    """Returns the colors that two code points of ITU-T H.273 describe."""
    if primaries in _PRIMARIES and transfer in _EXPONENTS:
        return Space(_PRIMARIES[primaries], _EXPONENTS[transfer])
    return Unknown(f"primaries {primaries} with transfer {transfer} of ITU-T H.273")


def from_gamma(gamma: float | None, primaries: Sequence[float] | None) -> Description:
    """Returns the colors of an encoding exponent and primaries, either of which may be missing."""
    if gamma is not None and gamma <= 0:
        return Unknown(f"a gamma of {gamma:g}")
    primaries = SRGB_PRIMARIES if primaries is None else tuple(primaries)
    # Encoders of sRGB write 1 / 2.2, the power closest to its curve.
    if gamma is not None and (
        abs(gamma * 2.2 - 1) > 0.01 or not np.allclose(primaries, SRGB_PRIMARIES, atol=0.002)
    ):
        return Space(primaries, 1 / gamma)
    return Space(primaries, None)


def to_srgb(
    color: Image.Image | np.ndarray, maximum: int, description: Description
) -> tuple[np.ndarray, str | None]:
    """Converts a picture to sRGB.

    Args:
      color: image of mode L, RGB, CMYK or LAB, or samples uint16 [H, W] or [H, W, 3].
      maximum: value of a sample at full range.
      description: color description of the file.

    Returns:
      The picture, uint8 [H, W, 3], and the name of a description that could not be used.
    """
    unused = None
    try:
        if isinstance(description, bytes):
            converted = _by_profile(color, maximum, description)
        elif isinstance(description, Space):
            converted = _by_space(color, maximum, description)
        else:
            converted = None
            unused = description and f"color description ({description.name})"
    except (np.linalg.LinAlgError, ZeroDivisionError):
        converted, unused = None, "color description (primaries that span no space)"
    except (ImageCms.PyCMSError, OSError, ValueError):  # A profile's text may be malformed.
        converted, unused = None, "color profile"
    return _as_they_are(color, maximum) if converted is None else converted, unused


def _as_they_are(color: Image.Image | np.ndarray, maximum: int) -> np.ndarray:
    """Returns samples of sRGB, of CMYK or of Lab with 8 bits each, uint8 [H, W, 3]."""
    if not isinstance(color, np.ndarray):
        if color.mode == "LAB":
            color = _profiled(color, ImageCms.createProfile("LAB"))
        return np.asarray(color.convert("RGB"))
    color = _eight_bits(color, maximum)
    return color if color.ndim == 3 else np.repeat(color[..., None], 3, axis=2)


def _eight_bits(samples: np.ndarray, maximum: int) -> np.ndarray:
    """Returns the upper 8 bits of samples that are uint16, and uint8 as they are."""
    if samples.dtype == np.uint8:
        return samples
    return (samples >> (maximum.bit_length() - 8)).astype(np.uint8)


def _by_profile(color: Image.Image | np.ndarray, maximum: int, data: bytes) -> np.ndarray | None:
    """Converts by an ICC profile; returns None where it equals that of sRGB."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    mode = _PROFILE_MODES.get(profile.profile.xcolor_space.strip().upper())
    if isinstance(color, np.ndarray):
        if color.ndim == 2 and mode == "L":
            return _gray16(color, maximum, profile)
        color = Image.fromarray(_eight_bits(color, maximum))
    if color.mode == "L" and mode == "RGB":
        color = color.convert("RGB")
    if color.mode != mode:
        raise ImageCms.PyCMSError(f"The profile is of {mode}, the picture of {color.mode}.")
    if mode in ("L", "RGB"):
        swatches = _swatches(mode)
        shown = np.asarray(_profiled(swatches, profile, ImageCms.Intent.RELATIVE_COLORIMETRIC))
        if _alike(shown, np.asarray(swatches.convert("RGB"))):
            return None
    return np.asarray(_profiled(color, profile))


def _profiled(
    color: Image.Image,
    profile: ImageCms.ImageCmsProfile | ImageCms.core.CmsProfile,
    intent: ImageCms.Intent = ImageCms.Intent.PERCEPTUAL,
) -> Image.Image:
    if color.mode == "L":
        transform = ImageCms.buildTransform(profile, _SRGB, "L", "RGB", intent, _EXACT)
        table = np.asarray(transform.apply(_swatches("L")))[0]
        return Image.fromarray(table[np.asarray(color)])
    converted = ImageCms.profileToProfile(color, profile, _SRGB, intent, outputMode="RGB")
    assert converted is not None, "only a conversion in place returns none"
    return converted


def _gray16(
    samples: np.ndarray, maximum: int, profile: ImageCms.ImageCmsProfile
) -> np.ndarray | None:
    """Converts gray of more than 8 bits by a profile of gray."""
    swatches = _swatches("L")
    if _alike(np.asarray(_profiled(swatches, profile)), np.asarray(swatches.convert("RGB"))):
        return None
    transform = ImageCms.buildTransform(profile, _SRGB, "I;16", "RGB", flags=_EXACT)
    codes = np.arange(maximum + 1, dtype=np.float64) * (65535 / maximum)
    table = transform.apply(Image.fromarray(codes.round().astype(np.uint16)[None]))
    return np.asarray(table)[0][samples]


def _swatches(mode: str) -> Image.Image:
    """Returns all grays, and for RGB a lattice of colors, in one row."""
    grays = np.arange(256, dtype=np.uint8)[None]
    if mode == "L":
        return Image.fromarray(grays)
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return Image.fromarray(np.concatenate([np.repeat(grays[..., None], 3, 2), lattice], axis=1))


def _alike(shown: np.ndarray, swatches: np.ndarray) -> bool:
    """Returns whether colors differ by no more than the rounding of a conversion."""
    return int(np.abs(shown.astype(int) - swatches).max()) <= 1


def _by_space(color: Image.Image | np.ndarray, maximum: int, space: Space) -> np.ndarray | None:
    """Converts by primaries and curve; returns None where they equal those of sRGB."""
    if not isinstance(color, np.ndarray):
        if color.mode not in ("L", "RGB"):
            return None
        color = np.asarray(color)
    swatches = np.asarray(_swatches("L" if color.ndim == 2 else "RGB"))
    if _alike(_curved(swatches, 255, space), swatches.reshape(*swatches.shape[:2], -1)):
        return None
    result = np.empty((*color.shape[:2], 3), np.uint8)
    rows = max(1, _STRIP // max(1, color[0].size))
    for top in range(0, len(color), rows):
        result[top : top + rows] = _curved(color[top : top + rows], maximum, space)
    return result


def _curved(samples: np.ndarray, maximum: int, space: Space) -> np.ndarray:
    """Returns samples [H, W] or [H, W, 3] of a space as uint8 [H, W, 1 or 3] of sRGB."""
    codes = np.arange(maximum + 1) / maximum
    if space.exponent is None:
        light = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    else:
        light = codes**space.exponent
    light = light.astype(np.float32)[samples.reshape(*samples.shape[:2], -1)]
    if light.shape[2] == 3 and space.primaries != SRGB_PRIMARIES:
        matrix = np.linalg.inv(_to_xyz(SRGB_PRIMARIES)) @ _to_xyz(space.primaries)
        light = np.clip(light @ matrix.T.astype(np.float32), 0, 1)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (curve * 255 + 0.5).astype(np.uint8)


def _to_xyz(primaries: tuple[float, ...]) -> np.ndarray:
    """Returns the matrix [3, 3] from linear light to XYZ, with its white adapted to D65."""
    points = np.array([(x / y, 1, (1 - x - y) / y) for x, y in zip(*[iter(primaries)] * 2)])
    if not np.isfinite(points).all() or np.linalg.cond(points[1:]) > 1e6:
        raise np.linalg.LinAlgError("The primaries span no space.")
    white, matrix = points[0], points[1:].T
    matrix = matrix * np.linalg.solve(matrix, white)
    x, y = _D65
    # This is the cone response matrix of the Bradford adaptation.
    cones = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    gain = (cones @ [x / y, 1, (1 - x - y) / y]) / (cones @ white)
    return np.linalg.inv(cones) @ np.diag(gain) @ cones @ matrix

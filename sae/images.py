"""Images as uint8 [H, W, 3] arrays in sRGB: read, padded, written; the sample photos."""

from __future__ import annotations

import contextlib
import importlib.resources
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Union

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from sae import files
from sae.errors import SaeError

MAX_PIXELS = 10**9
# Pillow's own limit is lower and known only to Pillow; `_open` has this one.
Image.MAX_IMAGE_PIXELS = None

SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".avif",
        ".bmp",
        ".gif",
        ".jp2",
        ".ppm",
        ".pgm",
        ".pnm",
        ".tif",
        ".tiff",
    ]
)
_ORIENTATION = 0x0112
_SRGB = ImageCms.createProfile("sRGB")

# The photos that scikit-image carries in its package. Its data folder has more
# files: drawings, masks, texts.
_SAMPLE_PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)

Source = Union[str, Path, BinaryIO]


def read(source: Source, max_pixels: int = MAX_PIXELS, background: str | None = None) -> np.ndarray:
    """Reads an image.

    The EXIF orientation is applied and an embedded colour profile converted to
    sRGB; grey, palette and CMYK images become RGB. Of 16 bits the upper 8 stay, and
    of several frames the first, with a warning.

    Args:
      source: a path, or a binary file that can be read and sought.
      max_pixels: larger images are refused before they are decoded.
      background: colour to put behind what is transparent, as CSS writes it.

    Returns:
      uint8 [H, W, 3].

    Raises:
      SaeError: there is no such file, it is not an image, damaged, too large, has
        samples of 32 bits, or is transparent somewhere and there is no background.
    """
    with _reading(source), _open(source, max_pixels) as image:
        if any(";16" in str(tile) for tile in image.tile):
            warnings.warn(f"{_name(source)} has 16 bits per sample; 8 are kept.", stacklevel=2)
        if getattr(image, "n_frames", 1) > 1:
            warnings.warn(
                f"{_name(source)} has {image.n_frames} frames; the first is taken.", stacklevel=2
            )
        opaque = _opaque(image, background, _name(source))
        return np.asarray(_srgb(ImageOps.exif_transpose(opaque), source))


def size(source: Source, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns the (width, height) that `read` would give, from the file's header alone.

    Raises:
      SaeError: as `read`, as far as the header shows it.
    """
    with _reading(source), _open(source, max_pixels) as image:
        width, height = image.size
        # Orientations 5 to 8 turn the image by 90 degrees.
        return (height, width) if image.getexif().get(_ORIENTATION, 1) >= 5 else (width, height)


def find(folder: str | Path, recursive: bool = False) -> list[Path]:
    """Returns the image files of a folder, sorted; hidden files are left out.

    Args:
      folder: where to look.
      recursive: look in its subfolders too.

    Raises:
      SaeError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SaeError(f"{folder} is not a folder; name one that holds images.")
    found = sorted(
        path
        for path in folder.glob("**/*" if recursive else "*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise SaeError(f"There is no image in {folder}; put PNG or JPEG files there.")
    return found


def write_png(image: np.ndarray, destination: str | Path | BinaryIO) -> None:
    """Writes an image, uint8 [H, W, 3], as PNG to a path, whole or not at all, or to a file.

    Raises:
      SaeError: the path cannot be written.
    """
    picture = Image.fromarray(image)
    if isinstance(destination, (str, Path)):
        with files.replacing(destination) as temporary:
            picture.save(temporary, format="PNG")
    else:
        # Pillow seeks; a pipe cannot.
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        destination.write(buffer.getvalue())


def pad(image: np.ndarray, multiple: int) -> np.ndarray:
    """Repeats the last row and column of [H, W, C] until both sides are multiples of `multiple`."""
    bottom, right = (-side % multiple for side in image.shape[:2])
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")


def sample_photos() -> dict[str, np.ndarray]:
    """Returns the photos that ship inside scikit-image, uint8 [H, W, 3] by name, sorted."""
    folder = importlib.resources.files("skimage") / "data"
    return {Path(name).stem: read(folder / name) for name in _SAMPLE_PHOTOS}


def _name(source: Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else getattr(source, "name", "The image")


@contextlib.contextmanager
def _reading(source: Source) -> Iterator[None]:
    """Turns whatever goes wrong while an image is read into an SaeError."""
    try:
        yield
    except SaeError:
        raise
    except UnidentifiedImageError as error:
        raise SaeError(f"{_name(source)} is not an image of a known format.") from error
    except OSError as error:
        reason = error.strerror or error
        raise SaeError(f"Cannot read {_name(source)}: {reason}.") from error
    except Exception as error:  # Pillow's readers raise of every kind on damaged files.
        raise SaeError(f"Cannot read {_name(source)}: the file is damaged ({error}).") from error


def _open(source: Source, max_pixels: int) -> Image.Image:
    """Opens an image and checks what its header tells."""
    image = Image.open(source)
    name, pixels = _name(source), image.width * image.height
    if pixels > max_pixels:
        image.close()
        raise SaeError(
            f"{name} has {image.width} x {image.height} pixels, more than the limit of "
            f"{max_pixels}; raise the limit or shrink the image."
        )
    if image.mode in ("I", "F"):
        image.close()
        raise SaeError(f"{name} has 32 bits per sample; convert it to 8 or 16.")
    return image


def _opaque(image: Image.Image, background: str | None, name: str) -> Image.Image:
    """Returns an image without its alpha channel, in front of a background where it has one."""
    if not image.has_transparency_data:
        return image
    layered = image.convert("RGBA")
    if layered.getextrema()[3][0] == 255:
        return layered.convert("RGB")
    if background is None:
        raise SaeError(
            f"{name} is transparent in places, which is not coded; put a color behind it, as "
            "`compress --background COLOR` does."
        )
    try:
        behind = Image.new("RGBA", image.size, background)
    except ValueError as error:
        raise SaeError(f"{background} is not a colour; write white or #rrggbb.") from error
    behind.alpha_composite(layered)
    flat = behind.convert("RGB")
    # Orientation and colour profile.
    flat.info = image.info
    return flat


def _srgb(image: Image.Image, source: Source) -> Image.Image:
    """Converts an image of any mode, with or without a colour profile, to 8-bit sRGB."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    if profile:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            # Between two descriptions of sRGB, conversion would only add rounding.
            if not ImageCms.getProfileDescription(profile).startswith("sRGB"):
                return ImageCms.profileToProfile(image, profile, _SRGB, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            warnings.warn(
                f"The colour profile of {_name(source)} cannot be used; its samples are taken "
                "for sRGB.",
                stacklevel=3,
            )
    return image.convert("RGB")

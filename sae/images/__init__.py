"""Images as uint8 [H, W, 3] arrays in sRGB: reading, padding, writing, and sample photos."""

from __future__ import annotations

import contextlib
import importlib.resources
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageFile, UnidentifiedImageError

from sae import files, memory
from sae.config import MAX_PIXELS
from sae.errors import SaeError, in_words
from sae.images import colors, metadata, samples
from sae.images.metadata import Metadata, Source, Unreadable

SUFFIXES = frozenset(
    [
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".avifs"),
        *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".tif", ".tiff", ".bmp", ".gif"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    ]
)
# Bytes per pixel at the peak of reading, without and with an alpha channel.
_BYTES_PER_PIXEL, _BYTES_PER_PIXEL_WITH_ALPHA = 12, 24

# Formats recognized by the first bytes of a file, under Pillow's names.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "AVIF")

# Formats that are programs, which another program would run.
_PROGRAMS = ("EPS", "WMF")

# The photos in the package scikit-image, whose data folder also has drawings, masks and texts.
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


def read(source: Source, max_pixels: int = MAX_PIXELS, background: str | None = None) -> np.ndarray:
    """Reads an image.

    The EXIF orientation is applied. Colors that the file describes (by a profile, PNG chunks, code
    points of AVIF, or EXIF) are converted to sRGB. A warning names those that cannot be. Gray,
    palette and CMYK images become RGB. With a warning, samples are reduced to their upper 8 bits,
    several frames to the first, and damaged metadata is left out.

    Args:
      source: path, or seekable binary file.
      max_pixels: largest number of pixels of an image.
      background: color behind transparent pixels, in CSS notation.

    Returns:
      The image, uint8 [H, W, 3].

    Raises:
      SaeError: the file does not exist, is not an image, or is damaged; it is too large for the
        limit or the memory; its samples are of an unknown kind; or it is transparent in places,
        without a background.
    """
    with _opened(source, max_pixels) as opened:
        array, notes = _decoded(opened, background)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return array


def size(source: Source, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns the (width, height) that `read` would give, from the file's header alone.

    Raises:
      SaeError: as `read`, as far as the header reveals it.
    """
    with _opened(source, max_pixels) as opened:
        width, height = opened.image.size
        # Orientations 5 to 8 turn the image by 90 degrees.
        return (height, width) if opened.orientation >= 5 else (width, height)


def find(folder: str | Path, recursive: bool = False) -> list[Path]:
    """Returns the images of a folder by suffix or content, sorted, without hidden files.

    Args:
      folder: path of the folder.
      recursive: whether subfolders are included, also those behind symbolic links.

    Raises:
      SaeError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SaeError(f"{folder} is not a folder; name a folder of images.")
    found = sorted(
        path
        for place in (_folders(folder) if recursive else [folder])
        for path in place.glob("*")
        if not path.name.startswith(".")
        and (
            (path.suffix.lower() in SUFFIXES or _is_image(path))
            if path.is_file()
            # A broken link is listed, so that reading it reports the error.
            else path.suffix.lower() in SUFFIXES and not path.exists()
        )
    )
    if not found:
        fetch = ", or run make kodak" if folder.name == "kodak" else ""
        raise SaeError(f"There is no image in {folder}; put PNG or JPEG files there{fetch}.")
    return found


def _folders(folder: Path) -> Iterator[Path]:
    """Yields a folder and all its subfolders, each once, by a path without links if any."""
    seen, waiting = set(), [folder]
    while waiting:
        # Links are followed after all other folders, and only to new ones, so that loops end.
        for place, names, _ in os.walk(waiting.pop(0)):
            real = os.path.realpath(place)
            names[:] = [] if real in seen else [n for n in names if not n.startswith(".")]
            if real not in seen:
                seen.add(real)
                yield Path(place)
            links = (Path(place, name) for name in names)
            waiting += sorted(path for path in links if path.is_symlink())


def _is_image(path: Path) -> bool:
    """Returns whether a file without an image suffix begins like an image."""
    try:
        with Image.open(path, formats=_FORMATS):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow's readers raise any exception on other files.
        return False


def write_png(image: np.ndarray, destination: str | Path | BinaryIO) -> None:
    """Writes an image, uint8 [H, W, 3], as PNG to a path, whole or not at all, or to a file
    that can seek.

    Raises:
      SaeError: the path cannot be written.
    """
    picture = Image.fromarray(image)
    if isinstance(destination, (str, Path)):
        with files.replacing(destination) as temporary:
            picture.save(temporary, format="PNG")
    else:
        picture.save(destination, format="PNG")


def pad(image: np.ndarray, multiple: int) -> np.ndarray:
    """Repeats the last row and column of [H, W, C] until both sides are multiples of `multiple`."""
    bottom, right = (-side % multiple for side in image.shape[:2])
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")


def sample_photos() -> dict[str, np.ndarray]:
    """Returns the photos in scikit-image, uint8 [H, W, 3] by name, sorted."""
    folder = Path(str(importlib.resources.files("skimage") / "data"))
    return {Path(name).stem: read(folder / name) for name in _SAMPLE_PHOTOS}


class _Opened(NamedTuple):
    """An image that is opened but not decoded.

    Attributes:
      name: name of the image, for messages.
      image: opened image.
      metadata: metadata of its file.
      bits: number of bits per sample.
      orientation: EXIF orientation, 1 to 8.
      colors: description of its colors.
      damaged: names of the metadata that cannot be read.
    """

    name: str
    image: ImageFile.ImageFile
    metadata: Metadata
    bits: int
    orientation: int
    colors: colors.Description
    damaged: tuple[str, ...]


@contextlib.contextmanager
def _opened(source: Source, max_pixels: int) -> Iterator[_Opened]:
    """Opens an image and checks its header."""
    name = str(source) if isinstance(source, (str, Path)) else getattr(source, "name", "The image")
    with _reading(name, source), _limits.lifted():
        found = metadata.of(source)
        opened, repaired = _open(found)
        with opened as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise SaeError(
                    f"{name} has {image.width} x {image.height} pixels, more than the limit of "
                    f"{max_pixels}; raise the limit or shrink the image."
                )
            bits = samples.depth(image, found)
            transparent = image.has_transparency_data or found.transparent
            memory.require(
                pixels * (_BYTES_PER_PIXEL_WITH_ALPHA if transparent else _BYTES_PER_PIXEL),
                f"To read {name}, {image.width} x {image.height} pixels,",
            )
            image.info.update(found.info)
            orientation, description, damaged = _exif(image, found)
            damaged = (*found.damaged, *(repaired or damaged))
            yield _Opened(name, image, found, bits, orientation, description, damaged)


def _open(found: Metadata) -> tuple[ImageFile.ImageFile, tuple[str, ...]]:
    """Opens an image; returns it, and the names of the metadata that had to be left out."""
    Image.init()
    formats = [name for name in Image.ID if name not in _PROGRAMS]
    damaged: tuple[str, ...] = ()
    try:
        image = Image.open(found.file, formats=formats)
    except Exception:  # Pillow raises any exception on damaged files.
        if (rest := metadata.without(found.file)) is None:
            raise
        image, damaged = Image.open(rest, formats=formats), ("EXIF or the index of pictures",)
    # Pillow maps files of known names into memory, with the sides of a rotated TIFF exchanged.
    image.filename = ""
    return image, damaged


def _exif(image: Image.Image, found: Metadata) -> tuple[int, colors.Description, tuple[str, ...]]:
    """Returns orientation, colors, and names of the damaged metadata of an image."""
    orientation = 1
    damaged: tuple[str, ...] = ()
    if image.format == "TIFF":
        image.info.pop("xmp", None)
    exif = Image.Exif()
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        description = metadata.colors_of(image, found, exif)
    except Exception:  # Pillow raises any exception on damaged EXIF data.
        damaged = ("EXIF",)
        description = metadata.colors_of(image, found, Image.Exif())
    # Pillow rotates images of TIFF files itself, and reads nested data for that.
    for tag in set(exif) - {ExifTags.Base.Orientation}:
        del exif[tag]
    if image.format == "TIFF" or orientation not in range(1, 9):
        orientation = 1
    return int(orientation), description, damaged


def _decoded(opened: _Opened, background: str | None) -> tuple[np.ndarray, list[str]]:
    """Decodes an opened image; returns uint8 [H, W, 3], and warnings."""
    name, notes = opened.name, []
    if opened.damaged:
        notes.append(f"{name} has damaged metadata ({', '.join(opened.damaged)}), left out.")
    if opened.bits > 8:
        notes.append(f"{name} has {opened.bits} bits per sample; 8 are kept.")
    if samples.is_reduced(opened.image):
        notes.append(f"{name} has a picture of reduced size first, which is taken.")
    frames = max(opened.metadata.frames, getattr(opened.image, "n_frames", 1))
    if frames > 1:
        notes.append(f"{name} has {frames} frames; the first is taken.")
    found = samples.of(opened.image, opened.metadata, opened.bits)
    alpha = None if found.alpha is None or found.alpha.min() == 255 else found.alpha
    behind = None if alpha is None else _behind(background, name)
    array, unused = colors.to_srgb(found.color, found.maximum, opened.colors)
    if unused:
        notes.append(f"The {unused} of {name} cannot be used; its samples are taken for sRGB.")
    if alpha is not None:
        picture, mask = Image.fromarray(array), Image.fromarray(alpha)
        array = np.asarray(Image.composite(picture, Image.new("RGB", mask.size, behind), mask))
    return np.ascontiguousarray(_turned(array, opened.orientation)), notes


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """Returns an image [H, W, 3] rotated and mirrored as its EXIF orientation requires."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def color(text: str) -> tuple[int, ...]:
    """Returns the RGB values of a color in CSS notation; raises SaeError where it is none."""
    values: tuple[int, ...] = ()
    with contextlib.suppress(ValueError):
        values = ImageColor.getrgb(text)
    if not values or max(values) > 255 or values[3:] not in ((), (255,)):
        raise SaeError(f"{text!r} is no opaque color; write white or #rrggbb.")
    return values[:3]


def _behind(background: str | None, name: str) -> tuple[int, ...]:
    """Returns the RGB values of the background color, which a transparent image requires."""
    if background is None:
        raise SaeError(
            f"{name} is transparent in places, which is not coded; give a background color, as "
            "`compress --background COLOR` does."
        )
    return color(background)


@contextlib.contextmanager
def _reading(name: str, source: Source) -> Iterator[None]:
    """Raises SaeError for any error while an image is read."""
    try:
        yield
    except SaeError:
        raise
    except Unreadable as error:
        raise SaeError(f"{name} {error}.") from error
    except UnidentifiedImageError as error:
        raise SaeError(f"{name} {_unidentified(source)}.") from error
    except MemoryError as error:
        raise SaeError(
            f"{name} takes more memory than this process may take; shrink the image, or allow "
            "more memory."
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise SaeError(f"Cannot read {name}: {reason}.") from error
    except Exception as error:  # Pillow's readers raise any exception on damaged files.
        raise SaeError(
            f"Cannot read {name}: the file is damaged ({in_words(error)}); fetch it again."
        ) from error


def _unidentified(source: Source) -> str:
    """Returns why no reader accepts a file, as a predicate."""
    if isinstance(source, (str, Path)):
        source = io.BytesIO(Path(source).read_bytes())
    source.seek(0)
    head = source.read(16)
    for name, (reader, accepts) in Image.OPEN.items():
        if len(head) < 16 or not accepts or accepts(head) is not True:
            continue
        try:
            source.seek(0)
            reader(source, "")
        except Exception as error:  # `Image.open` discards this reason.
            if name == "TIFF":
                return samples.unread_tiff(source)
            return f"is a file of {name} that cannot be read ({error})"
    return "is not an image of a known format"


class _Limits:
    """Pillow's own limit of pixels, lifted while any thread reads an image."""

    def __init__(self):
        self._lock, self._readers, self._usual = threading.Lock(), 0, None

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        with self._lock:
            if not self._readers:
                self._usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers:
                    Image.MAX_IMAGE_PIXELS = self._usual


_limits = _Limits()

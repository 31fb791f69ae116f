"""Other codecs, measured on the same images with the same metrics, from written files.

All of them are used through Pillow, at a range of settings. Published curves of further codecs are
in results/<set>/published/, with their sources.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, features

from sae import files, images
from sae.errors import SaeError
from sae.evaluation import image_set, results, workers


class CannotCode(SaeError):
    """A codec that cannot code an image, or is missing."""


@dataclasses.dataclass(frozen=True)
class Codec:
    """A codec of Pillow and the settings to measure, from few bytes to many.

    Attributes:
      name: name in legends.
      description: settings of the codec, in a phrase.
      suffix: suffix of the codec's files.
      option: name of the option of Pillow's `save` that varies.
      values: values of that option.
      fixed: the other options by name.
      library: name of the library in Pillow.
    """

    name: str
    description: str
    suffix: str
    option: str
    values: tuple
    fixed: dict
    library: str

    def options(self, value: float) -> dict:
        """Returns the options of Pillow's `save` for one value."""
        listed = self.option == "quality_layers"
        return {**self.fixed, self.option: [value] if listed else value}

    def label(self, value: float) -> str:
        """Returns the name of one setting."""
        return f"{self.option.replace('quality_layers', 'compression ratio')} {value:g}"


CODECS = {
    "jpeg": Codec(
        name="JPEG (Pillow)",
        description="JPEG with 4:2:0 subsampling and optimized Huffman tables",
        suffix=".jpg",
        option="quality",
        values=(5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95),
        fixed={"optimize": True, "subsampling": "4:2:0"},
        library="jpg",
    ),
    "jpeg2000": Codec(
        name="JPEG 2000 (Pillow)",
        description="JPEG 2000, irreversible, with color transform, one file per rate",
        suffix=".jp2",
        option="quality_layers",
        # The first two are for smooth images, which need few bits.
        values=(960, 480, 240, 160, 120, 80, 60, 48, 34, 24, 16, 12, 8, 6),
        fixed={"quality_mode": "rates", "irreversible": True, "mct": 1},
        library="jpg_2000",
    ),
    "webp": Codec(
        name="WebP (Pillow)",
        description="Lossy WebP with the slowest method",
        suffix=".webp",
        option="quality",
        values=(1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95),
        fixed={"method": 6},
        library="webp",
    ),
    "avif": Codec(
        name="AVIF (Pillow)",
        description="AVIF (AV1 intra) with 4:4:4 sampling, speed 6",
        suffix=".avif",
        option="quality",
        values=(5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        fixed={"speed": 6, "subsampling": "4:4:4"},
        library="avif",
    ),
}


def run(options: argparse.Namespace) -> int:
    """The command `anchors`: measures the codecs on a folder and writes their results.

    Returns:
      The exit status: 1 where an image or a codec was left out, else 0.
    """
    keys, faults = options.codecs or list(CODECS), []
    missing: dict[str, list[str]] = {}
    for key in keys:
        files.require_target(_path(key, options.folder, options.results))
    image_set.require_own(results.folder(options.results, options.folder), options.folder)
    found = workers.readable(images.find(options.folder))
    for key in keys:
        try:
            path = measure(key, options.folder, options.results, found)
        except CannotCode as error:
            faults.append(error)
        else:
            if left_out := results.load(path)["left_out"]:
                missing.setdefault(", ".join(left_out), []).append(CODECS[key].name)
    if len(faults) == len(keys):
        raise faults[0]
    for fault in faults:
        warnings.warn(f"{fault} It is left out.", stacklevel=2)
    for left_out, names in missing.items():
        print(f"Means of {', '.join(names)} without {left_out}.")
    return 1 if faults or missing else 0


def measure(
    key: str,
    folder: str | Path,
    target: str | Path = "results",
    found: Sequence[Path] | None = None,
) -> Path:
    """Measures one codec on a folder of images.

    Images that cannot be read, or that the codec cannot code, are left out. A warning and
    "left_out" in the results name them.

    Args:
      key: key of the codec in `CODECS`.
      folder: folder of images.
      target: folder of all results.
      found: paths of the readable images; those in the folder by default.

    Returns:
      The path of the results file, target/<name of folder>/anchors/<key>.json.

    Raises:
      CannotCode: this Pillow lacks the codec, or it codes none of the images.
      SaeError: there are no images, or the results cannot be written.
    """
    codec = CODECS[key]
    if not features.check(codec.library):
        raise CannotCode(f"This Pillow was built without {codec.name}; leave it out of --codecs.")
    path = _path(key, folder, target)
    files.require_target(path)
    everything = images.find(folder)
    found = workers.readable(everything) if found is None else found
    cache_path = path.with_suffix(".partial")
    version = f"Pillow {Image.__version__}, {codec.library} {features.version(codec.library)}"
    subject = {"codec": repr(codec), "version": version}
    tried = workers.each(functools.partial(_rows, key), found, codec.name, cache_path, subject)
    rows = {path.name: list(one) for path, one in zip(found, tried) if isinstance(one[0], dict)}
    # The result of an ended process is a sentence, not a list.
    faults = [one if isinstance(one, str) else one[0] for one in tried if isinstance(one[0], str)]
    if not rows:
        cache_path.unlink(missing_ok=True)
        raise CannotCode(f"{codec.name} codes none of the images: {faults[0]}")
    for image, fault in zip((p.name for p in found if p.name not in rows), faults):
        warnings.warn(f"{image} is left out: {fault}", stacklevel=2)
    settings = [
        {"label": codec.label(value), "images": [image_rows[index] for image_rows in rows.values()]}
        for index, value in enumerate(codec.values)
    ]
    results.save(
        path,
        codec.name,
        f"{codec.description} ({version})",
        settings,
        optimized_for="-",
        digests=image_set.digests(everything),
        left_out=[image.name for image in everything if image.name not in rows],
    )
    cache_path.unlink(missing_ok=True)
    print(path)
    return path


def _path(key: str, folder: str | Path, target: str | Path) -> Path:
    return results.folder(target, folder) / "anchors" / f"{key}.json"


def able(image: np.ndarray, keys: Sequence[str]) -> list[str]:
    """Returns the codecs that can code an image, uint8 [H, W, 3]; warns of the others."""
    found = []
    for key in keys:
        try:
            coded(image, key, CODECS[key].values[0])
            found.append(key)
        except CannotCode as fault:
            warnings.warn(f"{fault} It is not shown.", stacklevel=3)
    return found


def coded(image: np.ndarray, key: str, value: float) -> tuple[int, np.ndarray]:
    """Writes an image as a file and reads it.

    Args:
      image: image, uint8 [H, W, 3].
      key: key of the codec in `CODECS`.
      value: value of the codec's option.

    Returns:
      Number of bytes of the file, and the decoded image.

    Raises:
      CannotCode: the image is too large for the codec, or this Pillow lacks it.
    """
    codec = CODECS[key]
    with tempfile.NamedTemporaryFile(suffix=codec.suffix) as file:
        try:
            Image.fromarray(image).save(file.name, **codec.options(value))
            with Image.open(file.name) as decoded:
                return Path(file.name).stat().st_size, np.asarray(decoded.convert("RGB"))
        # Each of Pillow's libraries raises its own exceptions.
        except Exception as error:
            height, width = image.shape[:2]
            raise CannotCode(
                f"{codec.name} cannot code an image of {width} x {height} pixels ({error})."
            ) from error


def nearest(image: np.ndarray, key: str, size: int) -> tuple[int, np.ndarray]:
    """Returns bytes and decoded image of the file nearest to `size` bytes."""
    if CODECS[key].option == "quality_layers":
        ratio = image.nbytes / size
        found = [coded(image, key, ratio * factor) for factor in (0.96, 0.98, 1, 1.02, 1.04)]
    else:
        # Sizes grow with quality: after a bisection, the nearer of two neighbors is the result.
        low, high = 1, 100
        while high - low > 1:
            middle = (low + high) // 2
            if coded(image, key, middle)[0] < size:
                low = middle
            else:
                high = middle
        found = [coded(image, key, value) for value in (low, high)]
    return min(found, key=lambda one: abs(one[0] - size))


def _rows(key: str, path: Path) -> list[dict] | list[str]:
    """Returns a row for each setting of an image, or the reason of a failure in a sentence."""
    image = images.read(path)
    rows = []
    for value in CODECS[key].values:
        try:
            size, x_hat = coded(image, key, value)
        except CannotCode as fault:
            return [str(fault)]
        rows.append(results.row(path.name, image, x_hat, size))
    return rows

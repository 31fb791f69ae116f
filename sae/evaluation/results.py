"""Results files: rate and quality per setting, in the format of CompressAI, with provenance.

Each curve is a file. Those of families are results/<set>/<family>.json, with a suffix for optimized
latents (-effort-9) and for cuts other than the named layers (-cuts-20). Those of other codecs are
in results/<set>/anchors/ (measured here) and results/<set>/published/. results/<set>/previous/ has
those of earlier versions of this project.
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sae import files, metrics
from sae.config import EFFORTS
from sae.errors import SaeError
from sae.evaluation import schema
from sae.metrics import ms_ssim_db
from sae.model.families import FAMILIES, Family
from sae.provenance import provenance


def curve_key(family: Family, effort: int = 0, cuts: int = 0) -> str:
    """Returns the key of one of our curves, the stem of its file."""
    return family.name + (f"-effort-{effort}" if effort else "") + (f"-cuts-{cuts}" if cuts else "")


# Efforts of our curves in figures and tables: the lowest and the highest.
SHOWN_EFFORTS = 0, len(EFFORTS) - 1

# Default curves of figures and comparisons: ours, and those of the paper's figures.
DEFAULT_CURVES = (
    *(curve_key(family, effort) for family in FAMILIES for effort in SHOWN_EFFORTS),
    "published/sae-2019-mse",
    "published/jpeg-dense",
    "published/jpeg-2000-openjpeg",
    "published/bpg-dense",
    "published/dpict-2022",
    "published/ctc-2023",
    "published/balle-2017-mse",
    "published/balle-2018-mse",
    "published/sae-2019-ms-ssim",
    "published/balle-2018-ms-ssim",
)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Rate and quality of one codec at several settings.

    Attributes:
      key: name on command lines, the path under results/<set>/.
      name: name in legends.
      description: description in one sentence.
      labels: labels of the settings.
      bpp: rates in bits per pixel.
      psnr: PSNR in dB, None where unknown.
      ms_ssim: MS-SSIM in [0, 1], None where unknown.
      kind: "ours", "measured" (here, from other codecs' files), "previous" (earlier versions of
        ours) or "published".
      scalable: whether one stream contains every point.
      optimized_for: metric of the training, "mse", "ms-ssim" or "-".
      source: source of published numbers.
      images: rows of each setting, one per image; empty where unknown.
      family: family of our model, None for other codecs.
      effort: effort of the latent optimization.
      cuts: number of cuts; 0 where the points are named layers.
      fingerprints: fingerprints of the weights by label.
    """

    key: str
    name: str
    description: str
    labels: list[str]
    bpp: list[float]
    psnr: list[float | None]
    ms_ssim: list[float | None]
    kind: str
    scalable: bool
    optimized_for: str
    source: str
    images: list[list[dict]]
    family: Family | None = None
    effort: int = 0
    cuts: int = 0
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)

    def points(self, quality: str) -> list[tuple[float, float, str]]:
        """Returns rate, quality and label of the settings with known quality, by increasing rate.

        Infinite qualities, which cannot be drawn, are left out. Of equal rates the best is kept.

        Args:
          quality: quality metric: "psnr" or "ms-ssim-db", in dB, or "ms-ssim".
        """
        values = self.psnr if quality == "psnr" else self.ms_ssim
        transform = ms_ssim_db if quality == "ms-ssim-db" else float
        settings = zip(self.bpp, values, self.labels)
        points = sorted((rate, transform(v), label) for rate, v, label in settings if v is not None)
        return list({point[0]: point for point in points if math.isfinite(point[1])}.values())

    @property
    def regular(self) -> bool:
        """Whether it is one of ours, at named layers, with the latents of the analysis."""
        return self.family is not None and not self.effort and not self.cuts

    @property
    def encode_seconds(self) -> float | None:
        """Processor seconds of encoding a stream, mean over the images; None where unknown."""
        rows = self.images[-1] if self.images else []
        seconds = [row.get("encode-seconds") for row in rows]
        known = [value for value in seconds if value is not None]
        return float(np.mean(known)) if known and len(known) == len(rows) else None

    @property
    def title(self) -> str:
        """The name of the curve, or its key if it has no name."""
        return self.name or self.key


def titles(curves: Sequence[Curve]) -> dict[str, str]:
    """Returns the titles of curves by key; the key is added where two titles are equal."""
    shared = collections.Counter(curve.title for curve in {c.key: c for c in curves}.values())
    return {
        curve.key: f"{curve.title} ({curve.key})"
        if shared[curve.title] > 1 and curve.title != curve.key
        else curve.title
        for curve in curves
    }


def decibels(value: float | None) -> str:
    """Returns a PSNR as text; infinity, which files store as None, is "exact"."""
    return "exact" if value in (None, math.inf) else f"{value:.2f} dB"


def layer_label(name: str) -> str:
    """Returns "base", or "+EL1" for el1 and so on, since rates are cumulative."""
    return name if name == "base" else f"+{name.upper()}"


def row(name: str, image: np.ndarray, x_hat: np.ndarray, size: int) -> dict:
    """Returns the measurements of an image, uint8 [H, W, 3], decoded from `size` bytes."""
    height, width = image.shape[:2]
    return {
        "image": name,
        "width": width,
        "height": height,
        "bytes": size,
        "bpp": 8 * size / (width * height),
        "psnr-rgb": metrics.psnr(image, x_hat),
        "ms-ssim-rgb": metrics.ms_ssim(image, x_hat),
    }


def folder(target: str | Path, images: str | Path) -> Path:
    """Returns the folder of a set's results, named like the folder of its images."""
    return Path(target) / Path(images).resolve().name


def mean(rows: Sequence[dict]) -> dict:
    """Returns the means of the numbers in per-image rows; lists element by element.

    A mean is None where a row has None or an infinite PSNR.
    """
    result: dict[str, Any] = {}
    for key in rows[0]:
        values: list[Any] = [row.get(key) for row in rows]
        if any(v is None or v == math.inf for v in values):
            result[key] = None
        elif not isinstance(values[0], str) and key not in ("width", "height"):
            result[key] = np.mean(values, axis=0).tolist()
    return result


def save(
    path: str | Path, name: str, description: str, settings: Sequence[dict], **facts: object
) -> None:
    """Writes a results file with its provenance, whole or not at all.

    Args:
      path: path of the file.
      name: name of the codec.
      description: description in one sentence.
      settings: dicts of "label" and "images", a list of rows, for each setting.
      **facts: further JSON values by name.

    Raises:
      SaeError: a value is NaN, or the file cannot be written.
    """
    rows = [setting["images"] for setting in settings]
    for row in (row for images in rows for row in images):
        for key, value in row.items():
            if isinstance(value, float) and math.isnan(value):
                raise SaeError(f"{key} of {row['image']} is not a number; {path} is not written.")
    means = [mean(images) for images in rows]
    document = {
        "name": name,
        "description": description,
        "results": {key: [setting.get(key) for setting in means] for key in means[0]},
        "labels": [setting["label"] for setting in settings],
        **facts,
        "provenance": provenance(),
        "images": rows,
    }
    notes = [
        f"{row['image']} is reproduced exactly, so its PSNR, and with it the mean, is infinite."
        for images in rows
        for row in images
        if row.get("psnr-rgb") == math.inf
    ]
    if notes:
        document["note"] = " ".join(notes)
    files.write_json(path, _finite(document), allow_nan=False)


def load(path: str | Path) -> dict:
    """Returns the contents of a results file; raises SaeError where it is none."""
    return schema.read(path)


class Kept(NamedTuple):
    """Points of an earlier file that are still valid.

    Attributes:
      points: dicts of "label" and "images".
      fingerprints: fingerprints of their weights by label.
    """

    points: list[dict]
    fingerprints: dict[str, str]


def points_above(
    path: str | Path,
    points: dict[str, list[dict]],
    weights: dict[str, str],
    digests: dict[str, str | None],
) -> Kept:
    """Returns the points of a file that remain when others are measured anew.

    These are the points with other labels, if the images and the weights of all common labels are
    the same. Otherwise none remain, and a warning names them.

    Args:
      path: path of the file, which need not exist.
      points: new points by label.
      weights: fingerprints of the new points' weights by label.
      digests: digests of the images by name.
    """
    if not Path(path).exists():
        return Kept([], {})
    try:
        found = load(path)
    except SaeError as error:
        warnings.warn(f"{error} It is replaced.", stacklevel=3)
        return Kept([], {})
    known, rows = found["fingerprints"], dict(zip(found["labels"], found["images"]))
    others = [label for label in rows if label not in points]
    if not others:
        return Kept([], {})
    same_weights = all(known.get(label) == weights[label] for label in points if label in rows)
    # With equal digests, the measured images may differ, since some could not be measured.
    names = {row["image"] for row in next(iter(points.values()))}
    same_images = found.get("digests") == digests and all(
        {row["image"] for row in rows[label]} == names for label in others
    )
    if not (same_weights and same_images):
        warnings.warn(
            f"{path} begins anew, without {', '.join(others)}, which was measured with other "
            "weights or on other images.",
            stacklevel=3,
        )
        return Kept([], {})
    return Kept(
        [{"label": label, "images": rows[label]} for label in others],
        {label: known[label] for label in others if label in known},
    )


def curves(target: str | Path, named: Sequence[str] = ()) -> list[Curve]:
    """Returns every curve in results/<set>: ours by family, measured, previous, published ones.

    A warning names each file that cannot be used, which is left out.

    Args:
      target: path of results/<set>.
      named: keys of curves that cannot be left out.

    Raises:
      SaeError: there are no results, or those of a named curve cannot be used.
    """
    target, found, faults = Path(target), [], []
    places = (("ours", "."), ("measured", "anchors"), ("previous", "previous"))
    for kind, subfolder in (*places, ("published", "published")):
        for path in sorted((target / subfolder).glob("*.json")):
            key = path.relative_to(target).with_suffix("").as_posix()
            try:
                found.append(_curve(key, load(path), kind))
            except SaeError as error:
                faults.append((key, error))
    order: list[Family | None] = [*FAMILIES, None]
    found.sort(key=lambda curve: (order.index(curve.family), curve.effort, curve.cuts))
    for key, fault in faults:
        if not found or key in named:
            raise fault
        warnings.warn(f"{fault} It is left out.", stacklevel=2)
    if not found:
        raise SaeError(f"There are no results in {target}; run `python -m sae evaluate` first.")
    return found


def warn_of_other_images(chosen: Sequence[Curve]) -> None:
    """Warns of curves that are means over different images."""
    known = [curve for curve in chosen if curve.images]
    for curve in known[1:]:
        first, own = _image_set(known[0].images[0]), _image_set(curve.images[0])
        if first != own:
            lacks = sorted(name for name, *_ in first - own)
            more = sorted(name for name, *_ in own - first)
            parts = [f"without {', '.join(lacks)}"] if lacks else []
            parts += [f"with {', '.join(more)}"] if more else []
            warnings.warn(
                f"{curve.key} is a mean over other images than {known[0].key}: "
                f"{' and '.join(parts)}.",
                stacklevel=2,
            )


def select(found: Sequence[Curve], patterns: Sequence[str]) -> list[Curve]:
    """Returns the curves whose key matches one of the patterns, in the patterns' order.

    Raises:
      SaeError: a pattern (of a shell) matches no curve.
    """
    chosen: dict[str, Curve] = {}
    for pattern in patterns:
        matching = [curve for curve in found if fnmatch.fnmatchcase(curve.key, pattern)]
        if not matching:
            raise SaeError(
                f"There is no curve {pattern}; `python -m sae plot --list` names those there are."
            )
        chosen.update((curve.key, curve) for curve in matching)
    return list(chosen.values())


def default(found: Sequence[Curve]) -> list[Curve]:
    """Returns the default curves in their order, or all where there are none of them."""
    by_key = {curve.key: curve for curve in found}
    return [by_key[key] for key in DEFAULT_CURVES if key in by_key] or list(found)


def optimized(found: Sequence[Curve]) -> list[tuple[Curve, Curve]]:
    """Returns the curves with optimized latents, each with the curve of its family at effort 0."""
    regular = {curve.family: curve for curve in found if curve.regular}
    return [(c, regular[c.family]) for c in found if c.effort and c.family in regular]


def timed(found: Sequence[Curve]) -> list[tuple[Curve, Curve]]:
    """Returns the pairs of `optimized` for which the seconds of both curves are known."""
    return [
        pair for pair in optimized(found) if None not in [curve.encode_seconds for curve in pair]
    ]


def of_image(curve: Curve, image: str) -> Curve | None:
    """Returns the curve of a single image, None where its numbers are unknown."""
    rows = [row for setting in curve.images for row in setting if row["image"] == image]
    # At most one row of a setting belongs to an image.
    if not rows or len(rows) != len(curve.labels):
        return None
    return dataclasses.replace(
        curve,
        bpp=[row["bpp"] for row in rows],
        psnr=[row["psnr-rgb"] for row in rows],
        ms_ssim=[row["ms-ssim-rgb"] for row in rows],
        images=[[row] for row in rows],
    )


def _image_set(rows: Sequence[dict]) -> set[tuple[str, int, int]]:
    return {(row["image"], row["width"], row["height"]) for row in rows}


def _curve(key: str, document: dict, kind: str) -> Curve:
    """Returns the curve of a document; raises SaeError where the document is in a wrong place."""
    family = None
    if kind == "ours":
        family = next((one for one in FAMILIES if one.name == document["family"]), None)
        if family is None or not document["images"]:
            raise SaeError(f"{key}.json has no results of a family; measure it again.")
        right = curve_key(family, document["effort"], document["cuts"])
        if key != right:
            raise SaeError(f"{key}.json has results of {right}; rename it.")
    if document["unused"]:
        warnings.warn(
            f"Of {key}, {', '.join(document['unused'])} cannot be compared and is ignored.",
            stacklevel=3,
        )
    here = "provenance" in document and kind == "measured"
    own = kind in ("ours", "previous")
    source = "this project" if own else "measured here" if here else "its file names no source"
    found = document["results"]
    return Curve(
        key=key,
        name=_name(family, document) if family else document["name"],
        description=document["description"],
        labels=document["labels"],
        bpp=found["bpp"],
        psnr=found["psnr-rgb"],
        ms_ssim=found["ms-ssim-rgb"],
        kind=kind,
        scalable=own or document["scalable"],
        optimized_for=document["optimized_for"],
        source=document["source"] or source,
        images=document["images"],
        family=family,
        effort=document["effort"],
        cuts=document["cuts"],
        fingerprints=document["fingerprints"],
    )


def _name(family: Family, document: dict) -> str:
    return f"SAE, ours ({family.title})" + setting(document["effort"], document["cuts"])


def setting(effort: int, cuts: int) -> str:
    """Returns the end of a title: effort and number of cuts, where there are any."""
    return (f", effort {effort}" if effort else "") + (f", {cuts} cuts" if cuts else "")


def _finite(value):
    """Replaces infinities by None, since JSON has no infinities."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

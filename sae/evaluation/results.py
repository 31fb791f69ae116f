"""Results files: rate and quality per setting, as CompressAI writes them, with their origin.

Layers of ours are in results/<set>/<family>/<layer>.json, one setting each, and
in results/<set>/<family>/effort-<n>/ where better latents were searched for;
other codecs, with all their settings, in results/<set>/anchors/ (measured here)
and results/<set>/published/.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fnmatch
import functools
import itertools
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sae import files, metrics
from sae.config import EFFORTS
from sae.errors import SaeError
from sae.evaluation import schema
from sae.metrics import ms_ssim_db
from sae.model.checkpoint import Store
from sae.model.families import FAMILIES, Family
from sae.provenance import provenance


def curve_key(family: Family, effort: int = 0) -> str:
    """Returns the key of a curve of ours."""
    return f"{family.name}/effort-{effort}" if effort else family.name


# At which ours are shown: the quickest, and the best.
SHOWN_EFFORTS = 0, len(EFFORTS) - 1

# Curves that are shown and compared by default: ours, and those of the paper's figures.
DEFAULT_CURVES = (
    *(curve_key(family, effort) for family in FAMILIES for effort in SHOWN_EFFORTS),
    "published/sae-2019-mse",
    "published/sae-2019-mse-as-printed",
    "published/jpeg-dense",
    "published/jpeg-2000-openjpeg",
    "published/bpg-dense",
    "published/balle-2017-mse",
    "published/balle-2018-mse",
    "published/sae-2019-ms-ssim",
    "published/balle-2018-ms-ssim",
)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Rate and quality of one codec at several settings.

    Attributes:
      key: name on command lines, the place under results/<set>/.
      name: name in legends.
      description: one sentence.
      labels: labels of the settings.
      bpp: bits per pixel.
      psnr: dB, None where unknown.
      ms_ssim: in [0, 1], None where unknown.
      kind: "ours", "measured" (here, from other codecs' files) or "published".
      scalable: whether one stream has every point.
      optimised_for: training metric: "mse", "ms-ssim" or "-".
      source: source of published numbers.
      images: rows of each setting, one per image; empty where unknown.
      family: family of our layers, None for other codecs.
      effort: effort of the latent optimization.
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
    optimised_for: str
    source: str
    images: list[list[dict]]
    family: Family | None = None
    effort: int = 0

    def points(self, quality: str) -> list[tuple[float, float, str]]:
        """Returns rate, quality and label of the settings where it is known, by growing rate.

        Infinite qualities, which cannot be drawn, are left out. Of equal rates the best is kept.

        Args:
          quality: "psnr" or "ms-ssim-db", in dB, or "ms-ssim".
        """
        values = self.psnr if quality == "psnr" else self.ms_ssim
        transform = ms_ssim_db if quality == "ms-ssim-db" else float
        settings = zip(self.bpp, values, self.labels)
        points = sorted((rate, transform(v), label) for rate, v, label in settings if v is not None)
        return list({point[0]: point for point in points if math.isfinite(point[1])}.values())

    @property
    def plain(self) -> bool:
        """Whether it is one of ours, with the latents that the analysis gives."""
        return self.family is not None and not self.effort

    @property
    def encode_seconds(self) -> float | None:
        """Processor seconds of encoding all layers, mean over the images; None where unknown."""
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
    """Returns a PSNR as text; None, as files store it, and infinity are of an exact image."""
    return "exact" if value in (None, math.inf) else f"{value:.2f} dB"


def layer_label(name: str) -> str:
    """Returns "base", or "+EL1" for el1 and so on: what a stream's rate includes."""
    return name if name == "base" else f"+{name.upper()}"


def row(name: str, image: np.ndarray, x_hat: np.ndarray, size: int) -> dict:
    """Returns what is measured of one image: uint8 [H, W, 3], decoded from `size` bytes."""
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
    """Returns the means of all that is numeric in per-image rows; lists element by element.

    None where a row has None, or an infinite PSNR.
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
    """Writes a results file, whole or not at all, with what produced it.

    Args:
      path: path of the file.
      name: name of the codec.
      description: one sentence.
      settings: dicts of "label" and "images", the rows, one for each setting.
      **facts: further JSON values to keep.

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
    text = json.dumps(_finite(document), indent=1, allow_nan=False)
    files.write_bytes(path, (text + "\n").encode())


def load(path: str | Path) -> dict:
    """Reads a results file; raises SaeError where it is none."""
    return schema.read(path)


def of_layer(
    target: str | Path, family: Family, name: str, fingerprint: str, effort: int = 0
) -> dict | None:
    """Returns the results in results/<set> up to a layer, None where they are of other weights."""
    path = Path(target) / curve_key(family, effort) / f"{name}.json"
    if not path.exists():
        return None
    document = load(path)
    return document if document.get("fingerprint") == fingerprint else None


def curves(target: str | Path, named: Sequence[str] = ()) -> list[Curve]:
    """Returns every curve in results/<set>: ours by family, measured, then published ones.

    A warning names each file that cannot be used, which is left out.

    Args:
      target: path of results/<set>.
      named: keys of curves that must not be left out.

    Raises:
      SaeError: there are no results, or those of a named curve cannot be used.
    """
    target, found, faults = Path(target), [], {}
    for family, effort in itertools.product(FAMILIES, range(len(EFFORTS))):
        key, documents = curve_key(family, effort), {}
        for name in family.layers:
            path = target / key / f"{name}.json"
            if path.exists():
                try:
                    documents[name] = _layer(path, family, name)
                except SaeError as error:
                    faults[path] = key, error
        if documents:
            found.append(_ours(family, effort, _joined(family, key, documents)))
    for kind, subfolder in (("measured", "anchors"), ("published", "published")):
        for path in sorted((target / subfolder).glob("*.json")):
            key = f"{subfolder}/{path.stem}"
            try:
                found.append(_other(key, load(path), kind))
            except SaeError as error:
                faults[path] = key, error
    left = {curve.key for curve in found}
    for key, fault in faults.values():
        if not found or (key in named and key not in left):
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
      SaeError: a pattern, as of a shell, matches none.
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
    """Returns the curves that are shown by default, in their order."""
    by_key = {curve.key: curve for curve in found}
    return [by_key[key] for key in DEFAULT_CURVES if key in by_key] or list(found)


def searched(found: Sequence[Curve]) -> list[tuple[Curve, Curve]]:
    """Returns the curves with better latents, each with that of its family at effort 0."""
    plain = {curve.family: curve for curve in found if curve.plain}
    return [(c, plain[c.family]) for c in found if c.effort and c.family in plain]


def timed(found: Sequence[Curve]) -> list[tuple[Curve, Curve]]:
    """Returns the pairs of `searched` for which the seconds of both curves are known."""
    return [
        pair for pair in searched(found) if None not in [curve.encode_seconds for curve in pair]
    ]


def of_image(curve: Curve, image: str) -> Curve | None:
    """Returns the curve of a single image, None where its numbers are not known."""
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


def _layer(path: Path, family: Family, name: str) -> dict:
    """Reads the results of one of our layers; raises SaeError where the file has none."""
    document = load(path)
    layers = family.layers[: family.layers.index(name) + 1]
    if fault := schema.fault_of_layer(document, family.name, layers):
        raise SaeError(f"{path} cannot be used: {fault}; measure the layer again.")
    return document


def _joined(family: Family, key: str, documents: dict[str, dict]) -> dict[str, dict]:
    """Returns the largest group of layers of the same images and one cascade, lowest first.

    A warning names the other layers.
    """
    groups: list[dict[str, dict]] = []
    for name, document in documents.items():
        # The group of the layer right below comes first, since records refer to that layer.
        for group in sorted(groups, key=lambda g: family.layers.index([*g][-1]), reverse=True):
            if all(_fits(family, group[below], below, document, name) for below in group):
                group[name] = document
                break
        else:
            groups.append({name: document})
    joined = max(groups, key=len)
    if others := [name for name in documents if name not in joined]:
        warnings.warn(
            f"{key} is the curve of {', '.join(joined)}; {', '.join(others)} "
            f"{'is' if len(others) == 1 else 'are'} left out, measured on other images or with "
            "other weights: `python -m sae evaluate` measures all layers anew.",
            stacklevel=3,
        )
    return joined


def _fits(family: Family, lower: dict, below: str, upper: dict, name: str) -> bool:
    """Returns whether two layers were measured on the same images, as parts of the same streams.

    Where weights are not recorded, only the names and sizes of the images are compared.
    """
    (lower_rows,), (upper_rows,) = lower["images"], upper["images"]
    if _image_set(lower_rows) != _image_set(upper_rows):
        return False
    if "fingerprint" not in lower or "fingerprint" not in upper:
        return True
    if family.layers.index(name) == family.layers.index(below) + 1:
        expected = upper.get("below") or _released_below(family).get(upper["fingerprint"])
        if expected and expected != lower["fingerprint"]:
            return False
    # Sizes differ for streams of other weights, and for other images of the same names.
    shares = {row["image"]: row["bpp-layers"] for row in upper_rows}
    return all(
        np.allclose(row["bpp-layers"], shares[row["image"]][: len(row["bpp-layers"])], 1e-9, 0)
        for row in lower_rows
    )


@functools.cache
def _released_below(family: Family) -> dict[str, str | None]:
    """Returns the fingerprints of the layers below, by fingerprint, for results without them."""
    below = {}
    for name in family.layers:
        # Results must stay readable without the weights.
        with contextlib.suppress(SaeError, KeyError):
            if found := Store(family).describe(name):
                below[found["fingerprint"]] = found["below"]
    return below


def _image_set(rows: Sequence[dict]) -> set[tuple[str, int, int]]:
    return {(row["image"], row["width"], row["height"]) for row in rows}


def _ours(family: Family, effort: int, documents: dict[str, dict]) -> Curve:
    def points(key):
        return [document["results"][key][0] for document in documents.values()]

    *_, top = documents.values()
    return Curve(
        key=curve_key(family, effort),
        name=f"SAE, ours ({family.title})" + (f", effort {effort}" if effort else ""),
        description=top["description"],
        labels=list(documents),
        bpp=points("bpp"),
        psnr=points("psnr-rgb"),
        ms_ssim=points("ms-ssim-rgb"),
        kind="ours",
        scalable=True,
        optimised_for=family.metric,
        source="this project",
        images=[document["images"][0] for document in documents.values()],
        family=family,
        effort=effort,
    )


def _other(key: str, document: dict, kind: str) -> Curve:
    if document["unused"]:
        warnings.warn(
            f"Of {key}, {', '.join(document['unused'])} cannot be compared and is ignored.",
            stacklevel=3,
        )
    here = kind == "measured" and "provenance" in document
    found = document["results"]
    return Curve(
        key=key,
        name=document["name"],
        description=document["description"],
        labels=document["labels"],
        bpp=found["bpp"],
        psnr=found["psnr-rgb"],
        ms_ssim=found["ms-ssim-rgb"],
        kind=kind,
        scalable=document["scalable"],
        optimised_for=document["optimised_for"],
        source=document["source"] or ("measured here" if here else "its file names no source"),
        images=document["images"],
    )


def _finite(value):
    """Replaces infinities by None, since JSON has no infinities."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

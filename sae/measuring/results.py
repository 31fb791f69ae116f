"""Results files: rate and quality per setting, as CompressAI writes them, with their origin.

Layers of ours are in results/<set>/<family>/<layer>.json, one setting each, and
in results/<set>/<family>/effort-<n>/ where better latents were searched for;
other codecs, with all their settings, in results/<set>/anchors/ (measured here)
and results/<set>/published/.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sae import files, metrics
from sae.config import EFFORTS
from sae.errors import SaeError
from sae.metrics import ms_ssim_db
from sae.model.families import FAMILIES, Family
from sae.provenance import provenance


def curve_key(family: Family, effort: int = 0) -> str:
    """Returns the key of a curve of ours."""
    return f"{family.name}/effort-{effort}" if effort else family.name


# At which ours are shown: the quickest, and the best.
SHOWN_EFFORTS = 0, len(EFFORTS) - 1

# What is shown and compared unless told otherwise: ours, and the curves of the paper's figures.
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
      key: names the curve on command lines: its place under results/<set>/.
      name: for legends.
      description: a sentence.
      labels: of the settings.
      bpp: bits per pixel.
      psnr: dB, None where unknown.
      ms_ssim: in [0, 1], None where unknown.
      kind: "ours", "measured" (here, from other codecs' files) or "published".
      scalable: one stream serves every point.
      optimised_for: the metric: "mse", "ms-ssim" or "-".
      source: of published numbers.
      images: for each setting its rows, one per image; empty where unknown.
      family: of our layers, None for other codecs.
      effort: of the encoder that searched for their latents.
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

        Args:
          quality: "psnr" or "ms-ssim-db", in dB, or "ms-ssim".
        """
        values = self.psnr if quality == "psnr" else self.ms_ssim
        transform = ms_ssim_db if quality == "ms-ssim-db" else float
        settings = zip(self.bpp, values, self.labels)
        return sorted((rate, transform(v), label) for rate, v, label in settings if v is not None)

    @property
    def plain(self) -> bool:
        """Whether it is one of ours, with the latents that the analysis gives."""
        return self.family is not None and not self.effort

    @property
    def encode_seconds(self) -> float:
        """Of the processor, mean over the images, with all layers; of ours alone."""
        return float(np.mean([row["encode-seconds"] for row in self.images[-1]]))


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
      path: of the file.
      name: of the codec.
      description: a sentence.
      settings: for each a dict of "label" and "images", the rows.
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
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        document["results"]["bpp"], document["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaeError(f"{path} is not a results file ({error}).") from error
    return document


def of_layer(
    target: str | Path, family: Family, name: str, fingerprint: str, effort: int = 0
) -> dict | None:
    """Returns the results in results/<set> up to a layer, None where they are of other weights."""
    path = Path(target) / curve_key(family, effort) / f"{name}.json"
    if not path.exists():
        return None
    document = load(path)
    return document if document.get("fingerprint") == fingerprint else None


def curves(target: str | Path) -> list[Curve]:
    """Returns every curve in results/<set>: ours by family, measured, then published ones.

    Raises:
      SaeError: there are none.
    """
    target, found = Path(target), []
    for family, effort in itertools.product(FAMILIES, range(len(EFFORTS))):
        paths = [target / curve_key(family, effort) / f"{name}.json" for name in family.layers]
        documents = [load(path) for path in paths if path.exists()]
        if documents:
            found.append(_ours(family, effort, documents))
    for kind, subfolder in (("measured", "anchors"), ("published", "published")):
        for path in sorted((target / subfolder).glob("*.json")):
            found.append(_other(f"{subfolder}/{path.stem}", load(path), kind))
    if not found:
        raise SaeError(f"There are no results in {target}; run `python -m sae evaluate` first.")
    return found


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
    """Returns those of the curves that are shown unless told otherwise, in their order."""
    by_key = {curve.key: curve for curve in found}
    return [by_key[key] for key in DEFAULT_CURVES if key in by_key]


def searched(found: Sequence[Curve]) -> list[tuple[Curve, Curve]]:
    """Returns the curves with better latents, each with that of its family at effort 0."""
    plain = {curve.family: curve for curve in found if curve.plain}
    return [(c, plain[c.family]) for c in found if c.effort and c.family in plain]


def of_image(curve: Curve, image: str) -> Curve | None:
    """Returns the curve of a single image, None where its numbers are not known."""
    rows = [row for setting in curve.images for row in setting if row["image"] == image]
    if not rows or len(rows) != len(curve.labels):
        return None
    return dataclasses.replace(
        curve,
        bpp=[row["bpp"] for row in rows],
        psnr=[row["psnr-rgb"] for row in rows],
        ms_ssim=[row["ms-ssim-rgb"] for row in rows],
        images=[[row] for row in rows],
    )


def _ours(family: Family, effort: int, documents: Sequence[dict]) -> Curve:
    def points(key):
        return [document["results"].get(key, [None])[0] for document in documents]

    return Curve(
        key=curve_key(family, effort),
        name=f"SAE, ours ({family.title})" + (f", effort {effort}" if effort else ""),
        description=documents[-1]["description"],
        labels=[document["labels"][0] for document in documents],
        bpp=points("bpp"),
        psnr=points("psnr-rgb"),
        ms_ssim=points("ms-ssim-rgb"),
        kind="ours",
        scalable=True,
        optimised_for=family.metric,
        source="this project",
        images=[document["images"][0] for document in documents],
        family=family,
        effort=effort,
    )


def _other(key: str, document: dict, kind: str) -> Curve:
    found = document["results"]
    unknown = [None] * len(found["bpp"])
    return Curve(
        key=key,
        name=document["name"],
        description=document.get("description", ""),
        labels=document.get("labels", [""] * len(unknown)),
        bpp=found["bpp"],
        psnr=found.get("psnr-rgb", unknown),
        ms_ssim=found.get("ms-ssim-rgb", unknown),
        kind=kind,
        scalable=document.get("scalable", False),
        optimised_for=document.get("optimised_for", "-"),
        source=document.get("source", "measured here"),
        images=document.get("images", []),
    )


def _finite(value):
    """Replaces infinities by None, which JSON can say."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Rows of results as text."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from sae import metrics
from sae.config import LAYER_NAMES
from sae.errors import SaeError
from sae.evaluation import results
from sae.model.checkpoint import Store
from sae.model.families import FAMILIES


def images(rows: list[dict]) -> str:
    """Returns the rows of one layer and their mean as text."""
    names = LAYER_NAMES[: len(rows[0]["bpp-layers"])]
    titles = "".join(f"{name:>10}" for name in (*names, "bpp", "estimated", "PSNR", "MS-SSIM"))
    lines = [f"{'image':<20}{'size':>12}" + titles]
    for row in rows:
        size = f"{row['width']} x {row['height']}"
        lines.append(f"{row['image']:<20}{size:>12}" + _numbers(row))
    lines.append(f"{'mean':<32}" + _numbers(results.mean(rows)))
    if any(row["ms-ssim-rgb"] is None for row in rows):
        lines.append(f"MS-SSIM needs {metrics.SMALLEST_MS_SSIM_SIDE} pixels on every side.")
    return "\n".join(lines)


def layers(rows: dict[str, list[dict]]) -> str:
    """Returns the means of each layer as text."""
    lines = [f"{'layer':<8}{'bpp':>10}{'PSNR':>10}{'MS-SSIM':>10}"]
    for name, images_of_layer in rows.items():
        mean = results.mean(images_of_layer)
        lines.append(f"{name:<8}" + _cells(mean, ("bpp", "psnr-rgb", "ms-ssim-rgb")))
    return "\n".join(lines)


def run(options: argparse.Namespace) -> None:
    """The command `families`: prints what is trained, and what was measured of it."""
    stores = [Store(family, Path(options.checkpoints)) for family in FAMILIES]
    parts = [families(store, options.results) for store in stores if store.names()]
    if not parts:
        raise SaeError(f"There are no trained layers in {options.checkpoints}.")
    print("\n\n".join(parts))


def families(store: Store, results_folder: str | Path) -> str:
    """Returns the layers of one family, with the results of a stream up to each."""
    family = store.family
    lines = [
        f"{family.name}: {family.title}, code {family.code}",
        f"{'layer':<8}{'weights':>10}{'bpp':>10}{'PSNR':>10}{'MS-SSIM':>10}",
    ]
    for name, description in store.described().items():
        document = None
        try:
            document = results.of_layer(results_folder, family, name, description["fingerprint"])
        except SaeError as error:
            warnings.warn(f"{error} It is left out.", stacklevel=2)
        row = {key: values[0] for key, values in document["results"].items()} if document else {}
        numbers = _cells(row, ("bpp", "psnr-rgb", "ms-ssim-rgb"))
        lines.append(f"{name:<8}{description['fingerprint'][:8]:>10}" + numbers)
    return "\n".join(lines)


# Characters that LaTeX reads as commands or cannot print in text.
_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "#$%&_{}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "é": r"\'e",
    }
)


def latex(text: str) -> str:
    """Returns LaTeX code that prints a text literally."""
    return text.translate(_LATEX)


def markdown(text: str) -> str:
    """Returns a text as Markdown for a cell of a table."""
    return text.replace("|", r"\|")


def _numbers(row: dict) -> str:
    shares = "".join(f"{bpp:10.4f}" for bpp in row["bpp-layers"])
    return shares + _cells(row, ("bpp", "bpp-estimated", "psnr-rgb", "ms-ssim-rgb"))


def _cells(row: dict, keys: Sequence[str]) -> str:
    """Returns numbers in columns, a dash where there is none."""
    digits = {"psnr-rgb": 2}
    return "".join(
        f"{'-':>10}" if row.get(key) is None else f"{row[key]:10.{digits.get(key, 4)}f}"
        for key in keys
    )

"""Rows of results as text."""

from __future__ import annotations

import argparse
import warnings

from sae import metrics
from sae.errors import SaeError
from sae.evaluation import results
from sae.evaluation.results import Curve
from sae.model import stores
from sae.model.families import FAMILIES
from sae.model.stores import Store


def images(rows: list[dict]) -> str:
    """Returns the rows of one point and their mean as text."""
    titles = "".join(f"{name:>10}" for name in ("bpp", "PSNR", "MS-SSIM"))
    lines = [f"{'image':<20}{'size':>12}" + titles]
    for row in rows:
        size = f"{row['width']} x {row['height']}"
        lines.append(f"{row['image']:<20}{size:>12}" + _cells(row))
    lines.append(f"{'mean':<32}" + _cells(results.mean(rows)))
    if any(row["ms-ssim-rgb"] is None for row in rows):
        lines.append(f"MS-SSIM needs {metrics.SMALLEST_MS_SSIM_SIDE} pixels on every side.")
    return "\n".join(lines)


def points(found: dict[str, list[dict]]) -> str:
    """Returns the means of each point as text."""
    lines = [f"{'up to':<8}{'bpp':>10}{'PSNR':>10}{'MS-SSIM':>10}"]
    lines += [f"{label:<8}" + _cells(results.mean(rows)) for label, rows in found.items()]
    return "\n".join(lines)


def run(options: argparse.Namespace) -> int:
    """The command `families`: prints the trained layers and their results.

    Returns:
      The exit status: 1 where a family's checkpoints are damaged, else 0.
    """
    trained, damaged = [], False
    for family in FAMILIES:
        store = stores.of_family(family, options.checkpoints)
        try:
            if store.names():
                store.fingerprints()
                trained.append(store)
        except SaeError as error:
            warnings.warn(f"{error} {family.name} is left out.", stacklevel=2)
            damaged = True
    if not trained:
        raise SaeError(
            f"There are no trained layers in {options.checkpoints}; name another folder."
        )
    try:
        curves = results.curves(options.results)
    except SaeError as error:
        warnings.warn(str(error), stacklevel=2)
        curves = []
    regular = {curve.family: curve for curve in curves if curve.regular}
    print("\n\n".join(families(store, regular.get(store.family)) for store in trained))
    return 1 if damaged else 0


def families(store: Store, curve: Curve | None) -> str:
    """Returns the layers of one family, with the results of a stream up to each."""
    family = store.family
    lines = [
        f"{family.name}: {family.title}, code {family.code}",
        f"{'layer':<8}{'weights':>10}{'bpp':>10}{'PSNR':>10}{'MS-SSIM':>10}",
    ]
    for name, fingerprint in zip(store.names(), store.fingerprints()):
        row: dict = {}
        if curve and name in curve.labels and curve.fingerprints.get(name) == fingerprint:
            row = results.mean(curve.images[curve.labels.index(name)])
        lines.append(f"{name:<8}{fingerprint[:8]:>10}" + _cells(row))
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


def _cells(row: dict) -> str:
    """Returns rate and qualities in columns, a dash where there is none."""
    return "".join(
        f"{'-':>10}" if row.get(key) is None else f"{row[key]:10.{digits}f}"
        for key, digits in (("bpp", 4), ("psnr-rgb", 2), ("ms-ssim-rgb", 4))
    )

"""`make results`: the README's figure and tables, drawn from results/."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from sae import bdrate, figures, files, results
from sae.errors import SaeError
from sae.results import Curve

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
FIGURE = ROOT / "plots" / "kodak.png"
_BEGIN, _END = "<!-- results -->\n", "<!-- /results -->"
_PUBLISHED = {"mse": "published/sae-2019-mse", "ms-ssim": "published/sae-2019-ms-ssim"}
_COMPARED = (
    "published/sae-2019-mse",
    "published/jpeg-dense",
    "published/jpeg-2000-openjpeg",
    "published/balle-2017-mse",
)


def run(options: argparse.Namespace) -> None:
    """The command `results`."""
    found = results.curves(options.results)
    with figures.style():
        figure = figures.rd(_shown(found), ("psnr", "ms-ssim-db"), columns=2)
        figures.save(figure, FIGURE.with_suffix(""), ("png",), Description=digest(found))
    files.write_bytes(README, with_results(README.read_text(), found).encode())
    print(f"{README.name} and {FIGURE.relative_to(ROOT)} agree with {options.results}.")


def with_results(text: str, found: Sequence[Curve]) -> str:
    """Returns the README's text with its part between the markers written anew.

    Raises:
      SaeError: the markers are missing.
    """
    if _BEGIN not in text or _END not in text:
        raise SaeError(f"README.md has no place for the results: {_BEGIN.strip()} ... {_END}.")
    head, tail = text.split(_BEGIN)[0], text.split(_END)[1]
    by_key = {curve.key: curve for curve in found}
    figure = FIGURE.relative_to(ROOT).as_posix()
    parts = [f"![Rate and distortion on Kodak]({figure})"]
    for metric, published in _PUBLISHED.items():
        if metric in by_key:
            parts.append(_layers(by_key[metric], by_key.get(published)))
    parts += [_deltas(by_key)]
    return head + _BEGIN + "\n" + "\n\n".join(parts) + "\n\n" + _END + tail


def digest(found: Sequence[Curve]) -> str:
    """Returns what the figure was drawn from as one string, which its file keeps."""
    text = json.dumps([dataclasses.asdict(curve) for curve in _shown(found)], sort_keys=True)
    return "results " + hashlib.sha256(text.encode()).hexdigest()


def _shown(found: Sequence[Curve]) -> list[Curve]:
    keys = {curve.key for curve in found}
    return results.select(found, [key for key in figures.DEFAULT_CURVES if key in keys])


def _layers(ours: Curve, published: Curve | None) -> str:
    """Returns our layers beside the paper's as a Markdown table."""
    lines = [
        f"| {ours.name} | bpp | PSNR | MS-SSIM | paper: bpp | PSNR | MS-SSIM |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for index, label in enumerate(ours.labels):
        name = label if label == "base" else f"+ {label.upper()}"
        cells = [cell for curve in (ours, published) for cell in _numbers(curve, index)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _numbers(curve: Curve | None, index: int) -> list[str]:
    if curve is None or index >= len(curve.bpp):
        return ["-"] * 3
    ms_ssim = curve.ms_ssim[index]
    return [
        f"{curve.bpp[index]:.4f}",
        f"{curve.psnr[index]:.2f} dB",
        "-" if ms_ssim is None else f"{ms_ssim:.4f}",
    ]


def _deltas(by_key: dict[str, Curve]) -> str:
    """Returns BD-rates of our families as a Markdown table."""
    lines = [
        "| BD-rate of ours (from the range of quality in brackets) | in PSNR | in MS-SSIM (dB) |",
        "|---|---:|---:|",
    ]
    for metric, published in _PUBLISHED.items():
        for key in dict.fromkeys((published, *_COMPARED)) if metric == "mse" else (published,):
            if metric in by_key and key in by_key:
                cells = [
                    _delta(by_key[metric], by_key[key], quality) for quality in bdrate.QUALITIES
                ]
                name = f"{metric.upper()} family against {by_key[key].name}"
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _delta(ours: Curve, other: Curve, quality: str) -> str:
    try:
        found = bdrate.delta(ours, other, quality)
    except SaeError:
        return "-"
    low, high = found.overlap
    return f"{found.rate:+.1f} % ({low:.1f} to {high:.1f} dB)"

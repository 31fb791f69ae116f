"""`make results`: figures and tables of README and model card, from results/ and checkpoints/."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sae import files
from sae.config import DEFAULT_FOLDER, EFFORTS
from sae.errors import SaeError
from sae.measuring import bdrate, results, tables
from sae.measuring.results import Curve
from sae.model import families
from sae.model.checkpoint import Store
from sae.model.families import FAMILIES
from sae.paper import figures

ROOT = Path(__file__).resolve().parents[2]
README = Path("README.md")
MODELS = Path("docs/MODELS.md")
FIGURE = Path("plots/kodak.png")
SEARCHES = Path("plots/effort.png")
TRAINING = Path("plots/training.png")
# Bases alone, for the lambda that the folder's name ends with; docs/MODELS.md has the commands.
SINGLE = sorted((ROOT / "results").glob("single-*"))
# What the README compares each family with; the paper's own curve first.
_COMPARED = {
    "mse": (
        "published/sae-2019-mse",
        "published/jpeg-dense",
        "published/jpeg-2000-openjpeg",
        "published/balle-2017-mse",
        "published/balle-2018-mse",
        "published/bpg-dense",
    ),
    "ms-ssim": (
        "published/sae-2019-ms-ssim",
        "published/jpeg-dense",
        "published/jpeg-2000-openjpeg",
        "published/balle-2017-ms-ssim",
        "published/balle-2018-ms-ssim",
    ),
}
# And with what, image by image: the mean curve of a codec that gives all images the same rate
# has more PSNR than its files.
_EACH = "anchors/jpeg2000"


def run(options: argparse.Namespace) -> None:
    """The command `results`."""
    output, checkpoints = Path(options.output), Path(options.checkpoints)
    found, records = results.curves(options.results), descriptions(checkpoints)
    drawings = {
        FIGURE: lambda: figures.rd(results.default(found), ("psnr", "ms-ssim-db"), columns=2),
        SEARCHES: lambda: figures.effort(figures.saved_by_effort(found)),
        TRAINING: lambda: figures.training({name: _losses(one) for name, one in records.items()}),
    }
    known = digests(found, records)
    with figures.style():
        for path, digest in known.items():
            stem = output / path.with_suffix("")
            figures.save(drawings[path](), stem, ("png",), Description=digest)
    texts = {
        README: with_results((ROOT / README).read_text(encoding="utf-8"), found),
        MODELS: with_models(
            (ROOT / MODELS).read_text(encoding="utf-8"), found, records, checkpoints
        ),
    }
    for path, text in texts.items():
        files.write_bytes(output / path, text.encode())
    for path in (*texts, *known):
        print(output / path)


def descriptions(checkpoints: Path = DEFAULT_FOLDER) -> dict[str, dict]:
    """Returns what checkpoints say of themselves, by family and layer."""
    return {
        f"{family.name} {name}": description
        for family in FAMILIES
        for name in family.layers
        if (description := Store(family, checkpoints).describe(name))
    }


def with_results(text: str, found: Sequence[Curve]) -> str:
    """Returns the README's text with what lies between its markers written anew.

    Raises:
      SaeError: markers are missing.
    """
    by_key = {curve.key: curve for curve in found}
    parts = [f"![Rate and distortion on Kodak]({FIGURE.as_posix()})"]
    ours = [curve for curve in found if curve.family]
    for curve in ours:
        if curve.plain:
            parts.append(_layers(curve, by_key.get(_COMPARED[curve.optimised_for][0])))
    parts.append(_deltas(by_key))
    if pairs := results.timed(ours):
        parts.append(_searches(pairs))
        parts.append(f"![Rate that searches save]({SEARCHES.as_posix()})")
    text = _between(text, "results", "\n\n".join(parts))
    return _between(text, "sample", _sample(ours[0])) if ours else text


def _between(text: str, name: str, part: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in text or end not in text:
        raise SaeError(f"There is no place for the {name} in the text: {begin} ... {end}.")
    return f"{text.split(begin)[0]}{begin}\n\n{part}\n\n{end}{text.split(end)[1]}"


def _sample(ours: Curve) -> str:
    """Returns what a test script prints, shortened."""
    lines = tables.images(ours.images[min(2, len(ours.images) - 1)]).splitlines()
    return "\n".join(["```", *lines[:4], "...", lines[-1], "```"])


def with_models(
    text: str,
    found: Sequence[Curve],
    records: dict[str, dict],
    checkpoints: Path = DEFAULT_FOLDER,
) -> str:
    """Returns the model card's text with what lies between its markers written anew."""
    text = _between(text, "training", _trainings(records, checkpoints))
    text = _between(text, "alone", _alone(found))
    return _between(text, "worst", _extremes(found))


def digests(found: Sequence[Curve], records: dict[str, dict]) -> dict[Path, str]:
    """Returns digests of what there is for each figure to show, which their files keep."""
    searched = [curve for curve, _ in results.timed(found)]
    facts = {
        FIGURE: list(map(dataclasses.asdict, results.default(found))),
        SEARCHES: list(map(dataclasses.asdict, searched)),
        TRAINING: records,
    }
    return {
        path: "results " + hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()
        for path, shown in facts.items()
        if shown
    }


def _layers(ours: Curve, published: Curve | None) -> str:
    """Returns our layers beside the paper's as a Markdown table."""
    lines = [
        f"| {ours.name} | bpp | PSNR | MS-SSIM | paper: bpp | PSNR | MS-SSIM |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for label in ours.labels:
        cells = [cell for curve in (ours, published) for cell in _numbers(curve, label)]
        lines.append(f"| {results.layer_label(label)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _numbers(curve: Curve | None, label: str) -> list[str]:
    if curve is None or label not in curve.labels:
        return ["-"] * 3
    index = curve.labels.index(label)
    ms_ssim = curve.ms_ssim[index]
    return [
        f"{curve.bpp[index]:.4f}",
        results.decibels(curve.psnr[index]),
        "-" if ms_ssim is None else f"{ms_ssim:.4f}",
    ]


def _deltas(by_key: dict[str, Curve]) -> str:
    """Returns BD-rates of our families as a Markdown table."""
    lines = [
        "| BD-rate of ours (from the range of quality in brackets) | in PSNR | in MS-SSIM (dB) |",
        "|---|---:|---:|",
    ]
    for curve in results.default(list(by_key.values())):
        for key in _COMPARED[curve.optimised_for] if curve.family else ():
            if key in by_key:
                name = f"{curve.key} against {by_key[key].name}"
                lines.append(_row(name, curve, by_key[key], bdrate.delta))
        if curve.family and _EACH in by_key:
            name = f"{curve.key} against {by_key[_EACH].name}, image by image"
            lines.append(_row(name, curve, by_key[_EACH], bdrate.each_image))
    return "\n".join(lines)


def _searches(pairs: Sequence[tuple[Curve, Curve]]) -> str:
    """Returns what searching for better latents costs and saves as a Markdown table."""
    lines = [
        "| search | steps a layer | core seconds an image | a megapixel "
        "| BD-rate against effort 0, in PSNR | in MS-SSIM (dB) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for curve, plain in pairs:
        pixels = [row["width"] * row["height"] for row in curve.images[-1]]
        seconds = curve.encode_seconds
        cells = [f"{EFFORTS[curve.effort]:,}", f"{seconds:.0f}"]
        cells.append(f"{1e6 * len(pixels) * seconds / sum(pixels):.0f}")
        lines.append(_row(" | ".join([curve.key, *cells]), curve, plain, bdrate.delta))
    return "\n".join(lines)


def _row(name: str, ours: Curve, other: Curve, compare: Callable) -> str:
    texts = []
    for quality in bdrate.QUALITIES:
        rate, _, where = bdrate.cells(bdrate.delta_or_reason(ours, other, quality, compare))
        texts.append(rate if rate == "-" else f"{rate} ({where})")
    return f"| {name} | {' | '.join(texts)} |"


def _losses(description: dict) -> list[tuple[float, float]]:
    """Returns held-out losses after so many patches."""
    training = description["training"]
    batch = training["options"]["batchsize"]
    return [(batch * score["step"], score["loss"]) for score in training["validation"]]


def _trainings(records: dict[str, dict], checkpoints: Path) -> str:
    """Returns how each layer was trained as a Markdown table."""
    lines = [
        "| layer | lambda | steps, half patches | whole patches | decoder alone | patches "
        "| hours | held-out loss | bpp | PSNR | weights, MB | fingerprint | below |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, description in records.items():
        training = description["training"]
        last = training["validation"][-1]
        family, layer = name.split()
        weights = Store(families.named(family), checkpoints).path(layer) / "weights.npz"
        cells = [
            name,
            f"{training['options']['lmbda']:g}",
            *map(str, training["steps"].values()),
            f"{training['patches']}",
            f"{training['hours']:.2f}",
            f"{last['loss']:.1f}",
            f"{last['bpp']:.3f}",
            f"{last['psnr']:.2f} dB",
            f"{weights.stat().st_size / 1e6:.2f}",
            f"`{description['fingerprint'][:8]}`",
            f"`{description['below'][:8]}`" if description["below"] else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _alone(found: Sequence[Curve]) -> str:
    """Returns what layers for MSE spend, and one model for the same PSNR, as a Markdown table."""
    by_key = {curve.key: curve for curve in found}
    other = by_key.get("published/balle-2017-mse")
    families = [c for c in found if c.plain and c.optimised_for == "mse"]
    if not (families and other):
        return "(not measured)"
    lines = [
        "| family | PSNR | layers | bpp | one model | bpp | layers spend |",
        "|---|---:|---|---:|---|---:|---:|",
    ]
    for ours in families:
        rows = [
            (
                psnr,
                results.layer_label(label),
                rate,
                other.name,
                bdrate.rate_at(other, "psnr", psnr),
            )
            for rate, psnr, label in ours.points("psnr")
        ]
        rows += [
            (psnr, "interpolated", rate, name, rate_of_one)
            for name, single in _singles(ours.key)
            for rate_of_one, psnr, _ in single.points("psnr")
            if (rate := bdrate.rate_at(ours, "psnr", psnr))
        ]
        for psnr, label, rate, name, rate_of_one in sorted(rows):
            cells = [ours.key, f"{psnr:.2f} dB", label, f"{rate:.4f}", name, "-", "-"]
            if rate_of_one:
                cells[-2:] = f"{rate_of_one:.4f}", f"{100 * (rate / rate_of_one - 1):+.0f} %"
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _singles(family: str) -> Iterator[tuple[str, Curve]]:
    """Yields the names and curves of bases of a family that stand alone."""
    for folder in SINGLE:
        curves = {curve.key: curve for curve in results.curves(folder / "kodak")}
        if family in curves:
            yield f"a base alone, lambda {folder.name.removeprefix('single-')}", curves[family]


def _extremes(found: Sequence[Curve]) -> str:
    """Returns the worst and the best image of each of our layers as a Markdown table."""
    lines = [
        "| family | layer | lowest PSNR | highest PSNR | most bits | fewest bits |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for curve in found:
        if not curve.plain:
            continue
        for label, rows in zip(curve.labels, curve.images):
            by_psnr = sorted(rows, key=_psnr_of)
            by_rate = sorted(rows, key=lambda row: -row["bpp"])
            worst, best, most, fewest = by_psnr[0], by_psnr[-1], by_rate[0], by_rate[-1]
            cells = [
                curve.key,
                label,
                *(
                    f"{Path(r['image']).stem}, {results.decibels(r['psnr-rgb'])}"
                    for r in (worst, best)
                ),
                *(f"{Path(r['image']).stem}, {r['bpp']:.3f} bpp" for r in (most, fewest)),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _psnr_of(row: dict) -> float:
    """Returns the PSNR of a row, infinite where the image is exact."""
    return float("inf") if row["psnr-rgb"] is None else row["psnr-rgb"]

"""Tables of results/ and checkpoints/ in Markdown, for the documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sae.config import EFFORTS
from sae.evaluation import bdrate, results
from sae.evaluation.results import Curve
from sae.model.families import Family
from sae.model.progressive_config import PLANES
from tools.complexity import Complexity

# Anchors of the comparisons, by the metric of the training.
_ANCHORS = {
    "mse": (
        "published/sae-2019-mse",
        "published/jpeg-dense",
        "published/jpeg-2000-openjpeg",
        "published/balle-2017-mse",
        "published/balle-2018-mse",
        "published/bpg-dense",
        "published/dpict-2022",
        "published/dpict-2022-ms-ssim",
        "published/ctc-2023",
        "anchors/jpeg",
        "anchors/jpeg2000",
        "anchors/webp",
        "anchors/avif",
    ),
    "ms-ssim": (
        "published/sae-2019-ms-ssim",
        "published/jpeg-dense",
        "published/jpeg-2000-openjpeg",
        "published/balle-2017-ms-ssim",
        "published/balle-2018-ms-ssim",
        "published/dpict-2022-ms-ssim",
        "anchors/jpeg",
        "anchors/jpeg2000",
        "anchors/webp",
        "anchors/avif",
    ),
}
# Anchors in the README.
_FIRST_ANCHORS = (
    "published/sae-2019-mse",
    "published/jpeg-2000-openjpeg",
    "anchors/jpeg2000",
    "published/balle-2018-mse",
    "published/bpg-dense",
    "published/dpict-2022",
    "published/ctc-2023",
)
# Parts of a progressive model in words.
_PARTS = {f"plane_{plane}": f"context model of plane {plane}" for plane in range(PLANES)}
# Single model in the table of the cost of scalability.
_SINGLE_MODEL = "published/balle-2017-mse"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Returns a Markdown table.

    Args:
      titles: titles of the columns.
      rows: texts of the cells.
      texts: number of first columns that are aligned to the left.
    """
    if not rows:
        return "(not measured)"
    rule = ["---"] * texts + ["---:"] * (len(titles) - texts)
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def summary(found: Sequence[Curve]) -> str:
    """Returns BD-rates in PSNR of the families for MSE, for the README."""
    by_key = {curve.key: curve for curve in found}
    ours = [curve for curve in found if curve.regular and curve.optimized_for == "mse"]
    if not ours:
        return "(not measured)"
    cuts = [curve for curve in found if curve.family == ours[0].family and curve.cuts]
    titles = ["BD-rate in PSNR against", *(f"`{curve.key}`" for curve in ours)]
    titles += [f"`{ours[0].key}`, {curve.cuts} cuts" for curve in cuts]
    titles += [f"`{ours[0].key}`, per image", f"shared PSNR, `{ours[0].key}`"]
    rows = []
    for key in _FIRST_ANCHORS:
        if anchor := by_key.get(key):
            averaged = [_rate(curve, anchor, "psnr") for curve in (*ours, *cuts)]
            each = _rate(ours[0], anchor, "psnr", bdrate.each_image)
            rows.append([anchor.name, *averaged, each, _overlap(ours[0], anchor, "psnr")])
    return table(titles, rows)


def best_rates(found: Sequence[Curve]) -> str:
    """Returns a sentence with the BD-rates of our best family for MSE, for a caption."""
    by_key = {curve.key: curve for curve in found}
    ours = next((c for c in found if c.regular and c.optimized_for == "mse"), None)
    parts = []
    for key in _FIRST_ANCHORS if ours else ():
        if key in by_key and by_key[key].kind == "published":
            one = bdrate.delta_or_reason(ours, by_key[key], "psnr")
            if isinstance(one, bdrate.Delta):
                name = by_key[key].name.split(" (")[0]
                parts.append(f"{one.rate:+.1f} % against {name}")
    if not parts:
        return "No BD-rate against a published curve is known."
    return f"BD-rates of `{ours.key}` in PSNR, at its named layers: {', '.join(parts)}."


def layers(ours: Curve, found: Sequence[Curve]) -> str:
    """Returns rate and quality of our layers and of the paper's."""
    paper = next((c for c in found if c.key == _ANCHORS[ours.optimized_for][0]), None)
    titles = ["layers", "bpp", "PSNR", "MS-SSIM", "paper: bpp", "PSNR", "MS-SSIM"]
    rows = [
        [results.layer_label(label), *_numbers(ours, label), *_numbers(paper, label)]
        for label in ours.labels
    ]
    return table(titles, rows)


def deltas(ours: Curve, found: Sequence[Curve]) -> str:
    """Returns BD-rates of one of our curves, of averaged curves and as means per image."""
    by_key = {curve.key: curve for curve in found}
    titles = ["against", "PSNR, averaged curves", "PSNR, mean per image"]
    titles += ["MS-SSIM (dB), averaged curves", "MS-SSIM (dB), mean per image"]
    rows = []
    for key in _ANCHORS[ours.optimized_for]:
        if anchor := by_key.get(key):
            cells = [anchor.name]
            for quality in bdrate.QUALITIES:
                for compare in (bdrate.delta, bdrate.each_image):
                    one = bdrate.delta_or_reason(ours, anchor, quality, compare)
                    rate, _, where = bdrate.cells(one)
                    cells.append(rate if rate == "-" else f"{rate} ({where})")
            rows.append(cells)
    return table(titles, rows)


def efforts(found: Sequence[Curve]) -> str:
    """Returns time and rate savings of latent optimization."""
    titles = ["curve", "steps per latent", "CPU seconds per image", "per megapixel"]
    titles += ["BD-rate against effort 0, PSNR", "MS-SSIM (dB)"]
    rows = []
    for curve, regular in results.timed(found):
        pixels = [row["width"] * row["height"] for row in curve.images[-1]]
        seconds = curve.encode_seconds
        cells = [curve.key, f"{EFFORTS[curve.effort]}", f"{seconds:.0f}"]
        cells.append(f"{1e6 * len(pixels) * seconds / sum(pixels):.0f}")
        rows.append(cells + [_rate(curve, regular, quality) for quality in bdrate.QUALITIES])
    return table(titles, rows)


def single_models(found: Sequence[Curve]) -> str:
    """Returns the rates of layers for MSE and of models for one rate at the same PSNR."""
    other = next((c for c in found if c.key == _SINGLE_MODEL), None)
    titles = ["family", "PSNR", "layers", "bpp", "single-rate model", "bpp", "difference in rate"]
    rows = []
    for ours in found if other else ():
        if not (ours.regular and ours.optimized_for == "mse"):
            continue
        for rate, psnr, label in sorted(ours.points("psnr"), key=lambda point: point[1]):
            alone = bdrate.rate_at(other, "psnr", psnr)
            cells = [ours.key, f"{psnr:.2f} dB", results.layer_label(label), f"{rate:.4f}"]
            cells += [other.name, "-", "-"]
            if alone:
                cells[-2:] = f"{alone:.4f}", f"{100 * (rate / alone - 1):+.0f} %"
            rows.append(cells)
    return table(titles, rows)


def extremes(found: Sequence[Curve]) -> str:
    """Returns the images of lowest and highest PSNR and rate, for each of our layers."""
    titles = ["family", "layers", "lowest PSNR", "highest PSNR", "most bits", "fewest bits"]
    rows = []
    for curve in found:
        for label, images in zip(curve.labels, curve.images if curve.regular else ()):
            by_psnr = sorted(images, key=_psnr_of)
            by_rate = sorted(images, key=lambda row: -row["bpp"])
            qualities = [
                f"{_stem(r)}, {results.decibels(r['psnr-rgb'])}" for r in (by_psnr[0], by_psnr[-1])
            ]
            rates = [f"{_stem(r)}, {r['bpp']:.3f} bpp" for r in (by_rate[0], by_rate[-1])]
            rows.append([curve.key, results.layer_label(label), *qualities, *rates])
    return table(titles, rows, texts=2)


def other_sets(sets: dict[str, Sequence[Curve]]) -> str:
    """Returns BD-rates against JPEG 2000 as measured on other sets of images, by their names."""
    titles = ["images", "number", "family", "PSNR, averaged curves", "PSNR, mean per image"]
    titles += ["MS-SSIM (dB), mean per image", "images with fewer bits (PSNR)"]
    rows = []
    for name, found in sets.items():
        anchor = next((c for c in found if c.key == "anchors/jpeg2000"), None)
        for ours in (c for c in found if c.regular and anchor):
            names = [row["image"] for row in ours.images[0]]
            pairs = [[results.of_image(curve, one) for curve in (ours, anchor)] for one in names]
            each = [bdrate.delta_or_reason(*pair, "psnr") for pair in pairs if all(pair)]
            fewer = sum(isinstance(one, bdrate.Delta) and one.rate < 0 for one in each)
            rows.append(
                [
                    f"`{name}`",
                    f"{len(names)}",
                    ours.key,
                    _rate(ours, anchor, "psnr"),
                    _rate(ours, anchor, "psnr", bdrate.each_image),
                    _rate(ours, anchor, "ms-ssim-db", bdrate.each_image),
                    f"{fewer}",
                ]
            )
    return table(titles, rows)


def sources(found: Sequence[Curve]) -> str:
    """Returns keys, names and sources of the published curves."""
    rows = [[f"`{c.key}`", c.name, c.source] for c in found if c.kind == "published"]
    return table(["key", "name", "source"], rows, texts=3)


def costs(records: dict[str, dict], complexity: dict[str, Complexity], sizes: dict) -> str:
    """Returns size and complexity of the layers of a family.

    Args:
      records: contents of layer.json, by layer.
      complexity: complexity of each layer.
      sizes: number of bytes of each layer's weights.npz.
    """
    titles = ["layers", "channels", "parameters", "encode, kMAC/pixel", "decode, kMAC/pixel"]
    titles += ["weights, MB", "fingerprint"]
    rows = [
        [
            results.layer_label(name),
            f"{record['layer']['latent_depth']}",
            f"{complexity[name].parameters:,}",
            f"{complexity[name].encode / 1e3:.2f}",
            f"{complexity[name].decode / 1e3:.2f}",
            f"{sizes[name] / 1e6:.2f}",
            f"`{record['fingerprint'][:8]}`",
        ]
        for name, record in records.items()
    ]
    return table(titles, rows)


def trainings(family: Family, records: dict[str, dict], found: Sequence[Curve]) -> str:
    """Returns training and results of the layers of a family."""
    titles = ["layers", "lambda", "steps", "patches", "hours", "held-out loss"]
    titles += ["bpp", "PSNR", "MS-SSIM"]
    ours = next((c for c in found if c.regular and c.family == family), None)
    rows = []
    for name, record in records.items():
        training = record["training"]
        cells = [
            results.layer_label(name),
            f"{training['options']['lmbda']:g}",
            f"{sum(training['steps'].values()):,}",
            f"{training['patches']:,}",
            f"{training['hours']:.2f}",
            f"{training['validation'][-1]['loss']:.1f}",
        ]
        rows.append(cells + _numbers(ours, name))
    return table(titles, rows)


def model_costs(model: dict, complexity: dict[str, tuple[int, float]], size: int) -> str:
    """Returns parameters and complexity of the parts of a progressive model, and its training.

    Args:
      model: contents of model.json.
      complexity: parameters and MACs per pixel of each part.
      size: number of bytes of weights.npz.
    """
    rows = [
        [_PARTS.get(part, part), f"{parameters:,}", f"{macs / 1e3:.2f}"]
        for part, (parameters, macs) in complexity.items()
    ]
    total = [sum(one[k] for one in complexity.values()) for k in (0, 1)]
    rows.append(["together", f"{total[0]:,}", f"{total[1] / 1e3:.2f}"])
    training, last = model["training"], model["training"]["validation"][-1]
    losses = ", ".join(f"{last[f'plane_{p}/loss']:.1f}" for p in range(PLANES))
    text = (
        f"Fingerprint `{model['fingerprint'][:8]}`, {size / 1e6:.1f} MB. "
        f"Trained to step {last['step']:,} in {training['hours']:.1f} hours of one core; held-out "
        f"losses D + lambda R, with estimated rates, up to planes 0, 1 and 2: {losses}."
    )
    return table(["part", "parameters", "kMAC/pixel"], rows) + "\n\n" + text


def model_points(family: Family, found: Sequence[Curve]) -> str:
    """Returns rate and quality at the named layers of a progressive family."""
    ours = next((c for c in found if c.regular and c.family == family), None)
    rows = [
        [results.layer_label(name), *_numbers(ours, name)] for name in (ours.labels if ours else ())
    ]
    return table(["up to", "bpp", "PSNR", "MS-SSIM"], rows)


def _rate(ours: Curve, anchor: Curve, quality: str, compare: Callable = bdrate.delta) -> str:
    return bdrate.cells(bdrate.delta_or_reason(ours, anchor, quality, compare))[0]


def _overlap(ours: Curve, anchor: Curve, quality: str) -> str:
    rate, _, where = bdrate.cells(bdrate.delta_or_reason(ours, anchor, quality))
    return "-" if rate == "-" else where


def _numbers(curve: Curve | None, label: str) -> list[str]:
    """Returns rate, PSNR and MS-SSIM of one setting as text, dashes where unknown."""
    if curve is None or label not in curve.labels:
        return ["-"] * 3
    index = curve.labels.index(label)
    ms_ssim = curve.ms_ssim[index]
    return [
        f"{curve.bpp[index]:.4f}",
        results.decibels(curve.psnr[index]),
        "-" if ms_ssim is None else f"{ms_ssim:.4f}",
    ]


def _psnr_of(row: dict) -> float:
    """Returns the PSNR of a row, infinite where the image is exact."""
    return float("inf") if row["psnr-rgb"] is None else row["psnr-rgb"]


def _stem(row: dict) -> str:
    return Path(row["image"]).stem

"""Bjontegaard deltas between curves, through the `bjontegaard` package.

BD-rate is the mean difference of the logarithm of the rate at equal quality, in percent. It is
negative where a curve spends fewer bits than the anchor. BD-quality is the mean difference of the
quality in dB over the logarithm of the rate (Bjontegaard, VCEG-M33, 2001). Both interpolate by
piecewise cubic Hermite polynomials, and cover the range that the two curves share.

A curve is the mean of a set of images, setting by setting. A delta of averaged curves therefore
depends on the allocation of bits among the images. With equal rates for all images, a codec gains
PSNR on smooth ones, where it is cheap. The mean of per-image deltas does not depend on that.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence

import numpy as np

from sae.errors import SaeError
from sae.evaluation import results, tables
from sae.evaluation.results import Curve

QUALITIES = {"psnr": "PSNR", "ms-ssim-db": "MS-SSIM (dB)"}
_METHOD = "pchip"


class NoOverlap(SaeError):
    """Two curves that share no range of quality or of rate."""


@dataclasses.dataclass(frozen=True)
class Delta:
    """The deltas of a curve against an anchor.

    Attributes:
      rate: BD-rate in percent.
      quality: BD-PSNR or BD-MS-SSIM in dB.
      overlap: shared range of quality in dB, over which `rate` is computed.
      share: shared range as a fraction of the smaller of both curves' ranges.
      images: number of images behind means of per-image deltas, and number of all images; None for
        deltas of averaged curves.
    """

    rate: float
    quality: float
    overlap: tuple[float, float]
    share: float
    images: tuple[int, int] | None = None


def run(options: argparse.Namespace) -> None:
    """The command `bdrate`: prints a table of deltas against one curve."""
    found = results.curves(options.results, [options.against, *(options.curves or ())])
    (anchor,) = results.select(found, [options.against])[:1]
    keys = options.curves or [
        curve.key
        for curve in found
        if curve.kind != "published" or curve.key in results.DEFAULT_CURVES
    ]
    tested = [curve for curve in results.select(found, keys) if curve.key != anchor.key]
    if not tested:
        raise SaeError(f"No other curve can be compared with {anchor.key}; name one with --curves.")
    results.warn_of_other_images([anchor, *tested])
    compare = each_image if options.each_image else delta
    deltas = {
        curve.key: {
            quality: delta_or_reason(curve, anchor, quality, compare) for quality in QUALITIES
        }
        for curve in tested
    }
    reasons = [one for row in deltas.values() for one in row.values()]
    if all(isinstance(one, SaeError) for one in reasons):
        raise SaeError(f"No curve can be compared with {anchor.key}: {reasons[0]}")
    titles = results.titles([anchor, *tested])
    print(_FORMATS[options.format](anchor.key, deltas, titles))


def delta(curve: Curve, anchor: Curve, quality: str) -> Delta:
    """Returns the deltas of a curve against an anchor.

    Args:
      curve: curve under test.
      anchor: curve of comparison.
      quality: quality metric, "psnr" or "ms-ssim-db".

    Raises:
      NoOverlap: the curves share no range of quality or of rate.
      SaeError: one has fewer than three points with this quality.
    """
    import bjontegaard

    title = QUALITIES[quality]
    (rate, value), (anchor_rate, anchor_value) = (
        _increasing(one.points(quality)) for one in (curve, anchor)
    )
    for one, points in ((curve, rate), (anchor, anchor_rate)):
        if len(points) < 3:
            raise SaeError(
                f"{one.key} has fewer than three points of {title}, which a BD-rate requires; "
                "compare other curves."
            )
    overlap = max(value[0], anchor_value[0]), min(value[-1], anchor_value[-1])
    rates = max(rate[0], anchor_rate[0]), min(rate[-1], anchor_rate[-1])
    if overlap[0] >= overlap[1] or rates[0] >= rates[1]:
        raise NoOverlap(
            f"{curve.key} and {anchor.key} do not overlap in {title}; compare other curves."
        )
    # No overlap is too small, since tables state the range.
    options = {"method": _METHOD, "require_matching_points": False, "min_overlap": 0}
    ranges = [values[-1] - values[0] for values in (value, anchor_value)]
    with np.errstate(all="ignore"):
        bd_rate = bjontegaard.bd_rate(anchor_rate, anchor_value, rate, value, **options)
        bd_quality = bjontegaard.bd_psnr(anchor_rate, anchor_value, rate, value, **options)
    if not np.isfinite([bd_rate, bd_quality]).all():
        raise SaeError(
            f"Points of {curve.key} or {anchor.key} are too close; compare other curves."
        )
    return Delta(
        rate=float(bd_rate),
        quality=float(bd_quality),
        overlap=overlap,
        share=(overlap[1] - overlap[0]) / min(ranges),
    )


def each_image(curve: Curve, anchor: Curve, quality: str) -> Delta:
    """Returns the means of the per-image results of `delta`, including overlap and share.

    Images without a shared range are left out; `Delta.images` counts the others.

    Raises:
      SaeError: the two were not measured on the same images, or no image is left.
    """
    names = [row["image"] for row in (curve.images or [[]])[0]]
    pairs = [(results.of_image(curve, name), results.of_image(anchor, name)) for name in names]
    if not pairs or not all(one and other for one, other in pairs):
        raise SaeError(
            f"{curve.key} and {anchor.key} cannot be compared image by image, since they were not "
            "measured on the same images; compare averaged curves."
        )
    either = [delta_or_reason(one, other, quality) for one, other in pairs if one and other]
    found = [one for one in either if isinstance(one, Delta)]
    if not found:
        raise NoOverlap(
            f"{curve.key} and {anchor.key} do not overlap in {QUALITIES[quality]}; compare other "
            "curves."
        )
    low, high, rate, value, share = np.mean(
        [(*one.overlap, one.rate, one.quality, one.share) for one in found], axis=0
    ).tolist()
    return Delta(rate, value, (low, high), share, (len(found), len(pairs)))


def rate_at(curve: Curve, quality: str, value: float) -> float | None:
    """Returns the rate at which a curve reaches a quality, None outside its range.

    Between its points the logarithm of the rate is interpolated linearly.
    """
    rates, values = _increasing(curve.points(quality))
    if not len(values) or not values[0] <= value <= values[-1]:
        return None
    return float(np.exp(np.interp(value, values, np.log(rates))))


def _increasing(points: Sequence[tuple[float, float, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns rates and qualities, without points of a higher rate and no higher quality."""
    kept: list[tuple[float, float]] = []
    for rate, value, _ in points:
        if not kept or value > kept[-1][1]:
            # Rates that differ in their last digit have equal logarithms.
            if kept and np.log10(rate) <= np.log10(kept[-1][0]):
                kept.pop()
            kept.append((rate, value))
    rates, qualities = zip(*kept) if kept else ((), ())
    return np.array(rates), np.array(qualities)


def delta_or_reason(
    curve: Curve, anchor: Curve, quality: str, compare: Callable = delta
) -> Delta | SaeError:
    """Returns the result of `delta` or `each_image`, or their error."""
    try:
        return compare(curve, anchor, quality)
    except SaeError as error:
        return error


def cells(one: Delta | SaeError) -> list[str]:
    """Returns rate, quality and overlap as text; dashes where there is no number."""
    if isinstance(one, SaeError):
        return ["-", "-", "no overlap" if isinstance(one, NoOverlap) else "unknown"]
    low, high = one.overlap
    where = f"{low:.1f} to {high:.1f} dB"
    if one.images:
        where += f", {one.images[0]} of {one.images[1]} images"
    return [f"{one.rate:+.1f} %", f"{one.quality:+.2f} dB", where]


def header() -> list[str]:
    """Returns the titles of the columns that `cells` fills."""
    return [
        text
        for title in QUALITIES.values()
        for text in (f"BD-rate, {title}", f"BD-{title.removesuffix(' (dB)')}", "overlap")
    ]


def _markdown(anchor: str, deltas: dict[str, dict], titles: dict[str, str]) -> str:
    lines = [f"| against {tables.markdown(titles[anchor])} | " + " | ".join(header()) + " |"]
    lines.append("|---|" + "---:|" * len(header()))
    for key, row in deltas.items():
        texts = [text for one in row.values() for text in cells(one)]
        lines.append(f"| {tables.markdown(titles[key])} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _latex(anchor: str, deltas: dict[str, dict], titles: dict[str, str]) -> str:
    lines = [r"\begin{tabular}{l" + "r" * len(header()) + "}", r"\hline"]
    lines.append(" & ".join([tables.latex(f"against {titles[anchor]}"), *header()]) + r" \\ \hline")
    for key, row in deltas.items():
        texts = [text for one in row.values() for text in cells(one)]
        lines.append(" & ".join(map(tables.latex, [titles[key], *texts])) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"])


def _json(anchor: str, deltas: dict[str, dict], titles: dict[str, str]) -> str:
    rows = {
        key: {
            "name": titles[key],
            **{
                quality: dataclasses.asdict(one) if isinstance(one, Delta) else {"none": str(one)}
                for quality, one in row.items()
            },
        }
        for key, row in deltas.items()
    }
    return json.dumps({"against": anchor, "method": _METHOD, "curves": rows}, indent=1)


_FORMATS = {"markdown": _markdown, "latex": _latex, "json": _json}

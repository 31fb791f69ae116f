"""Rate-distortion figures in the style of journals.

Lines of scalable codecs are solid, those of single-rate codecs dashed. Markers of published numbers
are hollow, those of measured numbers filled. The colors are those of Okabe and Ito (2008), then of
Tol (2021, muted), which color-blind readers can distinguish.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import shutil
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import textalloc
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pgf import LatexError
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator

from sae import files
from sae.errors import SaeError
from sae.evaluation import bdrate, results, tables
from sae.evaluation.results import Curve

# Axis label of each quality.
QUALITIES = {"psnr": "PSNR (dB)", "ms-ssim": "MS-SSIM", "ms-ssim-db": "MS-SSIM (dB)"}

_QUALITY_OF = {"mse": "psnr", "ms-ssim": "ms-ssim-db"}
_DPI = 300
_CENTIMETER = 1 / 2.54
_WIDTHS = {1: 8.9, 2: 17.8}
_HEIGHTS = {1: 6.8, 2: 7.4}
_OURS = {
    "progressive-mse": ("#D55E00", "o"),
    "residual-mse": ("#E69F00", "s"),
    "progressive-ms-ssim": ("#0072B2", "o"),
    "residual-ms-ssim": ("#56B4E9", "s"),
}
_OTHERS = (
    "#009E73",
    "#CC79A7",
    "#000000",
    "#8C8C8C",
    "#7A4B00",
    "#332288",
    "#999933",
    "#117733",
    "#882255",
    "#44AA99",
    "#AA4499",
)
_MARKERS = ("^", "D", "v", "P", "X", "<", ">", "h", "*", "d", "8")
_STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 6.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.linewidth": 0.3,
    "grid.color": "#CCCCCC",
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.6,
    "legend.borderpad": 0.2,
    # Fonts are TrueType, since journals refuse Type 3.
    "pdf.fonttype": 42,
    # Dollar signs in names of codecs and images must not begin formulas.
    "text.parse_math": False,
}


def run(options: argparse.Namespace) -> None:
    """The command `plot`."""
    found = results.curves(options.results, options.curves or ())
    if options.list:
        print(listing(found))
        return
    if options.range and len(options.quality) > 1:
        raise SaeError("--range is of one quality: name it with --quality.")
    if options.log and options.bpp and options.bpp[0] <= 0:
        raise SaeError("--bpp cannot begin at 0 with --log; give a FROM above 0.")
    chosen = results.select(found, options.curves) if options.curves else results.default(found)
    results.warn_of_other_images(chosen)
    with style(options.serif):
        drawings = _drawings(found, chosen, options)
        read = list(Path(options.results).rglob("*.json"))
        for name in drawings:
            stem = Path(options.output) / name
            files.require_apart([f"{stem}.{suffix}" for suffix in options.format], read)
        for name, figure in drawings.items():
            for path in save(figure, Path(options.output) / name, options.format):
                print(path)


def _drawings(
    found: Sequence[Curve], chosen: Sequence[Curve], options: argparse.Namespace
) -> dict[str, Figure]:
    """Returns the figures of `plot` by the names of their files."""
    # Figures of single images use curves measured here, since published curves are means.
    measured = list(chosen)
    if not options.curves:
        measured += [c for c in found if c.kind == "measured" and c not in chosen]
    size = {"columns": options.columns, "height": options.height, "log": options.log}
    drawings, faults = {}, []
    for quality in options.quality:
        try:
            drawings[f"rd-{quality}"] = rd(chosen, [quality], options.bpp, options.range, **size)
        except SaeError as error:
            faults.append(error)
    if not drawings:
        raise faults[0]
    for fault in faults:
        warnings.warn(str(fault), stacklevel=3)
    if len(drawings) > 1:
        qualities = [name.removeprefix("rd-") for name in drawings]
        drawings["rd"] = rd(chosen, qualities, options.bpp, columns=2, log=options.log)
    for image in dict.fromkeys(options.image or ()):
        single = [one for curve in measured if (one := results.of_image(curve, image))]
        if not single:
            raise SaeError(f"No chosen curve has numbers of the image {image}; name another image.")
        name = f"rd-{Path(image).stem}"
        drawings[f"rd-{image}" if name in drawings else name] = rd(
            single, options.quality[:1], options.bpp, options.range, title=image, **size
        )
    for curve in chosen:
        if curve.regular:
            drawings[f"rate-{curve.key}"] = rate_by_layer(curve)
            if any(psnr is not None for psnr in curve.psnr):
                drawings[f"images-{curve.key}"] = every_image(measured, curve)
    if savings := saved_by_effort(chosen if options.curves else found):
        drawings["effort"] = effort(savings)
    return drawings


def listing(found: Sequence[Curve]) -> str:
    """Returns one line per curve: key, name, points, kind and source."""
    return "\n".join(
        f"{curve.key:<40} {curve.title:<44} {len(curve.bpp):>3} points, "
        f"{'scalable' if curve.scalable else 'one file per rate'}, {curve.kind}: {curve.source}"
        for curve in found
    )


@contextlib.contextmanager
def style(serif: bool = False) -> Iterator[None]:
    """Sets the style of all figures made inside."""
    family = {"font.family": "serif", "mathtext.fontset": "cm"} if serif else {}
    # The fonts of a PGF file are those of the document that includes it.
    pgf = {"pgf.texsystem": _texsystem() or "pdflatex", "pgf.rcfonts": False}
    with matplotlib.rc_context({**_STYLE, **family, **pgf}):
        yield


def rd(
    curves: Sequence[Curve],
    qualities: Sequence[str] = ("psnr",),
    bpp: tuple[float, float] | None = None,
    limits: tuple[float, float] | None = None,
    columns: int = 1,
    height: float | None = None,
    title: str | None = None,
    log: bool = False,
) -> Figure:
    """Draws quality against rate, the legend under the axes.

    Args:
      curves: curves to draw.
      qualities: keys of `QUALITIES`, one panel each.
      bpp: range of rates in bits per pixel; up to our highest by default.
      limits: range of the quality; that of the visible points by default.
      columns: number of columns of text that the figure spans: 1 (8.9 cm) or 2 (17.8 cm).
      height: height in cm; by default, the legend is added to a fixed height of the axes.
      title: title above the axes.
      log: whether the axis of rates is logarithmic.

    Raises:
      SaeError: no curve has these qualities in this range of rates.
    """
    width, panels = _WIDTHS[columns], len(qualities)
    size = width * _CENTIMETER, (height or _HEIGHTS[columns]) * _CENTIMETER
    figure = Figure(figsize=size, layout="constrained")
    # Lines are kept by the keys of their curves.
    drawn: dict[str, Line2D] = {}
    bpp = bpp or range_of_ours(curves, log)
    for axes, quality in zip(figure.subplots(1, panels, squeeze=False)[0], qualities):
        drawn.update(_panel(axes, curves, quality, bpp, limits, log))
    if not drawn:
        raise SaeError(
            f"None of these curves has {' or '.join(qualities)} here; widen the range of rates."
        )
    if title:
        figure.suptitle(title, fontsize=8)
    legend = _legend(figure, _entries(curves, drawn), "lower")
    if height is None:
        below = legend.get_window_extent().height / figure.dpi
        figure.set_figheight(figure.get_figheight() + below)
    for axes, quality in zip(figure.axes, qualities):
        _label_layers(axes, curves, quality, bpp)
    return figure


def rate_by_layer(curve: Curve) -> Figure:
    """Draws the bits that each layer adds for every image."""
    rows = curve.images[-1]
    figure = Figure(figsize=(_WIDTHS[2] * _CENTIMETER, 6 * _CENTIMETER), layout="constrained")
    axes = figure.subplots()
    totals = np.array([[row["bpp"] for row in of_layer] for of_layer in curve.images])
    shades = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.95, len(totals)))
    bars, below = [], np.zeros(len(rows))
    for name, total, shade in zip(curve.labels, totals, shades):
        bar = axes.bar(range(len(rows)), total - below, bottom=below, color=shade)
        bars.append((results.layer_label(name), bar))
        below = total
    axes.set_xticks(range(len(rows)), _short([row["image"] for row in rows]), rotation=60)
    axes.set_ylabel("bits per pixel")
    axes.grid(axis="x", visible=False)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    _legend(figure, bars, "upper")
    return figure


def every_image(curves: Sequence[Curve], ours: Curve) -> Figure:
    """Draws PSNR against rate of every image, in small panels with common axes."""
    names = [row["image"] for row in ours.images[-1]]
    singles = [[one for c in curves if (one := results.of_image(c, name))] for name in names]
    columns = min(6, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(
        figsize=(_WIDTHS[2] * _CENTIMETER, (2.9 * lines + 1.2) * _CENTIMETER), layout="constrained"
    )
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    drawn: dict[str, Line2D] = {}
    rates = [row["bpp"] for rows in ours.images for row in rows]
    bpp = 0.8 * min(rates), 1.25 * max(rates)
    limits = limits_of([p for one in singles for curve in one for p in curve.points("psnr")], bpp)
    for axes, name, single in itertools.zip_longest(grid.flat, _short(names), singles):
        if name is None:
            axes.set_visible(False)
            continue
        drawn.update(_panel(axes, single, "psnr", bpp, limits, log=True))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.set_title(name, fontsize=6.5, pad=2)
        axes.set(xlabel="", ylabel="")
    figure.supxlabel("bits per pixel", fontsize=8)
    figure.supylabel("PSNR (dB)", fontsize=8)
    _legend(figure, _entries(curves, drawn), "upper")
    return figure


def training(losses: dict[str, list[tuple[float, float]]]) -> Figure:
    """Draws held-out loss against patches, a panel for each "<family> <layer>", a row a family."""
    rows = [list(names) for _, names in itertools.groupby(losses, lambda name: name.split()[0])]
    size = _WIDTHS[2] * _CENTIMETER, 4.2 * len(rows) * _CENTIMETER
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), max(map(len, rows)), squeeze=False)
    panels = (itertools.zip_longest(axes, names) for axes, names in zip(grid, rows))
    for axes, name in itertools.chain.from_iterable(panels):
        if name is None:
            axes.set_visible(False)
            continue
        patches, values = zip(*losses[name])
        color, _ = _OURS[name.split()[0]]
        axes.plot([count / 1000 for count in patches], values, color=color, linewidth=1)
        # Scores of the first steps are cut off, since they would flatten the rest.
        axes.set_ylim(0.98 * min(values), min(max(values), 1.3 * min(values)))
        axes.set_title(f"{name}: {values[-1]:.4g}".replace(" ", "\n", 1), fontsize=7)
    figure.supxlabel("thousand patches", fontsize=8)
    figure.supylabel("held-out loss", fontsize=8)
    return figure


def saved_by_effort(curves: Sequence[Curve]) -> dict[str, list[tuple[float, float]]]:
    """Returns seconds per image and BD-rate against effort 0 in percent, for each effort.

    There is an entry for each family with more than one effort, in the quality for which the family
    is trained.
    """
    saved: dict[str, list[tuple[float, float]]] = {}
    for curve, regular in results.timed(curves):
        delta = bdrate.delta_or_reason(curve, regular, _QUALITY_OF[curve.optimized_for])
        if isinstance(delta, bdrate.Delta):
            before, after = regular.encode_seconds, curve.encode_seconds
            assert curve.family is not None and before is not None and after is not None
            saved.setdefault(curve.family.name, [(before, 0.0)]).append((after, delta.rate))
    return saved


def effort(saved: dict[str, list[tuple[float, float]]]) -> Figure:
    """Returns a figure of the result of `saved_by_effort`."""
    figure = Figure(figsize=(_WIDTHS[1] * _CENTIMETER, 6 * _CENTIMETER), layout="constrained")
    axes = figure.subplots()
    for name, points in saved.items():
        color, marker = _OURS[name]
        axes.plot(*zip(*points), color=color, marker=marker, label=name)
    axes.set(xlabel="seconds of a core to encode an image")
    _logarithmic(axes)
    axes.set_ylabel("BD-rate (%) against effort 0")
    axes.legend()
    return figure


def save(
    figure: Figure, stem: str | Path, formats: Sequence[str] = ("pdf", "png"), **metadata: str
) -> list[Path]:
    """Writes a figure as <stem>.<format> for each format; returns the paths.

    Args:
      figure: figure to write.
      stem: path without suffix.
      formats: formats in `sae.config.FIGURE_FORMATS`. PGF requires a LaTeX installation; without
        one it is left out, with a warning.
      **metadata: texts inside a PNG by name.

    Raises:
      SaeError: no format can be drawn, or a file cannot be written.
    """
    if "pgf" in formats and not _texsystem():
        missing = "PGF needs a LaTeX installation (such as apt install texlive-pictures)"
        if set(formats) == {"pgf"}:
            raise SaeError(f"{missing}; choose another --format.")
        warnings.warn(f"{missing}; only the other formats are drawn.", stacklevel=2)
        formats = [name for name in formats if name != "pgf"]
    paths = []
    for name in formats:
        path = Path(f"{stem}.{name}")
        # Files have no dates, so that the same numbers give the same file.
        facts = {"pdf": {"CreationDate": None}, "png": {"Software": "sae", **metadata}}
        with files.replacing(path) as file:
            try:
                options: dict[str, Any] = {"metadata": facts[name]} if name in facts else {}
                with _texts_for(figure, name):
                    figure.savefig(file, format=name, dpi=_DPI, **options)
            except LatexError as error:
                message = str(error.args[0]).splitlines()[0]
                raise SaeError(f"PGF needs a whole LaTeX installation: {message}") from error
        paths.append(path)
    return paths


def draw_rd(curves: Sequence[Curve], path: str | Path) -> None:
    """Draws PSNR and MS-SSIM against rate, side by side, into one PNG file."""
    with style():
        figure = rd(curves, ("psnr", "ms-ssim-db"), columns=2)
        save(figure, Path(path).with_suffix(""), ("png",))


@contextlib.contextmanager
def _texts_for(figure: Figure, format: str) -> Iterator[None]:
    """Escapes a figure's texts while it is written as PGF, which LaTeX reads."""
    found = figure.findobj(Text) if format == "pgf" else []
    texts = {text: text.get_text() for text in found if isinstance(text, Text)}
    try:
        for text, plain in texts.items():
            text.set_text(tables.latex(plain))
        yield
    finally:
        for text, plain in texts.items():
            text.set_text(plain)


def _texsystem() -> str | None:
    return next((name for name in ("pdflatex", "xelatex", "lualatex") if shutil.which(name)), None)


def _panel(
    axes: Axes, curves: Sequence[Curve], quality: str, bpp: tuple, limits: tuple | None, log: bool
) -> dict[str, Line2D]:
    """Draws curves into axes; returns their lines by key."""
    drawn, in_sight = {}, []
    for curve, style in zip(curves, line_styles(curves)):
        points = curve.points(quality)
        if not any(bpp[0] <= rate <= bpp[1] for rate, *_ in points):
            continue
        rates, values, _ = zip(*points)
        (drawn[curve.key],) = axes.plot(
            rates, values, markevery=1 if len(rates) < 12 else 0.07, **style
        )
        in_sight += points
    axes.set(xlabel="bits per pixel", ylabel=QUALITIES[quality], xlim=bpp)
    if log:
        _logarithmic(axes)
    if limits or in_sight:
        axes.set_ylim(limits or limits_of(in_sight, bpp))
    return drawn


def _logarithmic(axes: Axes) -> None:
    """Makes the axis of rates logarithmic, with plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _label_layers(axes: Axes, curves: Sequence[Curve], quality: str, bpp: tuple) -> None:
    """Labels the layers of our curves, away from lines and markers.

    Where some curves are trained for this quality, only these have labels.
    """
    ours = [curve for curve in curves if curve.regular]
    named = [c for c in ours if _QUALITY_OF[c.optimized_for].startswith(quality)] or ours
    names, colors = [], []
    for curve, style in zip(curves, line_styles(curves)):
        if curve in named:
            inside = [p for p in curve.points(quality) if bpp[0] <= p[0] <= bpp[1] and p[2]]
            names += inside
            colors += [style["color"]] * len(inside)
    if names:
        lines: list[tuple[Any, Any]] = [line.get_data() for line in axes.lines]
        rates, qualities, layers = zip(*names)
        textalloc.allocate(
            axes,
            list(rates),
            list(qualities),
            [results.layer_label(name) for name in layers],
            x_scatter=np.concatenate([x for x, _ in lines]),
            y_scatter=np.concatenate([y for _, y in lines]),
            x_lines=[x for x, _ in lines],
            y_lines=[y for _, y in lines],
            textsize=5,
            textcolor=colors,
            linecolor=colors,
            linewidth=0.4,
            avoid_label_lines_overlap=True,
            zorder=2.5,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )


def limits_of(
    points: Sequence[tuple[float, float, str]], bpp: tuple[float, float]
) -> tuple[float, float]:
    """Returns the range of quality of the points in a range of rates, with room for labels."""
    qualities = [quality for rate, quality, _ in points if bpp[0] <= rate <= bpp[1]]
    span = max(qualities) - min(qualities) or 1
    return min(qualities) - 0.1 * span, max(qualities) + 0.05 * span


def line_styles(curves: Sequence[Curve]) -> list[dict]:
    """Returns the style of each curve's line, of other codecs by their order."""
    others = itertools.count()
    return [_line_style(curve, others) for curve in curves]


def _line_style(curve: Curve, others: Iterator[int]) -> dict:
    if curve.family:
        color, marker = _OURS[curve.family.name]
        return {
            "color": color,
            "marker": marker,
            "linestyle": ":" if curve.effort else "--" if curve.cuts else "-",
            "linewidth": 1.5,
            "zorder": 3,
        }
    index = next(others)
    # Markers shift with each cycle of the colors, so that no two curves are drawn alike.
    turn = index + index // len(_OTHERS)
    return {
        "color": _OTHERS[index % len(_OTHERS)],
        "marker": _MARKERS[turn % len(_MARKERS)],
        "linestyle": "-" if curve.scalable else "--",
        "linewidth": 0.8,
        "markerfacecolor": "white" if curve.kind == "published" else None,
        "markeredgewidth": 0.7,
    }


def range_of_ours(curves: Sequence[Curve], log: bool = False) -> tuple[float, float]:
    """Returns the range of rates of our points, with room for the last label."""
    rates = [rate for curve in curves if curve.kind == "ours" for rate in curve.bpp]
    rates = rates or [rate for curve in curves for rate in curve.bpp]
    return (0.8 * min(rates), 1.3 * max(rates)) if log else (0.0, 1.12 * max(rates))


def _entries(curves: Sequence[Curve], drawn: dict[str, Line2D]) -> list[tuple[str, Line2D]]:
    """Returns titles and lines of the legend: ours, one entry per effort, then the others.

    Args:
      curves: curves of the figure.
      drawn: lines of the curves by key.
    """
    shown = [curve for curve in curves if curve.key in drawn]
    titles = results.titles(shown)
    optimized = [curve.key for curve, _ in results.optimized(shown)]
    # The keys are efforts, or keys of curves.
    entries: dict[int | str, tuple[str, Line2D]] = {}
    for curve in sorted(shown, key=lambda c: (c.family is None, c.effort)):
        if curve.key in optimized:
            line = Line2D([], [])
            line.update_from(drawn[curve.key])
            line.set(color="#444444", marker="")
            entries[curve.effort] = f"SAE, ours, effort {curve.effort}", line
        else:
            entries[curve.key] = titles[curve.key], drawn[curve.key]
    return list(entries.values())


def _legend(
    figure: Figure, entries: Iterable[tuple[str, Artist | tuple[Artist, ...]]], side: str
) -> Legend:
    """Adds a legend outside the axes, in as many columns as its width allows."""
    titles, handles = zip(*entries)
    for columns in range(min(5, len(handles)), 0, -1):
        # Matplotlib drops labels that begin with an underscore, but not texts set later.
        legend = figure.legend(
            handles, [" "] * len(handles), loc=f"outside {side} center", ncols=columns
        )
        for text, title in zip(legend.get_texts(), titles):
            text.set_text(title)
        width = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width
        if width <= figure.bbox.width:
            break
        if columns > 1:
            legend.remove()
            continue
        # The handles before the texts are as wide as six letters.
        letters = int((max(map(len, titles)) + 6) * figure.bbox.width / width) - 8
        for text, title in zip(legend.get_texts(), titles):
            text.set_text(textwrap.fill(title, letters))
    return legend


def _short(images: Sequence[str]) -> list[str]:
    """Returns names of images without suffixes, or with them where names would be equal."""
    stems = [Path(name).stem for name in images]
    return stems if len(set(stems)) == len(stems) else list(images)

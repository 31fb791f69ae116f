"""An HTML page of curves, tables and images that requires neither server nor network."""

from __future__ import annotations

import argparse
import html
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sae import files, images
from sae.coding import codec
from sae.config import DEFAULT_FOLDER
from sae.errors import SaeError
from sae.evaluation import bdrate, results
from sae.evaluation.results import Curve
from sae.metrics import ms_ssim_db
from sae.reporting import figures, page

_ANCHOR = "published/sae-2019-mse"


def run(options: argparse.Namespace) -> None:
    """The command `report`."""
    path = write(options.output, options.results, options.images, options.checkpoints, options.only)
    print(f"{path}, {path.stat().st_size / 2**20:.1f} MiB")


def write(
    target: str | Path,
    results_folder: str | Path,
    images_folder: str | Path,
    checkpoints: str | Path = DEFAULT_FOLDER,
    only: Sequence[str] | None = None,
) -> Path:
    """Writes the page; returns its path.

    Args:
      target: HTML file to write.
      results_folder: path of results/<set>.
      images_folder: folder of the measured images; missing ones are left out with a warning.
      checkpoints: folder of the weights behind the results.
      only: file names of the images to show; None for all.

    Raises:
      SaeError: there are no results, the page would replace what it shows, or the checkpoints
        do not give the measured bytes.
    """
    if Path(target).suffix.lower() not in (".html", ".htm"):
        raise SaeError(f"The page is written as HTML; name {target} something.html.")
    files.require_target(target, _sources(results_folder, images_folder))
    found = results.curves(results_folder)
    ours = [curve for curve in found if curve.family]
    # Images of regular curves suffice, since latent optimization would take too long.
    regular = [curve for curve in ours if curve.regular]
    if not regular:
        raise SaeError(f"{results_folder} has no results of ours; run `python -m sae evaluate`.")
    chosen = results.default(found)
    chosen += [curve for curve in found if curve.kind == "measured" and curve not in chosen]
    results.warn_of_other_images(chosen)
    anchor = next((curve for curve in found if curve.key == _ANCHOR), regular[0])
    return page.write(
        target,
        "report.html",
        _images(regular, images_folder, checkpoints, only),
        title=html.escape(Path(results_folder).name),
        origin=html.escape("; ".join(f"{curve.name}: {curve.description}" for curve in ours)),
        curves=_curves(chosen),
        anchor=html.escape(results.titles([*chosen, anchor])[anchor.key]),
        deltas=_deltas(chosen, anchor),
        layers=_layers(ours),
        rows=_rows(ours),
    )


def _sources(*folders: str | Path) -> list[Path]:
    """Returns all files in folders and their subfolders."""
    return [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]


def _curves(curves: Sequence[Curve]) -> str:
    """Returns one interactive figure per quality; the first one carries the plotting library."""
    import plotly.graph_objects as go

    parts: list[str] = []
    bpp = figures.range_of_ours(curves)
    titles = results.titles(curves)
    for quality in ("psnr", "ms-ssim-db"):
        figure, drawn = go.Figure(), []
        for curve, style in zip(curves, figures.line_styles(curves)):
            if not (points := curve.points(quality)):
                continue
            rates, qualities, labels = zip(*points)
            drawn += points
            figure.add_scatter(
                x=rates,
                y=qualities,
                # Plotly interprets tags in texts.
                text=list(map(html.escape, labels)),
                name=html.escape(titles[curve.key]),
                mode="lines+markers",
                line={
                    "color": style["color"],
                    "dash": "solid" if curve.scalable else "dash",
                    "width": 3 if curve.kind == "ours" else 1.5,
                },
                marker={"symbol": "circle-open" if curve.kind == "published" else "circle"},
                hovertemplate="%{text} %{x:.3f} bpp, %{y:.2f} dB",
            )
        in_sight = [point for point in drawn if bpp[0] <= point[0] <= bpp[1]]
        if not in_sight:
            continue
        figure.update_layout(
            template="simple_white",
            margin={"l": 50, "r": 10, "t": 10, "b": 40},
            height=520,
            legend={"orientation": "h", "y": -0.15},
            xaxis={"title": "bits per pixel", "range": bpp, "showgrid": True},
            yaxis={
                "title": figures.QUALITIES[quality],
                "range": figures.limits_of(in_sight, bpp),
                "showgrid": True,
            },
            hovermode="closest",
        )
        parts.append(
            figure.to_html(
                full_html=False,
                include_plotlyjs=not parts,
                div_id=f"rd-{quality}",
                config={"displaylogo": False, "responsive": True},
            )
        )
    return "\n".join(f"<div>{part}</div>" for part in parts)


def _deltas(curves: Sequence[Curve], anchor: Curve) -> str:
    rows, titles = [], results.titles([*curves, anchor])
    for curve in curves:
        cells = [titles[curve.key]]
        for quality in bdrate.QUALITIES:
            cells += bdrate.cells(bdrate.delta_or_reason(curve, anchor, quality))
        if curve.key != anchor.key:
            rows.append(cells)
    return _table(["curve", *bdrate.header()], rows)


def _layers(ours: Iterable[Curve]) -> str:
    rows = [
        [f"{curve.name}, {label}", f"{bpp:.4f}", _number(psnr, 2), *_similarity(ms_ssim)]
        for curve in ours
        for label, bpp, psnr, ms_ssim in zip(curve.labels, curve.bpp, curve.psnr, curve.ms_ssim)
    ]
    return _table(["layer", "bpp", "PSNR (dB)", "MS-SSIM", "MS-SSIM (dB)"], rows)


def _rows(ours: Iterable[Curve]) -> str:
    rows = [
        [
            row["image"],
            curve.name,
            label,
            str(row["bytes"]),
            f"{row['bpp']:.4f}",
            _number(row["psnr-rgb"], 2),
            *_similarity(row["ms-ssim-rgb"]),
        ]
        for curve in ours
        for label, setting in zip(curve.labels, curve.images)
        for row in setting
    ]
    titles = ["image", "family", "layer", "bytes", "bpp", "PSNR (dB)", "MS-SSIM", "MS-SSIM (dB)"]
    return _table(titles, rows)


def _images(
    ours: Sequence[Curve],
    folder: str | Path,
    checkpoints: str | Path,
    only: Sequence[str] | None,
) -> list[dict]:
    """Returns the contents of the figure of every image."""
    names = list(dict.fromkeys(row["image"] for curve in ours for row in curve.images[0]))
    if only:
        if unknown := set(only) - set(names):
            listed = ", ".join(sorted(unknown))
            raise SaeError(
                f"There are no results of {listed}; name measured images such as {names[0]}."
            )
        names = [name for name in names if name in only]
    missing = [name for name in names if not (Path(folder) / name).exists()]
    if missing:
        warnings.warn(
            f"{folder} lacks {len(missing)} of {len(names)} measured images, which the page leaves "
            "out; `make kodak` downloads those of Kodak, --images names another folder.",
            stacklevel=2,
        )
    shown = []
    for name in tqdm([n for n in names if n not in missing], desc="images", unit="image"):
        original = images.read(Path(folder) / name)
        families = [
            {
                "name": curve.family.title,
                "layers": _decoded(original, name, curve, checkpoints),
            }
            for curve in ours
            if curve.family and results.of_image(curve, name)
        ]
        height, width = original.shape[:2]
        shown.append(
            {
                "name": name,
                "width": width,
                "height": height,
                "original": page.source(original),
                "families": families,
            }
        )
    return shown


def _decoded(original: np.ndarray, name: str, curve: Curve, checkpoints: str | Path) -> list[dict]:
    """Returns the contents of an image's figure at each layer."""
    single = results.of_image(curve, name)
    assert curve.family is not None and single is not None, "one of ours, measured on the image"
    data = codec.compress(original, len(curve.labels), curve.family.name, checkpoints)
    points = {label: (size, x) for label, size, x in codec.decode_points(data, checkpoints)}
    rows = [row for (row,) in single.images]
    sizes = {label: size for label, (size, _) in points.items()}
    if [row["bytes"] for row in rows] != [sizes.get(label) for label in curve.labels]:
        raise SaeError(
            f"These checkpoints do not give the measured bytes of {name}; run `python -m sae "
            "evaluate` with them first."
        )
    return [
        {
            "name": label,
            "caption": f"{row['bpp']:.3f} bpp, {results.decibels(row['psnr-rgb'])}, "
            f"MS-SSIM {_similarity(row['ms-ssim-rgb'])[0]}",
            "source": page.source(points[label][1]),
        }
        for label, row in zip(curve.labels, rows)
    ]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _similarity(value: float | None) -> list[str]:
    """Returns MS-SSIM, plain and in dB, as text."""
    decibels = ms_ssim_db(value) if value is not None and value < 1 else None
    return [_number(value, 4), _number(decibels, 2)]

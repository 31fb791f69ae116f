"""A visual comparison: the original, each layer, and other codecs at the nearest rates."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sae import files, images
from sae.coding import codec
from sae.config import PEERS
from sae.errors import SaeError
from sae.evaluation import anchors, results
from sae.model import stores
from sae.model.stores import Store
from sae.reporting import figures

# Absolute error, of 255, at the brightest color of the error map.
_BRIGHTEST = 40
_WIDTH = 17.8 / 2.54
# Bounds of height over width of a panel; other crops fill a part of it.
_FLATTEST, _TALLEST = 0.2, 3


@dataclasses.dataclass(frozen=True)
class Panel:
    """One coded version of the image.

    Attributes:
      image: decoded image, uint8 [H, W, 3].
      size: number of bytes of the file.
      caption: bpp / PSNR / MS-SSIM of the whole image.
    """

    image: np.ndarray
    size: int
    caption: str


# Ratio of sizes from which a file, larger than the one of ours, counts as its codec's smallest.
_LARGER = 1.1


def run(options: argparse.Namespace) -> None:
    """The command `compare`."""
    original = images.read(options.image)
    crop = options.crop or (0, 0, original.shape[1], original.shape[0])
    store = stores.store(options.family, options.checkpoints)
    stem = Path(options.output) / f"compare-{Path(options.image).stem}-{store.family.name}"
    for name in options.format:
        files.require_target(f"{stem}.{name}", [options.image])
    figure = compare(original, crop, store, options.codecs)
    with figures.style():
        for path in figures.save(figure, stem, options.format):
            print(path)


def compare(
    original: np.ndarray,
    crop: tuple[int, int, int, int],
    store: Store,
    peers: Sequence[str] = PEERS,
) -> Figure:
    """Draws a column for the original and each layer, and a row for ours and each other codec.

    Args:
      original: original image, uint8 [H, W, 3].
      crop: x, y, width and height of the displayed part in pixels. Rates and qualities are those of
        the whole image.
      store: checkpoints of our family.
      peers: keys of other codecs in `anchors.CODECS`.

    Raises:
      SaeError: the crop lies outside the image.
    """
    x, y, width, height = crop
    if min(x, y) < 0 or min(width, height) < 1:
        raise SaeError("A crop is x,y,w,h: its position and its size, in pixels.")
    if x + width > original.shape[1] or y + height > original.shape[0]:
        raise SaeError(
            f"The crop {x},{y},{width},{height} reaches out of the image of "
            f"{original.shape[1]} x {original.shape[0]} pixels; name a smaller one."
        )

    def cropped(image):
        return image[y : y + height, x : x + width]

    ours = _layers(original, store)
    rows = {"ours": ours}
    for key in anchors.able(original, peers):
        rows[anchors.CODECS[key].name.split(" (")[0]] = [
            _panel(original, *reversed(anchors.nearest(original, key, panel.size)))
            for panel in ours
        ]
    columns = 1 + len(ours)
    side = _WIDTH / columns * min(max(height / width, _FLATTEST), _TALLEST)
    with figures.style():
        layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.03, wspace=0.01, hspace=0.01)
        figure = Figure(figsize=(_WIDTH, (side + 0.19) * (len(rows) + 1)), layout=layout)
        grid = figure.subplots(len(rows) + 1, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        _show(grid[0, 0], cropped(original), "original")
        for (name, panels), line in zip(rows.items(), (0, *range(2, len(rows) + 1))):
            for index, (panel, axes) in enumerate(zip(panels, grid[line, 1:])):
                label = results.layer_label(store.family.layers[index])
                if line:
                    least = panel.size > _LARGER * ours[index].size
                    label = f"{name}, goes no lower" if least else name
                _show(axes, cropped(panel.image), f"{label}\n{panel.caption}")
        for panel, axes in zip(ours, grid[1, 1:]):
            error = np.abs(cropped(panel.image).astype(int) - cropped(original)).mean(axis=2)
            bright = axes.imshow(error, cmap="inferno", vmin=0, vmax=_BRIGHTEST)
        _key(grid[1, 0], figure, bright)
    return figure


def _layers(original: np.ndarray, store: Store) -> list[Panel]:
    """Returns a panel for each layer of our codec."""
    data = codec.compress(original, None, store.family.name, store.folder)
    return [
        _panel(original, x_hat, size) for _, size, x_hat in codec.decode_points(data, store.folder)
    ]


def _panel(original: np.ndarray, image: np.ndarray, size: int) -> Panel:
    row = results.row("", original, image, size)
    similarity = "-" if row["ms-ssim-rgb"] is None else f"{row['ms-ssim-rgb']:.3f}"
    psnr = results.decibels(row["psnr-rgb"]).removesuffix(" dB")
    return Panel(image, size, f"{row['bpp']:.3f} / {psnr} / {similarity}")


def _show(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, interpolation="none")
    axes.set_title(title, fontsize=6, pad=2, linespacing=1.1)


def _key(axes: Axes, figure: Figure, bright: matplotlib.image.AxesImage) -> None:
    """Explains captions and error maps in the free cell under the original."""
    text = (
        "captions: bpp /\nPSNR (dB) / MS-SSIM\nof the whole image\n\nmean absolute\nerror of 255:"
    )
    axes.text(0.5, 1, text, transform=axes.transAxes, fontsize=6, va="top", ha="center")
    bar = figure.colorbar(
        bright, cax=axes.inset_axes((0.1, 0.12, 0.8, 0.08)), orientation="horizontal"
    )
    bar.ax.tick_params(labelsize=6, width=0.4, length=2)

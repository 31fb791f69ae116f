"""The text of docs/RESULTS.md: every table and figure of the results."""

from __future__ import annotations

from collections.abc import Sequence

from sae.evaluation import results, tables
from sae.evaluation.results import Curve
from tools import result_tables

_BEGINNING = """\
# Results

`make results` writes this file from `results/`. `make reproduce DATA=DIR` trains all families by
their default presets and measures them. To measure one family again:

    make kodak                                       # download the images
    python -m sae evaluate kodak --family residual-mse

Rates are bits per pixel (bpp): 8 times the bytes of the file, headers included, over width times
height, cumulative over the layers. PSNR is over all samples of the 8-bit RGB image. MS-SSIM is over
RGB, as `tf.image.ssim_multiscale` gives it; in dB it is -10 log10(1 - MS-SSIM). Both are measured
on the image decoded from those bytes alone. A figure of a set is the mean over its images.

A BD-rate is the mean difference of the logarithm of the rate at equal quality, in percent. It is
negative where ours spend fewer bits. The shared range of quality stands in brackets. Curves are
interpolated by piecewise cubic Hermite polynomials (`pchip` of the package bjontegaard). Averaged
curves have one point per setting, the mean of all images. A mean per image is the mean of per-image
BD-rates, available for codecs that were measured here.

Published curves come from the sources [below](#published-curves). Of Pillow's codecs, JPEG has
4:2:0 subsampling and optimized Huffman tables. JPEG 2000 is irreversible, with one file per rate.
WebP has method 6, and AVIF 4:4:4 sampling and speed 6.
"""
_AXIS = """\
## The axis of the paper

In the authors' table of single images, every rate times 3 H W / 8 is a whole number of bytes. Rates
are thus bits per color sample, a third of the bits per pixel. `published/sae-2019-mse` and
`published/sae-2019-ms-ssim` are converted to bits per pixel, and all comparisons use these. Curves
whose keys end in `-as-printed` have the printed numbers.
"""
_CUTS = """\
The same at {} cuts, evenly spaced in bytes from the end of base to that of the last layer:
"""
_SINGLE = """\
## Layers and single-rate models

The table gives the rates of layers for MSE, and those of Ballé 2017 at the same PSNR, which has a
model for each rate: at least 128 filters and, like `residual-mse`, a factorized prior.
"""
_SETS = """\
## Other images

The table compares with JPEG 2000 (Pillow). The losses of a training are measured on center crops of
32 photos, 256 x 256, and `held-out` has these photos whole. The [card](models/progressive-mse.md)
names their sets.

    python -m sae anchors held-out --codecs jpeg2000
    python -m sae evaluate held-out --family progressive-mse
"""
_EFFORT = """\
## Latent optimization

`--effort` optimizes the latents of every image by stochastic Gumbel annealing (SGA). The stream
is decoded as fast as any. Seconds are CPU seconds.
"""


def document(
    found: Sequence[Curve],
    sets: dict[str, Sequence[Curve]],
    plots: Sequence[str],
) -> str:
    """Returns the text of docs/RESULTS.md.

    Args:
      found: curves of the set that is shown.
      sets: curves of other sets of images, by the name of the set.
      plots: names of the figures that are drawn.
    """
    parts = [_BEGINNING, _figure("kodak-all.png", "Rate and distortion, all curves", plots), _AXIS]
    ours = [curve for curve in found if curve.family]
    for curve in (curve for curve in ours if curve.regular):
        parts += [f"## {curve.key}", result_tables.layers(curve, found)]
        efforts = [c for c in ours if c.family == curve.family and not c.cuts]
        for one in efforts[:1] + efforts[1:][-1:]:
            title = f"BD-rates with `--effort {one.effort}`:" if one.effort else "BD-rates:"
            parts += [title, result_tables.deltas(one, found)]
        for cut in (c for c in ours if c.family == curve.family and c.cuts):
            parts += [_CUTS.format(cut.cuts), result_tables.deltas(cut, found)]
    if results.timed(ours):
        parts += [_EFFORT, result_tables.efforts(ours)]
        parts += [_figure("effort.png", "BD-rate and seconds of latent optimization", plots)]
    parts += [_SINGLE, result_tables.single_models(found)]
    if sets:
        parts += [_SETS, result_tables.other_sets(sets)]
    parts += ["## Single images", _sample(ours), result_tables.extremes(ours)]
    parts += ["## Training", _figure("training.png", "Held-out loss of each layer", plots)]
    parts += ["## Published curves", result_tables.sources(found)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _figure(name: str, title: str, plots: Sequence[str]) -> str:
    return f"![{title}](../plots/{name})" if name in plots else ""


def _sample(ours: Sequence[Curve]) -> str:
    """Returns the output of a test script, shortened."""
    if not ours:
        return ""
    lines = tables.images(ours[0].images[min(2, len(ours[0].images) - 1)]).splitlines()
    text = (
        f"`python test_el2.py --family {ours[0].key}` prints rate and quality of each image up "
        "to that layer:"
    )
    return "\n".join([text, "", "```", *lines[:4], "...", lines[-1], "```"])

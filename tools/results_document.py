"""The text of docs/RESULTS.md: every table and figure of the results."""

from __future__ import annotations

from collections.abc import Sequence

from sae.measuring import results, tables
from sae.measuring.results import Curve
from tools import result_tables

_BEGINNING = """\
# Results

All of this file is made of `results/` by `make results`; `make reproduce DATA=DIR` trains,
measures and writes all of it from nothing. To measure one family again:

    make kodak                                       # download the images
    python -m sae evaluate kodak --family residual-mse

Rates are bits per pixel (bpp): 8 times the bytes of the file, headers included, over width times
height, cumulative over the layers. PSNR is over all samples of the 8-bit RGB image. MS-SSIM is over
RGB, as `tf.image.ssim_multiscale` gives it; in dB it is -10 log10(1 - MS-SSIM). Both are measured
on the image decoded from those bytes alone. A figure of a set is the mean over its images. A
BD-rate is the mean difference of rates at equal quality: negative where ours spend fewer bits. The
shared range of quality stands in brackets. Averaged curves have one point per setting, the mean of
all images; a mean per image is that of the BD-rates of the single images, which is known for the
codecs that were measured here. Published curves come from the sources [below](#published-curves).

The encoder of `conditional-mse` chooses coarser quantization steps for images with much detail.
This raises the mean of PSNRs at a given mean rate. Averaged curves therefore favor it more than
means per image do.
"""
_AXIS = """\
## The axis of the paper

Every rate in the authors' table, times 3 H W / 8, is a whole number of bytes. The rates are thus
bits per color sample, a third of the bits per pixel. `published/sae-2019-mse` and
`published/sae-2019-ms-ssim` have them converted to bits per pixel, and all comparisons use these;
the curves whose keys end in `-as-printed` have the printed numbers.
"""
_SINGLE = """\
## What scalability costs

The rate of layers for MSE, and that of a single model for the same PSNR. Ballé 2017 has at least
128 filters. A base alone has the channels of the layer that was trained for the same lambda.
"""
_SETS = """\
## Other images

Against JPEG 2000 (Pillow), on photos that no layer was trained on, larger or smaller than Kodak's.
Per image, `conditional-mse` spends more bits on drawings and on large, smooth photos.

    python -m sae anchors held-out --codecs jpeg2000
    python -m sae evaluate held-out --family conditional-mse
"""
_EFFORT = """\
## Latent optimization

`--effort` optimizes the latents of every image by stochastic Gumbel annealing (SGA). The stream
is decoded as fast as any. Seconds are those of one core. Those of `conditional-mse/effort-5` are
by the clock, on cores that had other work.
"""


def document(
    found: Sequence[Curve],
    singles: dict[str, Sequence[Curve]],
    sets: dict[str, Sequence[Curve]],
    plots: Sequence[str],
) -> str:
    """Returns the text of docs/RESULTS.md.

    Args:
      found: the curves of the set that is shown.
      singles: curves of bases trained alone, by their lambda.
      sets: curves of other sets of images, by the name of the set.
      plots: names of the figures that are drawn.
    """
    parts = [_BEGINNING, _figure("kodak-all.png", "Rate and distortion, all curves", plots), _AXIS]
    ours = [curve for curve in found if curve.family]
    for curve in (curve for curve in ours if curve.plain):
        parts += [f"## {curve.key}", result_tables.layers(curve, found)]
        for one in (c for c in results.default(found) if c.family == curve.family):
            title = f"BD-rates with `--effort {one.effort}`:" if one.effort else "BD-rates:"
            parts += [title, result_tables.deltas(one, found)]
    if results.timed(ours):
        parts += [_EFFORT, result_tables.efforts(ours)]
        parts += [_figure("effort.png", "BD-rate and seconds of latent optimization", plots)]
    parts += [_SINGLE, result_tables.single_models(found, singles)]
    if sets:
        parts += [_SETS, result_tables.other_sets(sets)]
    parts += ["## Single images", _sample(ours), result_tables.extremes(ours)]
    parts += ["## Training", _figure("training.png", "Held-out loss of each layer", plots)]
    parts += ["## Published curves", result_tables.sources(found)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _figure(name: str, title: str, plots: Sequence[str]) -> str:
    return f"![{title}](../plots/{name})" if name in plots else ""


def _sample(ours: Sequence[Curve]) -> str:
    """Returns what a test script prints, shortened."""
    if not ours:
        return ""
    lines = tables.images(ours[0].images[min(2, len(ours[0].images) - 1)]).splitlines()
    text = (
        "`python test_el2.py` prints each layer's own bits per pixel, those of the file, the "
        "estimate from the likelihoods, and the quality:"
    )
    return "\n".join([text, "", "```", *lines[:4], "...", lines[-1], "```"])

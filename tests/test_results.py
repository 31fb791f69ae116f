"""Results files, the curves they make, their deltas and the figures of them."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sae.config import TABLE_FORMATS
from sae.errors import SaeError
from sae.evaluation import bdrate, results
from sae.evaluation.results import Curve
from sae.model import families, stores
from sae.reporting import figures
from tools import result_tables

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "kodak"


def row(name, bpp, psnr, ms_ssim=0.9):
    return {
        "image": name, "width": 8, "height": 8, "bytes": int(8 * bpp), "bpp": bpp,
        "psnr-rgb": psnr, "ms-ssim-rgb": ms_ssim,
    }  # fmt: skip


def save_curve(target, family, settings, effort=0, cuts=0):
    """Writes a curve of ours, as `evaluate` does."""
    found = families.named(family)
    key = results.curve_key(found, effort, cuts)
    facts = {"family": family, "effort": effort, "cuts": cuts, "optimized_for": found.metric}
    results.save(target / f"{key}.json", f"sae-{key}", "", settings, **facts)


@pytest.fixture
def folder(tmp_path):
    """Results of two families, with a published curve."""
    target = tmp_path / "results" / "set"
    for family in ("residual-mse", "residual-ms-ssim"):
        settings = []
        for index, name in enumerate(families.named(family).layers):
            rows = [
                row(f"{k}.png", 0.1 * 2**index * (1 + k), 25 + 3 * index, 0.9 + 0.02 * index)
                for k in range(3)
            ]
            settings.append({"label": name, "images": rows})
        save_curve(target, family, settings)
    shutil.copytree(RESULTS / "published", target / "published")
    return target


def curve(bpp, psnr, **changes):
    values = {
        "key": "x", "name": "x", "description": "", "labels": [str(b) for b in bpp],
        "bpp": list(bpp), "psnr": list(psnr), "ms_ssim": [None] * len(bpp), "kind": "measured",
        "scalable": False, "optimized_for": "-", "source": "", "images": [],
    }  # fmt: skip
    return Curve(**{**values, **changes})


def test_means_leave_out_what_is_not_known():
    rows = [row("a", 0.2, 30.0), row("b", 0.4, 32.0)]
    assert results.mean(rows)["bpp"] == pytest.approx(0.3)
    assert results.mean([*rows, row("c", 0.6, math.inf)])["psnr-rgb"] is None
    assert results.mean([*rows, row("c", 0.6, 30.0, None)])["ms-ssim-rgb"] is None


def test_an_exact_image_is_said_and_kept_out_of_the_mean(tmp_path):
    setting = {"label": "base", "images": [row("a", 0.2, math.inf)]}
    results.save(tmp_path / "a.json", "a", "", [setting])
    text = (tmp_path / "a.json").read_text()
    assert "Infinity" not in text and "reproduced exactly" in text
    assert json.loads(text)["results"]["psnr-rgb"] == [None]


def test_nan_is_refused(tmp_path):
    setting = {"label": "base", "images": [row("a", 0.2, math.nan)]}
    with pytest.raises(SaeError, match="not a number"):
        results.save(tmp_path / "a.json", "a", "", [setting])
    assert not list(tmp_path.iterdir())


def test_no_results_is_one_sentence(tmp_path):
    with pytest.raises(SaeError, match="python -m sae evaluate"):
        results.curves(tmp_path)
    (tmp_path / "residual-mse.json").write_text("{}")
    with pytest.raises(SaeError, match="not a results file"):
        results.curves(tmp_path)


def test_curves_are_selected_by_key(folder):
    found = results.curves(folder)
    assert [curve.key for curve in found[:2]] == ["residual-mse", "residual-ms-ssim"]
    assert found[0].labels == ["base", "el1", "el2", "el3", "el4"]
    chosen = results.select(found, ["published/balle-*-mse", "residual-mse"])
    assert [c.key for c in chosen] == [
        "published/balle-2017-mse", "published/balle-2018-mse", "residual-mse",
    ]  # fmt: skip
    with pytest.raises(SaeError, match="--list"):
        results.select(found, ["nothing"])
    assert results.of_image(found[0], "1.png").bpp[1] == pytest.approx(0.4)
    assert results.of_image(chosen[0], "1.png") is None
    listed = figures.listing(found)
    assert all(c.key in listed and c.source in listed for c in found)


def test_curves_are_ordered_by_what_they_are_of(tmp_path):
    setting = {"label": "base", "images": [row("a.png", 0.1, 30.0)]}
    for family in ("residual-ms-ssim", "residual-mse", "progressive-mse"):
        for effort, cuts in ((0, 20), (9, 0), (1, 0), (0, 0)):
            save_curve(tmp_path, family, [setting], effort, cuts)
    for key in ("published/a", "previous/b", "anchors/c"):
        results.save(tmp_path / f"{key}.json", key, "", [setting])
    found = results.curves(tmp_path)
    assert [curve.key for curve in found] == [
        *(
            f"{family}{suffix}"
            for family in ("progressive-mse", "residual-mse", "residual-ms-ssim")
            for suffix in ("", "-cuts-20", "-effort-1", "-effort-9")
        ),
        "anchors/c", "previous/b", "published/a",
    ]  # fmt: skip
    assert [curve.key for curve in found if curve.regular] == [
        "progressive-mse", "residual-mse", "residual-ms-ssim",
    ]  # fmt: skip
    assert [regular.key for _, regular in results.optimized(found)[:2]] == ["progressive-mse"] * 2


def test_curves_of_earlier_versions_are_told_from_ours():
    found = {curve.key: curve for curve in results.curves(RESULTS)}
    for metric in ("mse", "ms-ssim"):
        earlier = found[f"previous/conditional-{metric}"]
        assert (earlier.kind, earlier.family, earlier.scalable) == ("previous", None, True)
        assert earlier.source == "this project" and earlier.optimized_for == metric
        assert earlier.name.startswith("SAE 1.0") and len(earlier.images[0]) == 24
    assert not [c for c in results.default(list(found.values())) if c.kind == "previous"]


def test_every_published_curve_has_its_source():
    paths = sorted((RESULTS / "published").glob("*.json"))
    assert len(paths) == 29
    for path in paths:
        document = results.load(path)
        lengths = {len(values) for values in document["results"].values()}
        assert len(lengths) == 1 and "/" in document["source"]


def test_bd_rate_of_shifted_curves():
    rates, values = np.array([0.1, 0.2, 0.4, 0.8]), np.array([25, 28, 31, 34.0])
    anchor = curve(rates, values)
    found = bdrate.delta(curve(0.9 * rates, values), anchor, "psnr")
    assert found.rate == pytest.approx(-10, abs=1e-6)
    assert found.share == 1 and found.overlap == (25, 34)
    found = bdrate.delta(curve(rates, values + 0.5), anchor, "psnr")
    assert found.quality == pytest.approx(0.5, abs=1e-6)
    # A point that spends more and gains nothing makes no difference.
    spoilt = curve([*(0.9 * rates), 1.5], [*values, 33.9])
    assert bdrate.delta(spoilt, anchor, "psnr").rate == pytest.approx(-10, abs=1e-6)


def of_images(factors):
    """A curve of as many images; each reaches the same PSNR at so many times the rate."""
    rates = [0.1, 0.2, 0.4, 0.8]
    rows = [
        [row(f"{k}.png", factor * rate, psnr) for k, factor in enumerate(factors)]
        for rate, psnr in zip(rates, [25, 28, 31, 34.0])
    ]
    return curve([results.mean(setting)["bpp"] for setting in rows], [25, 28, 31, 34], images=rows)


def test_bd_rate_image_by_image():
    anchor = of_images([1, 10])
    found = bdrate.each_image(of_images([0.5, 10]), anchor, "psnr")
    assert found.rate == pytest.approx(-25) and found.images == (2, 2)
    assert found.overlap == (25, 34)
    # In the mean curve, the image that has most of the bits has most of the say.
    assert bdrate.delta(of_images([0.5, 10]), anchor, "psnr").rate == pytest.approx(-50 / 11)
    # An image on which two codecs share no range is left out and counted.
    elsewhere = of_images([0.5, 1000])
    assert bdrate.each_image(elsewhere, anchor, "psnr").images == (1, 2)
    with pytest.raises(SaeError, match="image by image"):
        bdrate.each_image(of_images([1, 1, 1]), anchor, "psnr")
    with pytest.raises(SaeError, match="image by image"):
        bdrate.each_image(curve([0.1, 0.2, 0.3], [25, 28, 31]), anchor, "psnr")


def test_the_rate_at_a_quality():
    one = curve([0.1, 0.4, 1.6], [30, 34, 40])
    assert bdrate.rate_at(one, "psnr", 34) == pytest.approx(0.4)
    assert bdrate.rate_at(one, "psnr", 32) == pytest.approx(0.2)
    assert bdrate.rate_at(one, "psnr", 29.9) is None
    assert bdrate.rate_at(one, "psnr", 40.1) is None


def test_bd_rate_refuses_what_does_not_overlap():
    low, high = curve([0.1, 0.2, 0.3], [20, 21, 22]), curve([1, 2, 3], [30, 31, 32])
    with pytest.raises(SaeError, match="overlap"):
        bdrate.delta(low, high, "psnr")
    with pytest.raises(SaeError, match="fewer than three"):
        bdrate.delta(low, high, "ms-ssim-db")


@pytest.mark.parametrize("format", TABLE_FORMATS)
def test_bd_rate_tables(folder, capsys, format):
    options = argparse.Namespace(
        results=folder, against="published/sae-2019-mse", format=format, each_image=False,
        curves=["residual-mse", "residual-ms-ssim", "published/sae-2019-mse-as-printed"],
    )  # fmt: skip
    bdrate.run(options)
    text = capsys.readouterr().out
    # Three times the rate at every quality.
    assert "-66.7" in text or "-66.66" in text
    if format == "json":
        assert json.loads(text)["curves"]["residual-mse"]["psnr"]["overlap"][0] >= 25
    else:
        columns = {line.count("&" if format == "latex" else "|") for line in text.splitlines()}
        assert columns <= ({0, 6} if format == "latex" else {8})


def test_bd_rate_tables_count_images(folder, capsys):
    options = argparse.Namespace(
        results=folder, against="residual-mse", curves=["residual-ms-ssim"], format="markdown",
        each_image=True,
    )  # fmt: skip
    bdrate.run(options)
    assert "3 of 3 images" in capsys.readouterr().out
    options.against = "published/sae-2019-mse"
    with pytest.raises(SaeError, match="same images"):
        bdrate.run(options)


def plot_options(folder, output, **changes):
    values = {
        "results": folder, "list": False, "curves": None, "quality": ["psnr", "ms-ssim-db"],
        "image": None, "bpp": None, "range": None, "log": False, "columns": 1, "height": None,
        "serif": False, "output": output, "format": ["pdf", "png"],
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


@pytest.mark.slow
def test_figures_have_the_size_a_journal_asks_for(folder, tmp_path):
    figures.run(plot_options(folder, tmp_path, image=["1.png"]))
    names = {path.name for path in tmp_path.glob("*.p*")}
    for stem in (
        "rd-psnr",
        "rd-ms-ssim-db",
        "rd",
        "rd-1",
        "rate-residual-mse",
        "images-residual-ms-ssim",
    ):
        assert {f"{stem}.pdf", f"{stem}.png"} <= names
    for stem, centimetres in (("rd-psnr", 8.9), ("rd", 17.8)):
        width = Image.open(tmp_path / f"{stem}.png").size[0]
        assert width == pytest.approx(centimetres / 2.54 * 300, abs=1)
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", (tmp_path / f"{stem}.pdf").read_bytes())
        assert float(box[1]) == pytest.approx(centimetres / 2.54 * 72, abs=0.1)


@pytest.mark.parametrize("columns", [1, 2])
def test_the_legend_covers_neither_curves_nor_the_edge(folder, columns):
    with figures.style():
        figure = figures.rd(results.select(results.curves(folder), ["*mse"]), columns=columns)
        figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert not box.overlaps(figure.axes[0].get_tightbbox())
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == ["base", "+EL1", "+EL2", "+EL3", "+EL4"]


@pytest.mark.parametrize("log", [False, True])
def test_the_names_of_layers_lie_on_no_curve(log):
    """As in the README's figure, in one column: layers for PSNR are named, no name is crossed."""
    curves = results.default(results.curves(RESULTS))
    with figures.style():
        figure = figures.rd(curves, log=log)
        figure.draw_without_rendering()
    (axes,) = figure.axes
    ours = [c for c in curves if c.regular and c.optimized_for == "mse"]
    layers = [results.layer_label(layer) for curve in ours for layer in curve.labels]
    assert sorted(t.get_text() for t in axes.texts) == sorted(layers)
    names = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(names, 2))
    for line in axes.lines[: len(curves)]:
        path = line.get_path().transformed(axes.transData)
        assert not any(path.intersects_bbox(name, filled=False) for name in names)
    assert axes.get_window_extent().height > figure.legends[0].get_window_extent().height


def test_lines_tell_codecs_apart(folder):
    chosen = results.select(results.curves(folder), ["residual-mse", "published/*"])
    for one, style in zip(chosen, figures.line_styles(chosen)):
        assert (style["linestyle"] == "-") == one.scalable
        assert (style.get("markerfacecolor") == "white") == (one.kind == "published")


def test_figures_ask_for_what_there_is(folder, tmp_path):
    with pytest.raises(SaeError, match="range of rates"):
        figures.run(plot_options(folder, tmp_path, bpp=(50, 60)))
    with pytest.raises(SaeError, match="--quality"):
        figures.run(plot_options(folder, tmp_path, range=(20, 30)))
    with pytest.raises(SaeError, match=r"9\.png"):
        figures.run(plot_options(folder, tmp_path, image=["9.png"]))


def test_without_latex_the_other_formats_are_drawn(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(figures.shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match="LaTeX"):
        figures.run(plot_options(folder, tmp_path, quality=["psnr"], format=["png", "pgf"]))
    assert (tmp_path / "rd-psnr.png").exists() and not (tmp_path / "rd-psnr.pgf").exists()
    with pytest.raises(SaeError, match="LaTeX"):
        figures.run(plot_options(folder, tmp_path, quality=["psnr"], format=["pgf"]))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no LaTeX")
def test_pgf_for_latex(folder, tmp_path):
    figures.run(plot_options(folder, tmp_path, quality=["psnr"], format=["pgf"], serif=True))
    assert r"\begin{pgfpicture}" in (tmp_path / "rd-psnr.pgf").read_text()


def test_the_results_are_those_of_the_released_layers():
    curves = [curve for curve in results.curves(RESULTS) if curve.family]
    for family in families.FAMILIES:
        store = stores.of_family(family)
        own = [curve for curve in curves if curve.family == family]
        # A family that is released was measured, and no other was.
        assert bool(store.names()) == any(curve.regular for curve in own)
        for curve in own:
            weights = dict(zip(store.names(), store.fingerprints()))
            if curve.cuts:
                weights = dict.fromkeys(curve.labels, store.fingerprints()[0])
            assert curve.fingerprints == weights
            assert list(curve.fingerprints) == curve.labels


def test_plot_is_a_command(folder):
    command = [sys.executable, "-m", "sae", "plot", "--list", "--results", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("residual-mse ")
    done = subprocess.run([*command[:4], "--results", "/nowhere"], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_legends_tell_curves_of_one_name_apart_and_print_names_as_they_are():
    rates, values = [0.1, 0.2, 0.4], [25.0, 28.0, 31.0]
    names = {"a": "codec", "b": "codec", "c": r"_cost $\frac{$ ^", "d": ""}
    curves = [curve(rates, values, key=key, name=name) for key, name in names.items()]
    with figures.style():
        figure = figures.rd(curves, title="a $b$")
        figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["codec (a)", "codec (b)", r"_cost $\frac{$ ^", "d"]
    assert len(figure.axes[0].lines) == 4
    long = [curve(rates, values, key=f"published/{key * 50}", name="codec") for key in "ab"]
    with figures.style():
        figure = figures.rd(long)
        figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_figures_of_what_is_exact_or_has_no_such_quality(tmp_path):
    """All of a flat image is exact, and a small one has no MS-SSIM."""
    target, settings = tmp_path / "set", []
    for index, name in enumerate(families.named("residual-mse").layers):
        rows = [row("a.png", 0.1 * 2**index, math.inf if index else 30.0, None)]
        settings.append({"label": name, "images": rows})
    save_curve(target, "residual-mse", settings)
    with pytest.warns(UserWarning, match="ms-ssim-db"):
        figures.run(plot_options(target, tmp_path, format=["png"], image=["a.png"]))
    drawn = {path.name for path in tmp_path.rglob("*.png")}
    assert drawn == {
        "rd-psnr.png", "rd-a.png", "rate-residual-mse.png", "images-residual-mse.png",
    }  # fmt: skip


def test_plot_without_a_curve_of_ours(tmp_path):
    rows = [[row("a.png", rate, 30 + rate)] for rate in (0.1, 0.2)]
    settings = [{"label": str(index), "images": images} for index, images in enumerate(rows)]
    results.save(tmp_path / "set/anchors/x.json", "x", "", settings)
    figures.run(plot_options(tmp_path / "set", tmp_path, quality=["psnr"], format=["png"]))
    assert [path.name for path in tmp_path.glob("*.png")] == ["rd-psnr.png"]


def test_the_documents_say_what_is_exact():
    (ours,) = [c for c in results.curves(RESULTS) if c.key == "residual-mse"]
    images = [[dict(one) for one in rows] for rows in ours.images]
    images[0][0]["psnr-rgb"] = None
    exact = dataclasses.replace(
        ours, labels=ours.labels[1:], bpp=ours.bpp[1:], psnr=[None, *ours.psnr[2:]],
        ms_ssim=ours.ms_ssim[1:], images=images[1:],
    )  # fmt: skip
    (published,) = [c for c in results.curves(RESULTS) if c.key == "published/sae-2019-mse"]
    line = result_tables.layers(exact, [published]).splitlines()[2]
    # Our EL1 is paired with the paper's, though our base is missing.
    assert line.startswith("| +EL1 |") and "| exact |" in line and "| 0.3063 |" in line
    exact = dataclasses.replace(ours, images=images)
    assert "exact" in result_tables.extremes([exact])

"""Results files of others and of older versions: used, or named with what is wrong with them."""

from __future__ import annotations

import argparse
import copy
import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.errors import SaeError
from sae.evaluation import bdrate, results, schema, tables
from sae.model import families

RATES = [0.1, 0.2, 0.4, 0.8]
PSNR = [25.0, 28.0, 31.0, 34.0]
MS_SSIM = [0.90, 0.94, 0.97, 0.99]
GOOD = {
    "name": "codec",
    "description": "as CompressAI writes it",
    "results": {"bpp": RATES, "psnr-rgb": PSNR, "ms-ssim-rgb": MS_SSIM, "encoding_time": [1.0] * 4},
}


def write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def changed(**found):
    return {**GOOD, "results": {**GOOD["results"], **found}}


def read(tmp_path, document):
    return schema.read(write(tmp_path / "mine.json", document))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "no JSON object"),
        ({"name": "x"}, "lacks results"),
        ({"results": GOOD["results"]}, "lacks name"),
        ({**GOOD, "name": None}, "name is null"),
        ({**GOOD, "labels": ["a"]}, "bpp has 4 entries and labels 1"),
        ({**GOOD, "labels": [1, 2, 3, None]}, "null in labels"),
        ({**GOOD, "scalable": "no"}, "scalable"),
        ({**GOOD, "fingerprints": [1]}, "fingerprints"),
        ({**GOOD, "fingerprints": {"base": 1}}, "fingerprints"),
        ({**GOOD, "family": 3}, "family is 3, not text"),
        ({**GOOD, "effort": "9"}, 'effort is "9"'),
        ({**GOOD, "cuts": -1}, "cuts is -1"),
        ({**GOOD, "images": [[], [], [], []]}, r"images\[0\]"),
        ({**GOOD, "images": [[{"image": "../a.png"}]] * 4}, "name of a file"),
        (changed(bpp=[]), "bpp is empty"),
        (changed(bpp=0.3), "bpp is 0.3, not a list"),
        (changed(bpp=[None, *RATES[1:]]), r"bpp\[0\] is null"),
        (changed(bpp=["0.1", *RATES[1:]]), r'bpp\[0\] is "0.1"'),
        (changed(bpp=[True, *RATES[1:]]), r"bpp\[0\] is true"),
        (changed(bpp=[0.0, *RATES[1:]]), r"bpp\[0\] is 0.0"),
        (changed(bpp=[float("nan"), *RATES[1:]]), r"bpp\[0\] is NaN"),
        (changed(bpp=[10**400, *RATES[1:]]), r"bpp\[0\] is 1000"),
        (changed(**{"psnr-rgb": [float("nan"), *PSNR[1:]]}), r"psnr-rgb\[0\] is NaN"),
        (changed(**{"psnr-rgb": PSNR[1:]}), "bpp has 4 entries and psnr-rgb 3"),
        (changed(**{"ms-ssim-rgb": [10.0, 12.0, 15.0, 20.0]}), "ms-ssim-db-rgb"),
        ({**GOOD, "results": {"bpp": RATES, "vmaf": PSNR}}, "neither psnr-rgb nor .* but vmaf"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, document, reason):
    with pytest.raises(SaeError, match=rf"mine\.json is not a results file: .*{reason}") as caught:
        read(tmp_path, document)
    assert "\n" not in str(caught.value)


def test_what_is_no_json_is_one_sentence(tmp_path):
    for data in (b"", b"\xff", b"[" * 100_000, b'{"results": {"bpp": [1' + b"0" * 5000 + b"]}}"):
        (tmp_path / "a.json").write_bytes(data)
        with pytest.raises(SaeError, match=r"a\.json is not a results file"):
            schema.read(tmp_path / "a.json")
    with pytest.raises(SaeError, match="is not a results file: Is a directory"):
        schema.read(tmp_path)


def test_names_of_qualities_of_other_years(tmp_path):
    old = {**GOOD, "results": {"bpp": RATES, "psnr": PSNR, "ms-ssim": MS_SSIM}}
    assert read(tmp_path, old)["results"]["psnr-rgb"] == PSNR
    assert read(tmp_path, old)["results"]["ms-ssim-rgb"] == MS_SSIM
    decibels = {**GOOD, "results": {"bpp": RATES, "ms-ssim-db-rgb": [10, 20, 30, None]}}
    found = read(tmp_path, decibels)["results"]
    assert found["ms-ssim-rgb"] == pytest.approx([0.9, 0.99, 0.999, None])
    assert found["psnr-rgb"] == [None] * 4
    (tmp_path / "mine.json").unlink()
    write(tmp_path / "published/mine.json", changed(**{"ms-ssim-y": MS_SSIM}))
    with pytest.warns(UserWarning, match=r"Of published/mine, ms-ssim-y .* ignored"):
        results.curves(tmp_path)


def test_the_metric_of_a_training_has_two_names(tmp_path):
    for name in ("optimized_for", "optimised_for"):
        assert read(tmp_path, {**GOOD, name: "ms-ssim"})["optimized_for"] == "ms-ssim"
    assert read(tmp_path, GOOD)["optimized_for"] == "-"


def test_what_is_infinite_is_no_point(tmp_path):
    infinite = changed(**{"psnr-rgb": [*PSNR[:3], float("inf")], "ms-ssim-rgb": [*MS_SSIM[:3], 1]})
    write(tmp_path / "published/mine.json", infinite)
    (curve,) = results.curves(tmp_path)
    assert [value for _, value, _ in curve.points("psnr")] == PSNR[:3]
    assert len(curve.points("ms-ssim-db")) == 3 and len(curve.points("ms-ssim")) == 4


def test_equal_rates_are_one_point(tmp_path):
    write(tmp_path / "published/a.json", changed(bpp=[0.1, 0.1, 0.1, 0.8]))
    # Two of these rates have one logarithm.
    write(tmp_path / "published/b.json", changed(bpp=[50, 100, 100.00000000000001, 200]))
    write(tmp_path / "published/c.json", changed(bpp=[50, 100, 150, 200]))
    a, b, c = results.curves(tmp_path)
    assert [point[:2] for point in a.points("psnr")] == [(0.1, 31.0), (0.8, 34.0)]
    with pytest.raises(SaeError, match="fewer than three"):
        bdrate.delta(a, c, "psnr")
    assert bdrate.delta(b, c, "psnr").overlap == (25, 34)


def test_one_bad_file_does_not_stop_the_rest(tmp_path):
    write(tmp_path / "published/bad.json", changed(bpp=0.3))
    write(tmp_path / "published/good.json", GOOD)
    with pytest.warns(UserWarning, match=r"bad\.json .* It is left out"):
        (curve,) = results.curves(tmp_path)
    assert curve.key == "published/good" and curve.source == "its file names no source"
    with pytest.raises(SaeError, match=r"bad\.json"):
        results.curves(tmp_path, ["published/bad"])
    (tmp_path / "published/good.json").unlink()
    with pytest.raises(SaeError, match=r"bad\.json"):
        results.curves(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["bpp", "psnr-rgb", "image", "url"]), inner, max_size=3),
    max_leaves=8,
)
PLACES = (
    *((key,) for key in ("name", "results", "labels", "images", "meta", "source", "scalable")),
    *(("results", key) for key in ("bpp", "psnr-rgb", "ms-ssim-rgb")),
    *(("results", key, 1) for key in ("bpp", "psnr-rgb", "ms-ssim-rgb")),
    ("images", 0, 0),
    *(("images", 0, 0, key) for key in ("image", "width", "bpp", "psnr-rgb", "encode-seconds")),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_odd_values_never_end_in_a_traceback(tmp_path_factory, place, value):
    """Whatever stands in a file, it is used without error, or refused in one sentence."""
    folder = tmp_path_factory.mktemp("odd")
    row = {
        "image": "a.png", "width": 8, "height": 8, "bytes": 8, "bpp": 1.0, "psnr-rgb": 30.0,
        "ms-ssim-rgb": None,
    }  # fmt: skip
    document = copy.deepcopy({**GOOD, "images": [[dict(row)] for _ in RATES]})
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    write(folder / "published/odd.json", document)
    write(folder / "published/good.json", GOOD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = {curve.key: curve for curve in results.curves(folder)}
    good, odd = found["published/good"], found.get("published/odd")
    if odd is not None:
        titles = results.titles([good, odd])
        assert len(set(titles.values())) == 2 and odd.source
        for quality in bdrate.QUALITIES:
            for compare in (bdrate.delta, bdrate.each_image):
                bdrate.cells(bdrate.delta_or_reason(odd, good, quality, compare))
        tables.latex(titles[odd.key]).encode()


def options(folder, **changes):
    values = {
        "results": folder, "against": "published/good", "curves": None, "format": "markdown",
        "each_image": False,
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def test_curves_of_one_name_are_told_apart_by_key(tmp_path, capsys):
    keys = ["published/x-mse", "published/x-ms-ssim"]
    for key, factor in zip(keys, (0.9, 0.5)):
        write(tmp_path / f"{key}.json", changed(bpp=[factor * rate for rate in RATES]))
    write(tmp_path / "published/good.json", {**GOOD, "name": "another"})
    for order in (keys, keys[::-1]):
        bdrate.run(options(tmp_path, curves=order))
        rows = capsys.readouterr().out.splitlines()[2:]
        assert [row.split(" | ")[0] for row in rows] == [f"| codec ({key})" for key in order]
        assert sum("-10.0 %" in row for row in rows) == sum("-50.0 %" in row for row in rows) == 1
    bdrate.run(options(tmp_path, curves=keys, format="json"))
    assert list(json.loads(capsys.readouterr().out)["curves"]) == keys
    # A lone one needs no key.
    bdrate.run(options(tmp_path, curves=keys[:1]))
    assert "| codec |" in capsys.readouterr().out


def test_names_are_printed_as_they_are(tmp_path, capsys):
    name = r"50 % & a_b # $x$ {y} ^ ~ \z | <é>"
    write(tmp_path / "published/odd.json", {**GOOD, "name": name})
    write(tmp_path / "published/good.json", {**GOOD, "name": "another"})
    bdrate.run(options(tmp_path, curves=["published/odd"], format="latex"))
    expected = (
        r"50 \% \& a\_b \# \$x\$ \{y\} \textasciicircum{} \textasciitilde{} "
        r"\textbackslash{}z \textbar{} \textless{}\'e\textgreater{} & "
    )
    assert expected in capsys.readouterr().out
    bdrate.run(options(tmp_path, curves=["published/odd"]))
    assert r"\z \| <é> | " in capsys.readouterr().out


LABELS = families.named("residual-mse").layers


def points_of(count=5, names=("a.png", "b.png"), first=100):
    """Returns rows of the first layers, by label."""
    return {
        label: [
            {
                "image": name, "width": 8, "height": 8, "bytes": first * 2**index,
                "bpp": first * 2**index / 8, "psnr-rgb": 25.0 + 3 * index, "ms-ssim-rgb": None,
            }
            for name in names
        ]
        for index, label in enumerate(LABELS[:count])
    }  # fmt: skip


def save_of(folder, weights="vwxyz", **changes):
    """Writes the curve of a run, as `evaluate` does; returns its path."""
    points, path = points_of(**changes), folder / "residual-mse.json"
    results.save(
        path,
        "sae-residual-mse",
        "",
        [{"label": label, "images": rows} for label, rows in points.items()],
        family="residual-mse",
        fingerprints=dict(zip(points, weights)),
        digests=DIGESTS,
    )
    return path


DIGESTS = {"a.png": "0a", "b.png": "0b"}


def test_points_of_higher_layers_are_kept(tmp_path):
    path = save_of(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert results.points_above(tmp_path / "none.json", points_of(2), {}, DIGESTS) == ([], {})
        # Those of layers above may be of other weights, those that are measured may not.
        weights = dict(zip(LABELS, "vw"))
        kept = results.points_above(path, points_of(2), weights, DIGESTS)
        assert results.points_above(path, points_of(5), dict.fromkeys(LABELS, "u"), {}) == ([], {})
    assert kept.fingerprints == {"el2": "x", "el3": "y", "el4": "z"}
    known = points_of()
    assert kept.points == [{"label": label, "images": known[label]} for label in LABELS[2:]]


@pytest.mark.parametrize(
    ("weights", "digests", "names"),
    [
        ("vu", DIGESTS, ("a.png", "b.png")),
        # An image changed, or a further one was measured, or one could not be measured.
        ("vw", {**DIGESTS, "a.png": "0c"}, ("a.png", "b.png")),
        ("vw", {**DIGESTS, "c.png": "0c"}, ("a.png", "b.png", "c.png")),
        ("vw", DIGESTS, ("a.png",)),
    ],
)
def test_points_of_other_weights_or_images_are_not_kept(tmp_path, weights, digests, names):
    path = save_of(tmp_path)
    points, weights = points_of(2, names), dict(zip(LABELS, weights))
    with pytest.warns(UserWarning, match=r"begins anew, without el2, el3, el4, .* other") as caught:
        assert results.points_above(path, points, weights, digests) == ([], {})
    assert len(caught) == 1


def test_points_of_unknown_weights_are_not_kept(tmp_path):
    path = save_of(tmp_path, weights="")
    with pytest.warns(UserWarning, match="begins anew"):
        kept = results.points_above(path, points_of(2), dict(zip(LABELS, "vw")), DIGESTS)
    assert kept == ([], {})


def test_what_is_no_results_file_is_replaced(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.warns(UserWarning, match=r"a\.json is not a results file: .* It is replaced"):
        assert results.points_above(tmp_path / "a.json", points_of(2), {}, {}) == ([], {})


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("labels", None),
        ("description", None),
        ("fingerprints", None),
        ("images", "no results of a family"),
        ("family", "no results of a family"),
        ("psnr-rgb", "psnr-rgb"),
    ],
)
def test_older_results_are_used_or_named(tmp_path, key, reason):
    path = save_of(tmp_path)
    write(tmp_path / "published/good.json", GOOD)
    document = json.loads(path.read_text())
    document.pop(key, None)
    for rows in document.get("images", []):
        rows[0].pop(key, None)
    write(path, document)
    if reason is None:
        assert len(results.curves(tmp_path)[0].labels) == 5
        return
    with pytest.warns(UserWarning, match=rf"residual-mse\.json .*{reason}.* It is left out"):
        (curve,) = results.curves(tmp_path)
    assert curve.key == "published/good"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"family": "another"}, r"residual-mse\.json has no results of a family"),
        ({"family": "residual-ms-ssim"}, r"residual-mse\.json has results of residual-ms-ssim"),
        ({"effort": 9}, r"residual-mse\.json has results of residual-mse-effort-9"),
        ({"cuts": 20}, r"residual-mse\.json has results of residual-mse-cuts-20"),
    ],
)
def test_a_file_is_of_the_curve_in_its_name(tmp_path, change, reason):
    path = save_of(tmp_path)
    write(path, {**json.loads(path.read_text()), **change})
    with pytest.raises(SaeError, match=reason):
        results.curves(tmp_path)


def test_means_over_other_images_are_said(tmp_path):
    save_of(tmp_path)
    row = {
        "image": "a.png", "width": 8, "height": 8, "bytes": 8, "bpp": 1.0, "psnr-rgb": 30.0,
        "ms-ssim-rgb": None,
    }  # fmt: skip
    results.save(tmp_path / "anchors/x.json", "x", "", [{"label": "1", "images": [row]}])
    found = results.curves(tmp_path)
    assert found[1].source == "measured here"
    with pytest.warns(UserWarning, match=r"anchors/x .* other images .* without b\.png"):
        results.warn_of_other_images(found)

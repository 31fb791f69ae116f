"""Documents: what is written of results, weights and parsers, and how much there is to read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from sae import __main__
from sae.errors import SaeError
from sae.evaluation import results
from sae.model import stores
from sae.model.families import FAMILIES
from sae.reporting import figures
from tools import command_line, documents, result_tables

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "kodak"
ABLATIONS = ROOT / "docs" / "ABLATIONS.md"


@pytest.fixture(scope="module")
def sources():
    return documents.Sources.load()


def rows(path):
    """Returns the lines of a document that are rows of tables, titles included."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    return [line for line in lines if not re.fullmatch(r"[|:-]+", line)]


def test_documents_are_what_results_weights_and_parsers_give(sources):
    for path, text in documents.texts(sources).items():
        assert (ROOT / path).read_text() == text, f"{path}: run `make results`"
    for path, digest in documents.digests(sources).items():
        assert Image.open(ROOT / path).text["Description"] == digest, "run `make results`"


def test_a_text_without_a_place_is_refused():
    with pytest.raises(SaeError, match="no place for the results"):
        documents.filled("<!-- results -->", "results", "")


def test_the_readme_is_one_page():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert len(rows(ROOT / "README.md")) <= 15
    assert len(documents._FIRST_CURVES) <= 7
    assert sum(line.startswith(("![", "<img")) for line in lines) == 1


@pytest.mark.parametrize(
    "family",
    [family for family in FAMILIES if stores.of_family(family).names()],
    ids=lambda family: family.name,
)
def test_every_released_family_has_a_short_card(family):
    path = ROOT / "docs" / "models" / f"{family.name}.md"
    assert len(path.read_text().splitlines()) <= 60


def test_ablations_are_one_short_table():
    assert ABLATIONS.read_text().count("|---") == 3
    assert len(rows(ABLATIONS)) <= 31


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])
def test_links_lead_somewhere(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text):
        link, _, heading = (target[0] or target[1]).partition("#")
        if "://" in link:
            continue
        found = path.parent / link if link else path
        assert found.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
            assert heading in anchors, f"{link}#{heading}"


def test_documents_name_commands_and_options_that_exist():
    known = command_line.commands()
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for name in re.findall(r"^ {4}(?:python -m )?sae (\S+)", path.read_text(), re.MULTILINE):
            assert name in known, f"{path}: sae {name}"


def test_every_option_is_listed():
    text = command_line.document((ROOT / "Makefile").read_text())
    for name, parser in command_line.commands().items():
        section = text.split(f"### `sae {name}")[1].split("\n##")[0]
        for action in parser._actions:
            if action.option_strings and "--help" not in action.option_strings:
                assert f"`{action.option_strings[-1]}" in section
    assert set(command_line.commands()).isdisjoint({"results", "reproduce"})
    assert "| `make results` |" in text and "`--learning-rate" not in text
    assert __main__.parser().prog in text


def test_presets_are_those_of_the_configurations():
    table = command_line.presets()
    cells = {row.split(" | ")[0]: row.split(" | ")[2:] for row in table.splitlines()}
    assert cells["| `--patchsize`"] == ["256", "MSE 256; MS-SSIM 176", "MSE 128; MS-SSIM 176 |"]
    assert cells["| `--last_step`"][1] == "base 20000, above 15000"
    assert cells["| `--clip`"] == ["0", "MSE base 0, above 2; MS-SSIM 2", "2 |"]
    assert cells["| `--cuts`"] == ["-", "-", "1 |"]


@pytest.mark.parametrize("kept", [(), ("residual-ms-ssim",), ("residual-mse", "anchors")])
def test_documents_are_made_of_what_there_is(kept, tmp_path):
    """As of a reproduction of some families, or none, whatever else was measured."""
    target = tmp_path / "results" / "set"
    for name in {"published", "anchors"} & {*kept, "published"}:
        shutil.copytree(RESULTS / name, target / name)
    for family in {*kept} - {"anchors"}:
        for path in RESULTS.glob(f"{family}*.json"):
            shutil.copy(path, target)
    sources = documents.Sources.load(target, tmp_path / "checkpoints")
    texts = documents.texts(sources)
    assert set(texts) == {
        Path("README.md"), Path("docs/TRAINING.md"), Path("docs/RESULTS.md"), Path("docs/CLI.md"),
    }  # fmt: skip
    assert ("per image |" in texts[Path("README.md")]) == ("residual-mse" in kept)
    with figures.style():
        for path in documents.digests(sources):
            assert documents.draw(path, sources).axes


def test_only_one_curve_of_the_first_figure_has_named_layers(sources):
    with figures.style():
        figure = documents.draw(documents.FIGURE, sources)
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names == ["base", "+EL1", "+EL2", "+EL3", "+EL4"]
    assert len(figure.axes[0].lines) - len(names) <= 7


def test_bd_rates_of_the_readme_are_those_of_the_command(sources):
    by_key = {curve.key: curve for curve in sources.curves}
    ours = next(c for c in sources.curves if c.regular and c.optimized_for == "mse")
    table = result_tables.summary(sources.curves)
    for key in ("published/ctc-2023", "published/dpict-2022", "published/bpg-dense"):
        row = next(line for line in table.splitlines() if by_key[key].name in line)
        found = result_tables.bdrate.delta(ours, by_key[key], "psnr")
        assert f"| {found.rate:+.1f} % |" in row
    assert results.select(sources.curves, ["published/ctc-2023"])[0].scalable

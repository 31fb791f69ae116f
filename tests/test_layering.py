"""Layering: parts that import one way, and lists that are written once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from sae import config
from sae.evaluation import anchors, bdrate
from sae.reporting import figures

SAE = Path(__file__).resolve().parent.parent / "sae"
# Parts that each part may import; itself and the modules below all of them are allowed too.
MAY = {
    "model": set(),
    "coding": {"model"},
    "training": {"model"},
    "evaluation": {"coding", "model"},
    "reporting": {"evaluation", "coding", "model"},
}
# Modules below all parts, which any part may import and which import none.
BELOW = {"config", "console", "errors", "files", "images", "memory", "metrics", "provenance"}


def imported(path: Path) -> set[str]:
    """Returns the modules of the project that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("sae.")}


@pytest.mark.parametrize("part", MAY)
def test_a_part_imports_one_way(part):
    for path in (SAE / part).glob("*.py"):
        parts = {name.split(".")[1] for name in imported(path)}
        assert parts <= {part, *MAY[part], *BELOW}, path


def test_the_modules_below_import_no_part():
    for name in BELOW:
        for path in [*SAE.glob(f"{name}.py"), *SAE.glob(f"{name}/*.py")]:
            assert not {i.split(".")[1] for i in imported(path)} - BELOW, path


def test_every_folder_is_a_part():
    assert {path.parent.name for path in SAE.glob("*/__init__.py")} == {*MAY, "images"}


def test_choices_of_the_command_line_are_those_of_the_modules():
    assert tuple(anchors.CODECS) == config.ANCHORS
    assert tuple(figures.QUALITIES) == config.QUALITIES
    assert tuple(bdrate._FORMATS) == config.TABLE_FORMATS

"""The house: five wings, imports one way, and lists that are written once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from sae import config
from sae.measuring import anchors, bdrate
from sae.paper import figures

SAE = Path(__file__).resolve().parent.parent / "sae"
# What each wing may import, besides itself and the ground floor.
MAY = {
    "model": set(),
    "coding": {"model"},
    "training": {"model"},
    "measuring": {"coding", "model"},
    "paper": {"measuring", "coding", "model"},
}
# Files under no wing that any of them may import, and that import none.
GROUND = {"config", "console", "errors", "files", "images", "memory", "metrics", "provenance"}


def imported(path: Path) -> set[str]:
    """Returns the modules of the project that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("sae.")}


@pytest.mark.parametrize("wing", MAY)
def test_a_wing_imports_one_way(wing):
    for path in (SAE / wing).glob("*.py"):
        rooms = {name.split(".")[1] for name in imported(path)}
        assert rooms <= {wing, *MAY[wing], *GROUND}, path


def test_the_ground_floor_imports_no_wing():
    for name in GROUND:
        for path in [*SAE.glob(f"{name}.py"), *SAE.glob(f"{name}/*.py")]:
            assert not {i.split(".")[1] for i in imported(path)} - GROUND, path


def test_every_folder_is_a_wing():
    assert {path.parent.name for path in SAE.glob("*/__init__.py")} == {*MAY, "images"}


def test_choices_of_the_command_line_are_those_of_the_modules():
    assert tuple(anchors.CODECS) == config.ANCHORS
    assert tuple(figures.QUALITIES) == config.QUALITIES
    assert tuple(bdrate._FORMATS) == config.TABLE_FORMATS

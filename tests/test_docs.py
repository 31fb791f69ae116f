"""Documents: links lead to files, CONTRIBUTING.md names what there is, and the site has it all."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import sae

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "kodak/*.md")
    for path in sorted(ROOT.glob(pattern))
]
PICTURES = {"plots/a.png"}
KNOWN = {"README.md": "index.md", "docs/FORMAT.md": "FORMAT.md", "docs/models/a.md": "models/a.md"}


@pytest.fixture(scope="module")
def hooks():
    """The module with which the site is built."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "tools/mkdocs_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bindings(path):
    """Returns the names that a file of Python defines, assigns or imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.alias)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path):
    for address in re.findall(r"\]\(([^()\s]+)\)", path.read_text(encoding="utf-8")):
        if not re.match("[a-z]+:|#", address):
            assert (path.parent / address.partition("#")[0]).exists(), address


def test_each_row_of_what_to_change_names_what_there_is():
    rows = []
    for path in ("CONTRIBUTING.md", "docs/ARCHITECTURE.md"):
        text = (ROOT / path).read_text(encoding="utf-8")
        _, table = re.split(r"^\| to (?:add|change) \|.*\n\|[-|]+\n", text, flags=re.MULTILINE)
        rows += table.split("\n\n")[0].splitlines()
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`([^`]+)`", row)
        files = [
            # A module without its folder is one of sae/.
            next(iter(ROOT.glob(f"sae/*/{name}")), ROOT / name)
            for name in named
            if "/" in name or "." in name or name == "docs"
        ]
        assert all(path.exists() for path in files), row
        bound = set().union(*(bindings(path) for path in files if path.suffix == ".py"))
        assert {name for name in named if name.isidentifier()} <= bound | {"docs"}, row


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {sae.__version__}\n" in citation


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("README.md", "[f](docs/FORMAT.md#header)", "[f](FORMAT.md#header)"),
        ("README.md", "![a](plots/a.png)", "![a](plots/a.png)"),
        ("README.md", "[license](LICENSE)", "license"),
        ("README.md", "[![a](plots/a.png)](LICENSE)", "![a](plots/a.png)"),
        ("README.md", "[here](#train) [there](https://a.b/c.md)", None),
        ("README.md", "`[f](docs/FORMAT.md)`", None),
        ("docs/FORMAT.md", "[top](../README.md)", "[top](index.md)"),
        ("docs/models/a.md", "![a](../../plots/a.png)", "![a](../plots/a.png)"),
        ("docs/models/a.md", "[f](../FORMAT.md)", "[f](../FORMAT.md)"),
    ],
)
def test_the_site_keeps_links_to_what_it_has(hooks, source, link, expected):
    assert hooks.rewritten(link, source, KNOWN, PICTURES) == (expected or link)


def test_the_site_has_every_document_and_module_once(hooks):
    def flat(entries):
        for entry in entries:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                yield from flat(value) if isinstance(value, list) else [value]

    named = list(flat(hooks.navigation()))
    modules = [f"api/{name}.md" for name in hooks.modules()]
    assert sorted(named) == sorted([*hooks.pages().values(), *modules])
    assert "api/sae.model.residual_layer.md" in named


def test_the_navigation_has_the_documents_in_order(hooks, tmp_path):
    for name in ("README.md", "CHANGELOG.md", "docs/FORMAT.md", "docs/A.md", "docs/models/a.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "docs/CLI.md").touch()
    assert hooks.navigation(tmp_path) == [
        {"sae": "index.md"},
        *["CLI.md", "FORMAT.md", "A.md"],
        {"Models": ["models/a.md"]},
        {"Modules": []},
        "CHANGELOG.md",
    ]

"""Additions to docs/ on the site: pages of the top folder, a page per module, and the order.

Links in documents are paths in the repository. On the site, links to pages and pictures are
adapted, and a link to any other file is replaced by its text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Pages on the site by the files in the repository.
TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
# Documents that come first in the navigation, if they exist.
FIRST = (
    "CLI.md",
    "TRAINING.md",
    "RESULTS.md",
    "ARCHITECTURE.md",
    "FORMAT.md",
    "ELSEWHERE.md",
    "ABLATIONS.md",
)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def modules(root: Path = ROOT) -> list[str]:
    """Returns the names of all modules of the package, sorted."""
    paths = (path.relative_to(root).with_suffix("") for path in (root / "sae").rglob("*.py"))
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return sorted(name for name in names if name != "sae.__main__")


def pages(root: Path = ROOT) -> dict[str, str]:
    """Returns the pages of the site by the documents of the repository, both as paths."""
    top = {name: page for name, page in TOP.items() if (root / name).exists()}
    docs = (path.relative_to(root / "docs").as_posix() for path in (root / "docs").rglob("*.md"))
    return {**top, **{f"docs/{name}": name for name in sorted(docs)}}


def rewritten(text: str, source: str, known: dict[str, str], pictures: set[str]) -> str:
    """Returns the text of a document with the links of the site.

    Args:
      text: Markdown text.
      source: path of the document in the repository.
      known: result of `pages`.
      pictures: paths of pictures in the repository, the same on the site.
    """
    page = PurePosixPath(known[source])

    def link(match: re.Match[str]) -> str:
        mark, title, address = match.groups()
        if re.match(r"[a-z]+:|#", address):
            return match[0]
        path, _, anchor = address.partition("#")
        target = os.path.normpath(str(PurePosixPath(source).parent / path))
        found = known.get(target) or (target if target in pictures else None)
        if found is None:
            return title
        relative = os.path.relpath(found, str(page.parent))
        return f"{mark}[{title}]({relative}{'#' + anchor if anchor else ''})"

    parts = _CODE.split(text)
    return "".join(part if part[:1] == "`" else _LINK.sub(link, part) for part in parts)


def navigation(root: Path = ROOT) -> list[dict]:
    """Returns the pages in order: README, documents, model cards, modules, the rest."""
    names = list(pages(root).values())
    docs = [name for name in names if name not in TOP.values() and "/" not in name]
    docs.sort(key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    cards = [name for name in names if name.startswith("models/")]
    api = [{name: f"api/{name}.md"} for name in modules(root)]
    last = [name for name in names if name in TOP.values() and name != "index.md"]
    cards_too = [{"Models": cards}] if cards else []
    return [{"sae": "index.md"}, *docs, *cards_too, {"Modules": api}, *last]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Sets the navigation."""
    config.nav = navigation()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/, and the pictures."""
    from mkdocs.structure.files import File

    for name, page in pages().items():
        if name in TOP:
            text = (ROOT / name).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))
    for name in modules():
        text = f"# {name}\n\n::: {name}\n"
        files.append(File.generated(config, f"api/{name}.md", content=text))
    for name in _pictures():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a document."""
    known = pages()
    sources = {path: source for source, path in known.items()}
    source = sources.get(page.file.src_uri)
    return rewritten(markdown, source, known, _pictures()) if source else markdown


def _pictures() -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / "plots").glob("*.png")}

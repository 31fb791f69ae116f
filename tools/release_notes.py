"""Prints the section of CHANGELOG.md on a release, given by its tag:

python tools/release_notes.py v1.0.0

The exit status is 1 where the package has another version, or CHANGELOG.md has no section on it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def notes(tag: str, root: Path = ROOT) -> str:
    """Returns the section of CHANGELOG.md on the release of a tag.

    Raises:
      SystemExit: the tag is not that of the package's version, or there is no section on it.
    """
    package = (root / "sae/__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', package, re.MULTILINE)
    if tag != f"v{version}":
        raise SystemExit(f"The tag {tag} is not of version {version}; tag v{version}.")
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.split(r"^## (?=\d)", text, flags=re.MULTILINE)[1:]
    for section in sections:
        heading, _, body = section.partition("\n")
        if heading.split(",")[0] == version and body.strip():
            return body.strip()
    raise SystemExit(f"CHANGELOG.md has nothing on {version}; add a section on it.")


if __name__ == "__main__":
    print(notes(sys.argv[1]))

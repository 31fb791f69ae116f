"""The command line: `python -m sae COMMAND ...`."""

from __future__ import annotations

import argparse
import sys

from sae.errors import SaeError


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands; each sets `run`, a function of the options."""
    top = argparse.ArgumentParser(
        prog="python -m sae", description="Scalable auto-encoder: layered image compression."
    )
    top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status (2 for a user's mistake)."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except SaeError as error:
        print(f"sae: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `python -m sae COMMAND ...`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable

from sae.config import DEFAULT_FOLDER, METRICS
from sae.errors import SaeError


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands; each sets `run`, a function of the options."""
    top = argparse.ArgumentParser(
        prog="python -m sae", description="Scalable auto-encoder: layered image compression."
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_codec(commands)
    _add_evaluation(commands)
    return top


def _add_codec(commands: argparse._SubParsersAction) -> None:
    """Adds the commands between images and .sae files, all in sae/transcode.py."""

    def command(name: str, help: str, source: str, target: str | None = None):
        parser = commands.add_parser(name, help=help, description=help)
        parser.add_argument("source", metavar=source, help="to read; - is standard input")
        if target:
            parser.add_argument("target", metavar=target, help="to write; - is standard output")
        parser.add_argument(
            "--max-pixels", type=_count, default=10**9, metavar="N", help="refuse larger (10^9)"
        )
        parser.set_defaults(run=_lazily("sae.transcode", name))
        return parser

    def add_layers(parser, help: str, required: bool = False):
        parser.add_argument("--layers", type=_count, metavar="K", required=required, help=help)

    def add_checkpoints(parser):
        parser.add_argument("--checkpoints", default=DEFAULT_FOLDER, metavar="DIR")

    compress = command("compress", "Code an image, or a folder of them.", "IN", "OUT.sae")
    add_layers(compress, "code so many layers (all that are trained)")
    compress.add_argument("--metric", choices=METRICS, default="mse", help="the family (mse)")
    target = compress.add_mutually_exclusive_group()
    target.add_argument(
        "--target-bpp", type=float, metavar="B", help="stop at the layer that brings B bits/pixel"
    )
    target.add_argument(
        "--target-psnr", type=float, metavar="D", help="stop at the layer that brings D dB"
    )
    add_checkpoints(compress)

    decompress = command("decompress", "Decode a stream, or a folder of them.", "IN.sae", "OUT.png")
    add_layers(decompress, "decode so many layers (all there are)")
    add_checkpoints(decompress)

    command("info", "Show what a stream holds.", "IN.sae")
    truncate = command("truncate", "Drop a stream's upper layers.", "IN.sae", "OUT.sae")
    add_layers(truncate, "keep so many layers", required=True)

    extend = command("extend", "Add layers to a stream.", "IN.sae", "OUT.sae")
    extend.add_argument("--image", required=True, metavar="FILE", help="what it was made from")
    add_layers(extend, "code up to so many layers (all that are trained)")
    add_checkpoints(extend)


def _add_evaluation(commands: argparse._SubParsersAction) -> None:
    """Adds the commands that measure."""
    evaluate = commands.add_parser("evaluate", help="Measure every layer on a folder of images.")
    evaluate.add_argument("folder", nargs="?", default="kodak", metavar="DIR", help="(kodak)")
    evaluate.add_argument("--metric", choices=METRICS, default="mse", help="the family (mse)")
    evaluate.add_argument("--checkpoints", default=DEFAULT_FOLDER, metavar="DIR")
    evaluate.add_argument("--results", default="results", metavar="DIR", help="(results)")
    evaluate.add_argument("--save_images", metavar="DIR", help="keep the decoded images")
    evaluate.set_defaults(run=_lazily("sae.evaluation", "run"))
    demo = commands.add_parser("demo", help="The whole method in a few minutes.")
    demo.add_argument("--folder", default="runs/demo", metavar="DIR", help="(runs/demo)")
    demo.set_defaults(run=_lazily("sae.demo", "run"))


def _lazily(module: str, function: str) -> Callable[[argparse.Namespace], int | None]:
    """Returns a function that imports `module` when it is called, not before."""
    return lambda options: getattr(importlib.import_module(module), function)(options)


def _count(text: str) -> int:
    """Reads a whole number from 1 up."""
    if int(text) < 1:
        raise ValueError
    return int(text)


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

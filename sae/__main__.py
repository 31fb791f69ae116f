"""The command line: `python -m sae COMMAND ...`, or `sae COMMAND ...` where it is installed."""

from __future__ import annotations

import argparse
import functools
import importlib
import math
import os
import sys
from collections.abc import Callable

from sae import __version__, console, files, scripts
from sae.config import (
    ANCHORS,
    DEFAULT_FOLDER,
    DEFAULT_RESULTS,
    EFFORTS,
    FIGURE_FORMATS,
    LAYER_NAMES,
    MAX_PIXELS,
    METRICS,
    PEERS,
    QUALITIES,
    TABLE_FORMATS,
)
from sae.errors import SaeError, explaining_the_extra
from sae.model.families import FAMILIES


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands, each with `run`, a function of the options."""
    top = argparse.ArgumentParser(
        prog="sae", description="Scalable auto-encoder: layered image compression."
    )
    top.add_argument("--version", action="version", version=f"sae {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_codec(commands)
    _add_training(commands)
    _add_evaluation(commands)
    _add_figures(commands)
    _add_bdrate(commands)
    _add_pages(commands)
    return top


def _add_codec(commands: argparse._SubParsersAction) -> None:
    """Adds the commands between images and .sae files."""
    command = functools.partial(_codec_command, commands)
    compress = command("compress", "Code an image, or a folder of them.", "IN", "OUT.sae")
    limits = compress.add_mutually_exclusive_group()
    _add_limits(limits)
    limits.add_argument(
        "--psnr",
        type=_number("--psnr", above=0),
        metavar="D",
        help="PSNR in dB at which the stream ends [none]",
    )
    _add_background(compress)
    _add_effort(compress)
    _add_family(compress)

    decompress = command("decompress", "Decode a stream, or a folder of them.", "IN.sae", "OUT.png")
    _add_layers(decompress, "number of layers to decode [all in the stream]")
    _add_checkpoints(decompress)

    command("info", "Show what a stream holds.", "IN.sae")
    truncate = command("truncate", "Shorten a stream.", "IN.sae", "OUT.sae")
    _add_limits(truncate.add_mutually_exclusive_group(required=True))


def _add_limits(parser: argparse._MutuallyExclusiveGroup) -> None:
    """Adds limits of the length of a stream."""
    _add_layers(parser, "largest number of layers [all]")
    parser.add_argument("--bytes", type=_count, metavar="N", help="largest number of bytes [none]")
    parser.add_argument(
        "--bpp",
        type=_number("--bpp", above=0),
        metavar="B",
        help="largest number of bits per pixel [none]",
    )


def _codec_command(
    commands: argparse._SubParsersAction,
    name: str,
    help: str,
    source: str,
    target: str | None = None,
) -> argparse.ArgumentParser:
    """Returns the parser of a new command of sae/coding/transcode.py."""
    parser = _command(commands, name, help)
    kind = "file or folder" if target else "file"
    parser.add_argument("source", metavar=source, help=f"{kind} to read; - for standard input")
    if target:
        parser.add_argument(
            "target", metavar=target, help="file or folder to write; - for standard output"
        )
    parser.add_argument(
        "--max-pixels",
        type=_count,
        default=MAX_PIXELS,
        metavar="N",
        help="largest number of pixels [10^9]",
    )
    parser.set_defaults(run=_lazily("sae.coding.transcode", name))
    return parser


def _add_layers(parser: argparse._ActionsContainer, help: str) -> None:
    parser.add_argument("--layers", type=_count, metavar="K", help=help)


def _add_background(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--background",
        metavar="COLOR",
        help="color behind transparent pixels, as CSS writes it: white, #ccc [none]",
    )


def _add_training(commands: argparse._SubParsersAction) -> None:
    """Adds the command that trains a layer, with the options of the train_*.py scripts."""
    train = _command(commands, "train", "Train a layer, on the lower ones in the checkpoints.")
    train.add_argument(
        "name",
        choices=LAYER_NAMES,
        metavar="LAYER",
        help="layer to train: " + ", ".join(LAYER_NAMES),
    )
    scripts.add_training(train)
    train.set_defaults(run=_lazily("sae.scripts", "run_training"))


def _add_evaluation(commands: argparse._SubParsersAction) -> None:
    """Adds the commands that measure rate and quality."""
    evaluate = _command(commands, "evaluate", "Measure every layer on a folder of images.")
    anchors = _command(
        commands, "anchors", "Measure JPEG, JPEG 2000, WebP and AVIF on a folder of images."
    )
    for parser in (evaluate, anchors):
        parser.add_argument(
            "folder",
            nargs="?",
            type=_folder,
            default="kodak",
            metavar="DIR",
            help="folder of images [kodak]",
        )
        _add_written(parser, "--results", "results", "folder of all results")
    _add_effort(evaluate)
    evaluate.add_argument(
        "--cuts",
        type=_cuts,
        default=0,
        metavar="N",
        help="number of cuts in place of the layers, evenly spaced in bytes from base to the last "
        "layer, 2 to 1000 (progressive families) [none]",
    )
    _add_family(evaluate)
    _add_written(evaluate, "--save_images", None, "folder for the decoded images [none]")
    evaluate.set_defaults(run=_lazily("sae.evaluation.evaluate", "run"))
    anchors.add_argument("--codecs", nargs="+", choices=ANCHORS, help="codecs to measure [all]")
    anchors.set_defaults(run=_lazily("sae.evaluation.anchors", "run"))
    demo = _command(commands, "demo", "Measure every layer on Kodak or sample photos.")
    _add_written(demo, "--folder", "runs/demo", "folder of photos and results")
    demo.set_defaults(run=_lazily("sae.demo", "run"))


def _add_figures(commands: argparse._SubParsersAction) -> None:
    """Adds the command that draws curves."""
    plot = _command(commands, "plot", "Draw RD curves, and the rates of the layers.")
    _add_results(plot)
    plot.add_argument(
        "--list", action="store_true", help="list of the available curves, in place of a figure"
    )
    plot.add_argument(
        "--curves",
        nargs="+",
        metavar="KEY",
        help="keys of the curves as --list prints them, with * as a wildcard [a selection]",
    )
    plot.add_argument(
        "--quality",
        nargs="+",
        choices=QUALITIES,
        default=["psnr", "ms-ssim-db"],
        help="quality metrics, one panel each [psnr ms-ssim-db]",
    )
    plot.add_argument(
        "--image", nargs="+", metavar="NAME", help="images whose own curves are drawn too [none]"
    )
    for name, help in (
        ("--bpp", "range of rates in bits per pixel [that of our curves]"),
        ("--range", "range of quality [that of the curves]"),
    ):
        plot.add_argument(
            name, nargs=2, type=_number(name), action=_Range, metavar=("FROM", "TO"), help=help
        )
    plot.add_argument("--log", action="store_true", help="logarithmic axis of rates")
    plot.add_argument(
        "--columns",
        type=int,
        choices=(1, 2),
        default=1,
        help="columns of text that the figure spans: 8.9 or 17.8 cm [1]",
    )
    plot.add_argument(
        "--height",
        type=_number("--height", above=1, below=100),
        metavar="CM",
        help="height of the figure in cm [in proportion to its width]",
    )
    plot.add_argument("--serif", action="store_true", help="serif fonts")
    _add_output(plot)
    plot.set_defaults(run=_lazily("sae.reporting.figures", "run"))


def _add_bdrate(commands: argparse._SubParsersAction) -> None:
    """Adds the command that compares curves."""
    bdrate = _command(commands, "bdrate", "Print BD-rate and BD-quality of curves.")
    _add_results(bdrate)
    bdrate.add_argument(
        "--against",
        default="published/sae-2019-mse",
        metavar="KEY",
        help="key of the anchor curve [%(default)s]",
    )
    bdrate.add_argument(
        "--curves", nargs="+", metavar="KEY", help="keys of the curves to compare [a selection]"
    )
    bdrate.add_argument(
        "--each-image",
        action="store_true",
        help="means of per-image deltas in place of deltas of averaged curves",
    )
    bdrate.add_argument(
        "--format", choices=TABLE_FORMATS, default="markdown", help="format of the table [markdown]"
    )
    bdrate.set_defaults(run=_lazily("sae.evaluation.bdrate", "run"))


def _add_pages(commands: argparse._SubParsersAction) -> None:
    """Adds the commands that show images and families."""
    compare = _command(commands, "compare", "Compare an image at each layer with other codecs.")
    compare.add_argument("image", type=_file, metavar="IMAGE", help="image to code")
    compare.add_argument(
        "--crop", type=_crop, metavar="X,Y,W,H", help="part to show, in pixels [the whole image]"
    )
    _add_peers(compare)
    _add_family(compare)
    _add_output(compare)
    compare.set_defaults(run=_lazily("sae.reporting.comparison", "run"))

    show = _command(commands, "show", "Write a page that decodes an image as its bytes arrive.")
    show.add_argument("image", type=_file, metavar="IMAGE", help="image to code")
    _add_family(show)
    _add_written(show, "--output", "plots/show", "folder to write")
    show.set_defaults(run=_lazily("sae.reporting.viewer", "run"))

    serve = _command(commands, "serve", "Serve a page of sae show, or the streams of a folder.")
    serve.add_argument("folder", type=_folder, metavar="DIR", help="folder of a page or of streams")
    serve.add_argument(
        "--port", type=_port, default=8000, metavar="N", help="port to listen on [%(default)s]"
    )
    _add_checkpoints(serve)
    serve.set_defaults(run=_lazily("sae.reporting.server", "run"))

    report = _command(commands, "report", "Write a page of curves, tables and images.")
    _add_results(report)
    report.add_argument(
        "--images",
        type=_folder,
        default="kodak",
        metavar="DIR",
        help="folder of the measured images [kodak]",
    )
    report.add_argument(
        "--only", nargs="+", metavar="NAME", help="file names of the images to show [all]"
    )
    _add_checkpoints(report)
    report.add_argument(
        "--output", default="plots/report.html", metavar="FILE", help="page to write [%(default)s]"
    )
    report.set_defaults(run=_lazily("sae.reporting.report", "run"))

    export = _command(commands, "export", "Write a progressive model as ONNX files.")
    export.add_argument("folder", type=_folder, metavar="DIR", help="folder to write")
    _add_family(export)
    export.set_defaults(run=_lazily("sae.coding.export_onnx", "run"), written=("folder",))

    released = _command(commands, "families", "List the released layers and what they reach.")
    _add_results(released)
    _add_checkpoints(released)
    released.set_defaults(run=_lazily("sae.evaluation.tables", "run"))


def _command(commands: argparse._SubParsersAction, name: str, help: str) -> argparse.ArgumentParser:
    """Returns the parser of a new command, with its help as description."""
    return commands.add_parser(name, help=help, description=help)


def _add_family(parser: argparse.ArgumentParser) -> None:
    family = parser.add_mutually_exclusive_group()
    names = [family.name for family in FAMILIES]
    family.add_argument("--family", choices=names, help="family of layers [the best for MSE]")
    family.add_argument(
        "--metric", choices=METRICS, dest="family", help="metric whose best family is used [mse]"
    )
    parser.set_defaults(family="mse")
    _add_checkpoints(parser)


def _add_peers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--codecs",
        nargs="+",
        choices=ANCHORS,
        default=PEERS,
        help=f"codecs to compare with [{' '.join(PEERS)}]",
    )


def _add_effort(parser: argparse.ArgumentParser) -> None:
    steps = ", ".join(map(str, EFFORTS))
    parser.add_argument(
        "--effort",
        type=int,
        choices=range(len(EFFORTS)),
        default=0,
        metavar=f"0..{len(EFFORTS) - 1}",
        help=f"effort of latent optimization, with {steps} steps per latent; needs TensorFlow [0]",
    )


def _add_checkpoints(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints",
        type=_folder,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="folder of the weights [the released ones]",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=_folder,
        default=DEFAULT_RESULTS,
        metavar="DIR",
        help="folder of the results of one set [Kodak's]",
    )


def _add_written(
    parser: argparse.ArgumentParser, name: str, default: str | None, help: str
) -> None:
    """Adds a folder that a command writes into, which `main` checks before the command runs."""
    if default:
        help += f" [{default}]"
    parser.add_argument(name, type=_folder, default=default, metavar="DIR", help=help)
    written = parser.get_default("written") or ()
    parser.set_defaults(written=(*written, name.lstrip("-")))


def _add_output(parser: argparse.ArgumentParser) -> None:
    _add_written(parser, "--output", "plots", "folder to write")
    parser.add_argument(
        "--format",
        nargs="+",
        choices=FIGURE_FORMATS,
        default=["pdf", "png"],
        help="formats of the figures; pgf requires LaTeX [pdf png]",
    )


def _crop(text: str) -> tuple[int, ...]:
    """Returns four whole numbers."""
    try:
        x, y, width, height = (int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError("a crop is four whole numbers: x,y,w,h") from None
    return x, y, width, height


def _lazily(module: str, function: str) -> Callable[[argparse.Namespace], int | None]:
    """Returns a function that imports its module only when it is called."""
    return lambda options: getattr(importlib.import_module(module), function)(options)


def _count(text: str) -> int:
    """Returns a whole number from 1 up."""
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text:.20} is not a whole number from 1 to 10^18")
    return int(text)


def _cuts(text: str) -> int:
    """Returns a number of cuts; one alone would be the end of the base."""
    if not text.isdecimal() or not 2 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 2 to 1000")
    return int(text)


def _port(text: str) -> int:
    """Returns a port; 0 stands for any."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port from 0 to 65535")
    return int(text)


def _number(name: str, above: float = -math.inf, below: float = math.inf) -> Callable[[str], float]:
    """Returns a reader of finite numbers between bounds for the option `name`."""
    expected = "a number" if above == -math.inf else f"a number above {above:g}"
    expected += "" if below == math.inf else f" and below {below:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not above < value < below:
            raise SaeError(f"{name} takes {expected}, not {text}.")
        return value

    return read


class _Range(argparse.Action):
    """Stores two numbers, of which the second has to be larger."""

    def __call__(self, parser, namespace, values, option_string=None):
        if values[0] >= values[1]:
            raise SaeError(
                f"{option_string} takes a smaller number and a larger one, not {values[0]:g} and "
                f"{values[1]:g}."
            )
        setattr(namespace, self.dest, values)


def _folder(text: str) -> str:
    """Returns the name of a folder, which need not exist."""
    if os.path.exists(text) and not os.path.isdir(text):
        raise SaeError(f"{text} is not a folder; name a folder.")
    return text


def _file(text: str) -> str:
    """Returns the name of a file that exists."""
    if os.path.isdir(text):
        raise SaeError(f"{text} is a folder; name a file.")
    if not os.path.exists(text):
        raise SaeError(f"There is no file {text}; name an existing file.")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status of `console.run`."""

    def command() -> int | None:
        options = parser().parse_args(arguments)
        # A folder is checked before TensorFlow is imported, so that no work is lost.
        for name in () if getattr(options, "list", False) else getattr(options, "written", ()):
            if folder := getattr(options, name):
                files.require_writable(folder)
        with explaining_the_extra():
            return options.run(options)

    return console.run(command)


if __name__ == "__main__":
    sys.exit(main())

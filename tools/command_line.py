"""docs/CLI.md and the table of training options, made of the parsers and the presets."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from sae import __main__, scripts
from sae.config import LAYER_NAMES, LayerConfig, ProgressiveTrainingConfig, TrainingConfig
from sae.model.families import FAMILIES, Family
from sae.model.progressive_config import ProgressiveConfig
from sae.training import presets as training_presets
from tools import reproduce
from tools.result_tables import table

_BEGINNING = """\
# Command line

This file is made of the programs' own parsers by `make results`. `sae` comes with the installed
package. In a clone, `python -m sae` is the same, with the Python that `. .venv/bin/activate`
selects. An error ends a command with one sentence and exit status 2. If some files of a folder
fail, the others are processed and the status is 1.
"""
# The table shows the options' values for these presets and kinds of families.
_COLUMNS = (("paper", "residual"), ("default", "residual"), ("default", "progressive"))
_CONFIGURATIONS = LayerConfig, TrainingConfig, ProgressiveConfig, ProgressiveTrainingConfig
_MAKE = """\
## make

| target | effect |
|---|---|
"""


def document(makefile: str) -> str:
    """Returns the text of docs/CLI.md.

    Args:
      makefile: text of the Makefile.
    """
    parts = [_BEGINNING, "## Commands of `sae`"]
    for name, parser in commands().items():
        parts.append(_section(f"sae {name}", parser, 3))
    parts += [
        "## `python train_base.py`",
        "This script and `train_el1.py` to `train_el4.py` each train the layer in their name. They "
        "take the options of [`sae train`](#sae-train-layer).",
        _section("python test_base.py", scripts.testing_parser("base"), 2),
        "`test_el1.py` to `test_el4.py` take the same options.",
        _section("python -m tools.reproduce", reproduce.parser(), 2),
        _MAKE + "\n".join(_targets(makefile)),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def commands() -> dict[str, argparse.ArgumentParser]:
    """Returns the parsers of the commands of `sae`, by name."""
    for action in __main__.parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("sae has commands")


def _section(program: str, parser: argparse.ArgumentParser, level: int) -> str:
    actions = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    places = [_place(action) for action in actions if not action.option_strings]
    heading = f"{'#' * level} `{' '.join([program, *places])}`"
    formatter = parser._get_formatter()
    rows = [[_call(action), _meaning(action, formatter)] for action in actions]
    return "\n\n".join(
        part
        for part in (
            heading,
            " ".join((parser.description or "").split()),
            table(["argument", "meaning"], rows, texts=2) if rows else "",
            *map(_exclusion, parser._mutually_exclusive_groups),
        )
        if part
    )


def _place(action: argparse.Action) -> str:
    """Returns a positional argument as it stands in a call, in brackets where it is optional."""
    name = str(action.metavar or action.dest)
    return f"[{name}]" if action.nargs == "?" else name


def _exclusion(group: argparse._MutuallyExclusiveGroup) -> str:
    names = ", ".join(f"`{action.option_strings[0]}`" for action in group._group_actions)
    return f"{'Exactly' if group.required else 'At most'} one of {names} is given."


def _call(action: argparse.Action) -> str:
    """Returns the spellings of an argument, each with its metavar."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    # Spellings that differ only in hyphens and underscores count as one.
    names = sorted({name.replace("_", "-"): name for name in action.option_strings}.values())
    single = action.nargs == 0 or (action.choices and action.nargs is None)
    metavar = action.metavar or ("" if single else action.dest.upper())
    if isinstance(metavar, tuple):
        metavar = " ".join(metavar)
    elif action.nargs in ("+", argparse.REMAINDER):
        metavar += " ..."
    return ", ".join(f"`{f'{name} {metavar}'.strip()}`" for name in names)


def _meaning(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    text = formatter._expand_help(action) if action.help else ""
    if action.choices is not None and not action.metavar:
        text += ("; " if text else "") + "one of " + ", ".join(f"`{one}`" for one in action.choices)
    text += " (required)" if action.option_strings and action.required else ""
    return text.replace("|", "\\|")


def _targets(makefile: str) -> Iterator[str]:
    for line in makefile.splitlines():
        if "  ## " in line:
            name, text = line.split(":")[0], line.split("  ## ")[1]
            yield f"| `make {name}` | {text} |"


def presets() -> str:
    """Returns the options of a training, with the values of each preset."""
    parser = scripts.training_parser(LAYER_NAMES[0])
    formatter, rows = parser._get_formatter(), []
    fields = {field.name for of in _CONFIGURATIONS for field in dataclasses.fields(of)}
    for action in parser._actions:
        if action.dest in fields:
            name = "lambda" if action.dest == "lmbda" else action.dest
            values = [_values(action.dest, *columns) for columns in _COLUMNS]
            rows.append([f"`--{name}`", _meaning(action, formatter), *values])
    titles = ["option", "meaning", "`--preset paper`", "default, residual", "default, progressive"]
    return table(titles, rows, texts=5)


def _values(field: str, preset: str, kind: str) -> str:
    """Returns the values of an option, for both metrics where they differ; - where there are none.

    Those of a residual family are from the base up.
    """
    by_metric = {}
    for family in (family for family in FAMILIES if family.kind == kind):
        found = _configurations(family, preset)
        if field not in found[0]:
            return "-"
        by_metric[family.metric] = [values[field] for values in found]
    mse, ms_ssim = by_metric["mse"], by_metric["ms-ssim"]
    if mse[: len(ms_ssim)] == ms_ssim:
        return _shortened(mse)
    return f"MSE {_shortened(mse)}; MS-SSIM {_shortened(ms_ssim)}"


def _configurations(family: Family, preset: str) -> list[dict[str, Any]]:
    """Returns the fields of each training of a family."""
    if family.kind == "residual":
        found = [training_presets.residual(layer, family, preset) for layer in family.layers]
    else:
        found = [training_presets.progressive(family, preset)]
    return [{**vars(architecture), **vars(training)} for architecture, training in found]


def _shortened(values: Sequence) -> str:
    texts = [f"{v:g}" if isinstance(v, float) else str(v) or "none" for v in values]
    if len(set(texts)) == 1:
        return texts[0]
    if len(set(texts[1:])) == 1:
        return f"{LAYER_NAMES[0]} {texts[0]}, above {texts[1]}"
    return ", ".join(texts)

"""`make reproduce`: trains and measures all families, and writes the documents, from nothing.

    python -m tools.reproduce --data DIR

Runs the commands of the documents one after the other, into a folder of its own.
Finished parts of an earlier run are kept, and unfinished ones are resumed.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from sae import console, images
from sae.config import ANCHORS, DEFAULT_RESULTS
from sae.errors import SaeError
from sae.evaluation import results
from sae.model import families, stores
from sae.model.families import FAMILIES, Family
from sae.model.stores import Store

# Folder of the scripts.
_ROOT = Path(__file__).resolve().parents[1]
# Efforts of the encoder in a trial, the lowest two.
_SMOKE_EFFORTS = 0, 1
# Number of cuts of progressive streams that are measured.
_CUTS = 20


@dataclasses.dataclass(frozen=True)
class Part:
    """One command of the reproduction.

    Attributes:
      title: title for the user.
      command: arguments of the command.
      done: whether an earlier run has finished it.
      hours: recorded hours of one core for the released results; None where unknown.
    """

    title: str
    command: list[str]
    done: bool = False
    hours: float | None = None


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    names = [family.name for family in FAMILIES]
    found = argparse.ArgumentParser(
        prog="python -m tools.reproduce",
        description="Train families by their default presets, measure them on one set of images, "
        "and write the documents.",
    )
    found.add_argument(
        "--data", nargs="+", required=True, metavar="DIR", help="folders of training photos"
    )
    found.add_argument(
        "--images", default="kodak", metavar="DIR", help="images to measure on [kodak]"
    )
    found.add_argument(
        "--families", nargs="+", choices=names, default=names, help="families to train [all]"
    )
    found.add_argument(
        "--steps", type=int, metavar="N", help="steps of each layer, for a trial [the preset's]"
    )
    found.add_argument(
        "--folder",
        default="runs/reproduced",
        metavar="DIR",
        help="folder to write [%(default)s]",
    )
    found.add_argument(
        "--options",
        nargs=argparse.REMAINDER,
        default=[],
        help="further options of the trainings, last on the line",
    )
    return found


def run(options: argparse.Namespace) -> None:
    """Runs all parts that are not done.

    Raises:
      SaeError: photos or images are missing, or a part failed.
    """
    if options.steps is not None and options.steps < 1:
        raise SaeError(f"A training cannot have {options.steps} steps; give --steps of 1 or more.")
    for folder in options.data:
        images.find(folder, recursive=True)
    images.find(options.images)
    plan = list(parts(options))
    print(overview(plan), flush=True)
    target = _results(options)
    # Published curves are of Kodak alone.
    if target.name == Path(DEFAULT_RESULTS).name:
        published = Path(DEFAULT_RESULTS) / "published"
        shutil.copytree(published, target / "published", dirs_exist_ok=True)
    for number, part in enumerate(plan, start=1):
        print(f"\n[{number}/{len(plan)}] {part.title}" + (": done" if part.done else ""))
        if not part.done:
            print(shlex.join(part.command), flush=True)
            if subprocess.run(part.command, cwd=_ROOT).returncode:
                raise SaeError(f"The part failed: {part.title}; the same command resumes there.")
    print(f"\nREADME.md, docs/ and plots/ are in {_folder(options)}.")


def parts(options: argparse.Namespace) -> Iterator[Part]:
    """Yields the commands in order: each family's trainings and measurements, then the rest.

    Args:
      options: options of `parser`.
    """
    folder, target = _folder(options), _results(options)
    checkpoints = ["--checkpoints", str(folder / "checkpoints")]
    sae = [sys.executable, "-m", "sae"]
    measured = [str(Path(options.images).resolve()), "--results", str(target.parent)]
    data = [str(Path(path).resolve()) for path in options.data]
    further = [*(["--last_step", str(options.steps)] if options.steps else []), *options.options]
    for family in map(families.named, options.families):
        store = stores.of_family(family, folder / "checkpoints")
        name = ["--family", family.name]
        residual = family.kind == "residual"
        # The base of a progressive family is the whole model.
        for layer in family.layers if residual else family.layers[:1]:
            command = [sys.executable, f"train_{layer}.py", "--data", *data, *name, *checkpoints]
            yield Part(
                f"train {family.name} {layer}",
                [*command, *further],
                layer in store.names(),
                _hours_of_training(family, layer, options.steps),
            )
        efforts = _SMOKE_EFFORTS if options.steps else results.SHOWN_EFFORTS
        settings = [(effort, 0) for effort in efforts] if residual else [(0, 0), (0, _CUTS)]
        for effort, cuts in settings:
            chosen = ["--cuts", str(cuts)] if cuts else ["--effort", str(effort)]
            yield Part(
                f"measure {family.name}" + (results.setting(effort, cuts) or ", effort 0"),
                [*sae, "evaluate", *measured, *name, *checkpoints, *chosen],
                bool(_measured(store, target, effort, cuts)),
                _hours_of_measuring(family, effort, cuts),
            )
    yield Part(
        "measure JPEG, JPEG 2000, WebP and AVIF",
        [*sae, "anchors", *measured],
        all((target / "anchors" / f"{codec}.json").exists() for codec in ANCHORS),
    )
    yield Part(
        "draw figures and tables",
        [
            *(sys.executable, "-m", "tools.documents", "--results", str(target)),
            *(*checkpoints, "--output", str(folder)),
        ],
    )


def overview(plan: list[Part]) -> str:
    """Returns a table of the hours of each command, and of all unfinished ones together."""
    lines = ["hours of one core, as recorded for the released results:"]
    for part in plan:
        hours = "-" if part.hours is None else f"{part.hours:.2f}"
        lines.append(f"{'done' if part.done else hours:>8}  {part.title}")
    left = [part.hours for part in plan if not part.done]
    unknown = left.count(None)
    rest = f", and {unknown} of unknown duration" if unknown else ""
    return "\n".join([*lines, f"{sum(hours or 0 for hours in left):8.2f}  together{rest}"])


def _folder(options: argparse.Namespace) -> Path:
    """Returns the folder of a reproduction, distinct for each number of steps."""
    return Path(options.folder + (f"-{options.steps}" if options.steps else "")).resolve()


def _results(options: argparse.Namespace) -> Path:
    return results.folder(_folder(options) / "results", options.images)


def _measured(store: Store, target: str | Path, effort: int, cuts: int) -> results.Curve | None:
    """Returns the curve of all layers or cuts of a family, None where it is of other weights."""
    key = results.curve_key(store.family, effort, cuts)
    if not (Path(target) / f"{key}.json").exists() or not store.names():
        return None
    found = next((c for c in results.curves(target) if c.key == key), None)
    weights = set(store.fingerprints())
    return found if found and set(found.fingerprints.values()) == weights else None


def _hours_of_training(family: Family, name: str, steps: int | None) -> float | None:
    store = stores.of_family(family)
    if name not in store.names():
        return None
    training = store.training(name)
    share = steps / training["options"]["last_step"] if steps else 1
    return share * training["hours"]


def _hours_of_measuring(family: Family, effort: int, cuts: int) -> float | None:
    found = _measured(stores.of_family(family), DEFAULT_RESULTS, effort, cuts)
    if not found:
        return None
    return sum(row["encode-seconds"] + row["decode-seconds"] for row in found.images[-1]) / 3600


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status, 2 for a user's mistake."""
    return console.run(lambda: run(parser().parse_args(arguments)), prefix="")


if __name__ == "__main__":
    sys.exit(main())

"""`make results`: writes the documents from results/, checkpoints/ and the parsers.

    python -m tools.documents

docs/RESULTS.md and docs/CLI.md are written wholly. README.md, docs/TRAINING.md and docs/models/ are
written between markers, such as <!-- results --> and <!-- /results -->.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sae import console, files
from sae.config import DEFAULT_FOLDER, DEFAULT_RESULTS
from sae.errors import SaeError
from sae.evaluation import results
from sae.evaluation.results import Curve
from sae.model import stores
from sae.model.families import FAMILIES, Family
from sae.model.layer_store import LayerStore
from sae.model.progressive_config import PLANES
from sae.reporting import figures
from tools import command_line, complexity, result_tables, results_document

ROOT = Path(__file__).resolve().parents[1]
FIGURE = Path("plots/kodak.png")
ALL_CURVES = Path("plots/kodak-all.png")
EFFORTS = Path("plots/effort.png")
TRAINING = Path("plots/training.png")
# The README's curves, and their names in its legend.
_FIRST_CURVES = {
    "progressive-mse": "ours (progressive-mse)",
    "residual-mse": "ours (residual-mse)",
    "published/sae-2019-mse": "SAE 2019",
    "published/dpict-2022": "DPICT 2022",
    "published/ctc-2023": "CTC 2023",
    "published/jpeg-2000-openjpeg": "JPEG 2000 (OpenJPEG)",
    "published/bpg-dense": "BPG",
}
# Curves in addition to those of `sae plot`.
_FURTHER_CURVES = ("published/dpict-2022-ms-ssim",)


@dataclasses.dataclass(frozen=True)
class Sources:
    """The sources of the documents.

    Attributes:
      images: set that is shown, in words.
      curves: curves of that set.
      sets: curves of other sets of images, by the name of the set.
      records: contents of layer.json, by residual family and layer.
      models: contents of model.json, by progressive family.
      checkpoints: folder of the weights.
    """

    images: str
    curves: list[Curve]
    sets: dict[str, list[Curve]]
    records: dict[Family, dict[str, dict]]
    models: dict[Family, dict]
    checkpoints: Path

    @classmethod
    def load(
        cls, folder: str | Path = DEFAULT_RESULTS, checkpoints: str | Path = DEFAULT_FOLDER
    ) -> Sources:
        """Reads results/<set>, the results next to it, and the checkpoints."""
        folder, checkpoints = Path(folder), Path(checkpoints)
        sets = {path.name: results.curves(path) for path in sorted(folder.parent.glob("held-out*"))}
        records, models = {}, {}
        for family in FAMILIES:
            store = stores.of_family(family, checkpoints)
            if store.names() and isinstance(store, LayerStore):
                records[family] = store.all_metadata()
            elif store.names():
                models[family] = store.metadata()
        found = results.curves(folder)
        count = max((len(curve.images[0]) for curve in found if curve.images), default=0)
        images = f"the {count} images of {folder.name.capitalize()}"
        return cls(images, found, sets, records, models, checkpoints)


def run(options: argparse.Namespace) -> None:
    """Writes all documents and figures below a folder.

    Raises:
      SaeError: there are no results, or a document lacks markers.
    """
    output = Path(options.output)
    sources = Sources.load(options.results, options.checkpoints)
    known = digests(sources)
    with figures.style():
        for path, digest in known.items():
            stem = output / path.with_suffix("")
            figures.save(draw(path, sources), stem, ("png",), Description=digest)
    written = texts(sources)
    for path, text in written.items():
        files.write_bytes(output / path, text.encode())
    for path in (*written, *known):
        print(output / path)


def texts(sources: Sources) -> dict[Path, str]:
    """Returns the texts of all written documents by path."""
    found = sources.curves
    written = {
        Path("README.md"): {
            "figure": f'<img src="{FIGURE.as_posix()}" width="560" alt="PSNR and rate on Kodak">'
            f"\n\n**Figure 1.** PSNR against bits per pixel, means over {sources.images}. "
            + result_tables.best_rates(found),
            "results": result_tables.summary(found),
        },
        Path("docs/TRAINING.md"): {"presets": command_line.presets()},
    }
    for family, records in sources.records.items():
        store = LayerStore(family, sources.checkpoints)
        sizes = {name: (store.path(name) / "weights.npz").stat().st_size for name in records}
        counted = complexity.of_family(family, sources.checkpoints)
        shown = result_tables.costs(records, counted, sizes)
        shown += "\n\n" + result_tables.trainings(family, records, found)
        written[Path(f"docs/models/{family.name}.md")] = {"layers": shown}
    for family, model in sources.models.items():
        path = stores.of_family(family, sources.checkpoints).path / "weights.npz"
        counted = complexity.of_model(family, sources.checkpoints)
        shown = result_tables.model_costs(model, counted, path.stat().st_size)
        shown += "\n\n" + result_tables.model_points(family, found)
        written[Path(f"docs/models/{family.name}.md")] = {"model": shown}
    return {
        **{path: _filled(path, parts) for path, parts in written.items()},
        Path("docs/RESULTS.md"): results_document.document(
            found, sources.sets, [path.name for path in digests(sources)]
        ),
        Path("docs/CLI.md"): command_line.document((ROOT / "Makefile").read_text(encoding="utf-8")),
    }


def _filled(path: Path, parts: dict[str, str]) -> str:
    """Returns the text of a document with new parts between its markers."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for name, part in parts.items():
        text = filled(text, name, part)
    return text


def filled(text: str, name: str, part: str) -> str:
    """Returns a text with `part` between the markers of a name.

    Raises:
      SaeError: markers are missing.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in text or end not in text:
        raise SaeError(f"The text has no place for the {name}; add {begin} and {end}.")
    return f"{text.split(begin)[0]}{begin}\n\n{part}\n\n{end}{text.split(end)[1]}"


def digests(sources: Sources) -> dict[Path, str]:
    """Returns digests of the data of each figure, which are stored in the figures' files."""
    facts = {
        FIGURE: list(map(dataclasses.asdict, _first_curves(sources.curves))),
        ALL_CURVES: list(map(dataclasses.asdict, _all_curves(sources.curves))),
        EFFORTS: [dataclasses.asdict(c) for c, _ in results.timed(sources.curves)],
        TRAINING: _losses(sources),
    }
    return {
        path: "results " + hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()
        for path, shown in facts.items()
        if shown
    }


def draw(path: Path, sources: Sources) -> Figure:
    """Returns one of the figures in `digests`."""
    if path == FIGURE:
        return figures.rd(_first_curves(sources.curves))
    if path == ALL_CURVES:
        return figures.rd(_all_curves(sources.curves), ("psnr", "ms-ssim-db"), columns=2)
    if path == EFFORTS:
        return figures.effort(figures.saved_by_effort(sources.curves))
    return figures.training(_losses(sources))


def _first_curves(found: Sequence[Curve]) -> list[Curve]:
    """Returns the curves of the README's figure, ours in any case."""
    by_key = {curve.key: curve for curve in found}
    named = [
        dataclasses.replace(by_key[key], name=name)
        for key, name in _FIRST_CURVES.items()
        if key in by_key
    ]
    # A figure of this size has room for the layer names of one curve.
    named[1:] = [dataclasses.replace(one, labels=[""] * len(one.labels)) for one in named[1:]]
    return named or results.default(found)


def _all_curves(found: Sequence[Curve]) -> list[Curve]:
    return results.default(found) + [curve for curve in found if curve.key in _FURTHER_CURVES]


def _losses(sources: Sources) -> dict[str, list[tuple[float, float]]]:
    """Returns pairs of patches and held-out loss, by family and layer."""
    losses = {}
    for family, records in sources.records.items():
        for name, record in records.items():
            training = record["training"]
            batch = training["options"]["batchsize"]
            scores = training["validation"]
            losses[f"{family.name} {name}"] = [(batch * s["step"], s["loss"]) for s in scores]
    for family, model in sources.models.items():
        training = model["training"]
        batch = training["options"]["batchsize"]
        for plane in range(PLANES):
            losses[f"{family.name} plane {plane}"] = [
                (batch * scores["step"], scores[f"plane_{plane}/loss"])
                for scores in training["validation"]
            ]
    return losses


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    found = argparse.ArgumentParser(
        prog="python -m tools.documents", description="Write the documents' tables and figures."
    )
    found.add_argument(
        "--results", default=DEFAULT_RESULTS, metavar="DIR", help="results of one set [Kodak's]"
    )
    found.add_argument(
        "--checkpoints", default=DEFAULT_FOLDER, metavar="DIR", help="weights [the released ones]"
    )
    found.add_argument(
        "--output",
        default=ROOT,
        metavar="DIR",
        help="folder of README.md, docs/ and plots/ [this clone]",
    )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status, 2 for a user's mistake."""
    return console.run(lambda: run(parser().parse_args(arguments)), prefix="")


if __name__ == "__main__":
    sys.exit(main())

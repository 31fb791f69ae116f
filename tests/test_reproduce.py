"""`make reproduce`: from photos to README, figures and tables, and on from where it was stopped."""

from __future__ import annotations

import json
import shutil
import subprocess
import types

import pytest

from sae import __main__, images
from sae.config import LAYER_NAMES
from sae.model import families
from sae.model.layer_store import LayerStore
from tools import documents, reproduce

FAMILY = "residual-mse"


@pytest.fixture
def arguments(photos, tmp_path):
    photo = images.read(photos / "astronaut.png")
    images.write_png(photo[:96, :128], tmp_path / "set" / "one.png")
    return [
        *("--data", str(photos), "--images", str(tmp_path / "set")),
        *("--families", FAMILY, "--folder", str(tmp_path / "made"), "--steps", "2"),
        *("--options", "--preset", "tiny"),
    ]


@pytest.fixture
def commands(monkeypatch, tiny_store, tmp_path):
    """The commands that were run: in this process, and tiny layers stand for trained ones."""
    run = []
    record = LayerStore(families.named(FAMILY)).training("base")

    def call(command, cwd):
        run.append(command[1:])
        if command[1] == "-m":
            main = {"sae": __main__.main, "tools.documents": documents.main}[command[2]]
            return subprocess.CompletedProcess(command, main(command[3:]))
        name = command[1][len("train_") : -len(".py")]
        target = tmp_path / "made-2" / "checkpoints" / FAMILY / name
        shutil.copytree(tiny_store.path(name), target)
        metadata = {**tiny_store.metadata(name), "training": record}
        (target / "layer.json").write_text(json.dumps(metadata))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(reproduce, "subprocess", types.SimpleNamespace(run=call))
    monkeypatch.setattr(reproduce, "_SMOKE_EFFORTS", (0,))
    return run


@pytest.mark.slow
def test_everything_is_made_once(arguments, commands, tmp_path, capsys):
    assert reproduce.main(arguments) == 0
    made = tmp_path / "made-2"
    assert [words[0] for words in commands[:5]] == [f"train_{name}.py" for name in LAYER_NAMES]
    assert [words[1:3] for words in commands[5:7]] == [["sae", "evaluate"], ["sae", "anchors"]]
    assert commands[7][1] == "tools.documents"
    assert all("--last_step 2 --preset tiny" in " ".join(words) for words in commands[:5])
    table = (made / "README.md").read_text().split("<!-- results -->")[1].split("<!--")[0]
    assert "| JPEG 2000 (Pillow) |" in table and "progressive" not in table
    text = (made / "docs" / "RESULTS.md").read_text()
    assert "| +EL4 |" in text and "## residual-mse" in text and "progressive-mse |" not in text
    assert "| +EL4 |" in (made / "docs" / "models" / "residual-mse.md").read_text()
    assert (made / "plots" / "kodak.png").exists() and (made / "plots" / "training.png").exists()
    printed = capsys.readouterr().out
    # As long as the released layers took, of which two steps are little.
    assert "0.00  train residual-mse base" in printed and "README.md" in printed

    commands.clear()
    assert reproduce.main(arguments) == 0
    assert [words[1] for words in commands] == ["tools.documents"]

    # Results of other weights are none.
    path = made / "results" / "set" / f"{FAMILY}.json"
    path.write_text(path.read_text().replace('"el4": "', '"el4": "0'))
    commands.clear()
    assert reproduce.main(arguments) == 0
    assert [words[1:3] for words in commands[:1]] == [["sae", "evaluate"]]
    assert [words[1] for words in commands[1:]] == ["tools.documents"]


def test_a_progressive_model_is_one_training_and_is_measured_at_cuts(arguments):
    arguments[arguments.index(FAMILY)] = "progressive-mse"
    options = reproduce.parser().parse_args(arguments)
    train, measure, cuts, *others = reproduce.parts(options)
    assert train.title == "train progressive-mse base" and "train_base.py" in train.command
    assert measure.title == "measure progressive-mse, effort 0"
    assert cuts.title == "measure progressive-mse, 20 cuts" and cuts.command[-2:] == [
        "--cuts",
        "20",
    ]
    assert [part.title.split()[0] for part in others] == ["measure", "draw"]
    assert not (train.done or measure.done or cuts.done)


def test_what_is_missing_is_said_before_anything_is_trained(arguments, commands, tmp_path, capsys):
    for image in (tmp_path / "set").iterdir():
        image.unlink()
    assert reproduce.main(arguments) == 2 and not commands
    assert "set" in capsys.readouterr().err


def test_a_part_that_fails_is_named(arguments, monkeypatch, capsys):
    def fail(command, cwd):
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(reproduce, "subprocess", types.SimpleNamespace(run=fail))
    assert reproduce.main(arguments) == 2
    assert "The part failed: train residual-mse base;" in capsys.readouterr().err


def test_a_trial_has_steps(arguments, commands, capsys):
    arguments[arguments.index("--steps") + 1] = "0"
    assert reproduce.main(arguments) == 2 and not commands
    assert capsys.readouterr().err.count("\n") == 1

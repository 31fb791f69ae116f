"""What a command reads and writes is checked before the work, and nothing that is read is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae import files, images
from sae.__main__ import main
from sae.coding import residual_container, stream, transcode
from sae.coding.residual_container import Header, Record
from sae.errors import SaeError
from sae.model import families

RECORDS = [Record(b"abcd", b"one layer"), Record(b"efgh", b"another")]
STREAM = residual_container.pack(Header(families.named("residual-mse"), 16, 16), RECORDS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder: an image, a stream, other names of both, and a folder of both."""
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "pics/a.png", "pics/b.jpg"):
        images.write_png(np.zeros((16, 16, 3), np.uint8), name)
    for name in ("a.sae", "pics/a.sae"):
        Path(name).write_bytes(STREAM)
    for name in ("photo.png", "a.sae"):
        os.symlink(name, f"link-{name}")
        os.link(name, f"hard-{name}")
    os.symlink("pics", "link-pics")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        *([f"compress photo.png {p}photo.png"] for p in ("", "./", "pics/../", "link-", "hard-")),
        *(
            [f"truncate a.sae {p}a.sae --layers 1"]
            for p in ("", "./", "pics/../", "link-", "hard-")
        ),
        ["truncate pics pics --layers 1"],
        ["truncate pics link-pics --layers 1"],
        ["decompress pics pics"],
        ["decompress pics link-pics"],
        ["compress photo.png pics/a.png"],
        ["compress photo.png pics"],
        ["compress photo.png a.sae/x/y.sae --effort 9"],
        ["compress pics a.sae/x"],
        ["decompress a.sae x.png/"],
        ["report --output a.png"],
        ["report --output pics"],
        ["report --images pics --output link.html"],
        ["evaluate pics --results a.sae"],
        ["evaluate pics --results a.sae/x"],
        ["evaluate pics --save_images a.sae/x"],
        ["evaluate pics --save_images pics"],
        ["evaluate pics --checkpoints a.sae"],
        ["anchors pics --results a.sae/x"],
        ["show photo.png --output a.sae"],
        ["compare pics"],
        ["compare absent.png"],
        ["demo --folder a.sae/x"],
        ["plot --output a.sae/x"],
        ["plot --bpp 0 nan"],
        ["plot --bpp 2 1"],
        ["plot --range 1 inf"],
        ["plot --height -1"],
        ["evaluate pics --cuts 9 --family residual-mse"],
        ["compress photo.png x.sae --bpp inf"],
        ["compress photo.png x.sae --psnr 0"],
    ],
    ids=lambda words: words[0],
)
def test_a_refusal_is_one_sentence_and_changes_nothing(words, folder, capfd):
    os.mkdir("x.png")
    os.symlink("pics/a.png", "link.html")
    before = contents(folder)
    assert main(words[0].split()) == 2
    said = capfd.readouterr().err
    assert said.startswith("sae: ") and said.count("\n") == 1
    assert contents(folder) == before


def test_standard_input_is_a_source_too(folder):
    with open("a.sae") as file:
        done = command("truncate", "-", "link-a.sae", "--layers", "1", stdin=file)
    assert (done.returncode, Path("a.sae").read_bytes()) == (2, STREAM)
    assert "standard input" in done.stderr


def command(*words, **options):
    package = Path(files.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(package), **options.pop("env", {})}
    options = {"capture_output": True, "text": True, **options}
    return subprocess.run([sys.executable, "-m", "sae", *words], env=environment, **options)


def test_refusals_come_before_tensorflow(folder):
    program = """
import sys
from sae.__main__ import main
for words in sys.argv[1:]:
    assert main(words.split()) == 2, words
    assert "tensorflow" not in sys.modules, words
"""
    refused = [
        "compress photo.png photo.png",
        "compress photo.png pics",
        "compress photo.png x.sae --checkpoints absent",
        "decompress pics pics",
        "decompress absent.sae x.png",
        "evaluate pics --save_images pics",
        "evaluate pics --checkpoints absent",
        "show photo.png --output a.sae/x",
    ]
    package = Path(files.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    subprocess.run([sys.executable, "-c", program, *refused], env=environment, check=True)


def test_streams_of_any_spelling_are_taken(folder, capfd):
    for name in ("pics/B.SAE", "pics/c.bin", "pics/._x.sae", "pics/d.sae"):
        Path(name).write_bytes(STREAM)
    Path("pics/d.sae").write_bytes(STREAM[:20])
    os.symlink("nowhere", "pics/e.sae")
    Path("pics/text").write_text("SAE results")
    assert main(["truncate", "pics", "out", "--layers", "1"]) == 1
    assert sorted(os.listdir("out")) == ["B.sae", "a.sae", "c.sae"]
    said = capfd.readouterr().err
    assert "pics/d.sae: " in said and "pics/e.sae" in said and "text" not in said
    Path("pics/A.SAE").write_bytes(STREAM)
    os.rename("pics/A.SAE", "pics/a.SaE")
    assert main(["truncate", "pics", "other", "--layers", "1"]) == 2
    assert "both become" in capfd.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), ValueError("odd\nsecond line"), SaeError("No.")])
def test_a_folder_goes_on_after_any_failure(error, folder, capfd):
    done = []

    def run(source, target):
        if source == "b":
            raise error
        done.append(source)

    jobs = transcode._Jobs([(name, name + ".out") for name in "abc"], of_folder=True)
    assert transcode._each(jobs, run) == 1
    assert done == ["a", "c"]
    assert "sae: b: " in capfd.readouterr().err


def test_names_as_long_as_they_can_be(folder, capfd):
    name = "\u3042" * 83 + ".png"
    assert len(os.fsencode(name)) > 250
    images.write_png(np.zeros((2, 2, 3), np.uint8), name)
    target = "\u3042" * 82 + ".sae"
    assert main(["truncate", "a.sae", target, "--layers", "1"]) == 0
    assert stream.parse(Path(target).read_bytes()).layers == 1
    too_long = "a" * 300
    for words in (["truncate", "a.sae", too_long], ["truncate", too_long, "x.sae"]):
        assert main([*words, "--layers", "1"]) == 2
        assert "too long" in capfd.readouterr().err


@given(st.lists(st.sampled_from([".", "..", "here", "link", "file"]), max_size=6))
def test_a_place_is_writable_or_refused(tmp_path_factory, parts):
    base = tmp_path_factory.mktemp("places", numbered=True)
    (base / "here/here").mkdir(parents=True)
    (base / "file").write_text("")
    os.symlink("here", base / "link")
    folder = base.joinpath("here", *parts)
    try:
        files.require_writable(folder)
    except SaeError:
        with pytest.raises(OSError):
            Path(os.path.abspath(folder)).mkdir(parents=True)
    else:
        Path(os.path.abspath(folder)).mkdir(parents=True, exist_ok=True)


def test_images_are_found_by_content_too(folder):
    for name in ("plain", "photo.dat", ".hidden"):
        Path("pics/a.png").with_name(name).write_bytes(Path("photo.png").read_bytes())
    Path("pics/text.txt").write_text("P6 is no image, nor is this.")
    assert [path.name for path in images.find("pics")] == ["a.png", "b.jpg", "photo.dat", "plain"]

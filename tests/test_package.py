"""What a wheel holds is enough to work with, from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import sae
from sae import images
from sae.model.checkpoint import store

ROOT = Path(__file__).resolve().parents[1]
OTHERS = shutil.ignore_patterns(".*", "build", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project as a wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=OTHERS)
    command = "pip wheel --quiet --no-deps --no-build-isolation --disable-pip-version-check -w"
    subprocess.run([sys.executable, "-m", *command.split(), folder, folder / "source"], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture
def run(wheel, tmp_path):
    """Runs the command of an unpacked wheel in an empty folder; returns what it printed."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "work").mkdir()
    program = "import sys; from sae.__main__ import main; sys.exit(main())"

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            cwd=tmp_path / "work",
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    return run


def test_a_wheel_works_from_any_folder(run, tmp_path):
    photo = images.sample_photos()["coffee"][:64, :80]
    images.write_png(photo, tmp_path / "work/photo.png")
    run("compress", "photo.png", "photo.sae")
    run("truncate", "photo.sae", "cut.sae", "--layers", "1")
    run("decompress", "cut.sae", "cut.png")
    data = (tmp_path / "work/cut.sae").read_bytes()
    np.testing.assert_array_equal(images.read(tmp_path / "work/cut.png"), sae.decompress(data))
    listed = run("families")
    for description in store().described().values():
        assert description["fingerprint"][:8] in listed
    assert "published/" in run("plot", "--list")
    assert run("--version") == f"sae {sae.__version__}\n"


def test_a_wheel_has_every_module(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "sae").rglob("*.py"):
        assert path.relative_to(ROOT).as_posix() in held
    for path in (ROOT / "checkpoints").glob("*/*/weights.npz"):
        assert f"sae/shipped/{path.relative_to(ROOT).as_posix()}" in held

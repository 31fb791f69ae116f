"""What a wheel holds is enough to work with, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import sae
from sae import images
from sae.__main__ import main
from sae.errors import REPORT, SaeError, explaining_the_extra
from sae.model.families import FAMILIES
from sae.model.stores import of_family

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
# Runs the command line where nothing of the extra `report` is installed.
PROGRAM = f"""
import sys
sys.modules.update(dict.fromkeys({REPORT}))
from sae.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the project as an sdist, as a wheel of that, and as an editable wheel."""
    folder = tmp_path_factory.mktemp("built")
    program = (
        "import sys; from hatchling import build; build.build_sdist(sys.argv[1]); "
        "build.build_editable(sys.argv[1] + '/editable')"
    )
    (folder / "editable").mkdir()
    subprocess.run([sys.executable, "-c", program, folder], cwd=ROOT, check=True)
    (sdist,) = folder.glob("*.tar.gz")
    command = "pip wheel --quiet --no-deps --no-build-isolation --disable-pip-version-check -w"
    subprocess.run([sys.executable, "-m", *command.split(), folder, sdist], check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    """The project as a wheel."""
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture
def run(wheel, tmp_path):
    """Runs the command of an unpacked wheel in an empty folder; returns what it printed."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "work").mkdir()

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            cwd=tmp_path / "work",
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    return run


@pytest.mark.slow
def test_a_wheel_works_from_any_folder(run, tmp_path):
    photo = images.sample_photos()["coffee"][:64, :80]
    images.write_png(photo, tmp_path / "work/photo.png")
    run("compress", "photo.png", "photo.sae")
    run("truncate", "photo.sae", "cut.sae", "--layers", "1")
    run("decompress", "cut.sae", "cut.png")
    data = (tmp_path / "work/cut.sae").read_bytes()
    np.testing.assert_array_equal(images.read(tmp_path / "work/cut.png"), sae.decompress(data))
    listed = run("families")
    for store in map(of_family, FAMILIES):
        assert (f"{store.family.name}: " in listed) == bool(store.names())
        for fingerprint in store.fingerprints() if store.names() else ():
            assert fingerprint[:8] in listed
    assert run("--version") == f"sae {sae.__version__}\n"


@pytest.mark.slow
def test_a_wheel_trains_and_measures(run, photos, tmp_path):
    work = tmp_path / "work"
    images.write_png(images.sample_photos()["coffee"][:176, :192], work / "photos/coffee.png")
    shipped = list((tmp_path / "site").rglob("*"))
    run("train", "base", "--preset", "tiny", "--last_step", "2", "--data", str(photos))
    assert (work / "checkpoints/residual-mse/base/weights.npz").exists()
    run("evaluate", "photos", "--family", "residual-mse", "--checkpoints", "checkpoints")
    assert (work / "results/photos/residual-mse.json").exists()
    added = set((tmp_path / "site").rglob("*")) - set(shipped)
    assert not [path for path in added if "__pycache__" not in path.parts]


@pytest.mark.slow
def test_a_wheel_has_all_of_the_package_and_what_was_released(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("sae-")}
    package = [path for path in (ROOT / "sae").rglob("*.*") if path.suffix != ".pyc"]
    released = [
        *(ROOT / "checkpoints").glob("*/*/weights.npz"),
        *(ROOT / "checkpoints").glob("*/*/layer.json"),
        *(ROOT / "checkpoints").glob("*/weights.npz"),
        *(ROOT / "checkpoints").glob("*/model.json"),
        *(ROOT / "results/kodak").rglob("*.json"),
    ]
    assert held == {path.relative_to(ROOT).as_posix() for path in package} | {
        f"sae/shipped/{path.relative_to(ROOT).as_posix()}" for path in released
    }


@pytest.mark.slow
def test_an_editable_installation_uses_the_clone(built):
    (path,) = built.glob("editable/*.whl")
    with zipfile.ZipFile(path) as archive:
        (pth,) = [name for name in archive.namelist() if not name.startswith("sae-")]
        assert Path(archive.read(pth).decode().strip()).resolve() == ROOT


def test_the_extra_is_what_reports_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {one.split(">")[0] for one in project["optional-dependencies"]["report"]}
    assert names == {{"skimage": "scikit-image"}.get(module, module) for module in REPORT}


@pytest.mark.parametrize(
    ("command", "module", "missing"),
    [
        ("plot --list", "sae.reporting.figures", "matplotlib"),
        ("plot --list", "sae.reporting.figures", "textalloc"),
        ("bdrate", "sae.evaluation.bdrate", "bjontegaard"),
    ],
)
def test_without_the_extra_a_report_names_it(monkeypatch, capsys, command, module, missing):
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(command.split()) == 2
    assert capsys.readouterr().err == (
        f"sae: Figures and reports require {missing}, which is not installed; run "
        "pip install 'sae[report]'.\n"
    )


def test_any_other_missing_module_is_a_bug(monkeypatch):
    monkeypatch.delitem(sys.modules, "sae.evaluation.bdrate", raising=False)
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(ModuleNotFoundError):
        main(["bdrate"])


def test_a_training_that_is_interrupted_ends_quietly(monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sae.scripts.run_training", interrupted)
    assert main(["train", "el1", "--data", "photos"]) == 130


def test_without_tensorflow_the_command_names_its_extra():
    words = r"require tensorflow, .* pip install 'sae\[tensorflow\]'"
    with pytest.raises(SaeError, match=words), explaining_the_extra():
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

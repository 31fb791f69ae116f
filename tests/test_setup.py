"""Setting up: the Python that .venv is made with, and when packages are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sae

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


ROOT = Path(__file__).parents[1]
TOOLS = ("dirname", "mkdir", "cp", "touch", "rm", "sh", "chmod", "sed")
COPIED = (
    "Makefile",
    "requirements.txt",
    "requirements.lock",
    "tools/requirements-dev.txt",
    "tools/make_venv.sh",
)

# A Python that says it is of another version: answers the question about itself,
# and on `-m venv --clear .venv` makes one of the same kind, with a pip that takes notes.
STUB = """#!/bin/sh
case "$*" in
"-m venv"*) mkdir -p .venv/bin && echo "$0" > .venv/made-by && cp "$0" .venv/bin/python ;;
"-m pip"*"--target .uv uv") test ! -e offline && mkdir -p .uv/bin && cp uv.stub .uv/bin/uv ;;
"-m pip"*) echo "$*" >> pip.log && test ! -e offline ;;
train_*) echo "$*" >> train.log && test ! -e "fails-$1" ;;
*) exec {python} -c "import sys; sys.version_info = {version}
for name in {missing}: sys.modules[name] = None
exec(sys.argv[1])" "$2" ;;
esac
"""


# Makes .venv with a Python 3.11 that it has somewhere.
UV = """#!/bin/sh
test "$*" = "venv --quiet --seed --python 3.11 .venv" && test ! -e no-github &&
    mkdir -p .venv/bin && echo "$0" > .venv/made-by && cp fetched/python .venv/bin/python
"""


@pytest.fixture
def computer(tmp_path):
    """An empty computer, with a checkout to set up."""
    return Computer(tmp_path)


class Computer:
    def __init__(self, folder):
        self.bin = folder / "bin"
        self.home = folder / "a home"
        self.checkout = folder / "checkout"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        for path in COPIED:
            (self.checkout / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, self.checkout / path)
        (self.checkout / "sae").symlink_to(ROOT / "sae")

    def add_python(self, path, version, missing=()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STUB.format(python=sys.executable, version=version, missing=missing))
        path.chmod(0o755)

    def make(self, *arguments, **environment):
        environment = {"PATH": str(self.bin), "HOME": str(self.home), **environment}
        return subprocess.run(
            [shutil.which("make"), *arguments],
            cwd=self.checkout,
            env=environment,
            capture_output=True,
            text=True,
        )

    def installed(self):
        """Returns what pip was asked to install since the last call."""
        log = self.checkout / "pip.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line.split()[-1] for line in lines]

    def made_by(self):
        return Path((self.checkout / ".venv/made-by").read_text().strip())


SET_UP = ".venv/installed"


def requirements(text):
    """Returns the requirements in lines of text, apart from comments."""
    return [Requirement(line) for line in text.splitlines() if line[:1] not in ("#", "")]


def locked():
    """Returns the pins of the lock, without their hashes."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(line.rstrip(" \\")) for line in lines if line[:1].isalnum()]


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 10, 1), (3, 11, 7)])
def test_takes_python3_where_it_suits(computer, version):
    computer.add_python(computer.bin / "python3", version)
    computer.add_python(computer.bin / "python3.11", (3, 11, 0))
    assert computer.make(SET_UP).returncode == 0
    assert computer.made_by().name == "python3"


def test_prefers_the_newest_that_suits_on_the_path(computer):
    computer.add_python(computer.bin / "python3", (3, 12, 1))
    computer.add_python(computer.bin / "python3.11", (3, 11, 2), missing=["ensurepip"])
    computer.add_python(computer.bin / "python3.10", (3, 10, 13))
    computer.add_python(computer.bin / "python3.9", (3, 9, 18))
    assert computer.make(SET_UP).returncode == 0
    assert computer.made_by().name == "python3.10"


@pytest.mark.parametrize("by_variable", [False, True])
def test_looks_among_pyenvs(computer, tmp_path, by_variable):
    root = tmp_path / "pyenv" if by_variable else computer.home / ".pyenv"
    computer.add_python(computer.bin / "python3", (3, 13, 0))
    for version in [(3, 8, 18), (3, 9, 18), (3, 12, 1)]:
        computer.add_python(root / "versions" / ".".join(map(str, version)) / "bin/python", version)
    environment = {"PYENV_ROOT": str(root)} if by_variable else {}
    assert computer.make(SET_UP, **environment).returncode == 0
    assert computer.made_by() == root / "versions/3.9.18/bin/python"


@pytest.mark.parametrize("installed", [True, False])
def test_uv_fetches_a_python_where_there_is_none_that_suits(computer, installed):
    computer.add_python(computer.bin / "python3", (3, 13, 0))
    computer.add_python(computer.checkout / "fetched/python", (3, 11, 9))
    uv = computer.bin / "uv" if installed else computer.checkout / "uv.stub"
    uv.write_text(UV)
    uv.chmod(0o755)
    assert computer.make(SET_UP).returncode == 0
    assert computer.made_by() == (uv if installed else Path(".uv/bin/uv"))
    assert computer.installed() == ["requirements.txt"]


@pytest.mark.parametrize("reachable", ["nothing", "packages alone"])
def test_without_a_python_that_suits_says_what_to_install(computer, reachable):
    computer.add_python(computer.bin / "python3", (3, 12, 1))
    (computer.checkout / "uv.stub").write_text(UV)
    (computer.checkout / "uv.stub").chmod(0o755)
    (computer.checkout / ("offline" if reachable == "nothing" else "no-github")).touch()
    result = computer.make(SET_UP)
    assert result.returncode != 0
    assert "TensorFlow 2.14 needs Python 3.9, 3.10 or 3.11" in result.stderr
    assert "apt install python3.11-venv" in result.stderr
    assert not (computer.checkout / ".venv").exists()


def test_a_python_may_be_named(computer, tmp_path):
    python = tmp_path / "my pythons" / "python"
    computer.add_python(computer.bin / "python3", (3, 11, 7))
    computer.add_python(python, (3, 10, 13))
    assert computer.make(SET_UP, f"PYTHON={python}").returncode == 0
    assert computer.made_by() == python


def test_a_python_named_must_suit(computer):
    computer.add_python(computer.bin / "python3", (3, 11, 7))
    computer.add_python(computer.bin / "python3.12", (3, 12, 1))
    result = computer.make(SET_UP, "PYTHON=python3.12")
    assert result.returncode != 0
    assert result.stderr.startswith("python3.12 is not a Python 3.9, 3.10 or 3.11")


def test_installs_when_the_requirements_changed(computer):
    computer.add_python(computer.bin / "python3", (3, 11, 7))
    assert computer.make(".venv/installed-dev").returncode == 0
    assert computer.installed() == ["requirements.txt", "tools/requirements-dev.txt"]
    assert computer.make(".venv/installed-dev").returncode == 0
    assert computer.installed() == []
    stamp = (computer.checkout / SET_UP).stat().st_mtime
    os.utime(computer.checkout / "requirements.txt", (stamp + 1, stamp + 1))
    assert computer.make(SET_UP).returncode == 0
    assert computer.installed() == ["requirements.txt"]


def test_a_failed_installation_is_taken_up_again(computer):
    computer.add_python(computer.bin / "python3", (3, 11, 7))
    (computer.checkout / "offline").touch()
    assert computer.make(SET_UP).returncode != 0
    assert not (computer.checkout / SET_UP).exists()
    (computer.checkout / "offline").unlink()
    assert computer.make(SET_UP).returncode == 0
    assert computer.installed() == ["requirements.txt", "requirements.txt"]


def test_a_broken_environment_is_made_anew(computer):
    computer.add_python(computer.bin / "python3", (3, 11, 7))
    computer.add_python(computer.checkout / ".venv/bin/python", (3, 11, 7), missing=["pip"])
    assert computer.make(SET_UP).returncode == 0
    assert computer.made_by().name == "python3"


@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("residual-mse", ["base", "el1", "el2", "el3", "el4"]),
        ("residual-ms-ssim", ["base", "el1", "el2", "el3"]),
    ],
)
def test_trains_the_layers_in_order(computer, family, layers):
    computer.add_python(computer.bin / "python3", (3, 11, 7))
    options = f"FAMILY={family}", "CHECKPOINTS=runs/mine", "OPTIONS=--seed 2"
    assert computer.make("train", "DATA=a b", *options).returncode == 0
    assert (computer.checkout / "train.log").read_text().splitlines() == [
        f"train_{layer}.py --data a b --family {family} --checkpoints runs/mine --seed 2"
        for layer in layers
    ]


@pytest.mark.parametrize("fails", [0, 1, 4])
def test_training_stops_at_the_first_failure(computer, fails):
    scripts = [f"train_{layer}.py" for layer in ("base", "el1", "el2", "el3", "el4")]
    computer.add_python(computer.bin / "python3", (3, 11, 7))
    (computer.checkout / f"fails-{scripts[fails]}").touch()
    assert computer.make("train", "DATA=a").returncode != 0
    log = (computer.checkout / "train.log").read_text().splitlines()
    assert [line.split()[0] for line in log] == scripts[: fails + 1]


@pytest.mark.parametrize(
    ("data", "folders"),
    [
        ("my photos", ["my photos"]),
        ("a b", ["a", "b"]),
        ("a 'my photos' b", ["a", "my photos", "b"]),
        ("'it''s' \\$5", ["its", "$5"]),
    ],
)
def test_folders_of_photos_may_have_spaces(computer, data, folders):
    computer.add_python(computer.bin / "python3", (3, 11, 7))
    assert computer.make(SET_UP).returncode == 0
    (computer.checkout / "my photos").mkdir()
    python = computer.checkout / ".venv/bin/python"
    python.write_text(
        '#!/bin/sh\ncase "$1" in -c) echo base;; *) printf "%s\\n" "$@" > words;; esac\n'
    )
    computer.make("train", f"DATA={data.replace('$', '$$')}", "CHECKPOINTS=my runs")
    words = (computer.checkout / "words").read_text().splitlines()
    assert words[words.index("--data") + 1 : words.index("--family")] == folders
    assert words[words.index("--checkpoints") + 1] == "my runs"


def test_training_needs_photos(computer):
    computer.add_python(computer.bin / "python3", (3, 11, 7))
    result = computer.make("train")
    assert result.returncode != 0
    assert "make train DATA=DIR" in result.stderr


def test_installs_what_the_lock_pins(computer):
    computer.add_python(computer.bin / "python3", (3, 11, 7))
    assert computer.make(SET_UP).returncode == 0
    assert "-c .venv/pins.txt" in (computer.checkout / "pip.log").read_text()
    pins = (computer.checkout / ".venv/pins.txt").read_text().splitlines()
    assert pins == [str(pin).replace("; ", " ; ").replace('"', "'") for pin in locked()]


def test_the_lock_pins_the_requirements():
    for one in requirements((ROOT / "requirements.txt").read_text()):
        pins = [pin for pin in locked() if canonicalize_name(pin.name) == one.name]
        assert pins, one
        for pin in pins:
            (version,) = pin.specifier
            assert version.operator == "==" and version.version in one.specifier, pin


def test_the_lock_has_hashes():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [k for k, line in enumerate(lines) if line[:1].isalnum()]
    assert all(lines[k + 1].strip().startswith("--hash=sha256:") for k in pins)


def test_the_requirements_are_those_of_the_package_and_of_its_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own = [*project["dependencies"], *extras["tensorflow"], *extras["report"]]
    assert requirements((ROOT / "requirements.txt").read_text()) == requirements("\n".join(own))


def test_make_alone_lists_the_targets():
    # Without MAKEFLAGS: this test may itself be run by make.
    environment = {"PATH": os.environ["PATH"]}
    result = subprocess.run(
        ["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    targets = [line.split()[1] for line in result.stdout.splitlines()]
    expected = "help demo train reproduce kodak results web test test-fast lint docs clean"
    assert targets == expected.split()
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "PHONY" in line)
    assert phony.split()[1:] == targets


@pytest.mark.parametrize("named", [False, True])
def test_ci_takes_the_kodak_images_beside_the_clone_or_of_a_folder_that_is_named(tmp_path, named):
    clone, beside, mine = (tmp_path / name for name in ("a clone", "beside/data/kodak", "my kodak"))
    (clone / "kodak").mkdir(parents=True)
    shutil.copytree(ROOT / ".ci", clone / ".ci")
    for folder in (beside, mine):
        folder.mkdir(parents=True)
        (folder / "kodim01.png").write_text(folder.name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/make").write_text('#!/bin/sh\ntest "$*" = test && exit 3\n')
    (tmp_path / "bin/make").chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    environment |= {"KODAK_DIR": str(mine)} if named else {}
    result = subprocess.run(["bash", clone / ".ci/run"], env=environment, cwd=tmp_path)
    assert result.returncode == 3
    assert (clone / "kodak/kodim01.png").read_text() == ("my kodak" if named else "kodak")


def release_notes(tag, root=ROOT):
    command = [sys.executable, root / "tools/release_notes.py", tag]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_notes_of_a_release_are_its_section_of_the_changelog(tmp_path):
    for path in ("tools/release_notes.py", "sae/__init__.py"):
        (tmp_path / path).parent.mkdir()
        shutil.copy(ROOT / path, tmp_path / path)
    mine, log = f"v{sae.__version__}", tmp_path / "CHANGELOG.md"
    log.write_text(f"# Changelog\n\n## 99.0\n\nA\n\n## {mine[1:]}, today\n\nB\n\n## 0.1\n\nC\n")
    assert release_notes(mine, tmp_path).stdout == "B\n"
    other = release_notes("v99.0", tmp_path)
    assert other.returncode == 1
    assert other.stderr == f"The tag v99.0 is not of version {mine[1:]}; tag {mine}.\n"
    log.write_text("# Changelog\n\n## 99.0\n\nA\n")
    assert release_notes(mine, tmp_path).returncode == 1


def test_the_next_release_has_notes():
    assert release_notes(f"v{sae.__version__}").returncode == 0

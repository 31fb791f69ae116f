"""The commands compress, decompress, info, truncate and extend."""

from __future__ import annotations

import os
import re
import resource
import stat
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import sae
from sae import images
from sae.__main__ import main
from sae.coding import bitstream


@pytest.fixture(scope="module")
def photo():
    """A photo, uint8 [40, 56, 3]."""
    return images.sample_photos()["coffee"][150:190, 200:256]


@pytest.fixture
def folder(photo, tmp_path, monkeypatch):
    """The working folder, with photo.png in it."""
    monkeypatch.chdir(tmp_path)
    images.write_png(photo, "photo.png")
    return tmp_path


@pytest.fixture
def call(tiny_checkpoints, capfd):
    """Runs a command; returns its exit status, its output and its errors."""

    def call(command, *arguments):
        if command not in ("info", "truncate"):
            arguments += ("--checkpoints", str(tiny_checkpoints))
        status = main([command, *map(str, arguments)])
        return status, *capfd.readouterr()

    return call


def process(*arguments, **options):
    """Runs a command in a process of its own."""
    package = os.path.dirname(os.path.dirname(sae.__file__))
    return subprocess.run(
        [sys.executable, "-m", "sae", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        **options,
    )


def test_there_and_back(folder, photo, call, tiny_checkpoints):
    status, out, error = call("compress", "photo.png", "photo.sae")
    data = (folder / "photo.sae").read_bytes()
    assert (status, out) == (0, "")
    assert (
        f"5 layers (to el4), {len(data)} bytes, {8 * len(data) / photo[..., 0].size:.4f}" in error
    )
    assert data == sae.compress(photo, checkpoints=tiny_checkpoints)
    for layers in (None, 2):
        options = [] if layers is None else ["--layers", layers]
        status, out, error = call("decompress", "photo.sae", "new/photo.png", *options)
        assert (status, out) == (0, "")
        assert error == f"photo.sae: {photo.shape[1]} x {photo.shape[0]} pixels to new/photo.png\n"
        expected = sae.decompress(data, layers, checkpoints=tiny_checkpoints)
        np.testing.assert_array_equal(images.read("new/photo.png"), expected)


def test_truncate_then_extend_restores_the_file(folder, call):
    call("compress", "photo.png", "photo.sae")
    data = (folder / "photo.sae").read_bytes()
    status, out, error = call("truncate", "photo.sae", "two.sae", "--layers", 2)
    assert (status, out) == (0, "") and "photo.sae: 2 layers (to el1)" in error
    two = (folder / "two.sae").read_bytes()
    assert len(bitstream.parse(two).records) == 2
    assert data.startswith(two)
    assert call("extend", "two.sae", "five.sae", "--image", "photo.png")[0] == 0
    assert (folder / "five.sae").read_bytes() == data


def test_info_tells_sizes_that_add_up(folder, photo, call):
    call("compress", "photo.png", "photo.sae")
    data = (folder / "photo.sae").read_bytes()
    status, out, error = call("info", "photo.sae")
    assert (status, error) == (0, "")
    assert out.startswith("56 x 40 pixels, residual-mse layers\n")
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["base", "el1", "el2", "el3", "el4", "header"]
    assert sum(int(row[-1] if row[0] == "header" else row[2]) for row in rows) == len(data)
    assert float(rows[4][4]) == pytest.approx(8 * len(data) / (40 * 56), abs=1e-4)


def test_a_cut_file_is_decoded_with_a_warning(folder, call, tiny_checkpoints):
    call("compress", "photo.png", "photo.sae", "--layers", 3)
    data = (folder / "photo.sae").read_bytes()
    (folder / "cut.sae").write_bytes(data[:-1])
    status, _, error = call("decompress", "cut.sae", "cut.png")
    assert status == 0
    assert "warning: cut.sae: The stream is cut short; el1 is its last layer." in error
    expected = sae.decompress(data, 2, checkpoints=tiny_checkpoints)
    np.testing.assert_array_equal(images.read("cut.png"), expected)
    assert "cut within el2" in call("info", "cut.sae")[2]
    (folder / "cut.sae").write_bytes(data[:20])
    status, _, error = call("decompress", "cut.sae", "none.png")
    assert (status, error.count("\n")) == (2, 1)
    assert not (folder / "none.png").exists()


def test_links_are_followed_and_pipes_written_through(folder, call):
    (folder / "there").mkdir()
    os.symlink("there/photo.sae", "link.sae")
    for _ in range(2):
        assert call("compress", "photo.png", "link.sae", "--layers", 1)[0] == 0
        assert os.path.islink("link.sae")
        data = (folder / "there/photo.sae").read_bytes()
        assert len(bitstream.parse(data).records) == 1
    os.mkfifo("pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE) as reader:
        assert call("truncate", "link.sae", "pipe", "--layers", 1)[0] == 0
        assert reader.stdout.read() == data
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


@pytest.mark.slow
def test_targets_are_reported(folder, call):
    _, _, error = call("compress", "photo.png", "photo.sae", "--target-bpp", 0.001)
    assert "1 layers (to base)" in error
    _, _, error = call("compress", "photo.png", "photo.sae", "--target-psnr", 99)
    assert "5 layers (to el4)" in error
    assert " dB" in error
    assert "do not reach the target" in error


@pytest.mark.slow
def test_folders_go_on_past_bad_files(folder, photo, call):
    os.mkdir("in")
    for name in ("a", "c"):
        images.write_png(photo, f"in/{name}.png")
    (folder / "in/b.png").write_text("not an image")
    clear = Image.fromarray(photo).convert("RGBA")
    clear.putalpha(128)
    clear.save("in/d.png")
    status, _, error = call("compress", "in", "out")
    assert status == 1
    assert re.search(r"sae: in.b\.png is not an image", error)
    assert re.search(r"sae: in.d\.png is transparent in places", error)
    assert call("compress", "in/d.png", "d.sae", "--background", "white")[0] == 0
    assert "4/4" in error
    assert sorted(os.listdir("out")) == ["a.sae", "c.sae"]
    (folder / "out/b.sae").write_text("not a stream")
    status, _, error = call("decompress", "out", "back")
    assert status == 1
    assert re.search(r"sae: out.b\.sae: This is not an \.sae stream", error)
    assert sorted(os.listdir("back")) == ["a.png", "c.png"]
    assert call("truncate", "out", "short", "--layers", 1)[0] == 1
    assert sorted(os.listdir("short")) == ["a.sae", "c.sae"]
    os.remove("out/b.sae")
    assert call("decompress", "out", "back")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decompress", "text.sae", "o.png"], "text.sae: This is not an .sae stream"),
        (["decompress", "empty.sae", "o.png"], "empty.sae: The .sae stream is empty"),
        (["decompress", "absent.sae", "o.png"], "Cannot read absent.sae: No such file"),
        (["decompress", "version.sae", "o.png"], "version 9"),
        (["decompress", "photo.png", "o.png"], "photo.png: This is not an .sae stream"),
        (["decompress", "text.sae", "o.jpg"], "written as PNG"),
        (["decompress", "void", "o"], "no .sae file in void"),
        (["decompress", "-", "o.jpg"], "written as PNG"),
        (["compress", "void", "o"], "no image in void"),
        (["compress", "void", "photo.png"], "name a folder"),
        (["compress", "void", "-"], "name a folder"),
        (["compress", "text.sae", "o.sae"], "not an image of a known format"),
        (["compress", "photo.png", "void"], "void is a folder"),
        (["compress", "photo.png", "photo.png/o.sae"], "Cannot write"),
        (["compress", "photo.png", "o.sae", "--layers", "9"], "1 to 5 layers"),
        (["compress", "photo.png", "o.sae", "--max-pixels", "9"], "limit of 9"),
        (["compress", "twins", "o"], "both become"),
        (["compress", "photo.png", "o.sae", "--target-bpp", "-1"], "number above 0, not -1"),
        (["compress", "photo.png", "o.sae", "--target-psnr", "nan"], "number above 0, not nan"),
        (["compress", "photo.png", "/dev/full"], "Cannot write /dev/full: No space left"),
        (["extend", "text.sae", "o.sae", "--image", "photo.png"], "not an .sae stream"),
        (["info", "void"], "Cannot read void: Is a directory"),
        (["truncate", "text.sae", "o.sae", "--layers", "1"], "not an .sae stream"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(arguments, message, folder, photo, call):
    (folder / "text.sae").write_text("Just text.\n")
    (folder / "empty.sae").touch()
    (folder / "version.sae").write_bytes(b"SAE\x09" + bytes(30))
    (folder / "void").mkdir()
    (folder / "twins").mkdir()
    for name in ("a.png", "a.jpg"):
        Image.fromarray(photo).save(folder / "twins" / name)
    before = sorted(os.listdir())
    status, out, error = call(*arguments)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"sae: [^\n]*\.\n", error)
    assert message in error
    assert sorted(os.listdir()) == before
    assert os.listdir("void") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "a", "b", "--layers", "0"],
        ["compress", "a", "b", "--target-bpp", "1", "--target-psnr", "30"],
        ["truncate", "a", "b"],
    ],
)
def test_wrong_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage" in capsys.readouterr().err


@pytest.mark.slow
def test_pipes(folder, photo, tiny_checkpoints):
    options = ("--checkpoints", tiny_checkpoints)
    coded = process("compress", "-", "-", *options, input=(folder / "photo.png").read_bytes())
    assert coded.returncode == 0
    assert coded.stdout == sae.compress(photo, checkpoints=tiny_checkpoints)
    # What TensorFlow logs at its start is not for users.
    assert coded.stderr.count(b"\n") == 1
    decoded = process("decompress", "-", "-", *options, input=coded.stdout)
    assert (decoded.returncode, decoded.stderr) == (0, b"-: 56 x 40 pixels to -\n")
    (folder / "out.png").write_bytes(decoded.stdout)
    expected = sae.decompress(coded.stdout, checkpoints=tiny_checkpoints)
    np.testing.assert_array_equal(images.read("out.png"), expected)


def test_a_full_disk_leaves_no_file(folder, call):
    call("compress", "photo.png", "photo.sae")
    (folder / "old.sae").write_text("what stood there")
    before = sorted(os.listdir())

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))

    for target in ("old.sae", "new.sae"):
        done = process("truncate", "photo.sae", target, "--layers", 5, preexec_fn=full)
        assert done.returncode == 2
        assert re.fullmatch(rb"sae: Cannot write [^\n]*\n", done.stderr)
    assert sorted(os.listdir()) == before
    assert (folder / "old.sae").read_text() == "what stood there"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_standard_output_is_said(folder, call):
    call("compress", "photo.png", "photo.sae")
    package = os.path.dirname(os.path.dirname(sae.__file__))
    command = [sys.executable, "-m", "sae", "truncate", "photo.sae", "-", "--layers", "5"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": package},
        )
    assert done.returncode == 2
    assert re.fullmatch(rb"sae: Cannot write standard output: [^\n]*\n", done.stderr)


def test_commands_on_bytes_do_not_import_tensorflow(folder, call):
    call("compress", "photo.png", "photo.sae")
    program = """
import sys
from sae.__main__ import main
main(["info", "photo.sae"])
main(["truncate", "photo.sae", "one.sae", "--layers", "1"])
sys.exit("tensorflow" in sys.modules)
"""
    package = os.path.dirname(os.path.dirname(sae.__file__))
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": package}
    )
    assert done.returncode == 0

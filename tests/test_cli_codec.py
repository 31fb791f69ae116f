"""The commands compress, decompress, info and truncate."""

from __future__ import annotations

import os
import re
import resource
import stat
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

import sae
from sae import images, metrics
from sae.__main__ import main
from sae.coding import stream

# Tests with this mark run with a store of each kind.
both_kinds = pytest.mark.parametrize("store", ["tiny_store", "progressive_store"], indirect=True)


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
def store(request):
    """A store with five layers, residual ones unless a test is of both kinds."""
    return request.getfixturevalue(getattr(request, "param", "tiny_store"))


@pytest.fixture
def call(store, capfd):
    """Runs a command; returns its exit status, its output and its errors."""

    def call(command, *arguments):
        if command not in ("info", "truncate"):
            arguments += ("--checkpoints", str(store.folder))
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


@both_kinds
def test_there_and_back(folder, photo, call, store):
    status, out, error = call("compress", "photo.png", "photo.sae")
    data = (folder / "photo.sae").read_bytes()
    assert (status, out) == (0, "")
    bpp = 8 * len(data) / photo[..., 0].size
    assert error == f"photo.png: {len(data)} bytes, {bpp:.4f} bpp, el4 complete\n"
    assert data == sae.compress(photo, checkpoints=store.folder)
    for layers in (None, 2):
        options = [] if layers is None else ["--layers", layers]
        status, out, error = call("decompress", "photo.sae", "new/photo.png", *options)
        assert (status, out) == (0, "")
        assert error == f"photo.sae: {photo.shape[1]} x {photo.shape[0]} pixels to new/photo.png\n"
        expected = sae.decompress(data, layers, checkpoints=store.folder)
        np.testing.assert_array_equal(images.read("new/photo.png"), expected)


@both_kinds
def test_truncate_keeps_within_each_limit(folder, photo, call, store):
    call("compress", "photo.png", "photo.sae")
    data = (folder / "photo.sae").read_bytes()
    ends = stream.parse(data).ends
    # A residual stream ends with the last layer within the limit, a progressive one anywhere.
    limit = ends[2] + 1
    size = ends[2] if store.family.kind == "residual" else limit
    bpp = 8 * limit / photo[..., 0].size
    for option, value, expected in (
        ("--layers", 2, ends[1]),
        ("--bytes", limit, size),
        ("--bpp", bpp, size),
        ("--bytes", len(data) + 1, len(data)),
    ):
        status, out, error = call("truncate", "photo.sae", "cut.sae", option, value)
        assert (status, out) == (0, "")
        assert (folder / "cut.sae").read_bytes() == data[:expected]
        last = store.family.layers[sum(end <= expected for end in ends) - 1]
        assert error.startswith(f"photo.sae: {expected} bytes, ")
        assert error.endswith(f" bpp, {last} complete\n")
    status, _, error = call("truncate", "photo.sae", "none.sae", "--bytes", 4)
    assert status == 2 and "allow as many" in error
    assert not (folder / "none.sae").exists()


@both_kinds
def test_compress_keeps_within_each_limit(folder, photo, call, store):
    call("compress", "photo.png", "photo.sae")
    data = (folder / "photo.sae").read_bytes()
    limit = stream.parse(data).ends[1] + 2
    cut = sae.truncate(data, max_bytes=limit)
    bpp = 8 * limit / photo[..., 0].size
    for option, value in (("--bytes", limit), ("--bpp", bpp)):
        status, _, error = call("compress", "photo.png", "cut.sae", option, value)
        assert status == 0 and "el1 complete" in error
        assert (folder / "cut.sae").read_bytes() == cut
    assert call("compress", "photo.png", "cut.sae", "--layers", 2)[0] == 0
    assert (folder / "cut.sae").read_bytes() == sae.truncate(data, 2)
    status, _, error = call("compress", "photo.png", "none.sae", "--bytes", 4)
    assert status == 2 and "allow as many" in error
    assert not (folder / "none.sae").exists()


def table(out):
    """Returns the numbers of bytes that `info` prints, by the first word of their rows."""
    rows = [line.split() for line in out.splitlines()[2:]]
    return {row[0]: int(row[1] if row[0] == "cut" else row[2]) for row in rows}


@both_kinds
def test_info_shows_the_end_of_each_layer(folder, photo, call, store):
    call("compress", "photo.png", "photo.sae")
    data = (folder / "photo.sae").read_bytes()
    found = stream.parse(data)
    status, out, error = call("info", "photo.sae")
    assert (status, error) == (0, "")
    assert out.startswith(f"56 x 40 pixels, {store.family.name}\n")
    assert table(out) == dict(zip(store.family.layers, found.ends))
    assert found.ends[-1] == len(data) and "not complete" not in out
    row = out.splitlines()[-1].split()
    assert row[1] == found.fingerprints[-1].hex()
    assert float(row[3]) == pytest.approx(8 * len(data) / photo[..., 0].size, abs=1e-4)


def test_info_shows_a_cut_within_a_layer(folder, call):
    call("compress", "photo.png", "photo.sae")
    data = (folder / "photo.sae").read_bytes()
    (folder / "cut.sae").write_bytes(data[:-1])
    status, out, error = call("info", "cut.sae")
    assert (status, error) == (0, "")
    ends = stream.parse(data).ends
    assert table(out) == {**dict(zip(("base", "el1", "el2", "el3"), ends)), "cut": len(data) - 1}


@pytest.mark.parametrize("store", ["progressive_store"], indirect=True)
def test_info_shows_the_layers_that_a_cut_stream_lacks(folder, call, store):
    call("compress", "photo.png", "photo.sae")
    ends = stream.parse((folder / "photo.sae").read_bytes()).ends
    call("truncate", "photo.sae", "cut.sae", "--bytes", ends[1] + 2)
    status, out, error = call("info", "cut.sae")
    assert (status, error) == (0, "")
    assert table(out) == {**dict(zip(store.family.layers, ends)), "cut": ends[1] + 2}
    missing = [line.split()[0] for line in out.splitlines() if "not complete" in line]
    assert missing == ["el2", "el3", "el4"]
    call("truncate", "photo.sae", "cut.sae", "--layers", 2)
    assert "cut" not in call("info", "cut.sae")[1]


def test_a_cut_file_is_decoded_with_a_warning(folder, call, tiny_checkpoints):
    call("compress", "photo.png", "photo.sae", "--layers", 3)
    data = (folder / "photo.sae").read_bytes()
    (folder / "cut.sae").write_bytes(data[:-1])
    status, _, error = call("decompress", "cut.sae", "cut.png")
    assert status == 0
    assert "warning: cut.sae: The stream is cut short; el1 is its last." in error
    expected = sae.decompress(data, 2, checkpoints=tiny_checkpoints)
    np.testing.assert_array_equal(images.read("cut.png"), expected)
    (folder / "cut.sae").write_bytes(data[:20])
    status, _, error = call("decompress", "cut.sae", "none.png")
    assert (status, error.count("\n")) == (2, 1)
    assert not (folder / "none.png").exists()


@pytest.mark.parametrize("store", ["progressive_store"], indirect=True)
def test_a_progressive_file_is_decoded_from_any_cut(folder, call, store):
    call("compress", "photo.png", "photo.sae")
    data = (folder / "photo.sae").read_bytes()
    for size in (stream.parse(data).smallest, len(data) // 2):
        (folder / "cut.sae").write_bytes(data[:size])
        status, _, error = call("decompress", "cut.sae", "cut.png")
        assert (status, error) == (0, "cut.sae: 56 x 40 pixels to cut.png\n")
        expected = sae.decompress(data[:size], checkpoints=store.folder)
        np.testing.assert_array_equal(images.read("cut.png"), expected)
    (folder / "cut.sae").write_bytes(data[: stream.parse(data).smallest - 1])
    status, _, error = call("decompress", "cut.sae", "none.png")
    assert (status, error.count("\n")) == (2, 1)
    assert not (folder / "none.png").exists()


@pytest.fixture
def damaged(folder, call):
    """What is sound of damaged.sae, a stream with a wrong byte after its third layer."""
    call("compress", "photo.png", "photo.sae")
    data = bytearray((folder / "photo.sae").read_bytes())
    data[-8] ^= 1
    (folder / "damaged.sae").write_bytes(data)
    return data[: stream.parse(bytes(data)).size]


@both_kinds
def test_a_damaged_file_is_decoded_up_to_the_damage(folder, call, damaged, store):
    warning = f"sae: warning: damaged.sae: The stream is damaged after byte {len(damaged)}.\n"
    status, _, error = call("decompress", "damaged.sae", "photo.png")
    assert status == 1
    assert error == warning + "damaged.sae: 56 x 40 pixels to photo.png\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sae.decompress(damaged, checkpoints=store.folder)
    np.testing.assert_array_equal(images.read("photo.png"), expected)
    status, out, error = call("info", "damaged.sae")
    assert (status, error) == (1, warning) and out.startswith("56 x 40 pixels")


@both_kinds
def test_a_damaged_file_is_truncated_before_the_damage(folder, call, damaged):
    status, _, error = call("truncate", "damaged.sae", "cut.sae", "--bytes", 10**6)
    assert status == 1
    assert "warning: damaged.sae: The stream is damaged; what comes before is kept." in error
    assert (folder / "cut.sae").read_bytes() == damaged


def test_what_stands_before_the_damage_is_sound(folder, call, damaged, tiny_checkpoints):
    for count in (1, 4):
        status, _, error = call("truncate", "damaged.sae", "cut.sae", "--layers", count)
        assert (status, error.count("\n")) == (0, 1)
        cut = (folder / "cut.sae").read_bytes()
        assert cut == sae.truncate((folder / "photo.sae").read_bytes(), count)
        status, _, error = call("decompress", "damaged.sae", "photo.png", "--layers", count)
        assert (status, error.count("\n")) == (0, 1)
        expected = sae.decompress(cut, checkpoints=tiny_checkpoints)
        np.testing.assert_array_equal(images.read("photo.png"), expected)
    assert call("truncate", "damaged.sae", "five.sae", "--layers", 5)[0] == 2
    assert call("decompress", "damaged.sae", "photo.png", "--layers", 5)[0] == 1


def test_targets_are_checked_before_the_work(folder, photo, call):
    os.makedirs("in")
    os.makedirs("out/b.sae")
    for name in ("a", "b"):
        images.write_png(photo, f"in/{name}.png")
    status, _, error = call("compress", "in", "out")
    assert status == 2 and "b.sae is a folder" in error and not os.path.exists("out/a.sae")
    for arguments in (("photo.png", ""), ("photo.png", "a.sae", "--background", "")):
        status, _, error = call("compress", *arguments)
        assert status == 2 and error.count("\n") == 1


def test_names_with_line_breaks_are_on_one_line(folder, photo, call):
    images.write_png(photo, "a\nb.png")
    status, _, error = call("compress", "a\nb.png", "a.sae", "--layers", 1)
    assert status == 0 and error.count("\n") == 1


@both_kinds
def test_what_follows_a_stream_is_said(folder, call, store):
    assert call("compress", "photo.png", "photo.sae")[0] == 0
    data = (folder / "photo.sae").read_bytes()
    (folder / "twice.sae").write_bytes(2 * data)
    status, _, error = call("decompress", "twice.sae", "photo.png")
    assert status == 0 and f"follows byte {len(data)}" in error


def test_links_are_followed_and_pipes_written_through(folder, call):
    (folder / "there").mkdir()
    os.symlink("there/photo.sae", "link.sae")
    for _ in range(2):
        assert call("compress", "photo.png", "link.sae", "--layers", 1)[0] == 0
        assert os.path.islink("link.sae")
        data = (folder / "there/photo.sae").read_bytes()
        assert stream.parse(data).layers == 1
    os.mkfifo("pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE) as reader:
        assert call("truncate", "link.sae", "pipe", "--layers", 1)[0] == 0
        assert reader.stdout.read() == data
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


@pytest.mark.slow
@both_kinds
def test_the_psnr_that_is_reached_is_reported(folder, photo, call, store):
    status, _, error = call("compress", "photo.png", "photo.sae", "--psnr", 3)
    decoded = sae.decompress("photo.sae", checkpoints=store.folder)
    assert status == 0 and f" bpp, {metrics.psnr(photo, decoded):.2f} dB, " in error
    assert "does not reach" not in error
    status, _, error = call("compress", "photo.png", "photo.sae", "--psnr", 99)
    assert status == 0 and " dB, el4 complete" in error
    assert "warning: photo.png: The whole stream does not reach this PSNR." in error


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
    data = bytearray((folder / "out/a.sae").read_bytes())
    data[-8] ^= 1
    (folder / "out/a.sae").write_bytes(data)
    status, _, error = call("decompress", "out", "damaged")
    assert status == 1 and "warning: out/a.sae: The stream is damaged" in error
    assert sorted(os.listdir("damaged")) == ["a.png", "c.png"]


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
        (["compress", "photo.png", "o.sae", "--bpp", "-1"], "number above 0, not -1"),
        (["compress", "photo.png", "o.sae", "--psnr", "nan"], "number above 0, not nan"),
        (["compress", "photo.png", "/dev/full"], "Cannot write /dev/full: No space left"),
        (["compress", "photo.png", "o.sae", "--bytes", "4"], "allow as many"),
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
        ["compress", "a", "b", "--bpp", "1", "--psnr", "30"],
        ["compress", "a", "b", "--bytes", "0"],
        ["truncate", "a", "b"],
        ["truncate", "a", "b", "--bytes", "9", "--layers", "1"],
        ["truncate", "a", "b", "--psnr", "30"],
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


@both_kinds
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

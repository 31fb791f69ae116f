"""Exit statuses and output that every command has in common."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from sae import __main__, console, files
from sae.errors import SaeError

PACKAGE = Path(files.__file__).parents[1]
# Stands for any command: what it does is the first argument.
# Whoever runs the tests in the background of a shell may ignore SIGINT, and so would the program.
PROGRAM = """
import signal, sys, time, warnings
signal.signal(signal.SIGINT, signal.default_int_handler)
from sae import console
def wait():
    print("ready", flush=True)
    time.sleep(60)
def many():
    for _ in range(10**5): print("a line")
def letters(): print("Bj\\u00f8ntegaard, \\u3042")
def none(): pass
def warning():
    warnings.warn("w")
    print("a")
sys.exit(console.run(vars()[sys.argv[1]]))
"""


def start(name, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONIOENCODING": "ascii"}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, name], env=environment, **options)


def test_an_interrupted_command_says_nothing():
    with start("wait") as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"")
        assert process.returncode == 130


def test_a_closed_pipe_is_no_error():
    with start("many") as process:
        assert process.stdout.readline() == b"a line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_a_letter_that_the_terminal_lacks_is_replaced():
    with start("letters") as process:
        assert process.communicate() == (b"Bj?ntegaard, ?\n", b"")
        assert process.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "wb") as full, start("letters", stdout=full) as process:
        said = process.stderr.read()
        assert process.wait() == 2
        assert said.count(b"\n") == 1 and b"No space left" in said


def test_without_standard_error_nothing_else_is_on_standard_output():
    def close():
        os.close(2)

    with start("warning", stdout=subprocess.PIPE, preexec_fn=close) as process:
        assert process.communicate()[0] == b"a\n"
        assert process.returncode == 0


def test_output_that_is_closed_is_no_error():
    def close():
        os.close(1)

    with start("letters", preexec_fn=close) as process:
        assert process.communicate()[1] == b""
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (SaeError("Bad input."), 2, "sae: Bad input.\n"),
        (MemoryError(), 2, "sae: The memory does not suffice"),
        (PermissionError(13, "Permission denied", "x.png"), 2, "sae: Cannot use x.png: Permission"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_what_ends_a_command_is_a_status_and_a_line(error, status, said, capsys):
    def command():
        raise error

    assert console.run(command) == status
    found = capsys.readouterr().err
    assert found.startswith(said) and found.count("\n") == bool(said)
    with pytest.raises(ZeroDivisionError):
        console.run(lambda: 1 // 0)


def test_warnings_are_lines_whatever_the_filters(capsys):
    def command():
        warnings.warn("Mind this.", stacklevel=1)
        warnings.warn("not for users", ResourceWarning, stacklevel=1)
        warnings.warn("nor this", FutureWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert console.run(command) == 0
    assert capsys.readouterr().err == "sae: warning: Mind this.\n"


def test_help_into_a_closed_pipe(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert __main__.main(["--help"]) == 141
        monkeypatch.undo()

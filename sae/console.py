"""Common parts of all commands: exit status, errors and warnings as lines."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable

from sae.errors import SaeError

# Shells report 128 plus the number of the signal.
_INTERRUPTED, _PIPE_CLOSED = 130, 141


def run(command: Callable[[], int | None], prefix: str = "sae: ") -> int:
    """Runs a command; an error that ends it is one line on standard error.

    Args:
      command: function that returns the exit status, None for 0.
      prefix: prefix of each line.

    Returns:
      The exit status: 2 for errors of the user and lack of resources, 130 after Ctrl-C, 141 where
      the reader of the output is gone.
    """
    if sys.stderr is None:
        # Python prints to standard output where this is closed.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # No result should be lost because a terminal lacks a character.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
    try:
        with warnings.catch_warnings():
            show_warnings(prefix)
            try:
                return command() or 0
            finally:
                # At the interpreter's exit, a failure to flush could not be reported.
                if sys.stdout:
                    sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return _PIPE_CLOSED
    except SaeError as error:
        return _refused(f"{prefix}{error}")
    except MemoryError:
        return _refused(f"{prefix}The memory does not suffice; use smaller or fewer images.")
    except OSError as error:
        place = error.filename or "standard output"
        return _refused(f"{prefix}Cannot use {place}: {error.strerror or error}.")
    finally:
        _silence_broken()


def show_warnings(prefix: str = "sae: ") -> None:
    """Shows warnings for users as lines, and no others, whatever the filters of Python."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", UserWarning)
    # The deprecation warnings of some packages are of both classes.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.showwarning = lambda message, *_: print(
        one_line(f"{prefix}warning: {message}"), file=sys.stderr
    )


def one_line(text: str) -> str:
    """Returns a text without line breaks, which names of files may have."""
    return " ".join(text.splitlines())


def _refused(line: str) -> int:
    with contextlib.suppress(OSError):
        print(one_line(line), file=sys.stderr)
    return 2


def _silence_broken() -> None:
    """Redirects broken streams to the null device, since Python would fail on them at its exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""The one error a user can cause, and others in few words."""

from __future__ import annotations


class SaeError(Exception):
    """Bad input or a missing file, told in one sentence: what is wrong and what to do.

    The command line prints the sentence and exits with status 2. Any other
    exception is a bug and keeps its traceback.
    """


def in_words(error: Exception) -> str:
    """Returns what an error of any kind says, in a line."""
    if isinstance(error, MemoryError):
        return "the memory does not suffice"
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])

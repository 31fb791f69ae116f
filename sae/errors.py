"""The one error a user can cause, and others in few words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

# What the extra `report` of pyproject.toml installs, by the names of the modules.
REPORT = ("bjontegaard", "matplotlib", "plotly", "skimage", "textalloc")


class SaeError(Exception):
    """Bad input or a missing file, told in one sentence: what is wrong and what to do.

    The command line prints the sentence and exits with status 2. Any other
    exception is a bug and keeps its traceback.
    """


@contextlib.contextmanager
def explaining_the_extra() -> Iterator[None]:
    """Turns the lack of a module that only figures and reports need into an SaeError."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if module not in REPORT:
            raise
        raise SaeError(
            f"Figures and reports need {module}, which is not installed; run "
            "pip install 'sae[report]'."
        ) from error


def in_words(error: Exception) -> str:
    """Returns what an error of any kind says, in a line."""
    if isinstance(error, MemoryError):
        return "the memory does not suffice"
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])

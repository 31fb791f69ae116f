"""The class of all errors that users can cause, and other errors as short texts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

# Names of the modules that extras of pyproject.toml install.
REPORT = ("bjontegaard", "matplotlib", "plotly", "skimage", "textalloc")
TENSORFLOW = ("tensorflow", "tensorflow_compression")


class SaeError(Exception):
    """An error that users can cause, in one sentence: what could not be done, why, and what to do.

    The command line prints the sentence and exits with status 2. Any other exception is a bug and
    keeps its traceback.
    """


@contextlib.contextmanager
def explaining_the_extra() -> Iterator[None]:
    """Raises SaeError where a module of an extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if module in REPORT:
            task, extra, where = "Figures and reports", "report", ""
        elif module in TENSORFLOW:
            task = "Training, latent optimization, MS-SSIM and residual families"
            extra = "tensorflow"
            # Newer versions of Python have no wheels of TensorFlow 2.14.
            where = " in Python 3.9, 3.10 or 3.11"
        else:
            raise
        raise SaeError(
            f"{task} require {module}, which is not installed; run "
            f"pip install 'sae[{extra}]'{where}."
        ) from error


def in_words(error: Exception) -> str:
    """Returns the class and the message of any error, in one line."""
    if isinstance(error, MemoryError):
        return "the memory does not suffice"
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])

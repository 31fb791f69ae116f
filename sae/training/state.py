"""The state from which an interrupted training resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae.errors import SaeError
from sae.model.arrays import load_arrays, save_arrays

if TYPE_CHECKING:
    from sae.training.loop import Stage


class TrainingState:
    """Weights, optimizer and progress of a stage, in one file, written whole or not at all.

    Args:
      path: path of the file.
      stage: stage whose arrays are saved and restored.

    Attributes:
      step: number of steps taken.
      seconds: duration of these steps in seconds.
      validation: scores on held-out patches, each with its "step".
    """

    def __init__(self, path: Path, stage: Stage):
        self.path, self._stage = path, stage
        self.step, self.seconds = 0, 0.0
        self.validation: list[dict] = []

    def save(self) -> None:
        """Writes the file."""
        progress = {"step": self.step, "seconds": self.seconds, "validation": self.validation}
        note = json.dumps({"options": self._stage.options, "progress": progress})
        save_arrays(self.path, {**self._stage.arrays(), "note": np.array(note)})

    def restore(self) -> bool:
        """Restores the saved state; returns False where there is none.

        Raises:
          SaeError: the file is damaged, or was begun with other options.
        """
        if not self.path.exists():
            return False
        arrays = load_arrays(self.path)
        try:
            note = json.loads(str(arrays.pop("note")))
            options, progress = dict(note["options"]), dict(note["progress"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error
        now = {k: v for k, v in self._stage.options.items() if k not in self._stage.free}
        if changes := differences(options, now):
            raise SaeError(
                f"{self.path} holds an unfinished training begun otherwise "
                f"({'; '.join(changes)}): give the same options, or remove it to begin anew."
            )
        try:
            self._stage.set_arrays(arrays)
            for name, kind in (("step", int), ("seconds", float), ("validation", list)):
                if not isinstance(progress[name], kind):
                    raise TypeError(f"{name} is {progress[name]!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.validation = progress["validation"]
        return True

    def _damaged(self, error: Exception) -> SaeError:
        return SaeError(f"{self.path} is damaged ({error}); remove it to begin anew.")


def not_finite(title: str) -> SaeError:
    """Returns the error of trained weights that are not finite."""
    return SaeError(
        f"The weights of {title} are not finite after the last step; remove the saved state, and "
        "train with a lower --learning_rate."
    )


def report_finished(title: str, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Prints that a training is finished, and the options that differ from those given now."""
    print(f"{title} is trained already and stays as it is; --force replaces it.")
    if changes := differences(earlier, now):
        print(f"It was trained otherwise: {'; '.join(changes)}.")


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the differences between the options of two trainings, as text.

    An option that the earlier training did not have yet is ignored.
    """
    return [
        f"{name} was {earlier[name]}, is {value}"
        for name, value in now.items()
        # JSON has lists in place of tuples.
        if name in earlier and json.dumps(earlier[name]) != json.dumps(value)
    ]

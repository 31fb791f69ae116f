"""What an interrupted training resumes from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from sae.config import LayerConfig, TrainingConfig
from sae.errors import SaeError
from sae.model.arrays import load_arrays, save_arrays
from sae.model.residual_layer import ResidualLayer


class TrainingState:
    """Weights, optimiser and progress, in one file that is whole or absent.

    Args:
      path: of the file.
      layer: whose weights are saved and restored.
      optimizer: likewise; its step counter is among its variables.
      options: JSON object of all that decides the result; a training resumes
        only under the options it was begun with.

    Attributes:
      progress: JSON object, free for the training loop to fill.
    """

    def __init__(
        self,
        path: Path,
        layer: ResidualLayer,
        optimizer: tf.keras.optimizers.Optimizer,
        options: dict,
    ):
        self.path, self.layer, self.optimizer, self.options = path, layer, optimizer, options
        self.progress: dict = {}

    def save(self) -> None:
        """Writes the file."""
        arrays = {f"layer/{name}": array for name, array in self.layer.arrays().items()}
        for index, variable in enumerate(self.optimizer.variables):
            arrays[f"optimizer/{index}"] = variable.numpy()
        note = json.dumps({"options": self.options, "progress": self.progress})
        save_arrays(self.path, {**arrays, "note": np.array(note)})

    def restore(self) -> bool:
        """Takes up what was saved; returns False where there is nothing.

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
        if changes := differences(options, self.options):
            raise SaeError(
                f"{self.path} holds an unfinished training begun otherwise "
                f"({'; '.join(changes)}): give the same options, or remove it to start afresh."
            )
        try:
            self.layer.set_arrays(
                {k[len("layer/") :]: v for k, v in arrays.items() if k.startswith("layer/")}
            )
            for index, variable in enumerate(self.optimizer.variables):
                variable.assign(arrays[f"optimizer/{index}"])
            for name, kind in (("step", int), ("seconds", float), ("validation", list)):
                if not isinstance(progress[name], kind):
                    raise TypeError(f"{name} is {progress[name]!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error
        self.progress = progress
        return True

    def _damaged(self, error: Exception) -> SaeError:
        return SaeError(f"{self.path} is damaged ({error}); remove it to start afresh.")


def differences(earlier: dict, now: dict) -> list[str]:
    """Returns what differs between the options of two trainings, as text.

    An option that the earlier one did not have yet had its default then.
    """
    fields = dataclasses.fields(LayerConfig) + dataclasses.fields(TrainingConfig)
    known = {**{field.name: field.default for field in fields}, **earlier}
    return [
        f"{name} was {known.get(name)}, is {value}"
        for name, value in now.items()
        if known.get(name) != value
    ]

"""The loop of every training: resuming, saving, validation, and the final result."""

from __future__ import annotations

import abc
import contextlib
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from sae.errors import SaeError
from sae.provenance import provenance
from sae.training.progress import Progress, remove_curves, require_finite
from sae.training.state import TrainingState


class Stage(abc.ABC):
    """A training: its variables, loss, batches and result.

    There is a stage for each residual layer, and one for a whole progressive model.

    Attributes:
      title: name of the layer or model and its family.
      folder: folder of the state and the curves.
      batchsize: number of patches per step.
      last_step: number of steps.
      options: JSON object of all options that determine the result.
      free: names of the options that may change when a training is resumed.
    """

    title: str
    folder: Path
    batchsize: int
    last_step: int
    options: dict[str, Any]
    free: frozenset[str] = frozenset()

    @abc.abstractmethod
    def batches(self, first: int) -> Generator[Any, None, None]:
        """Yields the batches of all steps from number `first` on.

        Raises:
          SaeError: no more photos can be read.
        """

    @abc.abstractmethod
    def step(self, number: int, batch: Any) -> dict[str, Any]:
        """Takes one training step; returns values to display, including "loss"."""

    @abc.abstractmethod
    def milestones(self) -> set[int]:
        """Returns the numbers of steps after which `validate` is called, including the last."""

    @abc.abstractmethod
    def validate(self) -> dict[str, float]:
        """Returns scores on held-out patches."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Returns weights and optimizer state by name."""

    @abc.abstractmethod
    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores the result of `arrays`; raises KeyError or ValueError where it does not fit."""

    @abc.abstractmethod
    def finish(self, record: dict[str, Any]) -> None:
        """Saves the trained weights.

        Args:
          record: JSON record of the training.
        """


def run(stage: Stage, save_every: float = 180.0) -> None:
    """Trains a stage from its last saved state, and saves the result.

    The state is saved every `save_every` seconds, and on SIGINT and SIGTERM. Under a distribution
    strategy one process, the chief, writes.

    Raises:
      SaeError: an unfinished training was begun with other options, or the loss is no longer
        finite.
      KeyboardInterrupt: after a signal, when the state is saved.
    """
    chief = tf.distribute.get_strategy().extended.should_checkpoint
    state = TrainingState(stage.folder / "state.npz", stage)
    if not state.restore() and chief:
        remove_curves(stage.folder)
    writer = tf.summary.create_file_writer(str(stage.folder)) if chief else None
    if state.step > stage.last_step:
        raise SaeError(
            f"{state.path} holds a training of {state.step} steps, more than {stage.last_step}; "
            "give a larger --last_step, or remove it to begin anew."
        )
    first, milestones = state.step, stage.milestones()
    if first:
        print(f"{stage.title}: resumed at step {first} of {stage.last_step}.")
    progress = Progress(stage.title, stage.batchsize, stage.last_step, first, writer)
    began, saved = time.monotonic() - state.seconds, time.monotonic()
    batches = stage.batches(first)
    # The pipeline is closed because it would hang if it outlived the interpreter. The progress bar
    # is closed because an error would be printed on its line.
    with _stop_on_signal() as stopping, contextlib.closing(progress), contextlib.closing(batches):
        for number, batch in enumerate(batches, first + 1):
            values = stage.step(number - 1, batch)
            state.step, state.seconds = number, time.monotonic() - began
            progress.step(number, values)
            if chief and number in milestones:
                scores = stage.validate()
                state.validation.append({"step": number, **scores})
                progress.validation(number, scores)
            if stopping or time.monotonic() - saved > save_every:
                require_finite(number, float(values["loss"]))
                if chief:
                    state.save()
                saved = time.monotonic()
            if stopping:
                progress.close()
                print(f"Stopped after step {number}; the same command resumes.")
                raise KeyboardInterrupt
    if state.step > first:
        print(f"{stage.title}: loss {progress.loss:.6g} at step {stage.last_step}")
    if chief:
        stage.finish(
            {
                "options": stage.options,
                "patches": stage.last_step * stage.batchsize,
                "hours": round(state.seconds / 3600, 3),
                "validation": state.validation,
                **provenance(),
            }
        )
        state.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[list]:
    """Yields a list that fills when SIGINT or SIGTERM arrives, so that a step can finish."""
    received: list = []
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

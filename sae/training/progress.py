"""A progress bar, and curves for TensorBoard, of a running training."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, SupportsFloat

import tensorflow as tf
from tqdm import tqdm

from sae.errors import SaeError


def require_finite(step: int, loss: float) -> None:
    """Raises SaeError where the loss is not finite."""
    if not math.isfinite(loss):
        raise SaeError(
            f"The loss is {loss} at step {step}; run the script again to go back to the last "
            "saved state, or remove it and train with a lower --learning_rate."
        )


def remove_curves(folder: Path) -> None:
    """Removes the curves of an earlier training, which would mix with those of a new one."""
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink()


class Progress:
    """Progress bar and TensorBoard curves; without a writer there is neither.

    Args:
      title: title of the bar.
      batchsize: number of patches per step.
      last_step: number of steps.
      first: number of steps already taken.
      writer: writer of TensorBoard's curves, or None.

    Attributes:
      loss: loss displayed last.
    """

    def __init__(self, title: str, batchsize: int, last_step: int, first: int, writer: Any):
        self._batchsize, self._last_step, self._writer = batchsize, last_step, writer
        self._last = first, time.monotonic()
        self.loss = math.nan
        self._bar = tqdm(
            total=last_step, initial=first, desc=title, unit="step", disable=writer is None
        )

    def step(self, step: int, values: dict[str, SupportsFloat]) -> None:
        """Displays every tenth step and the last."""
        if step % 10 and step != self._last_step:
            return
        shown = {name: float(value) for name, value in values.items()}
        self.loss = shown["loss"]
        require_finite(step, self.loss)
        earlier, now = self._last, time.monotonic()
        self._last = step, now
        shown["images/s"] = (step - earlier[0]) * self._batchsize / (now - earlier[1])
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in shown.items()})
        self._curves(step, "train", shown)

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """Displays the scores on held-out patches."""
        shown = "  ".join(f"{k} {v:.5g}" for k, v in scores.items())
        self._bar.write(f"step {step}: held-out {shown}")
        self._curves(step, "held-out", scores)

    def close(self) -> None:
        """Closes the bar."""
        self._bar.close()

    def _curves(self, step, group, values):
        if self._writer:
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(f"{group}/{name}", value)

"""What is seen of a training while it runs: a progress bar and curves for TensorBoard."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, SupportsFloat

import tensorflow as tf
from tqdm import tqdm

from sae.config import TrainingConfig
from sae.errors import SaeError


def require_finite(step: int, loss: float) -> None:
    """Raises SaeError where the loss is no longer a number."""
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
    """Progress bar and TensorBoard curves; silent without a writer.

    Attributes:
      loss: as last reported.
    """

    def __init__(self, config: TrainingConfig, first: int, name: str, writer: Any):
        self.config, self.writer, self.last = config, writer, (first, time.monotonic())
        self.loss = math.nan
        self.bar = tqdm(
            total=config.last_step, initial=first, desc=name, unit="step", disable=writer is None
        )

    def step(self, step: int, terms: dict, rate: SupportsFloat) -> None:
        """Reports every tenth step."""
        if step % 10 and step != self.config.last_step:
            return
        values = {name: float(value) for name, value in terms.items()}
        self.loss = values["loss"]
        require_finite(step, self.loss)
        earlier, now = self.last, time.monotonic()
        self.last = step, now
        values["images/s"] = (step - earlier[0]) * self.config.batchsize / (now - earlier[1])
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()})
        self._curves(step, "train", {**values, "learning_rate": rate})

    def validation(self, step: int, scores: dict) -> None:
        """Reports the scores on held-out photos."""
        shown = "  ".join(f"{k} {v:.5g}" for k, v in scores.items())
        self.bar.write(f"step {step}: held-out {shown}")
        self._curves(step, "held-out", scores)

    def close(self) -> None:
        self.bar.close()

    def _curves(self, step: int, group: str, values: dict) -> None:
        if self.writer:
            with self.writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(f"{group}/{name}", value)

"""What happens at which step of a training: its phases and its learning rate."""

from __future__ import annotations

import math
from typing import NamedTuple

from sae.config import TrainingConfig

# Fraction of the steps of the whole layer after which the learning rate falls.
_DECAY_FROM = 0.3


class Phase(NamedTuple):
    """Steps of one kind.

    Attributes:
      name: in the record of the training.
      end: the first step after them.
      patchsize: side of their patches.
      quantization: method of `sae.model.quantization.quantized`.
    """

    name: str
    end: int
    patchsize: int
    quantization: str


def phases(config: TrainingConfig) -> tuple[Phase, ...]:
    """Returns the phases of a training, in order; any of them may have no steps.

    First the patches have half their side, which makes four steps of one; at
    last synthesis and prior train alone, on the rounded latents of a decoder.
    """
    joint = _joint_steps(config)
    small, side = round(config.small_until * joint), config.patchsize
    return (
        Phase("on half patches", small, side // 2, config.quantization),
        Phase("on whole patches", joint, side, config.quantization),
        Phase("of the decoder alone", config.last_step, side, "rounded"),
    )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Returns the rate of a step: constant, then half a cosine down to the final rate.

    The decoder's own steps at the end go down once more, from a tenth of the
    first rate.
    """
    joint = _joint_steps(config)
    first, begin, end = config.learning_rate, _DECAY_FROM * joint, joint
    if step >= joint:
        first, begin, end = config.learning_rate / 10, joint, config.last_step
    progress = min(max((step - begin) / max(end - begin, 1), 0.0), 1.0)
    final = min(config.final_learning_rate, first)
    return final + (first - final) * 0.5 * (1 + math.cos(math.pi * progress))


def milestones(config: TrainingConfig) -> set[int]:
    """Returns the steps after which to validate: 20, evenly spread, the last among them."""
    return {round(config.last_step * k / 20) for k in range(1, 21)}


def _joint_steps(config: TrainingConfig) -> int:
    """Returns the number of steps that train the whole layer, before the decoder's own."""
    return round(config.decoder_from * config.last_step)

"""The schedule of a residual training: phases and learning rate by step."""

from __future__ import annotations

import math
from typing import NamedTuple

from sae.config import TrainingConfig

# Fraction of the joint steps after which the learning rate falls.
_DECAY_FROM = 0.3


class Phase(NamedTuple):
    """Steps of one kind.

    Attributes:
      name: name in the record of the training.
      end: number of the first step after the phase.
      patchsize: side of the patches in pixels.
      quantization: method of `sae.model.quantization.quantized`.
    """

    name: str
    end: int
    patchsize: int
    quantization: str


def phases(config: TrainingConfig) -> tuple[Phase, ...]:
    """Returns the phases of a training, in order; any of them may have no steps.

    At first the patches have half the side, so that a step takes a quarter of the time. At last,
    synthesis and prior train alone, on rounded latents like those of a decoder.
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

    In the steps of the decoder alone it falls once more, from a tenth of the first rate.
    """
    joint = _joint_steps(config)
    first, begin, end = config.learning_rate, _DECAY_FROM * joint, joint
    if step >= joint:
        first, begin, end = config.learning_rate / 10, joint, config.last_step
    progress = min(max((step - begin) / max(end - begin, 1), 0.0), 1.0)
    final = min(config.final_learning_rate, first)
    return final + (first - final) * 0.5 * (1 + math.cos(math.pi * progress))


def milestones(config: TrainingConfig) -> set[int]:
    """Returns the steps with a validation: 20, evenly spaced, including the last."""
    return {round(config.last_step * k / 20) for k in range(1, 21)}


def _joint_steps(config: TrainingConfig) -> int:
    """Returns the number of steps that train the whole layer, before the decoder's own."""
    return round(config.decoder_from * config.last_step)

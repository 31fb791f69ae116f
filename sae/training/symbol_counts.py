"""Counts of the symbols in training patches, for the tables of their probabilities."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from sae.model.integer_context import LARGEST_MEAN, MEANS
from sae.model.model_store import StoredModel
from sae.model.plane_tables import Counts
from sae.model.progressive import ProgressiveModel
from sae.model.progressive_config import RATIO
from sae.model.quantization import nested, widened


def counted(model: StoredModel, batches: Iterable[tf.Tensor]) -> Counts:
    """Returns how often symbols occur.

    Args:
      model: model that codes the patches.
      batches: patches, uint8 [B, H, W, 3].
    """
    restored, counts = ProgressiveModel.restored(model), Counts()

    @tf.function
    def code(patches):
        y = restored.analysis(tf.cast(patches, tf.float32) / 255.0)
        integers = nested(y, model.config.plane_depths, RATIO)
        # Parameters are limited and, below, rounded as those of the codec.
        parameters = [
            (tf.clip_by_value(MEANS * means, -LARGEST_MEAN, LARGEST_MEAN), scales)
            for means, scales in restored.parameters(integers)
        ]
        below = [widened(q, p.shape[-1]) for q, p in zip(integers, integers[1:])]
        found = integers, below, parameters
        return tf.nest.map_structure(lambda x: tf.cast(tf.round(x), tf.int32), found)

    for batch in batches:
        integers, below, parameters = tf.nest.map_structure(np.asarray, code(batch))
        counts.add_values(integers[0], *parameters[0])
        for q, parents, of_plane in zip(integers[1:], below, parameters[1:]):
            counts.add_digits(q - RATIO * parents, parents, *of_plane)
    return counts

"""Small progressive models on which the codec and the training are tested."""

from __future__ import annotations

from sae.model.model_store import StoredModel
from sae.model.progressive_config import ProgressiveConfig

# The architecture for training.
TINY = ProgressiveConfig(
    plane_depths=(8, 10, 12),
    hidden_filters=8,
    analysis_blocks=1,
    synthesis_blocks=2,
    slices=(2, 2),
    context_filters=8,
    slice_embedding=6,
    plane_filters=8,
)
# The architecture for coding, whose latents have enough channels for an image.
SMALL = ProgressiveConfig(
    plane_depths=(64, 96, 128),
    hidden_filters=8,
    analysis_blocks=1,
    synthesis_blocks=2,
    step=0.3,
    slices=(8, 20),
    context_filters=8,
    slice_embedding=6,
    plane_filters=8,
)


def random_model(config: ProgressiveConfig, deviation: float) -> StoredModel:
    """Returns an initial model with noise in all weights.

    Args:
      config: architecture of the model.
      deviation: standard deviation of the noise.
    """
    import tensorflow as tf

    from sae.model.progressive import ProgressiveModel

    tf.keras.utils.set_random_seed(1)
    model = ProgressiveModel(config)
    for variable in model.trainable_variables:
        variable.assign_add(tf.random.normal(variable.shape, stddev=deviation))
    weights = {v.name.removesuffix(":0"): v.numpy() for v in model.trainable_variables}
    return StoredModel.rounded(config, weights)

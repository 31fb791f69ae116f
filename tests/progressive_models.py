"""The small architectures on which the progressive model is tested."""

from sae.model.progressive_config import ProgressiveConfig

TINY = ProgressiveConfig(
    plane_depths=(8, 10, 12),
    hidden_filters=8,
    slices=(2, 2),
    context_filters=8,
    slice_embedding=6,
    plane_filters=8,
)

# Its streams are long enough for several checksums.
SMALL = ProgressiveConfig(
    plane_depths=(64, 96, 128),
    hidden_filters=8,
    step=0.3,
    slices=(8, 20),
    context_filters=8,
    slice_embedding=6,
    plane_filters=8,
)

"""Transforms of large images in strips: the same values in less memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

# Default number of positions of the latent in a strip, one megapixel.
POSITIONS = 4096


def in_strips(
    function: Callable[[slice], np.ndarray],
    height: int,
    width: int,
    reach: int,
    positions: int = POSITIONS,
) -> Iterator[np.ndarray]:
    """Yields the strips of a transform's result, from top to bottom.

    Args:
      function: transform of a range of the latent's rows to a result [H, W, channels].
      height, width: size of the latent.
      reach: receptive field, in rows of the latent above and below a row.
      positions: number of positions in a strip.
    """
    rows = max(2 * reach, positions // width)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        first, last = max(0, start - reach), min(stop + reach, height)
        found = function(slice(first, last))
        scale = found.shape[0] / (last - first)
        yield found[round((start - first) * scale) : round((stop - first) * scale)]

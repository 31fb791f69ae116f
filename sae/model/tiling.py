"""Transforms of large images in strips, to the same values in less memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

# Strips have about so many positions of the latent, one megapixel.
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
      function: returns the result [H, W, channels] for a range of the latent's rows.
      height, width: size of the latent.
      reach: number of rows above and below a row on which its result depends.
      positions: number of positions in a strip.
    """
    rows = max(2 * reach, positions // width)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        first, last = max(0, start - reach), min(stop + reach, height)
        found = function(slice(first, last))
        scale = found.shape[0] / (last - first)
        yield found[round((start - first) * scale) : round((stop - first) * scale)]

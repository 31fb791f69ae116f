"""Transforms of large images in tiles: the same values in less memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

# Default number of positions of the latent in a tile with its margins, one megapixel.
POSITIONS = 4096


def in_tiles(
    function: Callable[[slice, slice], Sequence[np.ndarray]],
    height: int,
    width: int,
    reach: int,
    positions: int = POSITIONS,
) -> Sequence[np.ndarray]:
    """Returns the results of a transform, [1, H, W, channels] each.

    Args:
      function: transform of ranges of the latent's rows and columns to such results.
      height, width: size of the latent.
      reach: receptive field, in rows of the latent above and below a row.
      positions: largest number of positions of a tile with its margins, unless `reach` is larger
        than such a tile.
    """
    if height * width <= positions:
        return function(slice(0, height), slice(0, width))
    results: list[np.ndarray] = []
    columns = _ranges(width, max(reach, math.isqrt(positions) - 2 * reach))
    # Narrow images have higher tiles.
    outer = min(width, columns[0].stop + 2 * reach)
    rows = _ranges(height, max(reach, positions // outer - 2 * reach))
    for tile in itertools.product(rows, columns):
        outer_tile = [
            slice(max(0, inner.start - reach), min(inner.stop + reach, size))
            for inner, size in zip(tile, (height, width))
        ]
        found = function(*outer_tile)
        scale = found[0].shape[1] // (outer_tile[0].stop - outer_tile[0].start)
        if not results:
            shape = (1, scale * height, scale * width)
            results = [np.empty((*shape, part.shape[-1]), part.dtype) for part in found]
        target = tuple(slice(scale * inner.start, scale * inner.stop) for inner in tile)
        source = tuple(
            slice(scale * (inner.start - outer.start), scale * (inner.stop - outer.start))
            for inner, outer in zip(tile, outer_tile)
        )
        for result, part in zip(results, found):
            result[0][target] = part[0][source]
    return results


def _ranges(size: int, largest: int) -> list[slice]:
    """Returns ranges of about equal length that cover a size."""
    count = -(-size // largest)
    bounds = [size * k // count for k in range(count + 1)]
    return [slice(*pair) for pair in zip(bounds, bounds[1:])]

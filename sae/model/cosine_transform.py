"""The block cosine transform to which linear transforms are initialized."""

from __future__ import annotations

import itertools

import numpy as np

from sae.config import STRIDE

# The axes are luma and two of chroma, whose frequencies are less important by these factors.
_COLORS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
_IMPORTANCE = (1, 12, 40)


def cosine_basis(depth: int) -> np.ndarray:
    """Returns the `depth` lowest frequencies of an orthonormal DCT of color blocks.

    Args:
      depth: number of frequencies, at most 768.

    Returns:
      float32 [16, 16, 3, depth]: the mean of luma and both means of chroma, then the lowest
      frequency first, with chroma weighted as higher.
    """
    n = np.arange(STRIDE)
    waves = np.cos(np.pi * (n + 0.5) * n[:, None] / STRIDE) * np.sqrt(2 / STRIDE)
    waves[0] /= np.sqrt(2)
    frequencies = itertools.product(n, n, range(len(_COLORS)))

    def order(frequency: tuple[int, int, int]) -> tuple:
        row, column, color = frequency
        squared = row**2 + column**2
        # The first picture of a stream has colors.
        return (squared + 1) * _IMPORTANCE[color] if squared else 0, frequency

    low_first = sorted(frequencies, key=order)
    rows, columns, colors = np.transpose(low_first[:depth])
    blocks = np.einsum("ki,kj,kc->ijck", waves[rows], waves[columns], _COLORS[colors])
    return blocks.astype(np.float32)

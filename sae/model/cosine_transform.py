"""The block cosine transform to which linear transforms are initialized."""

from __future__ import annotations

import itertools

import numpy as np

from sae.config import STRIDE

# Rows are luma and two axes of chroma, whose frequencies are less important by these factors.
_COLORS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
_IMPORTANCE = (1, 12, 40)


def cosine_basis(depth: int) -> np.ndarray:
    """Returns the lowest frequencies of an orthonormal DCT of color blocks.

    Args:
      depth: number of frequencies, at most 768.

    Returns:
      Basis, float32 [16, 16, 3, depth]. The means of luma and chroma come first, then all other
      frequencies from the lowest up, where those of chroma count as higher.
    """
    n = np.arange(STRIDE)
    waves = np.cos(np.pi * (n + 0.5) * n[:, None] / STRIDE) * np.sqrt(2 / STRIDE)
    waves[0] /= np.sqrt(2)
    frequencies = itertools.product(n, n, range(len(_COLORS)))

    def order(frequency: tuple[int, int, int]) -> tuple:
        row, column, color = frequency
        squared = row**2 + column**2
        # Means of chroma come early, since the first image of a stream should have colors.
        return (squared + 1) * _IMPORTANCE[color] if squared else 0, frequency

    low_first = sorted(frequencies, key=order)
    rows, columns, colors = np.transpose(low_first[:depth])
    blocks = np.einsum("ki,kj,kc->ijck", waves[rows], waves[columns], _COLORS[colors])
    return blocks.astype(np.float32)

"""Tiles of transforms: the values of the whole, no tile larger than asked."""

from __future__ import annotations

import numpy as np
import pytest

from sae.model.tiling import in_tiles


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (40, 37), (200, 3), (3, 200), (65, 64)])
@pytest.mark.parametrize("scale", [1, 4])
def test_tiles_make_the_whole(size, scale):
    x, reach, areas = np.random.default_rng(0).random((1, *size, 2)), 2, []

    def transform(rows, columns):
        part = x[:, rows, columns]
        areas.append(part[0, :, :, 0].size)
        padded = np.pad(part, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
        mean = windows.mean((-2, -1)).repeat(scale, 1).repeat(scale, 2)
        return [mean, mean[..., :1] > 0.5]

    means, bits = in_tiles(transform, *size, reach, positions=256)
    assert max(areas) <= 256 and sum(areas) < 2.5 * np.prod(size) + 1
    expected = transform(slice(None), slice(None))
    np.testing.assert_array_equal(means, expected[0])
    np.testing.assert_array_equal(bits, expected[1])

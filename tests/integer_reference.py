"""The context models in 64-bit integers, by the text of docs/FORMAT.md."""

from __future__ import annotations

import itertools

import numpy as np

PASSES = ((0, 0), (1, 1), (0, 1), (1, 0))


def of_plane(arrays, planes):
    """Returns means and scales of the plane above the given planes."""
    scope = f"plane_{len(planes)}"
    inputs = [part for q in reversed(planes) for part in (clipped(q), np.abs(clipped(q)))]
    x = activation(convolved(arrays, f"{scope}/embed", np.concatenate(inputs, -1)))
    for residual in numbered(arrays, f"{scope}/residual"):
        x = np.clip(x + activation(convolved(arrays, residual, x)), -512, 512)
    return parameters(convolved(arrays, f"{scope}/output", x))


def of_pass(arrays, slices, number):
    """Returns means and scales of a pass.

    Args:
      arrays: stored integers.
      slices: values of the slices up to that of the pass, whose last one has any values in
        positions of later passes.
      number: number of the pass.
    """
    context = 0
    for k, values in enumerate(slices):
        scope = f"plane_0/slice_{k}"
        embedded = activation(convolved(arrays, f"{scope}/embed", clipped(values)))
        if k < len(slices) - 1:
            context = context + convolved(arrays, f"plane_0/channel_context_{k}", embedded)
    row, column = PASSES[number]
    earlier = [
        [PASSES.index(((row + y) % 2, (column + x) % 2)) < number for x in (-1, 0, 1)]
        for y in (-1, 0, 1)
    ]
    mask = np.array(earlier)[..., None, None]
    features = convolved(arrays, f"{scope}/spatial", embedded, mask) + context
    features += arrays[f"{scope}/pass_bias"][number]
    # Features have a quarter of the unit of activations.
    x = activation(features / 4)
    for joint in numbered(arrays, f"{scope}/joint"):
        x = activation(convolved(arrays, joint, x))
    found = parameters(convolved(arrays, f"{scope}/output", x))
    return tuple(values[row::2, column::2] for values in found)


def numbered(arrays, scope):
    """Returns the scopes <scope>_0, <scope>_1 and so on."""
    names = (f"{scope}_{k}" for k in itertools.count())
    return list(itertools.takewhile(lambda name: f"{name}/kernel" in arrays, names))


def clipped(q):
    return np.clip(q.astype(np.int64), -64, 64)


def activation(x):
    return np.clip(np.rint(np.maximum(x, x / 8)), -512, 512).astype(np.int64)


def convolved(arrays, scope, x, mask=1):
    """Returns the sums of a convolution, padded with zeros, in the unit of its result."""
    kernel = arrays[f"{scope}/kernel"].astype(np.int64) * mask
    margin, (height, width, _) = len(kernel) // 2, x.shape
    padded = np.pad(x, ((margin, margin), (margin, margin), (0, 0)))
    sums = arrays[f"{scope}/bias"].astype(np.int64)
    for y, z in np.ndindex(kernel.shape[:2]):
        sums = sums + padded[y : y + height, z : z + width] @ kernel[y, z]
    return np.rint(sums * np.exp2(arrays[f"{scope}/exponent"].astype(float))).astype(np.int64)


def parameters(x):
    means, scales = np.split(x, 2, -1)
    return np.clip(means, 1 - 2**15, 2**15 - 1), np.clip(scales, 0, 63)

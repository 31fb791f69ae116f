"""The context models of the planes as ONNX graphs, with the integers of `integer_context`.

Tensors between operators are float32 and have integer values.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from sae.model.integer_context import (
    ACTIVATION_STEP,
    FEATURE_STEP,
    LARGEST_INPUT,
    LARGEST_MEAN,
    LEVELS,
    PASSES,
    SCALES,
    SLOPE,
    earlier_taps,
)
from sae.model.model_store import StoredModel
from sae.model.onnx_graph import Graph

# This end of a slice is beyond every tensor.
_END = 2**31 - 1


def slice_parameters(model: StoredModel, k: int) -> bytes:
    """Returns the graph of means and scales of one pass of a slice of plane 0.

    Its input `values`, int16 [1, h, w, channels of the slice], may have any values in later passes.
    `pass`, int64 [1], is the number of a pass that has positions. Slices above 0 have a further
    input `context`, float32 [1, h, w, filters]. The outputs are `means`, int16, and `scales`,
    uint8, of the positions of the pass.

    Args:
      model: the model.
      k: number of the slice.
    """
    g = _Networks(model.arrays)
    scope, config = f"plane_0/slice_{k}", model.config
    embedded = g.embedded(f"{scope}/embed", [g.values("values", config.slice_sizes[k])])
    number = g.input("pass", np.int64, (1,))
    first = g("Squeeze", g("Gather", g.constant(np.array(PASSES)), number), g.axes(0))
    features = g.spatial_context(scope, embedded, number, first)
    if k:
        shape = (1, "rows", "columns", config.context_filters)
        context = g.channels_first(g.input("context", np.float32, shape))
        features = g("Add", features, g.from_position(context, first, step=2))
    x = g.activation(g("Mul", features, FEATURE_STEP / ACTIVATION_STEP))
    for joint in range(2):
        x = g.activation(g.convolution(f"{scope}/joint_{joint}", x))
    g.output_parameters(f"{scope}/output", x, config.slice_sizes[k])
    return g.serialized()


def channel_context(model: StoredModel, k: int) -> bytes:
    """Returns the graph of the channel context above a slice of plane 0.

    Its inputs are `values` and `context` as in `slice_parameters`. Its output is `next`, float32
    [1, h, w, filters], the context of the next slice.

    Args:
      model: the model.
      k: number of the slice, not of the last one.
    """
    g = _Networks(model.arrays)
    values = g.values("values", model.config.slice_sizes[k])
    embedded = g.embedded(f"plane_0/slice_{k}/embed", [values])
    shape = (1, "rows", "columns", model.config.context_filters)
    x = g.channels_last(g.convolution(f"plane_0/channel_context_{k}", embedded))
    g.output(
        "next", g("Add", x, g.input("context", np.float32, shape)) if k else x, np.float32, shape
    )
    return g.serialized()


def plane_parameters(model: StoredModel, plane: int) -> bytes:
    """Returns the graph of means and scales of a plane above 0.

    Its inputs are `plane_0` and so on, the integers of the planes below, int16 [1, h, w, depth].
    Its outputs are `means`, int16, and `scales`, uint8.

    Args:
      model: the model.
      plane: number of the plane.
    """
    g, depths = _Networks(model.arrays), model.config.plane_depths
    below = [g.values(f"plane_{p}", depths[p]) for p in range(plane)]
    x = g.embedded(
        f"plane_{plane}/embed", [part for q in reversed(below) for part in (q, g("Abs", q))]
    )
    for k in itertools.count():
        scope = f"plane_{plane}/residual_{k}"
        if f"{scope}/kernel" not in model.arrays:
            break
        x = g.limited(g("Add", x, g.activation(g.convolution(scope, x))))
    g.output_parameters(f"plane_{plane}/output", x, depths[plane])
    return g.serialized()


class _Networks(Graph):
    """A graph with the convolutions of `integer_context`.

    Args:
      arrays: stored integers.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        super().__init__()
        self._arrays = arrays

    def values(self, name: str, depth: int) -> str:
        """Returns an input of latent values, clipped."""
        values = self.input(name, np.int16, (1, "rows", "columns", depth))
        x = self.cast(self.channels_first(values), np.float32)
        return self("Clip", x, -LARGEST_INPUT, LARGEST_INPUT)

    def embedded(self, scope: str, parts: list[str]) -> str:
        """Returns the embedding of integers."""
        return self.activation(self.convolution(scope, self("Concat", *parts, axis=1)))

    def convolution(self, scope: str, x: str) -> str:
        """Returns the sums of a convolution in the unit of its result."""
        kernel = self._integers(f"{scope}/kernel", (3, 2, 0, 1))
        margin = len(self._arrays[f"{scope}/kernel"]) // 2
        return self._sums(scope, x, kernel, pads=4 * (margin,))

    def spatial_context(self, scope: str, embedded: str, number: str, first: str) -> str:
        """Returns the features of a pass from the earlier passes of its slice.

        Args:
          scope: prefix of the slice's weights.
          embedded: embedding of the slice.
          number: number of the pass.
          first: row and column of its first position.
        """
        taps = np.stack([earlier_taps(k) for k in range(len(PASSES))])
        mask = self("Squeeze", self("Gather", self.constant(taps), number), self.axes(0))
        kernel = self("Mul", self._integers(f"{scope}/spatial/kernel", (3, 2, 0, 1)), mask)
        padded = self("Pad", embedded, self.axes(0, 0, 1, 1, 0, 0, 1, 1))
        x = self.from_position(padded, first)
        sums = self._sums(f"{scope}/spatial", x, kernel, strides=(2, 2))
        bias = self("Gather", self._integers(f"{scope}/pass_bias", (0, 1)), number)
        return self("Add", sums, self("Unsqueeze", bias, self.axes(2, 3)))

    def from_position(self, x: str, first: str, step: int = 1) -> str:
        """Returns every row and column, or every second one, from a first position on."""
        axes, steps = self.axes(2, 3), self.axes(step, step)
        return self("Slice", x, first, self.axes(_END, _END), axes, steps)

    def activation(self, x: str) -> str:
        """Returns the activation of x, in the unit of activations."""
        return self.limited(self("Round", self("LeakyRelu", x, alpha=SLOPE)))

    def limited(self, x: str) -> str:
        """Returns x within the limits of activations."""
        return self("Clip", x, float(-LEVELS), float(LEVELS))

    def output_parameters(self, scope: str, x: str, depth: int) -> None:
        """Declares the means and scales of a last convolution as outputs."""
        x = self.channels_last(self.convolution(scope, x))
        for name, dtype, part, low, high in (
            ("means", np.int16, (0, depth), -LARGEST_MEAN, LARGEST_MEAN),
            ("scales", np.uint8, (depth, 2 * depth), 0, SCALES - 1),
        ):
            found = self("Slice", x, *map(self.axes, part), self.axes(3))
            found = self.cast(self("Clip", found, float(low), float(high)), dtype)
            self.output(name, found, dtype, (1, "pass_rows", "pass_columns", depth))

    def _sums(self, scope, x, kernel, **attributes):
        bias = self._integers(f"{scope}/bias", (0,))
        exponent = self._arrays[f"{scope}/exponent"].astype(np.float32)
        factor = self.constant(np.exp2(exponent)[:, None, None])
        return self("Round", self("Mul", self("Conv", x, kernel, bias, **attributes), factor))

    def _integers(self, name, axes):
        return self.cast(self.constant(self._arrays[name].transpose(axes)), np.float32)

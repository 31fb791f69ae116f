"""The transforms of the progressive model as ONNX graphs with stored weights.

`sae.model.progressive_transforms` has the same transforms for training, under the same names of
weights. Graphs have channels before rows and columns, as onnxruntime computes convolutions; inputs
and outputs have them last.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from sae.config import STRIDE
from sae.model.model_store import StoredModel
from sae.model.onnx_graph import Graph
from sae.model.progressive_config import (
    BLOCK,
    FROM_LATENT,
    GDN_FLOOR,
    LEAK,
    LINEAR_SCALE,
    PLANES,
    SUPPORT,
    TO_IMAGE,
    TO_LATENT,
)


def analysis(model: StoredModel) -> bytes:
    """Returns the graph of the analysis transform.

    Its input is `image`, uint8 [1, H, W, 3], H and W multiples of 16. Its output is `y`, the
    latent in steps of plane 0, float32 [1, H/16, W/16, depth].
    """
    g = _Modules(model.arrays, "analysis")
    image = g.input("image", np.uint8, (1, "height", "width", 3))
    x = g("Div", g.cast(g.channels_first(image), np.float32), 255.0)
    h = g("SpaceToDepth", x, blocksize=BLOCK)
    h = g.gdn("gdn_0", g.convolution("conv_0", h))
    for k in range(model.config.analysis_blocks):
        h = g.residual_block(f"block_{k}", h)
    h = g.gdn("gdn_1", g.convolution("conv_1", h, 2))
    linear = g("Div", g.linear_forward(g("Sub", x, 0.5)), model.config.step)
    y = g("Add", linear, g("Mul", g.convolution("conv_2", h, 2), TO_LATENT))
    g.output(
        "y",
        g.channels_last(y),
        np.float32,
        (1, "rows", "columns", model.config.latent_depth),
    )
    return g.serialized()


def synthesis(model: StoredModel) -> bytes:
    """Returns the graph of the synthesis transform.

    Its inputs are `y_hat` and `expected`, float32 [1, h, w, depth], and `level`, float32 [1], the
    parts of `plane_coder.PartialLatent`. Its output is `image`, uint8 [1, 16 h, 16 w, 3].
    """
    g = _Modules(model.arrays, "synthesis")
    shape = (1, "rows", "columns", model.config.latent_depth)
    y_hat, expected = (
        g.channels_first(g.input(name, np.float32, shape)) for name in ("y_hat", "expected")
    )
    g.set_level(g.input("level", np.float32, (1,)))
    linear, h = (
        g("Add", g.scaled(f"{path}_gain", y_hat), g.scaled(f"{path}_expected_gain", expected))
        for path in ("linear", "latent")
    )
    linear = g("Mul", linear, model.config.step)
    h = g("Mul", h, FROM_LATENT * model.config.step)
    for k in range(2):
        h = g.gdn(f"igdn_{k}", g.transposed_convolution(f"conv_{k}", h, 2), inverse=True)
        h = g("Add", g.scaled(f"gain_{k}", h), g.plane_table(f"bias_{k}"))
    for k in range(model.config.synthesis_blocks):
        h = g.residual_block(f"block_{k}", h)
    detail = g("DepthToSpace", g.convolution("conv_2", h), blocksize=BLOCK)
    x_hat = g("Add", g("Add", g.linear_backward(linear), 0.5), g("Mul", detail, TO_IMAGE))
    # Runtimes convert values outside the range of uint8 in different ways, hence the clipping.
    pixels = g("Clip", g("Round", g("Mul", x_hat, 255.0)), 0.0, 255.0)
    image = g.channels_last(g.cast(pixels, np.uint8))
    g.output("image", image, np.uint8, (1, "height", "width", 3))
    return g.serialized()


class _Modules(Graph):
    """A graph with the modules of `sae.model.modules`.

    Args:
      arrays: stored weights.
      scope: prefix of their names.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], scope: str):
        super().__init__()
        self._arrays, self._scope = arrays, scope
        self._level = ""

    def convolution(self, name: str, x: str, stride: int = 1) -> str:
        """Returns a convolution with padding "same", of sides that are multiples of the stride."""
        kernel = self._array(f"{name}/kernel")
        # The larger half of an odd padding is below and to the right.
        before, odd = divmod(len(kernel) - stride, 2)
        return self(
            "Conv",
            x,
            self._weight(kernel.transpose(3, 2, 0, 1)),
            *self._bias(name),
            strides=(stride, stride),
            pads=(before, before, before + odd, before + odd),
        )

    def transposed_convolution(self, name: str, x: str, stride: int) -> str:
        """Returns the transpose of such a convolution.

        Each phase of rows and columns modulo the stride is a convolution of x with a part of the
        kernel. This takes half the time of onnxruntime's own transposed convolution.
        """
        kernel = self._array(f"{name}/kernel")
        size, before = len(kernel), (len(kernel) - stride) // 2

        def taps(phase):
            """Returns indices of the kernel, and the padding before and after."""
            after, first = divmod(phase + before, stride)
            indices = range(first, size, stride)[::-1]
            return indices, len(indices) - 1 - after, after

        parts = []
        for (rows, top, bottom), (columns, left, right) in itertools.product(
            map(taps, range(stride)), repeat=2
        ):
            part = kernel[np.ix_(rows, columns)].transpose(2, 3, 0, 1)
            pads = (top, left, bottom, right)
            parts.append(self("Conv", x, self._weight(part), *self._bias(name), pads=pads))
        return self("DepthToSpace", self("Concat", *parts, axis=1), blocksize=stride)

    def residual_block(self, name: str, x: str) -> str:
        """Returns x with the change of a residual block."""
        kernel, half = self._array(f"{name}/depthwise"), SUPPORT // 2
        weight = self._weight(kernel.transpose(2, 3, 0, 1))
        h = self("Conv", x, weight, group=len(kernel[0, 0]), pads=(half,) * 4)
        h = self("LeakyRelu", self.convolution(f"{name}/expand", h), alpha=LEAK)
        return self("Add", x, self.convolution(f"{name}/reduce", h))

    def gdn(self, name: str, x: str, inverse: bool = False) -> str:
        """Returns x / (beta + gamma |x|), or x times that."""
        gamma, beta = (self._weight(self._array(f"{name}/{part}").T) for part in ("gamma", "beta"))
        gamma = self("Unsqueeze", self("Mul", gamma, gamma), self.axes(2, 3))
        beta = self("Add", self("Mul", beta, beta), GDN_FLOOR)
        norm = self("Conv", self("Abs", x), gamma, beta)
        return self("Mul" if inverse else "Div", x, norm)

    def linear_forward(self, x: str) -> str:
        """Returns the linear path from images to latents."""
        kernel = self("Mul", self._weight(self._array("matrix").T[..., None, None]), LINEAR_SCALE)
        return self("Conv", self("SpaceToDepth", x, blocksize=STRIDE), kernel)

    def linear_backward(self, y: str) -> str:
        """Returns the linear path from latents to images."""
        kernel = self("Mul", self._weight(self._array("matrix")[..., None, None]), LINEAR_SCALE)
        return self("DepthToSpace", self("Conv", y, kernel), blocksize=STRIDE)

    def set_level(self, level: str) -> None:
        """Sets the plane up to which the latent is decoded, float32 [1]."""
        distance = self("Abs", self("Sub", level, self.constant(np.arange(PLANES, dtype="f4"))))
        # These are linear weights of the planes, nonzero for the two next to the level.
        self._level = self("Unsqueeze", self("Relu", self("Sub", 1.0, distance)), self.axes(0))

    def plane_table(self, name: str) -> str:
        """Returns the vector of a table at the level, [1, channels, 1, 1]."""
        vector = self("MatMul", self._level, self._weight(self._array(name)))
        return self("Unsqueeze", vector, self.axes(2, 3))

    def scaled(self, name: str, x: str) -> str:
        """Returns x times the vector of a table at the level."""
        return self("Mul", x, self.plane_table(name))

    def _array(self, name):
        return self._arrays[f"{self._scope}/{name}"]

    def _bias(self, name):
        """Returns the bias input of a convolution, nothing where it has none."""
        bias = self._arrays.get(f"{self._scope}/{name}/bias")
        return [] if bias is None else [self._weight(bias)]

    def _weight(self, array):
        """Returns a stored array in float32; onnxruntime converts it once, with the graph."""
        return self.cast(self.constant(array), np.float32)

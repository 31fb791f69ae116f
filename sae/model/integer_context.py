"""The context models of the planes in integers: the same on every machine, without TensorFlow.

Encoder and decoder require the same means and scales to the last bit. Kernels, inputs and
activations are therefore integers (Balle et al., ICLR 2019, for integer networks). They are small
enough for float32 to hold every sum of products exactly, whatever the order. Between two
convolutions a sum is scaled by a power of two, rounded and clipped. Training has the same clipping
in floating point (`sae.model.plane_priors`); `integer_kernels` rounds its weights once.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sae.model.tiling import in_strips

# Rows and columns modulo two of the passes, in the order of coding.
PASSES = ((0, 0), (1, 1), (0, 1), (1, 0))
# Inputs of the networks are latents clipped to this magnitude.
LARGEST_INPUT = 64.0
# Activations are max(x, SLOPE x), clipped to this magnitude.
SLOPE, LARGEST_ACTIVATION = 0.125, 16.0
# Means are multiples of 1 / MEANS. Scales are SMALLEST_SCALE * SCALE_RATIO^k, k = 0 .. SCALES - 1.
# An output of 0 stands for the scale of index SCALE_ONE, n / SCALE_STEPS for the n-th above it.
MEANS = 8
SMALLEST_SCALE, SCALE_RATIO, SCALES = 0.03, 1.125, 64
SCALE_ONE, SCALE_STEPS = 30.0, 8.0

# Units of activations, and of features, which are sums over several convolutions.
ACTIVATION_STEP, FEATURE_STEP = 2.0**-5, 2.0**-7
_LEVELS = int(LARGEST_ACTIVATION / ACTIVATION_STEP)
# float32 holds all integers up to this.
_EXACT = 2.0**24
# Means, in eighths, are within these bounds.
LARGEST_MEAN = 2**15 - 1
# Number of positions that are convolved at once, which limits the memory for neighborhoods.
_STRIP = 1 << 12


class _Layer(NamedTuple):
    """A convolution in integers.

    Attributes:
      kernel: [height, width, channels, filters], float32.
      bias: [filters], float32.
      factor: powers of two that convert sums to the unit of the result, float32 [filters].
    """

    kernel: np.ndarray
    bias: np.ndarray
    factor: np.ndarray


def integer_kernels(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the trained context models as integers, for storage.

    Args:
      weights: weights of a progressive model by name.

    Returns:
      For each convolution NAME of the planes: `NAME/kernel`, int16, `NAME/bias`, int32, and
      `NAME/exponent`, int8, the binary logarithms of the factors. For each slice NAME of plane 0:
      `NAME/pass_bias`, int32.
    """
    found: dict[str, np.ndarray] = {}
    for name, weight in weights.items():
        scope, _, last = name.rpartition("/")
        if not scope.startswith("plane_"):
            continue
        values = weight.astype(np.float64)
        if last == "pass_bias":
            found[name] = np.rint(values / FEATURE_STEP).astype(np.int32)
        elif last == "kernel":
            bias = weights.get(f"{scope}/bias", np.zeros(values.shape[-1])).astype(np.float64)
            layer = _rounded(scope.rpartition("/")[2], values, bias)
            found |= {f"{scope}/{key}": value for key, value in layer.items()}
    return found


def float_kernels(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns weights, float32 by name, of which `integer_kernels` makes the given integers."""
    found = {}
    for scope, _, last in (name.rpartition("/") for name in arrays):
        if last == "pass_bias":
            values = arrays[f"{scope}/{last}"] * FEATURE_STEP
            found[f"{scope}/{last}"] = values.astype(np.float32)
        elif last == "exponent":
            kernel, bias = arrays[f"{scope}/kernel"], arrays[f"{scope}/bias"]
            step, writes, offset = _units(scope.rpartition("/")[2], len(bias))
            unit = np.exp2(arrays[f"{scope}/{last}"].astype(np.float64)) * writes / step
            found[f"{scope}/kernel"] = (kernel * unit).astype(np.float32)
            found[f"{scope}/bias"] = (bias * unit * step - offset).astype(np.float32)
    return found


def _units(name, filters):
    """Returns the unit of an input, those of its results, and the constants added to these."""
    step, writes, offset = ACTIVATION_STEP, np.full(filters, ACTIVATION_STEP), np.zeros(filters)
    if name == "embed":
        step = 1.0
    elif name == "spatial" or name.startswith("channel_context"):
        writes[:] = FEATURE_STEP
    elif name == "output":
        # The first half of the filters are means, the second half scale indices.
        writes = np.repeat([1 / MEANS, 1 / SCALE_STEPS], filters // 2)
        offset = np.repeat([0.0, SCALE_ONE / SCALE_STEPS], filters // 2)
    return step, writes, offset


def _rounded(name, kernel, bias):
    """Returns a convolution in integers, in the finest unit of each filter with exact sums."""
    step, writes, offset = _units(name, len(bias))
    bound = LARGEST_INPUT if name == "embed" else LARGEST_ACTIVATION
    bias = bias + offset
    count = kernel[..., 0].size
    total = np.abs(kernel).sum((0, 1, 2)) + np.abs(bias) / bound
    # Rounding may enlarge each weight, and the bias, by half a unit.
    room = _EXACT * step / bound - count / 2 - 1
    largest = np.maximum(total / room, np.abs(kernel).max((0, 1, 2)) / 32767)
    exponent = np.ceil(np.log2(np.maximum(largest, 2.0**-40)))
    unit = 2.0**exponent
    integers = np.rint(kernel / unit)
    biases = np.rint(bias / (unit * step))
    sums = np.abs(integers).sum((0, 1, 2)) * (bound / step) + np.abs(biases)
    assert (sums < _EXACT).all(), "float32 has to hold every sum"
    factor = np.log2(unit * step / writes)
    assert (factor == np.rint(factor)).all(), "factors have to be powers of two"
    return {
        "kernel": integers.astype(np.int16),
        "bias": biases.astype(np.int32),
        "exponent": factor.astype(np.int8),
    }


class Parameters(NamedTuple):
    """Means and scales of the elements of a latent, of one shape.

    Attributes:
      means: means in eighths of a quantization step, int16.
      scales: indices of scales in [0, SCALES), uint8.
    """

    means: np.ndarray
    scales: np.ndarray


class Part(NamedTuple):
    """The elements of plane 0 that are coded together.

    Attributes:
      where: index of the elements in the plane [h, w, depth].
      parameters: their means and scales.
    """

    where: tuple[slice, slice, slice]
    parameters: Parameters


class IntegerContext:
    """The context models of all planes.

    Args:
      arrays: result of `integer_kernels`.

    Attributes:
      depths: number of channels of each plane.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays
        scopes = [name.rpartition("/")[0] for name in arrays if name.endswith("/exponent")]
        self._layers = {
            scope: _Layer(
                arrays[f"{scope}/kernel"].astype(np.float32),
                arrays[f"{scope}/bias"].astype(np.float32),
                np.exp2(arrays[f"{scope}/exponent"].astype(np.float32)),
            )
            for scope in scopes
        }
        slices = sum(name.endswith("/pass_bias") for name in arrays)
        self._sizes = [
            self._layers[f"plane_0/slice_{k}/embed"].kernel.shape[2] for k in range(slices)
        ]
        self.depths = [sum(self._sizes)]
        while output := self._layers.get(f"plane_{len(self.depths)}/output"):
            self.depths.append(len(output.bias) // 2)

    def parts(self, height: int, width: int) -> Generator[Part, np.ndarray, np.ndarray]:
        """Yields the parts of plane 0 in the order of coding.

        Args:
          height, width: size of the latent.

        Yields:
          Each part. The caller sends the values of its elements, integers shaped like its means.

        Returns:
          The plane, int16 [height, width, depth].
        """
        plane = np.zeros((height, width, self.depths[0]), np.int16)
        context = np.zeros(0, np.float32)
        first = 0
        for k, size in enumerate(self._sizes):
            channels = slice(first, first + size)
            first += size
            embed = self._layers[f"plane_0/slice_{k}/embed"]
            filters = embed.kernel.shape[-1]
            # One position of padding on every side.
            embedded = np.zeros((height + 2, width + 2, filters), np.float32)
            for number, (row, column) in enumerate(PASSES):
                where = (slice(row, None, 2), slice(column, None, 2), channels)
                if plane[where].size == 0:
                    continue
                features = self._spatial(k, number, embedded, (height, width))
                if k:
                    features += context[where[:2]]
                plane[where] = yield Part(where, self._entropy_parameters(k, features))
                inner = embedded[1:-1, 1:-1]
                inner[where[:2]] = _activation(_product(_clipped(plane[where]), embed), 1.0)
            if k < len(self._sizes) - 1:
                layer = self._layers[f"plane_0/channel_context_{k}"]
                added = _convolved(embedded, layer)
                context = context + added if k else added
        return plane

    def _spatial(self, k, number, embedded, size):
        """Returns the features of the positions of a pass from the earlier passes of its slice."""
        row, column = PASSES[number]
        height, width = (size[0] + 1 - row) // 2, (size[1] + 1 - column) // 2
        bias = self._arrays[f"plane_0/slice_{k}/pass_bias"][number].astype(np.float32)
        layer = self._layers[f"plane_0/slice_{k}/spatial"]
        taps = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if PASSES.index(((row + y - 1) % 2, (column + x - 1) % 2)) < number
        ]
        if not taps:
            return np.zeros((height, width, len(bias)), np.float32) + bias
        neighbors = [embedded[row + y :: 2, column + x :: 2][:height, :width] for y, x in taps]
        kernel = np.concatenate([layer.kernel[y, x] for y, x in taps])[None, None]
        return _product(np.concatenate(neighbors, -1), layer._replace(kernel=kernel)) + bias

    def _entropy_parameters(self, k, features):
        x = _activation(features, FEATURE_STEP / ACTIVATION_STEP)
        for layer in self._numbered(f"plane_0/slice_{k}/joint"):
            x = _activation(_product(x, layer), 1.0)
        return _split(_rounded_parameters(_product(x, self._layers[f"plane_0/slice_{k}/output"])))

    def _numbered(self, scope):
        """Yields the layers <scope>_0, <scope>_1 and so on."""
        for k in itertools.count():
            if f"{scope}_{k}" not in self._layers:
                return
            yield self._layers[f"{scope}_{k}"]

    def of_plane(self, planes: Sequence[np.ndarray]) -> Parameters:
        """Returns the parameters of the plane above the given planes.

        Args:
          planes: integers of all planes below, lowest first, [h, w, depth].
        """
        height, width, _ = planes[0].shape
        strips = in_strips(
            lambda rows: self._of_rows([plane[rows] for plane in planes]),
            height,
            width,
            reach=2,
            positions=_STRIP,
        )
        shape = (height, width, self.depths[len(planes)])
        found, row = Parameters(np.empty(shape, np.int16), np.empty(shape, np.uint8)), 0
        # Sums of integers are exact: strips have the values of the whole plane.
        for strip in map(_split, strips):
            rows = slice(row, row + len(strip.means))
            found.means[rows], found.scales[rows] = strip
            row = rows.stop
        return found

    def _of_rows(self, planes):
        scope = f"plane_{len(planes)}"
        inputs = [v for q in reversed(planes) for v in (_clipped(q), np.abs(_clipped(q)))]
        x = _activation(_product(np.concatenate(inputs, -1), self._layers[f"{scope}/embed"]), 1.0)
        for layer in self._numbered(f"{scope}/residual"):
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0))) if layer.kernel.shape[0] == 3 else x
            x = x + _activation(_convolved(padded, layer), 1.0)
            np.clip(x, -_LEVELS, _LEVELS, out=x)
        return _rounded_parameters(_product(x, self._layers[f"{scope}/output"]))


def _clipped(q):
    return np.clip(q, -LARGEST_INPUT, LARGEST_INPUT).astype(np.float32)


def _activation(x, factor):
    """Returns the activation of x in its unit; overwrites x, whose unit is `factor` of that."""
    x *= np.float32(factor)
    np.maximum(x, np.float32(SLOPE) * x, out=x)
    np.rint(x, out=x)
    return np.clip(x, -_LEVELS, _LEVELS, out=x)


def _product(x, layer):
    """Returns the sums of a convolution of size 1 in the unit of its result."""
    kernel = layer.kernel.reshape(-1, layer.kernel.shape[-1])
    y = x.reshape(-1, x.shape[-1]) @ kernel
    y += layer.bias
    y *= layer.factor
    return np.rint(y, out=y).reshape(*x.shape[:-1], -1)


def _convolved(padded, layer):
    """Returns the sums of a convolution over a padded input in the unit of its result."""
    size = layer.kernel.shape[0]
    height, width = padded.shape[0] - size + 1, padded.shape[1] - size + 1
    rows = max(1, _STRIP // width)
    found = []
    for top in range(0, height, rows):
        strip = padded[top : top + rows + size - 1]
        count = strip.shape[0] - size + 1
        taps = [strip[y : y + count, x : x + width] for y in range(size) for x in range(size)]
        found.append(_product(np.concatenate(taps, -1), layer))
    return np.concatenate(found)


def _rounded_parameters(x):
    """Returns means, then scales, int16 [..., 2 depth]."""
    depth = x.shape[-1] // 2
    np.clip(x[..., :depth], -LARGEST_MEAN, LARGEST_MEAN, out=x[..., :depth])
    np.clip(x[..., depth:], 0, SCALES - 1, out=x[..., depth:])
    return x.astype(np.int16)


def _split(x):
    depth = x.shape[-1] // 2
    return Parameters(x[..., :depth], x[..., depth:].astype(np.uint8))

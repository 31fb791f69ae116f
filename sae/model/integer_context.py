"""The context models of the planes in integers: the same on every machine, without TensorFlow.

Encoder and decoder require the same means and scales to the last bit. Kernels, inputs and
activations are therefore integers (Balle et al., ICLR 2019, for integer networks). They are small
enough for float32 to hold every sum of products exactly, whatever the order. Between two
convolutions a sum is scaled by a power of two, rounded and clipped. Training has the same clipping
in floating point (`sae.model.plane_priors`); `integer_kernels` rounds its weights once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
# Largest activation in its unit.
LEVELS = int(LARGEST_ACTIVATION / ACTIVATION_STEP)
# float32 holds all integers up to this.
_EXACT = 2.0**24
# Means, in eighths, are within these bounds.
LARGEST_MEAN = 2**15 - 1


def earlier_taps(number: int) -> np.ndarray:
    """Returns 1 for the taps of a kernel on passes before a number, else 0, float32 [3, 3]."""
    row, column = PASSES[number]
    passes = [
        [PASSES.index(((row + y) % 2, (column + x) % 2)) for x in (-1, 0, 1)] for y in (-1, 0, 1)
    ]
    return (np.array(passes) < number).astype(np.float32)


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

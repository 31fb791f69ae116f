"""Counts parameters and multiply-accumulates of the trained layers, from their weights' shapes.

    python -m tools.complexity

One multiply-accumulate (MAC) is one weight of a kernel, a matrix or a GDN at one position of its
input. Sides of images are assumed to be multiples of 16, and zeros beyond the borders count as
pixels. Range coding, biases and activations are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sae.config import DEFAULT_FOLDER
from sae.errors import SaeError
from sae.model import stores
from sae.model.families import FAMILIES, Family
from sae.model.layer_store import LayerStore
from sae.model.model_store import ModelStore

# Positions per pixel at which a kernel is applied, by a pattern of its name in weights.npz; a
# transposed convolution is applied at the positions of its input.
_DENSITIES = {
    r"(analysis|synthesis)/matrix": 1 / 256,
    r"analysis/(conv_0/kernel|gdn_0/(reparam_)?gamma)": 1 / 16,
    r"analysis/(conv_1/kernel|gdn_1/(reparam_)?gamma)": 1 / 64,
    r"analysis/conv_2/kernel": 1 / 256,
    r"synthesis/conv_0/kernel": 1 / 256,
    r"synthesis/(conv_1/kernel|igdn_0/(reparam_)?gamma)": 1 / 64,
    r"synthesis/(conv_2/kernel|igdn_1/(reparam_)?gamma)": 1 / 16,
    r"(analysis|synthesis)/block_\d+/(depthwise|(expand|reduce)/kernel)": 1 / 16,
    # Of two neighbors, the one that is coded later reads the other; none reads itself.
    r"plane_0/slice_\d+/spatial/kernel": 4 / 9 / 256,
    r"plane_\d/.*kernel": 1 / 256,
    # Biases, and weights that only serve to make the tables of the range coder, cost nothing.
    r".*bias|.*beta|bottleneck/DeepFactorized/.*|.*kernel_imag": 0.0,
    r"synthesis/(linear_|latent_)?(expected_)?(gain|bias)(_\d)?": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Complexity:
    """The complexity of one layer.

    Attributes:
      parameters: number of trained values.
      encode: MACs per pixel to encode a stream that ends with this layer.
      decode: MACs per pixel to decode a stream that ends with this layer.
    """

    parameters: int
    encode: float
    decode: float


def of_family(family: Family, checkpoints: Path = DEFAULT_FOLDER) -> dict[str, Complexity]:
    """Returns the complexity of each trained layer of a family."""
    store = LayerStore(family, checkpoints)
    below_encode = below_decode = 0.0
    found = {}
    for name in store.all_metadata():
        with np.load(store.path(name) / "weights.npz") as arrays:
            shapes = {key: arrays[key].shape for key in arrays if "bottleneck/cdf" not in key}
        macs = count(shapes)
        # The encoder needs the reconstruction below; the decoder adds all of them up.
        encode = below_encode + below_decode + macs["analysis"]
        decode = below_decode + macs["synthesis"]
        below_encode, below_decode = below_encode + macs["analysis"], decode
        parameters = sum(math.prod(shape) for shape in shapes.values())
        found[name] = Complexity(parameters, encode, decode)
    return found


def of_model(family: Family, checkpoints: Path = DEFAULT_FOLDER) -> dict[str, tuple[int, float]]:
    """Returns parameters and MACs per pixel of each part of a progressive model."""
    arrays = ModelStore(family, checkpoints).load().arrays
    shapes = {
        name: array.shape
        for name, array in arrays.items()
        if not name.startswith("tables/") and not name.endswith("/exponent")
    }
    macs = count(shapes)
    parameters = dict.fromkeys(macs, 0)
    for name, shape in shapes.items():
        parameters[name.split("/")[0]] += math.prod(shape)
    return {part: (parameters[part], macs[part]) for part in macs if parameters[part]}


def count(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Returns MACs per pixel by the first parts of the arrays' names, such as "analysis".

    Args:
      shapes: shapes of the arrays in weights.npz, by name.

    Raises:
      SaeError: an array is unknown, so that the count would be too small.
    """
    macs = {name.split("/")[0]: 0.0 for name in sorted(shapes)}
    for name, shape in shapes.items():
        if name.endswith("/kernel_real"):
            # Half of the Fourier coefficients, [channels, filters, side, side // 2 + 1].
            name, shape = name[: -len("_real")], (shape[2], shape[2], *shape[:2])
        densities = [d for pattern, d in _DENSITIES.items() if re.fullmatch(pattern, name)]
        if not densities:
            raise SaeError(f"tools/complexity.py cannot count {name}; add it to _DENSITIES there.")
        weights = math.prod(shape)
        macs[name.split("/")[0]] += densities[0] * weights
    return macs


def main(arguments: list[str] | None = None) -> None:
    """Prints a line for each layer."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.complexity",
        description="Count parameters and MACs per pixel of the trained layers.",
    )
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="weights [the released ones]",
    )
    options = parser.parse_args(arguments)
    print(f"{'layer':<28}{'parameters':>12}{'encode, kMAC/pixel':>22}{'decode, kMAC/pixel':>22}")
    for family in FAMILIES:
        store = stores.of_family(family, options.checkpoints)
        if store.names() and family.kind == "residual":
            for name, one in of_family(family, options.checkpoints).items():
                numbers = f"{one.parameters:>12,}{one.encode / 1e3:>22.2f}{one.decode / 1e3:>22.2f}"
                print(f"{family.name + ' ' + name:<28}{numbers}")
        elif store.names():
            for name, (parameters, macs) in of_model(family, options.checkpoints).items():
                numbers = f"{parameters:>12,}{macs / 1e3:>22.2f}"
                print(f"{family.name + ' ' + name:<28}{numbers}")


if __name__ == "__main__":
    try:
        main()
    except SaeError as error:
        raise SystemExit(f"{error}") from None

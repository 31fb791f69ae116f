"""Times the latent optimization of residual families, layer by layer.

    python benchmarks/latent_optimization.py kodak/kodim05.png --family residual-mse

Prints a row of a Markdown table: the seconds of 100 steps for each layer, without tracing and
compilation, and the seconds per megapixel for all. For one core with the other busy, as in
`sae evaluate`, run it under `taskset -c 0` at the same time as a second one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sae import images
from sae.coding import codec
from sae.config import EFFORTS

_TRACED = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("--family", default="residual-mse", help="(residual-mse)")
    parser.add_argument("--effort", type=int, default=3, help="(3)")
    options = parser.parse_args()
    image, steps, ends = images.read(options.image), EFFORTS[options.effort], {}
    codec.compress(
        image,
        family=options.family,
        effort=options.effort,
        progress=lambda done, count: ends.__setitem__(done, time.perf_counter()),
    )
    starts = range(0, max(ends), steps)
    seconds = [100 * (ends[k + steps] - ends[k + _TRACED]) / (steps - _TRACED) for k in starts]
    megapixel = 1e6 * sum(seconds) / (image.shape[0] * image.shape[1])
    cells = [f"`{options.family}`", *(f"{s:.1f}" for s in seconds), f"{megapixel:.0f}"]
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

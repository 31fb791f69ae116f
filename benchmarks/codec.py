"""Time, memory and file sizes of the codec, and of other codecs in the same run.

    python benchmarks/codec.py [--images kodak] [--family NAME]
        [--checkpoints DIR] [--cores 2] [--compressai-python PATH]

Prints the tables of benchmarks/README.md. All codecs run on the same cores, image by image in turn,
so that a busy machine slows all of them alike. Of `--repeats` the fastest counts. Images are arrays
in memory before encoding and after decoding, models are loaded, and the first, slower image is not
counted.

CompressAI is timed in another Python that has it installed, with bmshj2018_factorized of quality 4.
Its weights are random, which does not affect the time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

# Settings that come near one bit per pixel on Kodak.
_PILLOW = {
    "JPEG 2000": (
        "JPEG2000",
        {"quality_mode": "rates", "quality_layers": [24], "irreversible": True, "mct": 1},
    ),
    "WebP": ("WEBP", {"quality": 80, "method": 4}),
    "AVIF": ("AVIF", {"quality": 70, "speed": 6}),
}
# Tiles of a 400 x 600 photo in each direction.
_TILES = (1, 5, 10)


def fastest(repeats: int, function: Callable[[], object]) -> tuple[float, object]:
    """Returns the least time in seconds that the function took, and what it returned."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - started)
    return min(times), result


def pillow(image: np.ndarray, name: str, repeats: int) -> tuple[float, float, int]:
    """Returns encoding time, decoding time and bytes of a codec that Pillow has."""
    picture, (format, options) = Image.fromarray(image), _PILLOW[name]

    def encode():
        file = io.BytesIO()
        picture.save(file, format, **options)
        return file.getvalue()

    encoding, data = fastest(repeats, encode)
    decoding, _ = fastest(repeats, lambda: np.asarray(Image.open(io.BytesIO(data))))
    return encoding, decoding, len(data)


def sae(image: np.ndarray, layers: int, options: argparse.Namespace) -> tuple:
    """Returns encoding time, decoding time and bytes."""
    from sae.coding import codec

    repeats, checkpoints = options.repeats, options.checkpoints
    encoding, data = fastest(
        repeats, lambda: codec.compress(image, layers, options.family, checkpoints)
    )
    decoding, _ = fastest(repeats, lambda: codec.decompress(data, checkpoints=checkpoints))
    return encoding, decoding, len(data)


class CompressAI:
    """bmshj2018_factorized in a process of the Python that has it."""

    def __init__(self, python: str, cores: int):
        command = [python, __file__, "--worker", "--cores", str(cores)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._process.stdout.readline().strip()

    def time(self, path: Path, repeats: int) -> tuple[float, float]:
        """Returns encoding and decoding time of an image."""
        print(json.dumps([str(path.resolve()), repeats]), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def compressai_worker(cores: int) -> None:
    """Times the images named on standard input."""
    import compressai
    import torch

    torch.set_num_threads(cores)
    torch.manual_seed(0)
    model = compressai.zoo.bmshj2018_factorized(quality=4, pretrained=False).eval()
    model.update()
    print(f"CompressAI {compressai.__version__}, PyTorch {torch.__version__}", flush=True)
    with torch.no_grad():
        for line in sys.stdin:
            path, repeats = json.loads(line)
            image = np.asarray(Image.open(path).convert("RGB"))

            def encode(image=image):
                x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
                return model.compress(x)

            encoding, coded = fastest(repeats, encode)

            def decode(coded=coded):
                x_hat = model.decompress(coded["strings"], coded["shape"])["x_hat"]
                return (x_hat[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()

            decoding, _ = fastest(repeats, decode)
            print(json.dumps([encoding, decoding]), flush=True)


def kodak(options: argparse.Namespace) -> None:
    """Prints times and sizes, mean over a folder of images."""
    from sae import images
    from sae.model import stores

    paths = images.find(options.images)
    layers = stores.store(options.family, options.checkpoints).names()
    peer = (
        CompressAI(options.compressai_python, options.cores) if options.compressai_python else None
    )
    rows: dict[str, list] = {}
    for index, path in enumerate([paths[0], *paths]):
        image = images.read(path)
        measured = {}
        for count, name in enumerate(layers, start=1):
            label = name if name == "base" else f"+ {name}"
            measured[label] = sae(image, count, options)
        for name in _PILLOW:
            measured[name] = pillow(image, name, options.repeats)
        if peer:
            measured["CompressAI"] = peer.time(path, options.repeats)
        if index:
            pixels = image.shape[0] * image.shape[1]
            for name, values in measured.items():
                rows.setdefault(name, []).append((*values, *[None] * (3 - len(values)), pixels))

    cores = len(os.sched_getaffinity(0))
    print(f"{len(paths)} images of {options.images}, mean; {cores} cores")
    print(f"{peer.versions}\n" if peer else "")
    print("| | bytes | bpp | encode, ms | decode, ms |")
    print("|---|---|---|---|---|")
    for name, values in rows.items():
        encoding, decoding = (1000 * statistics.mean(v[k] for v in values) for k in (0, 1))
        size = bpp = "-"
        if values[0][2] is not None:
            size = f"{statistics.mean(v[2] for v in values):.0f}"
            bpp = f"{statistics.mean(8 * v[2] / v[3] for v in values):.3f}"
        print(f"| {name} | {size} | {bpp} | {encoding:.0f} | {decoding:.0f} |")


def sizes(options: argparse.Namespace) -> None:
    """Prints time and memory of three sizes, each in a process of its own."""
    folder = tempfile.mkdtemp()
    print("\n| image | megapixels | | seconds | seconds per megapixel | peak memory, GiB |")
    print("|---|---|---|---|---|---|")
    for tiles in _TILES:
        megapixels = 0.24 * tiles**2
        for direction in ("encode", "decode"):
            command = [sys.executable, __file__, "--one", direction, "--tiles", str(tiles)]
            command += ["--checkpoints", options.checkpoints, "--cores", str(options.cores)]
            command += ["--family", options.family]
            command += ["--stream", str(Path(folder) / f"{tiles}.sae")]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seconds, memory = json.loads(done.stdout)
            print(
                f"| {600 * tiles} x {400 * tiles} | {megapixels:.2f} | {direction} | {seconds:.2f} "
                f"| {seconds / megapixels:.2f} | {memory:.2f} |"
            )
    shutil.rmtree(folder)


def one(options: argparse.Namespace) -> None:
    """Codes one large image and prints the seconds and the peak memory in GiB."""
    from sae import images
    from sae.coding import codec

    photo = images.sample_photos()["coffee"]
    image = np.tile(photo, (options.tiles, options.tiles, 1))

    def compress(image):
        return codec.compress(image, None, options.family, options.checkpoints)

    codec.decompress(compress(photo), None, options.checkpoints)
    started = time.perf_counter()
    if options.one == "encode":
        data = compress(image)
        seconds = time.perf_counter() - started
        options.stream.write_bytes(data)
    else:
        codec.decompress(options.stream.read_bytes(), checkpoints=options.checkpoints)
        seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    print(json.dumps([seconds, memory]))


def startup(options: argparse.Namespace) -> None:
    """Prints the time of the start-up of a process, and that of importing TensorFlow."""
    loaded = (
        f"import sae.coding.codec; from sae.model.stores import store; "
        f"store({options.family!r}, {os.path.abspath(options.checkpoints)!r}).load()"
    )
    programs = {
        "import tensorflow": "import tensorflow",
        "sae up to its first work": "import sae.coding.transcode, sae.coding.codec",
        "and all weights loaded": loaded,
    }
    times: dict[str, list] = {name: [] for name in programs}
    for _ in range(options.repeats + 1):
        for name, program in programs.items():
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", program],
                check=True,
                stderr=subprocess.DEVNULL,
                cwd=Path(__file__).resolve().parent.parent,
            )
            times[name].append(time.perf_counter() - started)
    print("\n| start-up | seconds | of TensorFlow's |\n|---|---|---|")
    for name, values in times.items():
        ratio = min(values) / min(times["import tensorflow"])
        print(f"| {name} | {min(values):.2f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="kodak", metavar="DIR")
    parser.add_argument("--family", default="mse", help="or a metric, for its best one (mse)")
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compressai-python", metavar="PATH")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=("encode", "decode"), help=argparse.SUPPRESS)
    parser.add_argument("--tiles", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    if options.worker:
        compressai_worker(options.cores)
    elif options.one:
        one(options)
    else:
        kodak(options)
        sizes(options)
        startup(options)


if __name__ == "__main__":
    main()

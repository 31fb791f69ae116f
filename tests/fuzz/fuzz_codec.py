"""A long run of mutated streams through the parser and the decoder.

    python -m tests.fuzz.fuzz_codec --seconds 600 --checkpoints DIR

Streams are of each family for MSE that is trained in the checkpoints. Nothing but an image or an
SaeError may come of any input. Half of the time goes to the parsers of the containers, half to the
decoders; there the checksums are made to match, so that mutated strings and sizes get past them.
The address space is limited, so that an allocation without bound fails. Exits with 1 and writes the
input in the folder of this file where something else happens.
"""

from __future__ import annotations

import argparse
import collections
import resource
import struct
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Union

import numpy as np
from tqdm import tqdm

import sae
from sae import images
from sae.coding import header, progressive_container, residual_container, stream
from sae.config import DEFAULT_FOLDER
from sae.errors import SaeError
from sae.model.families import of_metric
from sae.model.stores import of_family

Reader = Union[residual_container.Reader, progressive_container.Reader]
_CONTAINERS = {module.VERSION: module for module in (residual_container, progressive_container)}
_INTERESTING = (0, 1, 4, 12, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    """Returns `data` with one to eight random changes."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        place, kind = int(rng.integers(len(data) + 1)), rng.integers(7)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1 and place < len(data):
            data[place] = int(rng.integers(256))
        elif kind == 2:
            data[place : place + 4] = struct.pack("<I", int(rng.choice(_INTERESTING)))
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            del data[place : place + int(rng.integers(1, 40))]
        elif kind == 5:
            data[place:place] = rng.bytes(int(rng.integers(1, 40)))
        elif kind == 6:
            other = others[rng.integers(len(others))]
            data[place:] = other[int(rng.integers(len(other) + 1)) :]
    return bytes(data)


def parse_one(data: bytes, rng: np.random.Generator) -> str:
    """Parses and shortens a stream, and reads it in pieces, which must agree."""
    try:
        found = stream.parse(data)
    except SaeError as error:
        assert "\n" not in str(error)
        found = None
    else:
        assert found.size <= len(data) and list(found.ends) == sorted(found.ends)
        _shorten_one(data, found, rng)
    try:
        whole, pieces = _reader(data), _reader(data)
        whole.feed(data)
        start = 0
        while start < len(data):
            stop = start + int(rng.integers(1, 200))
            pieces.feed(data[start:stop])
            start = stop
    except SaeError:
        assert found is None
        return "refused"
    assert (found is None) == (whole.header is None)
    assert _state(whole) == _state(pieces)
    if found is None:
        return "refused"
    return "damaged" if found.damaged else "whole" if whole.complete else "cut"


def _shorten_one(data: bytes, found: stream.Stream, rng: np.random.Generator) -> None:
    """Shortens a stream to a random length; what is left must be sound."""
    try:
        cut = stream.truncate(data, max_bytes=int(rng.integers(1, len(data) + 1)))
    except SaeError as error:
        assert "\n" not in str(error)
        return
    left = stream.parse(cut)
    assert data.startswith(cut) and len(cut) <= found.size and not left.damaged
    assert (left.family, left.width, left.height) == (found.family, found.width, found.height)


def _reader(data: bytes) -> Reader:
    """Returns a new reader of the version of a stream; raises SaeError where there is none."""
    version = header.version(data)
    if version not in _CONTAINERS:
        raise SaeError("The version is unknown.")
    return _CONTAINERS[version].Reader()


def _state(reader: Reader) -> tuple:
    """Returns what a reader has read."""
    read = reader.records if isinstance(reader, residual_container.Reader) else reader.code
    return reader.header, reader.damaged, reader.complete, read


def forged(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    """Returns a stream with matching checksums and mutated sizes and strings."""
    reader = _reader(data)
    reader.feed(data)
    head = reader.header
    if isinstance(reader, progressive_container.Reader):
        # Any prefix has an image, so that a large one is no fault, but slow.
        if rng.random() < 0.3:
            width, height = (int(side) for side in rng.integers(1, 200, 2))
            head = head._replace(width=width, height=height)
        code = mutated(reader.code, rng, others)[: head.ends[-1]]
        return progressive_container.pack(head, code + bytes(head.ends[-1] - len(code)))
    if rng.random() < 0.3:
        sides = [1, 16, 17, 100, 1000, 5000, 30_000, 2**32 - 1, int(rng.integers(1, 400))]
        width, height = (int(rng.choice(sides)) for _ in range(2))
        head = head._replace(width=width, height=height)
    records = list(reader.records)
    for index in range(len(records)):
        if rng.random() < 0.5:
            string = mutated(records[index].string, rng, others)
            records[index] = records[index]._replace(string=string)
    return residual_container.pack(head, records[: rng.integers(1, len(records) + 1)])


def decode_one(data: bytes, checkpoints: Path) -> str:
    """Decodes a stream."""
    try:
        found = stream.parse(data)
        decoded = sae.decompress(data, checkpoints=checkpoints)
    except SaeError as error:
        assert "\n" not in str(error)
        return "refused"
    assert (decoded.dtype, decoded.shape) == (np.uint8, (found.height, found.width, 3))
    return "decoded"


def run(name: str, seconds: float, least: int, make, check) -> collections.Counter:
    """Checks inputs for so many seconds, and at least so many of them."""
    outcomes, slowest = collections.Counter(), 0.0
    started = time.monotonic()
    with tqdm(desc=name, unit="input", mininterval=5) as progress:
        while time.monotonic() - started < seconds or progress.n < least:
            data, before = make(), time.monotonic()
            try:
                outcomes[check(data)] += 1
            except Exception:
                path = Path(__file__).with_name(f"failed-{name}-{progress.n}.sae")
                path.write_bytes(data)
                traceback.print_exc()
                sys.exit(f"{name}: input {progress.n}, kept as {path}, broke the rule")
            slowest = max(slowest, time.monotonic() - before)
            progress.update()
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(f"{name}: {sum(outcomes.values())} inputs: {counts}; slowest {slowest:.2f} s")
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--least", type=int, default=100_000, help="inputs of the parser (100000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--memory", type=float, default=12, help="limit in GiB (12)")
    options = parser.parse_args()
    limit = int(options.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.simplefilter("ignore")

    rng = np.random.default_rng(options.seed)
    photos = images.sample_photos()
    crops = [photos["coffee"][50:80, 50:90], photos["chelsea"][:64, :48], photos["rocket"][:1, :1]]
    streams = [
        sae.compress(crop, family=family.name, checkpoints=options.checkpoints)
        for family in of_metric("mse")
        if of_family(family, options.checkpoints).names()
        for crop in crops
    ]

    run(
        "parser",
        options.seconds / 2,
        options.least,
        lambda: mutated(streams[rng.integers(len(streams))], rng, streams),
        lambda data: parse_one(data, rng),
    )
    run(
        "decoder",
        options.seconds / 2,
        options.least // 50,
        lambda: forged(streams[rng.integers(len(streams))], rng, streams),
        lambda data: decode_one(data, options.checkpoints),
    )


if __name__ == "__main__":
    main()

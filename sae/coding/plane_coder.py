"""Latents to bytes and back, plane by plane; any prefix of the bytes gives a coarser latent.

All planes are one code. Elements of a part of plane 0, and trits of a plane above it, are ordered
by the expected reduction of the squared error per bit. Ties are in raster order. A prefix
determines some of the symbols; elements without symbols have their expectation.

Encoder and decoder run the same generator, `_State.code`. It yields the probabilities of the next
symbols and receives the symbols.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from sae.coding import range_coder
from sae.coding.context_models import ContextModels, Parameters
from sae.model.integer_context import MEANS
from sae.model.plane_tables import (
    EXPECTED_UNIT,
    LARGEST_DISTANCE,
    PlaneTables,
    digit_entries,
    value_entries,
)
from sae.model.progressive_config import PLANES, RATIO

# Named layers end after these shares of the expected bits of a plane above 0.
LAYER_SHARES = (2 / 3, 1.0)
# Numbers of trits that are coded, and of elements that are sorted, at once.
_BLOCK, _SORTED = 1 << 16, 1 << 22
# States of a digit: -1, 0, 1, not decoded, and not the outward one. These are their centers.
_UNKNOWN, _INWARD = 2, 3
_CENTERS = np.array([-1, 0, 1, 0, -0.5], np.float32)
# States after the symbols of an only or a second trit, then after those of a first one.
_STATES = np.array([-1, 0, 1, _INWARD, 1], np.int8)


class Code(NamedTuple):
    """The code of a latent.

    Attributes:
      string: bytes of the code.
      ends: number of bytes that determine the latent up to the end of each named layer.
      planes: integers of each plane, int16 [h, w, channels of the plane].
    """

    string: bytes
    ends: list[int]
    planes: list[np.ndarray]


class PartialLatent(NamedTuple):
    """A partly decoded latent, in steps of plane 0.

    Attributes:
      y_hat: centers of the intervals, means before any symbol, float32 [h, w, depth].
      expected: distance of the mean of an element in its interval from the center, of that shape.
      level: plane up to which the latent is decoded, fractional within a plane above 0.
    """

    y_hat: np.ndarray
    expected: np.ndarray
    level: float


class PlaneCoder:
    """Codes latents, and makes decoders.

    Args:
      context: context models of the planes.
      tables: tables of probabilities.
    """

    def __init__(self, context: ContextModels, tables: PlaneTables):
        self.context, self.tables = context, tables

    def encode(self, y: np.ndarray) -> Code:
        """Returns the code of a latent.

        Args:
          y: latent in steps of plane 0, float32 [h, w, depth].
        """
        height, width, _ = y.shape
        targets = self._targets(y)
        # From Python 3.11 on, this frees the latent of a large image before its planes are coded.
        del y
        state = _State(self, (height, width))
        encoder, layers = range_coder.Encoder(), []
        run = state.code(targets)
        request = next(run, None)
        while request is not None:
            assert request.symbols is not None, "targets were given"
            encoder.encode(request.symbols, request.low, request.high)
            if request.layer:
                layers.append(encoder.position())
            request = _sent(run, request.symbols)
        string = encoder.finish()
        return Code(string, [layer.bytes_needed(string) for layer in layers], state.planes)

    def _targets(self, y):
        """Returns the integers of the planes of a latent."""
        depths, target = self.context.depths, y * np.float32(RATIO ** (PLANES - 1))
        np.rint(target, out=target)
        bound = np.iinfo(np.int16).max // RATIO
        np.clip(target, -bound, bound, out=target)
        targets = [target.astype(np.int16)]
        for depth in reversed(depths[:-1]):
            # Successive rounding by odd ratios equals a single rounding.
            targets.append((targets[-1][..., :depth] + RATIO // 2) // RATIO)
        return targets[::-1]

    def decoder(self, height: int, width: int) -> PlaneDecoder:
        """Returns a decoder of latents [height, width, depth]."""
        return PlaneDecoder(self, (height, width))


class PlaneDecoder:
    """Decodes a latent as bytes arrive.

    Args:
      coder: coder of the latent.
      size: height and width of the latent.
    """

    def __init__(self, coder: PlaneCoder, size: tuple[int, int]):
        self._bytes = range_coder.Decoder()
        self._state = _State(coder, size)
        self._run = self._state.code()
        self._request: _Request | None = next(self._run)
        self._symbols: list[np.ndarray] = []
        self.feed(b"")

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the code and decodes what they determine."""
        self._bytes.feed(data)
        while self._request is not None:
            known = sum(map(len, self._symbols))
            low, high = self._request.low[known:], self._request.high[known:]
            self._symbols.append(self._bytes.decode(low, high))
            if len(self._symbols[-1]) < len(low):
                break
            self._request = _sent(self._run, np.concatenate(self._symbols))
            self._symbols = []

    def decoded(self) -> PartialLatent:
        """Returns the partly decoded latent."""
        symbols = np.concatenate(self._symbols) if self._symbols else np.zeros(0, np.uint8)
        return self._state.decoded(symbols)


class _Request(NamedTuple):
    """Trits to be coded.

    Attributes:
      low, high: cumulative probabilities, in the units of the range coder.
      symbols: trits of the encoder, None in a decoder.
      layer: whether a named layer ends with them.
    """

    low: np.ndarray
    high: np.ndarray
    symbols: np.ndarray | None
    layer: bool = False


def _sent(run: Generator[_Request, np.ndarray, None], symbols: np.ndarray) -> _Request | None:
    """Returns the next request of a generator, None at its end."""
    try:
        return run.send(symbols)
    except StopIteration:
        return None


class _State:
    """The coded part of a latent.

    Args:
      coder: coder of the latent.
      size: height and width of the latent.

    Attributes:
      planes: integers of the complete planes, int16 [h, w, depth].
    """

    def __init__(self, coder: PlaneCoder, size: tuple[int, int]):
        self._context, self._tables, self._size = coder.context, coder.tables, size
        self._parts: list[np.ndarray] = []
        self._part: _Integers | None = None
        self._digits: _Digits | None = None
        self.planes: list[np.ndarray] = []

    def code(
        self, targets: Sequence[np.ndarray] | None = None
    ) -> Generator[_Request, np.ndarray, None]:
        """Codes a latent.

        Args:
          targets: integers of the planes, for an encoder; None for a decoder.
        """
        parts = self._context.parts(*self._size)
        part = next(parts)
        while not self.planes:
            self._part = _Integers(self._tables, part.parameters)
            yield from self._part.code(None if targets is None else targets[0][part.where])
            self._parts.append(self._part.values())
            try:
                part = parts.send(self._parts[-1])
            except StopIteration as stop:
                self.planes.append(stop.value)
        self._parts, self._part = [], None
        yield _layer_end()
        for plane in range(1, PLANES):
            below = _widened(self.planes[-1], self._context.depths[plane])
            parameters = self._context.of_plane(self.planes)
            self._digits = _Digits(self._tables, parameters, below, plane)
            del parameters, below
            yield from self._digits.code(None if targets is None else targets[plane])
            self.planes.append(self._digits.refined())

    def decoded(self, symbols: np.ndarray) -> PartialLatent:
        """Returns the partly decoded latent.

        Args:
          symbols: decoded symbols of the last request.
        """
        if self._digits is not None:
            y_hat, expected, level = self._digits.decoded(symbols)
        else:
            y_hat = self._first_plane(symbols)
            expected, level = np.zeros_like(y_hat), 0.0
        depth = self._context.depths[-1]
        y_hat, expected = (_widened(x, depth).astype(np.float32) for x in (y_hat, expected))
        return PartialLatent(y_hat, expected, level)

    def _first_plane(self, symbols):
        """Returns plane 0, with means in place of elements that are not decoded."""
        y_hat = np.zeros((*self._size, self._context.depths[0]), np.float32)
        parts = self._context.parts(*self._size)
        part, number = next(parts), 0
        while True:
            if number < len(self._parts):
                values = y_hat[part.where] = self._parts[number]
            else:
                current = number == len(self._parts)
                integers = self._part if current else _Integers(self._tables, part.parameters)
                assert integers is not None
                y_hat[part.where] = integers.known(symbols if current else symbols[:0])
                values = np.rint(y_hat[part.where]).astype(np.int32)
            number += 1
            try:
                part = parts.send(values)
            except StopIteration:
                return y_hat


class _Integers:
    """The integers of a part of plane 0."""

    def __init__(self, tables: PlaneTables, parameters: Parameters):
        means, self._shape = parameters.means.ravel(), parameters.means.shape
        self._stop = tables.value_stop
        self._origin, self._index = value_entries(means, parameters.scales.ravel())
        coded = np.flatnonzero(tables.value_coded.take(self._index))
        self._means = self._origin.astype(np.float32)
        self._means[coded] = means[coded] / np.float32(MEANS)
        self._order = coded[_ordered(tables.value_order.take(self._index[coded]))]
        entries = self._index[self._order]
        self._low, self._high = tables.value_low.take(entries), tables.value_high.take(entries)
        self._excess = tables.value_excess
        # Distances from the rounded means are None until all sides are decoded. Those of the
        # elements in `_going` may be larger.
        self._distance: np.ndarray | None = None
        self._going = self._order

    def code(self, target: np.ndarray | None) -> Generator[_Request, np.ndarray, None]:
        order, aim = self._order, None
        if target is not None:
            aim = np.clip(target.ravel() - self._origin, -LARGEST_DISTANCE, LARGEST_DISTANCE)
        symbols = None if aim is None else 1 + np.sign(aim[order])
        sides = yield _Request(self._low, self._high, symbols)
        distance = self._distance = np.zeros(len(self._origin), np.int32)
        distance[order] = sides.astype(np.int32) - 1
        self._going = going = order[sides != 1]
        for reached in range(1, LARGEST_DISTANCE):
            if not len(going):
                break
            above = (distance[going] > 0).astype(np.intp)
            column = min(reached, self._stop.shape[-1]) - 1
            stop = self._stop[above, self._index[going], column]
            symbols = None if aim is None else (np.abs(aim[going]) > reached).astype(np.int32)
            more = yield _Request(stop, np.full(len(stop), 1 << 16), symbols)
            self._going = going = going[more > 0]
            distance[going] += np.sign(distance[going])

    def values(self) -> np.ndarray:
        """Returns the integers when all are coded, int16 [rows, columns, channels]."""
        assert self._distance is not None
        return (self._origin + self._distance).astype(np.int16).reshape(self._shape)

    def known(self, symbols: np.ndarray) -> np.ndarray:
        """Returns the part within a request: integers, and expectations of other elements.

        Args:
          symbols: decoded symbols of the request.

        Returns:
          Float32 [rows, columns, channels].
        """
        decoded, rest = np.split(self._going, [len(symbols)])
        if self._distance is None:
            found, distance = self._means.astype(float), np.zeros(len(self._means), np.int32)
            distance[decoded] = symbols.astype(np.int32) - 1
            found[decoded] = self._origin[decoded] + distance[decoded]
            going = decoded[symbols != 1]
        else:
            distance = self._distance.copy()
            longer = decoded[symbols > 0]
            distance[longer] += np.sign(distance[longer])
            found, going = (self._origin + distance).astype(float), np.append(longer, rest)
        sign, column = np.sign(distance[going]), np.abs(distance[going]) - 1
        column = np.minimum(column, self._excess.shape[-1] - 1)
        found[going] += sign * self._excess[(sign > 0).astype(np.intp), self._index[going], column]
        return found.astype(np.float32).reshape(self._shape)


class _Coded(NamedTuple):
    """The trits that are being coded.

    Attributes:
      steps: their steps.
      elements: their elements.
      halved: whether they have a second trit, bool.
    """

    steps: np.ndarray
    elements: np.ndarray
    halved: np.ndarray


class _Digits:
    """The digits of a plane above 0.

    Steps of the plane are the only or first trits of the digits that are coded, and the second
    trits of those that have them, in the order of coding.

    Args:
      tables: tables of probabilities.
      parameters: parameters of the plane.
      below: integers of the plane below, of their shape.
      plane: number of the plane.
    """

    def __init__(self, tables: PlaneTables, parameters: Parameters, below: np.ndarray, plane: int):
        self._tables, self._below, self._plane = tables, below, plane
        self._index = np.empty(below.size, np.uint16)
        self._sign = np.empty(below.size, np.int8)
        # Elements, and indices of the tables of trits, of the first and of the second trits.
        firsts: list[tuple[np.ndarray, np.ndarray]] = []
        seconds: list[tuple[np.ndarray, np.ndarray]] = []
        arrays = [x.ravel() for x in (below, *parameters)]
        # Whole planes in larger types would take more memory than the results.
        for block in _blocks(below.size):
            entries, self._sign[block] = digit_entries(*(x[block] for x in arrays))
            self._index[block] = entries
            elements = np.flatnonzero(tables.digit_coded.take(entries))
            trits = entries.take(elements)
            elements += block.start
            halved = np.flatnonzero(tables.trits.halved.take(trits))
            halves = elements.take(halved), trits.take(halved) + tables.digit_coded.size
            for steps, part in ((firsts, (elements, trits)), (seconds, halves)):
                steps.append((part[0].astype(np.int32), part[1].astype(np.uint16)))
        elements, trits = map(np.concatenate, zip(*firsts, *seconds))
        # Digits count outward.
        self._digits = np.zeros(below.size, np.int8)
        self._digits[elements[: sum(len(part) for part, _ in firsts)]] = _UNKNOWN
        order = _ordered(tables.trits.order.take(trits))
        self._elements, self._trits = elements[order], trits[order]
        # All first trits that have a second come before this step.
        second = self._trits >= tables.digit_coded.size
        self._first_second = int(np.append(second, True).argmax())
        self._total = self._bits(len(trits))
        # Numbers of the steps that are done, and of those up to the last coded trit.
        self._count = self._reached = 0
        self._coded = _Coded(*np.zeros((3, 0), np.uint8))

    def code(self, target: np.ndarray | None) -> Generator[_Request, np.ndarray, None]:
        """Codes the digits."""
        digits = None if target is None else self._outward_digits(target)
        ends = [self._steps(share * self._total) for share in LAYER_SHARES[:-1]]
        for end in (*ends, len(self._trits)):
            while self._count < end:
                stop = min(self._count + _BLOCK, end)
                # A second trit is coded in a later block than the first one, on which it depends.
                if self._count < self._first_second:
                    stop = min(stop, self._first_second)
                yield from self._code_block(stop, digits)
            yield _layer_end()

    def _bits(self, steps):
        """Returns the expected bits of so many first steps."""
        return sum(int(self._block_bits(block).sum(dtype=np.int64)) for block in _blocks(steps))

    def _steps(self, bits):
        """Returns the smallest number of first steps that have so many expected bits."""
        for block in _blocks(len(self._trits)):
            reached = np.cumsum(self._block_bits(block), dtype=np.int64)
            if reached[-1] >= bits:
                return block.start + int(np.searchsorted(reached, bits)) + 1
            bits -= int(reached[-1])
        return len(self._trits)

    def _block_bits(self, block):
        """Returns the expected bits of each step of a block."""
        return self._tables.trits.bits.take(self._trits[block])

    def _outward_digits(self, target):
        """Returns the digits of a target, int8, in raster order."""
        digits = np.empty(len(self._sign), np.int8)
        target, below = target.ravel(), self._below.ravel()
        for block in _blocks(len(digits)):
            digits[block] = np.clip(target[block] - RATIO * below[block], -1, 1)
            digits[block] *= self._sign[block]
        return digits

    def _code_block(self, stop, digits):
        """Codes the trits of the next steps.

        Args:
          stop: number of steps that are done with them.
          digits: digits of the encoder, None in a decoder.
        """
        block, steps = slice(self._count, stop), np.arange(self._count, stop)
        # NumPy would convert other indices to this type with every table.
        elements, trits = (x[block].astype(np.intp) for x in (self._elements, self._trits))
        if self._count >= self._first_second:
            # A digit that its first trit determines has no second one.
            left = self._digits.take(elements) >= _UNKNOWN
            steps, elements, trits = steps[left], elements[left], trits[left]
        tables, symbols = self._tables.trits, None
        self._coded = _Coded(steps, elements, tables.halved.take(trits))
        if digits is not None:
            # The first of two trits is 1 for the outward digit alone.
            symbols = 1 + digits.take(elements) >> self._coded.halved.view(np.int8)
        received = yield _Request(tables.low.take(trits), tables.high.take(trits), symbols)
        self._digits[elements] = self._states(received)
        self._reached = int((steps + 1).max(initial=self._reached))
        self._coded = _Coded(*(x[:0] for x in self._coded))
        self._count = stop

    def _states(self, symbols):
        """Returns the states of digits after the first symbols of a request, int8."""
        halved = self._coded.halved[: len(symbols)].view(np.uint8)
        return _STATES.take(symbols + np.uint8(RATIO) * halved)

    def refined(self) -> np.ndarray:
        """Returns the integers of this plane when all are coded."""
        digits = (self._digits * self._sign).reshape(self._below.shape)
        return RATIO * self._below + digits

    def decoded(self, symbols: np.ndarray) -> PartialLatent:
        """Returns the partly decoded latent in this plane's channels."""
        tables, step = self._tables, np.float32(RATIO**-self._plane)
        unit = np.float32(EXPECTED_UNIT) * step
        states = self._digits.copy()
        states[self._coded.elements[: len(symbols)]] = self._states(symbols)
        y_hat, expected = np.empty((2, len(states)), np.float32)
        below = self._below.ravel()
        # Whole planes would take more memory.
        for block in _blocks(len(states)):
            sign, column = self._sign[block], states[block].astype(np.intp) + 1
            digits = _CENTERS.take(column) * sign
            column += len(_CENTERS) * self._index[block].astype(np.intp)
            y_hat[block] = (RATIO * below[block] + digits) * step
            expected[block] = tables.expected.take(column) * sign * unit
        level = float(self._plane)
        if (states >= _UNKNOWN).any():
            done = self._coded.steps[: len(symbols)] + 1
            reached = int(done.max(initial=self._reached))
            level += self._bits(reached) / max(1, self._total) - 1
        shape = self._below.shape
        return PartialLatent(y_hat.reshape(shape), expected.reshape(shape), level)


def _widened(values: np.ndarray, depth: int) -> np.ndarray:
    """Returns [h, w, depth] with zeros after the channels of values."""
    return np.pad(values, ((0, 0), (0, 0), (0, depth - values.shape[-1])))


def _blocks(count: int, size: int = _BLOCK) -> list[slice]:
    """Returns slices of at most `size` elements, so that temporary arrays stay small."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _layer_end() -> _Request:
    """Returns a request without trits at the end of a named layer."""
    nothing = np.zeros(0, np.int32)
    return _Request(nothing, nothing, nothing, layer=True)


def _ordered(gains: np.ndarray) -> np.ndarray:
    """Returns the indices of elements, largest gain first, ties in raster order, integers [n].

    Args:
      gains: gains of the elements, uint8 [n].
    """
    if len(gains) <= _SORTED:
        return np.argsort(~gains, kind="stable")
    # NumPy's indices have 64 bits, and sorting takes as many again.
    parts = []
    for block in _blocks(len(gains), _SORTED):
        keys = ~gains[block]
        order = np.argsort(keys, kind="stable")
        ends = np.searchsorted(keys.take(order), np.arange(1, 256, dtype=np.uint8))
        parts.append(np.split((order + block.start).astype(np.int32), ends))
    # Equal gains of all blocks come together.
    return np.concatenate(list(itertools.chain(*zip(*parts))))

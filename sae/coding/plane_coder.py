"""Latents to bytes and back, plane by plane; any prefix of the bytes gives a coarser latent.

All planes are one code. Elements of a part of plane 0, and trits of a plane above it, are ordered
by the expected reduction of the squared error per bit. Ties are in raster order. A prefix
determines some of the symbols; elements without symbols have their expectation.

Encoder and decoder run the same generator, `_State.code`. It yields the probabilities of the next
symbols and receives the symbols.
"""

from __future__ import annotations

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
# Number of trits that are coded at once.
_BLOCK = 1 << 16
# States of a digit that is not decoded, or not the outward one; other states are values.
_UNKNOWN, _HALF = 2, 3


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
        # That of a large image is freed before the planes are coded.
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
        bound = float(np.iinfo(np.int16).max // RATIO)
        targets = []
        for plane, depth in enumerate(self.context.depths):
            # Successive rounding by odd ratios equals a single rounding.
            scaled = np.rint(y[..., :depth] * np.float32(RATIO**plane))
            targets.append(np.clip(scaled, -bound, bound).astype(np.int16))
        return targets

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
                current = number == len(self._parts) and self._part is not None
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
      elements: their elements.
      trits: their indices of the tables of trits.
      bits: the plane's expected bits up to and with each of them.
    """

    elements: np.ndarray
    trits: np.ndarray
    bits: np.ndarray


class _Digits:
    """The digits of a plane above 0.

    Steps of the plane are the only or first trits of the digits that are coded, then the second
    trits of those that have them.

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
        # Element, index of the tables of trits and gain of the first and of the second steps.
        first: list[tuple[np.ndarray, ...]] = []
        second: list[tuple[np.ndarray, ...]] = []
        trits, self._total = tables.trits, 0
        kinds = ((first, tables.digit_coded, 0), (second, trits.halved, tables.digit_coded.size))
        arrays = [x.ravel() for x in (below, *parameters)]
        # Whole planes in larger types would take more memory than the results.
        for block in _blocks(below.size):
            entries, self._sign[block] = digit_entries(*(x[block] for x in arrays))
            self._index[block] = entries
            for steps, present, offset in kinds:
                found = np.flatnonzero(present.take(entries))
                own = entries[found] + offset
                self._total += int(trits.bits.take(own).sum(dtype=np.int64))
                elements = (found + block.start).astype(np.int32)
                steps.append((elements, own.astype(np.uint16), trits.order.take(own)))
        firsts = sum(len(part) for part, *_ in first)
        self._elements, self._trits, gains = map(np.concatenate, zip(*first, *second))
        self._order = _ordered(gains)
        # Digits count outward.
        self._digits = np.zeros(below.size, np.int8)
        self._digits[self._elements[:firsts]] = _UNKNOWN
        # All first trits that have a second come before this step.
        last = gains[firsts:].max(initial=0)
        self._first_second = int(np.count_nonzero(gains[:firsts] >= last))
        # Steps that are done, and their expected bits, without those after the last coded trit.
        self._count = self._spent = self._reached = 0
        self._coded = _Coded(*(np.zeros(0, np.int64) for _ in range(3)))

    def code(self, target: np.ndarray | None) -> Generator[_Request, np.ndarray, None]:
        """Codes the digits."""
        digits = None if target is None else self._outward_digits(target)
        ends = [share * self._total for share in LAYER_SHARES[:-1]]
        while self._count < len(self._order):
            # A second trit is coded in a later block than the first one, on which it depends.
            stop = self._first_second if self._count < self._first_second else len(self._order)
            order = self._order[self._count : min(self._count + _BLOCK, stop)]
            # NumPy would convert indices to this type with every table.
            trits = self._trits[order].astype(np.intp)
            bits = self._spent + np.cumsum(self._tables.trits.bits.take(trits), dtype=np.int64)
            layer = bool(ends) and bits[-1] >= ends[0]
            if layer:
                count = int(np.searchsorted(bits, ends.pop(0))) + 1
                order, trits, bits = order[:count], trits[:count], bits[:count]
            yield from self._code_block(order, trits, bits, digits)
            if layer:
                yield _layer_end()
        for _ in range(len(ends) + 1):
            yield _layer_end()

    def _outward_digits(self, target):
        """Returns the digits of a target, int8, in raster order."""
        digits = np.empty(len(self._sign), np.int8)
        target, below = target.ravel(), self._below.ravel()
        for block in _blocks(len(digits)):
            digits[block] = np.clip(target[block] - RATIO * below[block], -1, 1)
            digits[block] *= self._sign[block]
        return digits

    def _code_block(self, order, trits, bits, digits):
        """Codes the trits of steps.

        Args:
          order: the steps.
          trits: their indices of the tables of trits.
          bits: the plane's expected bits up to and with each step.
          digits: digits of the encoder, None in a decoder.
        """
        count, spent = len(order), int(bits[-1])
        elements = self._elements[order]
        if self._count >= self._first_second:
            # A digit that its first trit determines has no second one.
            left = self._digits[elements] >= _UNKNOWN
            elements, trits, bits = elements[left], trits[left], bits[left]
        self._coded = _Coded(elements, trits, bits)
        tables, symbols = self._tables.trits, None
        if digits is not None:
            # The first of two trits is 1 for the outward digit alone.
            symbols = 1 + digits[elements] >> tables.halved.take(trits).view(np.int8)
        received = yield _Request(tables.low.take(trits), tables.high.take(trits), symbols)
        self._digits[elements] = self._states(received)
        self._reached = int(bits[-1]) if len(bits) else self._reached
        self._coded = _Coded(elements[:0], trits[:0], bits[:0])
        self._spent = spent
        self._count += count

    def _states(self, symbols):
        """Returns the states of digits after the first symbols of a request."""
        halved = self._tables.trits.halved.take(self._coded.trits[: len(symbols)])
        return np.where(halved, np.where(symbols > 0, 1, _HALF), symbols.astype(np.int8) - 1)

    def refined(self) -> np.ndarray:
        """Returns the integers of this plane when all are coded."""
        digits = (self._digits * self._sign).reshape(self._below.shape)
        return RATIO * self._below + digits

    def decoded(self, symbols: np.ndarray) -> PartialLatent:
        """Returns the partly decoded latent in this plane's channels."""
        tables, step = self._tables, np.float32(RATIO**-self._plane)
        states = self._digits.copy()
        states[self._coded.elements[: len(symbols)]] = self._states(symbols)
        y_hat, expected = np.empty((2, len(states)), np.float32)
        below = self._below.ravel()
        # Whole planes would take more memory.
        for block in _blocks(len(states)):
            index, sign, state = self._index[block], self._sign[block], states[block]
            digit = np.select([state == _UNKNOWN, state == _HALF], [0, -0.5], state)
            means = np.select(
                [state == _UNKNOWN, state == _HALF],
                [tables.digit_expected.take(index), tables.half_expected.take(index)],
                tables.digit_rest.take(RATIO * index.astype(np.int32) + 1 + np.minimum(state, 1)),
            )
            y_hat[block] = (RATIO * below[block] + digit * sign) * step
            expected[block] = means * sign * (np.float32(EXPECTED_UNIT) * step)
        level = float(self._plane)
        if (states >= _UNKNOWN).any():
            reached = int(self._coded.bits[len(symbols) - 1]) if len(symbols) else self._reached
            level += reached / max(1, self._total) - 1
        shape = self._below.shape
        return PartialLatent(y_hat.reshape(shape), expected.reshape(shape), level)


def _widened(values: np.ndarray, depth: int) -> np.ndarray:
    """Returns [h, w, depth] with zeros after the channels of values."""
    return np.pad(values, ((0, 0), (0, 0), (0, depth - values.shape[-1])))


def _blocks(count: int) -> list[slice]:
    """Returns slices of so many elements that temporary arrays stay small."""
    return [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]


def _layer_end() -> _Request:
    """Returns a request without trits at the end of a named layer."""
    nothing = np.zeros(0, np.int32)
    return _Request(nothing, nothing, nothing, layer=True)


def _ordered(gains: np.ndarray) -> np.ndarray:
    """Returns the indices of elements, largest gain first, ties in raster order, int32 [n].

    Args:
      gains: gains of the elements, uint8 [n].
    """
    # A counting sort in blocks takes less memory than NumPy's indices of 64 bits.
    blocks = _blocks(len(gains))
    counts = np.array([np.bincount(~gains[block], minlength=256) for block in blocks])
    ranks = np.cumsum(counts, 0) - counts
    ranks += np.cumsum(counts.sum(0)) - counts.sum(0)
    order = np.empty(len(gains), np.int32)
    for block, count, rank in zip(blocks, counts, ranks):
        indices = np.argsort(~gains[block], kind="stable")
        # Equal gains of a block stay together.
        places = np.repeat(rank - np.cumsum(count) + count, count) + np.arange(len(indices))
        order[places] = indices + block.start
    return order

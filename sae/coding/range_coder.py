"""The range coder of trits, symbols with three values, which decodes any prefix of its bytes.

Probabilities are multiples of 2^-16, given as cumulative sums `low` and `high`: P(0) is low / 2^16,
and P(0) + P(1) is high / 2^16. The coder is the default range coder of constriction (Bamler, 2022,
arXiv 2201.01741). It has a state of 64 bits and words of 32 bits, here with the most significant
byte first. docs/FORMAT.md has its integer arithmetic.

The bytes of a code are the digits of a number in an interval, which shrinks with every symbol. A
prefix determines a symbol where all its continuations lie in the symbol's interval.
"""

from __future__ import annotations

from typing import NamedTuple

import constriction
import numpy as np

_MODEL = constriction.stream.model.Categorical(perfect=False)
_WORD_BYTES, _STATE_BYTES = 4, 8
# Number of symbols that are coded at once; a decoder has fewer where the bytes end.
_BLOCK = 1 << 14


class Encoder:
    """Codes trits."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def encode(self, symbols: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Appends symbols.

        Args:
          symbols: trits 0, 1 or 2, integers [n].
          low, high: cumulative probabilities in 65536ths, integers [n], 0 <= low <= high <= 65536.
        """
        for start in range(0, len(symbols), _BLOCK):
            block = slice(start, start + _BLOCK)
            self.append(symbols[block], _probabilities(low[block], high[block]))

    def append(self, symbols: np.ndarray, probabilities: np.ndarray) -> None:
        """Appends symbols, integers [n], by the probabilities of the three values, [n, 3]."""
        self._coder.encode(symbols.astype(np.int32), _MODEL, probabilities)

    def copy(self) -> Encoder:
        """Returns another coder in the same state."""
        other = Encoder()
        other._coder = self._coder.clone()
        return other

    def position(self) -> Position:
        """Returns the state of the coder after all symbols so far."""
        words, interval = self._coder.pos()
        return Position(words, *interval)

    def finish(self) -> bytes:
        """Returns the shortest bytes that determine all symbols."""
        data = self._coder.get_compressed().astype(">u4").tobytes()
        return self.position().shortest(data)


class Position(NamedTuple):
    """The state of a coder between two symbols.

    Attributes:
      words: number of leading words that later symbols can change only by carries.
      lower: lower bound of the interval, as the next two words, modulo 2^64.
      width: width of the interval.
    """

    words: int
    lower: int
    width: int

    def bytes_needed(self, data: bytes) -> int:
        """Returns the length of the shortest prefix of data that determines all earlier symbols.

        Args:
          data: bytes of a code that continues here, possibly cut; zeros are appended.
        """
        start = _WORD_BYTES * self.words
        tail = data[start : start + _STATE_BYTES].ljust(_STATE_BYTES, b"\0")
        for count in range(_STATE_BYTES):
            first = int.from_bytes(tail[:count].ljust(_STATE_BYTES, b"\0"), "big")
            last = int.from_bytes(tail[:count].ljust(_STATE_BYTES, b"\xff"), "big")
            first, last = (first - self.lower) % 2**64, (last - self.lower) % 2**64
            if first <= last < self.width:
                return start + count
        return start + _STATE_BYTES

    def shortest(self, data: bytes) -> bytes:
        """Returns the prefix of that length, with zeros where data is shorter."""
        needed = self.bytes_needed(data)
        return data[:needed].ljust(needed, b"\0")


class Decoder:
    """Decodes the trits that the bytes so far determine.

    Bytes may be appended at any time. Decoded symbols are encoded again, which gives the state of
    the coder from which decoding resumes.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._mirror = Encoder()

    def feed(self, data: bytes) -> None:
        """Appends bytes of the code."""
        self._data += data

    def decode(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Returns the next symbols, uint8, at most n.

        Where there are fewer, the bytes do not determine the next one, or no code of `Encoder` has
        it. After more bytes, the caller requests the remaining symbols again.

        Args:
          low, high: cumulative probabilities, like those of `Encoder.encode`.
        """
        parts = []
        for start in range(0, len(low), _BLOCK):
            block = slice(start, start + _BLOCK)
            symbols = self._decode_block(_probabilities(low[block], high[block]))
            parts.append(symbols)
            if len(symbols) < len(low[block]):
                break
        return np.concatenate(parts) if parts else np.zeros(0, np.uint8)

    def _decode_block(self, probabilities):
        symbols = self._decoded(probabilities, b"\0")
        if len(symbols) == len(probabilities):
            mirror = self._mirror.copy()
            mirror.append(symbols, probabilities)
            if _WORD_BYTES * mirror.position().words + _STATE_BYTES <= len(self._data):
                # No symbol depends on bytes that are missing.
                self._mirror = mirror
                return symbols
        # All continuations of the bytes lie between these two.
        greatest = self._decoded(probabilities, b"\xff")
        count = min(len(symbols), len(greatest))
        differing = np.flatnonzero(symbols[:count] != greatest[:count])
        symbols = symbols[: differing[0] if len(differing) else count]
        self._mirror.append(symbols, probabilities[: len(symbols)])
        return symbols

    def _decoded(self, probabilities, padding):
        """Returns the symbols of the bytes with a continuation, up to the first invalid one."""
        position = self._mirror.position()
        start = _WORD_BYTES * position.words
        # A symbol takes at most one word.
        stop = start + _WORD_BYTES * len(probabilities) + _STATE_BYTES
        data = bytes(self._data[start:stop])
        data += padding * (-len(data) % _WORD_BYTES + _STATE_BYTES)
        words = np.frombuffer(data, ">u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        decoder.seek(0, (position.lower, position.width))
        parts, start, step = [], 0, len(probabilities)
        while start < len(probabilities) and step:
            attempt = decoder.clone()
            try:
                parts.append(attempt.decode(_MODEL, probabilities[start : start + step]))
            except AssertionError:
                step //= 2
            else:
                decoder = attempt
                start += step
        return np.concatenate(parts).astype(np.uint8) if parts else np.zeros(0, np.uint8)


def _probabilities(low, high):
    """Returns the probabilities of the three values, float64 [n, 3]."""
    p, unit = np.empty((len(low), 3)), 2.0**-16
    np.multiply(low, unit, out=p[:, 0])
    np.multiply(high, unit, out=p[:, 2])
    np.subtract(p[:, 2], p[:, 0], out=p[:, 1])
    np.subtract(1.0, p[:, 2], out=p[:, 2])
    return p

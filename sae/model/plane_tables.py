"""Tables for coding the elements of a latent: probabilities, entropies and gains.

An element has a logistic distribution. `sae.model.integer_context` gives its mean in eighths of a
step and the index of its scale. All else comes from these tables, so that logarithms and
exponentials of different machines need not agree. They are computed once and stored with the
weights. Where symbols of photos were counted, their frequencies take the place of the logistic.

In plane 0, the first trit of an integer is its side of the rounded mean. The next trits are 0
where its distance from there ends, and 1 where it is larger. In planes above, the digit is the
trit. A digit of a bit or more is coded in two: whether it is the outward one, and if not, which of
the others. The first has most of the gain, and all first ones come before any second one.

An element that is almost certainly at the rounded mean, or zero, is not coded: it has that value.
Its `low` is 0.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from sae.model.integer_context import MEANS, SCALE_RATIO, SCALES, SMALLEST_SCALE
from sae.model.progressive_config import RATIO

# Probabilities are multiples of 2^-16; the smallest is four of them.
_TOTAL, _SMALLEST = 1 << 16, 4
# The largest distance of an integer of plane 0 from its rounded mean.
LARGEST_DISTANCE = 64
# Largest distance of a parent from its mean in the tables, in steps of the digit's plane.
_LARGEST_OFFSET = 40
# From this distance on, the probability that the distance ends is constant.
_DISTANCES = 16
# Units of stored entropies and expected digits.
ENTROPY_UNIT, EXPECTED_UNIT = 2.0**-11, 2.0**-14
# Binary logarithms of the smallest gain and of the largest ones, and number of stored values.
_LEAST, _LARGEST_OF_DIGITS, _LARGEST_OF_VALUES, _GAINS = -12.0, 0.0, 12.0, 256
# Expected bits of the digits that are coded in two trits.
HALVED_BITS = 1.0
# Elements of fewer expected bits are not coded where they are probably zero, or the rounded mean.
# That halves the symbols at no loss. A wrong integer costs more, since no digit corrects it.
_LEAST_BITS_OF_DIGITS, _LEAST_BITS_OF_VALUES = 0.001, 0.0003
# Number of counted symbols that have as much weight as the logistic.
_PRIOR_COUNT = 100.0
# Scales of the logistic distributions.
_SCALES = SMALLEST_SCALE * SCALE_RATIO ** np.arange(SCALES)


def value_entries(means: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rounded means, and the indices of the tables of plane 0, int32.

    Args:
      means, scales: parameters of elements, integers of one shape.
    """
    means = means.astype(np.int32)
    origin = (means + MEANS // 2) // MEANS
    return origin, (means - MEANS * origin + MEANS // 2) * SCALES + scales


def digit_entries(
    below: np.ndarray, means: np.ndarray, scales: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the tables of digits, intp, and the signs of outward, int8.

    Args:
      below: integers of the plane below.
      means, scales: parameters of the elements, integers of that shape.
    """
    offset = np.multiply(below, MEANS * RATIO, dtype=np.int32)
    offset -= means
    sign = 1 - 2 * (offset < 0).view(np.int8)
    np.abs(offset, out=offset)
    np.minimum(offset, _LARGEST_OFFSET * MEANS, out=offset)
    offset *= SCALES
    # NumPy would convert other indices to this type with every table.
    return np.add(offset, scales, dtype=np.intp), sign


class Counts:
    """How often symbols occurred, by their indices of the tables.

    Attributes:
      digits: counts of the digits -1, 0 and 1, [entries, 3].
      sides: counts of the sides of integers of plane 0, [entries, 3].
      stops: counts of the distances that end and of those that do not, [2, entries, distances, 2].
    """

    def __init__(self) -> None:
        self.digits = np.zeros(((_LARGEST_OFFSET * MEANS + 1) * SCALES, 3), np.int64)
        self.sides = np.zeros((MEANS * SCALES, 3), np.int64)
        self.stops = np.zeros((2, MEANS * SCALES, _DISTANCES, 2), np.int64)

    def add_values(self, values: np.ndarray, means: np.ndarray, scales: np.ndarray) -> None:
        """Counts the symbols of integers of plane 0.

        Args:
          values: the integers.
          means, scales: their parameters, integers of that shape.
        """
        origin, entries = value_entries(means, scales)
        distance = values - origin
        _count(self.sides, entries, 1 + np.sign(distance))
        for reached in range(1, LARGEST_DISTANCE):
            going = np.abs(distance) >= reached
            if not going.any():
                break
            above, entries, distance = distance[going] > 0, entries[going], distance[going]
            column = min(reached, _DISTANCES) - 1
            _count(self.stops, above * 1, entries, column, (np.abs(distance) > reached) * 1)

    def add_digits(
        self, digits: np.ndarray, below: np.ndarray, means: np.ndarray, scales: np.ndarray
    ) -> None:
        """Counts digits of a plane above 0.

        Args:
          digits: the digits.
          below: integers of the plane below, of that shape.
          means, scales: parameters of the elements, integers of that shape.
        """
        entries, sign = digit_entries(below, means, scales)
        _count(self.digits, entries, 1 + sign * digits)


def _count(counts, *index):
    """Adds one to elements of counts, as often as they are named."""
    places = np.ravel_multi_index(np.broadcast_arrays(*index), counts.shape)
    counts += np.bincount(places.ravel(), minlength=counts.size).reshape(counts.shape)


class Trits(NamedTuple):
    """Tables of the trits of digits, each of twice the size of a table of digits.

    Attributes:
      order: logarithm of the gain, uint8.
      bits: expected bits, uint16.
      low, high: cumulative probabilities, int32, at most 2^16.
      halved: whether the trit has a second, bool.
    """

    order: np.ndarray
    bits: np.ndarray
    low: np.ndarray
    high: np.ndarray
    halved: np.ndarray


@dataclasses.dataclass(frozen=True)
class PlaneTables:
    """The tables.

    Tables of digits are indexed by the distance of the parent's center from the mean, in eighths of
    a step, and by the scale. Their digits count outward from the mean. Tables of plane 0 are
    indexed by the mean minus its rounded value, in eighths plus 4, and by the scale.

    Attributes:
      digit_low, digit_high: cumulative probabilities of the digits -1, and -1 and 0, uint16.
      digit_entropy: expected bits of a digit, uint16.
      digit_expected: expectation of the digit, int16.
      digit_rest: expectation of the next digit, in steps of this plane, if the same distribution
        coded it, int16; it has a further index, the digit plus one.
      digit_order: logarithm of the gain of the first trit, the expected reduction of the squared
        error per bit, uint8.
      first_entropy: expected bits of the first trit, uint16.
      second_order: logarithm of the gain of the second trit, less than that of every first trit
        that has a second, uint8; 0 where there is no second.
      value_low, value_high: cumulative probabilities of the sides below and at the rounded mean.
      value_stop: probability that the distance ends, by the side (below, above), mean and scale as
        one index, and the distance minus one.
      value_order: logarithm of the gain of an integer, like `digit_order`.
    """

    digit_low: np.ndarray
    digit_high: np.ndarray
    digit_entropy: np.ndarray
    digit_expected: np.ndarray
    digit_rest: np.ndarray
    digit_order: np.ndarray
    first_entropy: np.ndarray
    second_order: np.ndarray
    value_low: np.ndarray
    value_high: np.ndarray
    value_stop: np.ndarray
    value_order: np.ndarray

    @functools.cached_property
    def digit_coded(self) -> np.ndarray:
        """Whether a digit is coded, bool; if not, it is 0."""
        return self.digit_low > 0

    @functools.cached_property
    def value_coded(self) -> np.ndarray:
        """Whether an integer of plane 0 is coded, bool; if not, it is the rounded mean."""
        return self.value_low > 0

    @functools.cached_property
    def trits(self) -> Trits:
        """Tables of first trits, then those of second ones at the same indices."""
        second = self.second_order > 0
        low = self.digit_low.astype(np.int32)
        high = self.digit_high.astype(np.int32)
        whole = np.full_like(high, _TOTAL)
        pairs = (
            (self.digit_order, self.second_order),
            (self.first_entropy, self.digit_entropy - self.first_entropy),
            (np.where(second, high, low), (low.astype(np.int64) * _TOTAL // high).astype("i4")),
            (np.where(second, whole, high), whole),
            (second, np.zeros_like(second)),
        )
        return Trits(*(np.concatenate(pair, None) for pair in pairs))

    @functools.cached_property
    def expected(self) -> np.ndarray:
        """Distances of means from the centers of decoded intervals, int16 [entries, 5].

        Decoded is the digit -1, 0 or 1, nothing, or that the digit is not the outward one, so that
        the center is -1/2.
        """
        inward = self.digit_low / self.digit_high.astype(np.float64)
        half = _in_units(0.5 - inward, EXPECTED_UNIT, np.int16)
        columns = np.stack([self.digit_expected, half], -1).reshape(-1, 2)
        return np.concatenate([self.digit_rest.reshape(-1, RATIO), columns], 1)

    @functools.cached_property
    def value_excess(self) -> np.ndarray:
        """Expectation of what is left of a distance, float64, indexed like `value_stop`.

        Only images of streams that end within plane 0 depend on it, and no probability.
        """
        going = 1 - self.value_stop / _TOTAL
        # The last probability holds for all larger distances.
        excess = [np.minimum(going[..., -1] / (1 - going[..., -1]), LARGEST_DISTANCE)]
        for column in reversed(range(going.shape[-1] - 1)):
            excess.append(going[..., column] * (1 + excess[-1]))
        return np.stack(excess[::-1], axis=-1)

    @classmethod
    def computed(cls, counts: Counts | None = None) -> PlaneTables:
        """Returns the tables, computed in floating point, for storage.

        Args:
          counts: counts of symbols; none by default.
        """
        counts = counts or Counts()
        return cls(**_digits(counts.digits), **_values(counts.sides, counts.stops))


def _digits(counts):
    offsets = np.arange(_LARGEST_OFFSET * MEANS + 1)[:, None, None] / MEANS
    p = _counted(_thirds(offsets[..., 0], 1.0, _SCALES), counts)
    expected, entropy = p[..., 2] - p[..., 0], _entropy(p)
    gain = (p[..., 0] + p[..., 2] - expected**2) / np.maximum(entropy, 1e-9)
    # A first trit separates the outward digit from the others, a second one these from one another.
    others = p[..., :2] / p[..., :2].sum(-1, keepdims=True)
    outward = np.stack([1 - p[..., 2], p[..., 2]], -1)
    first_entropy, second_entropy = _entropy(outward), _entropy(others)
    first_gain = outward.prod(-1) * (1 + others[..., 0]) ** 2 / np.maximum(first_entropy, 1e-9)
    second_gain = others.prod(-1) / np.maximum(second_entropy, 1e-9)
    halved = (entropy >= HALVED_BITS) & (_order(first_gain) > _order(second_gain.max()))
    low, high = _cumulative(p)
    certain = (entropy < _LEAST_BITS_OF_DIGITS) & (p[..., 1] > 0.5)
    entropy, low = np.where(certain, 0.0, entropy), np.where(certain, np.uint16(0), low)
    next_p = _thirds(offsets + np.arange(-1, 2), 1 / 3, _SCALES[:, None])
    rest = (next_p[..., 2] - next_p[..., 0]) / 3
    return {
        "digit_low": low,
        "digit_high": high,
        "digit_entropy": _in_units(entropy, ENTROPY_UNIT, np.uint16),
        "digit_expected": _in_units(expected, EXPECTED_UNIT, np.int16),
        "digit_rest": _in_units(rest, EXPECTED_UNIT, np.int16),
        "digit_order": _order(np.where(halved, first_gain, gain)),
        "first_entropy": _in_units(
            np.where(halved, first_entropy, entropy), ENTROPY_UNIT, np.uint16
        ),
        "second_order": np.where(halved, _order(second_gain), np.uint8(0)),
    }


def _values(side_counts, stop_counts):
    means = (np.arange(MEANS)[:, None] - MEANS // 2) / MEANS
    reach = 512
    values = np.arange(-reach, reach + 1)
    centers = values - means[..., None]
    p = _mass(centers - 0.5, centers + 0.5, _SCALES[:, None])
    p /= p.sum(-1, keepdims=True)
    sides = np.stack([p[..., :reach].sum(-1), p[..., reach], p[..., reach + 1 :].sum(-1)], -1)
    sides = _counted(sides, side_counts)
    mean = (p * values).sum(-1)
    variance = (p * (values - mean[..., None]) ** 2).sum(-1)
    entropy = _entropy(p)
    low, high = _cumulative(sides)
    certain = (_entropy(sides) < _LEAST_BITS_OF_VALUES) & (sides[..., 1] > 0.5)
    low = np.where(certain, np.uint16(0), low)
    stop = []
    for tail, counted in zip((p[..., :reach][..., ::-1], p[..., reach + 1 :]), stop_counts):
        beyond = np.cumsum(tail[..., ::-1], -1)[..., ::-1]
        hazard = tail[..., :_DISTANCES] / np.maximum(beyond[..., :_DISTANCES], 1e-300)
        # Where the tail underflows, the distance ends.
        hazard = np.where(beyond[..., :_DISTANCES] < 1e-200, 1.0, hazard)
        hazard = _counted(np.stack([hazard, 1 - hazard], -1), counted)[..., 0]
        stop.append(np.clip(np.rint(hazard * _TOTAL), _SMALLEST, _TOTAL - _SMALLEST))
    return {
        "value_low": low,
        "value_high": high,
        "value_stop": np.uint16(np.stack(stop)).reshape(2, -1, _DISTANCES),
        "value_order": _order(variance / np.maximum(entropy, 1e-9), _LARGEST_OF_VALUES),
    }


def _counted(p, counts):
    """Returns frequencies, where p counts as `_PRIOR_COUNT` more symbols."""
    counts = counts.reshape(p.shape)
    return (counts + _PRIOR_COUNT * p) / (counts.sum(-1, keepdims=True) + _PRIOR_COUNT)


def _thirds(centers, width, scales):
    """Returns the probabilities of three adjacent intervals of a width around centers."""
    bounds = centers[..., None] + width * np.array([-1.5, -0.5, 0.5, 1.5])
    mass = _mass(bounds[..., :-1], bounds[..., 1:], scales[..., None])
    return mass / mass.sum(-1, keepdims=True)


def _mass(low, high, scales):
    """Returns the mass of logistics of mean 0 in intervals, accurate in both tails."""
    # The mass right of zero is the mirrored mass left of zero.
    mirrored = low + high > 0
    low, high = np.where(mirrored, -high, low) / scales, np.where(mirrored, -low, high) / scales
    # F(high) - F(low) = F(high) (1 - F(low)) (1 - e^(low - high)), by logarithms.
    log = -np.logaddexp(0, -high) - np.logaddexp(0, low) + np.log(-np.expm1(low - high))
    # Without this factor, even the largest mass may underflow.
    return np.exp(log - log.max(-1, keepdims=True))


def _entropy(p):
    return -(p * np.log2(np.maximum(p, 1e-300))).sum(-1)


def _cumulative(p):
    """Returns cumulative probabilities of three values, none below the smallest."""
    p = np.maximum(p, _SMALLEST / _TOTAL)
    p /= p.sum(-1, keepdims=True)
    low = np.clip(np.rint(p[..., 0] * _TOTAL), _SMALLEST, None)
    high = np.clip(np.rint((p[..., 0] + p[..., 1]) * _TOTAL), None, _TOTAL - _SMALLEST)
    return np.uint16(low), np.uint16(high)


def _in_units(values, unit, dtype):
    return np.rint(values / unit).astype(dtype)


def _order(gain, largest=_LARGEST_OF_DIGITS):
    """Returns gains as integers on a logarithmic scale."""
    logarithm = np.clip(np.log2(np.maximum(gain, 1e-30)), _LEAST, largest)
    return np.rint((logarithm - _LEAST) / (largest - _LEAST) * (_GAINS - 1)).astype(np.uint8)

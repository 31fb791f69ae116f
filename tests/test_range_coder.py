"""The range coder of trits: what a prefix determines, and the arithmetic of the format document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.coding.range_coder import Decoder, Encoder


@st.composite
def messages(draw, least=0, most=400):
    """Returns trits that follow their probabilities, or do not, with these."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(least, most))
    p = rng.dirichlet([draw(st.sampled_from((0.05, 0.3, 3.0)))] * 3, count)
    low, high = np.rint(p.cumsum(1)[:, :2].T * 65536).astype(np.int64)
    symbols = np.sum(rng.random((count, 1)) > p.cumsum(1)[:, :2], axis=1)
    if draw(st.booleans()):
        symbols = rng.integers(0, 3, count)
    return symbols.astype(np.uint8), low, high


def encoded(message):
    encoder = Encoder()
    encoder.encode(*message)
    return encoder.finish()


@given(messages(), st.data())
def test_symbols_return_however_bytes_come(message, data):
    symbols, low, high = message
    code = encoded(message)
    decoder, decoded = Decoder(), []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(code)), max_size=4)))
    for start, stop in zip([0, *cuts], [*cuts, len(code)]):
        decoder.feed(code[start:stop])
        decoded += list(decoder.decode(low[len(decoded) :], high[len(decoded) :]))
        np.testing.assert_array_equal(decoded, symbols[: len(decoded)])
    assert len(decoded) == len(symbols)


@given(messages(least=1), messages())
def test_a_position_needs_its_bytes_and_no_fewer(first, second):
    encoder = Encoder()
    encoder.encode(*first)
    position = encoder.position()
    encoder.encode(*second)
    code = encoder.finish()
    needed = position.bytes_needed(code)
    low, high = (np.append(*pair) for pair in zip(first[1:], second[1:]))
    for length in range(max(0, needed - 1), needed + 1):
        decoder = Decoder()
        decoder.feed(code[:length])
        assert (len(decoder.decode(low, high)) >= len(first[0])) == (length == needed)


@given(messages())
def test_a_code_is_about_as_long_as_its_information(message):
    symbols, low, high = message
    p = np.stack([low, high - low, 65536 - high])[symbols, np.arange(len(symbols))] / 65536
    bits = -np.log2(np.maximum(p, 2.0**-24)).sum()
    # The end of a code takes up to a state of the coder.
    assert bits / 8 - 1 <= len(encoded(message)) <= bits / 8 * 1.001 + 8


def reference(code, low, high):
    """Decodes a complete code by the arithmetic of docs/FORMAT.md."""
    words = [int.from_bytes(code[k : k + 4].ljust(4, b"\0"), "big") for k in range(0, len(code), 4)]
    words += [0] * (2 + 2 * len(low))
    point, following = words[0] << 32 | words[1], 2
    lower, width = 0, 2**64 - 1
    symbols = []
    for first, second in zip(low.tolist(), high.tolist()):
        free = 2**24 - 3
        bounds = [0, first * free // 65536 + 1, second * free // 65536 + 2, 2**24]
        unit = width // 2**24
        quantile = (point - lower) % 2**64 // unit
        symbol = next(k for k in range(3) if quantile < bounds[k + 1])
        symbols.append(symbol)
        lower = (lower + unit * bounds[symbol]) % 2**64
        width = unit * (bounds[symbol + 1] - bounds[symbol])
        if width < 2**32:
            lower, width = lower * 2**32 % 2**64, width * 2**32
            point = point * 2**32 % 2**64 + words[following]
            following += 1
    return symbols


@given(messages(most=60))
def test_the_arithmetic_is_that_of_the_format_document(message):
    symbols, low, high = message
    np.testing.assert_array_equal(reference(encoded(message), low, high), symbols)


@given(st.binary(max_size=60), messages())
def test_any_bytes_are_decoded(code, message):
    _, low, high = message
    decoder = Decoder()
    decoder.feed(code)
    symbols = decoder.decode(low, high)
    assert len(symbols) <= len(low) and set(symbols) <= {0, 1, 2}
    decoder.feed(b"\0" * 8)
    assert len(symbols) + len(decoder.decode(low[len(symbols) :], high[len(symbols) :])) <= len(low)


def test_blocks_are_decoded_like_one_message():
    rng = np.random.default_rng(0)
    count = 50_000
    low, high = np.sort(rng.integers(1, 65536, (2, count)), axis=0)
    symbols = rng.integers(0, 3, count).astype(np.uint8)
    code = encoded((symbols, low, high))
    decoder = Decoder()
    decoder.feed(code[: len(code) // 2])
    part = decoder.decode(low, high)
    assert len(part) == pytest.approx(count / 2, rel=0.1)
    decoder.feed(code[len(code) // 2 :])
    rest = decoder.decode(low[len(part) :], high[len(part) :])
    np.testing.assert_array_equal(np.append(part, rest), symbols)

"""Counts of symbols against those of the codec."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from progressive_models import SMALL, random_model

from sae.coding.progressive_codec import ProgressiveCodec
from sae.model.plane_tables import PlaneTables
from sae.training.symbol_counts import counted


def test_counted_frequencies_shorten_codes():
    model = random_model(SMALL, 0.05)
    rows, columns = np.mgrid[:64, :96] / 7.0
    waves = np.sin(rows) + np.cos(columns * np.arange(1, 9)[:, None, None])
    patches = (128 + 50 * np.stack([waves, waves / 2, -waves], -1)).astype(np.uint8)
    counts = counted(model, [tf.constant(patches[:4]), tf.constant(patches[4:])])
    positions = 8 * 4 * 6
    assert counts.sides.sum() == positions * SMALL.plane_depths[0]
    assert counts.digits.sum() == positions * sum(SMALL.plane_depths[1:])
    codec = ProgressiveCodec(model)
    latents = [codec.analysis(patch) for patch in patches]
    usual = sum(len(codec.coder.encode(y).string) for y in latents)
    codec.coder.tables = PlaneTables.computed(counts)
    codes = [codec.coder.encode(y) for y in latents]
    # An untrained context model predicts badly.
    assert sum(len(code.string) for code in codes) < 0.9 * usual
    decoder = codec.coder.decoder(4, 6)
    decoder.feed(codes[0].string)
    np.testing.assert_array_equal(np.rint(decoder.decoded().y_hat * 9), codes[0].planes[-1])

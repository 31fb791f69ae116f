"""The code of the planes: exact contexts, rates as estimated, and any prefix a coarser latent."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from progressive_models import TINY

from sae.coding import plane_coder
from sae.coding.context_models import ContextModels, Parameters
from sae.coding.plane_coder import PlaneCoder
from sae.model import integer_context
from sae.model.integer_context import SCALES, float_kernels, integer_kernels
from sae.model.model_store import StoredModel
from sae.model.plane_tables import ENTROPY_UNIT, Counts, PlaneTables
from sae.model.progressive import ProgressiveModel
from sae.model.progressive_config import PLANES, RATIO
from sae.model.quantization import nested

SIZES = [(1, 1), (1, 4), (5, 3), (6, 7)]


@pytest.fixture(scope="module")
def model():
    tf.keras.utils.set_random_seed(3)
    model = ProgressiveModel(TINY)
    for variable in model.prior_variables:
        # Means and scales of elements differ then as they do after training.
        variable.assign_add(tf.random.normal(variable.shape, stddev=0.05))
    return model


@pytest.fixture(scope="module")
def arrays(model):
    names = {v.name.removesuffix(":0"): v.numpy() for v in model.prior_variables}
    found = integer_kernels(names)
    again = integer_kernels(float_kernels(found))
    assert found.keys() == again.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(again[name], array)
    return found


@pytest.fixture(scope="module")
def coder(arrays):
    return PlaneCoder(ContextModels(StoredModel(TINY, arrays)), PlaneTables.computed())


def latent(size, spread=1.5):
    rng = np.random.default_rng(sum(size))
    return rng.laplace(scale=spread, size=(*size, TINY.latent_depth)).astype(np.float32)


def decoded(coder, size, *parts):
    decoder = coder.decoder(*size)
    for part in parts:
        decoder.feed(part)
    return decoder.decoded()


@pytest.mark.parametrize("size", SIZES)
def test_planes_return(coder, size):
    y = latent(size)
    code = coder.encode(y)
    for p, plane in enumerate(code.planes):
        depth = TINY.plane_depths[p]
        assert plane.shape == (*size, depth)
        # Channels of all planes are as fine as rounding is.
        np.testing.assert_array_equal(plane[..., :8], np.rint(y * RATIO**p)[..., :8])
        assert np.abs(plane[..., 8:]).max(initial=0) <= (RATIO**p - 1) / 2
    found = decoded(coder, size, code.string)
    np.testing.assert_array_equal(np.rint(found.y_hat * 9), code.planes[-1])
    assert found.level == PLANES - 1 and 0 < np.abs(found.expected).max() <= 1 / 27
    assert code.ends == sorted(code.ends) and code.ends[-1] == len(code.string)


def test_large_values_are_coded_up_to_a_bound(coder):
    y = latent((3, 3))
    y[1, 1, :3] = (5000.0, -5000.0, 40.0)
    code = coder.encode(y)
    found = decoded(coder, (3, 3), code.string)
    np.testing.assert_array_equal(np.rint(found.y_hat * 9), code.planes[-1])
    assert 60 < found.y_hat[1, 1, 0] < 100 and found.y_hat[1, 1, 2] == pytest.approx(40, abs=0.2)


@pytest.mark.parametrize("size", SIZES[1:])
def test_the_length_of_a_code_is_the_estimate(coder, model, size):
    # Tables bound what an unlikely digit costs, far from the mean of an untrained context model.
    y = latent(size, spread=0.3)
    code = coder.encode(y)
    bits = np.cumsum([float(b[0]) for b in model.code(tf.constant(y[None])).bits])
    ends = np.array(code.ends)[[0, 2, 4]]
    np.testing.assert_allclose(8 * ends, bits, rtol=0.02, atol=24)


def test_contexts_are_those_of_the_model(arrays, model):
    context = ContextModels(StoredModel(TINY, arrays))
    y = tf.constant(latent((6, 7))[None])
    planes = [q.numpy()[0].astype(np.int16) for q in nested(y, TINY.plane_depths, 3)]
    means, scales = (np.zeros_like(planes[0]) for _ in range(2))
    parts = context.parts(6, 7)
    part = next(parts)
    with pytest.raises(StopIteration) as stop:
        while True:
            means[part.where], scales[part.where] = part.parameters
            part = parts.send(planes[0][part.where])
    np.testing.assert_array_equal(stop.value.value, planes[0])
    for p in range(PLANES):
        if p:
            means, scales = context.of_plane(planes[:p])
        assert means.shape[-1] == TINY.plane_depths[p]
        contexts = [model._first_context, *model._contexts]
        known = [tf.constant(q[None], tf.float32) for q in planes]
        expected = contexts[p].parameters(known[:p] if p else known[0])
        np.testing.assert_allclose(means / 8, expected[0][0], atol=0.3)
        np.testing.assert_allclose(scales, expected[1][0], atol=1.0)


def test_sums_are_exact(arrays):
    """No sum of integers exceeds what float32 holds, whatever is read."""
    bounds = {"embed": integer_context.LARGEST_INPUT}
    for name in arrays:
        if name.endswith("/kernel"):
            scope = name.removesuffix("/kernel")
            bound = bounds.get(scope.rpartition("/")[2], integer_context.LEVELS)
            sums = np.abs(arrays[name].astype(np.int64)).sum((0, 1, 2)) * bound
            assert (sums + np.abs(arrays[f"{scope}/bias"]) < 2**24).all()
            # The finest unit is chosen.
            assert sums.max() > 2**22 or np.abs(arrays[name]).max() > 2**13


def test_every_prefix_is_a_coarser_latent(coder):
    size = (5, 3)
    y = latent(size)
    code = coder.encode(y)
    errors, levels = [], []
    streamed = coder.decoder(*size)
    for length in range(len(code.string) + 1):
        streamed.feed(code.string[length - 1 : length])
        found = streamed.decoded()
        at_once = decoded(coder, size, code.string[:length])
        np.testing.assert_array_equal(found.y_hat, at_once.y_hat)
        np.testing.assert_array_equal(found.expected, at_once.expected)
        assert found.level == at_once.level
        errors.append(np.mean((found.y_hat + found.expected - y)[..., :8] ** 2))
        levels.append(found.level)
    assert levels == sorted(levels)
    # With few bytes the error may rise, but not by much, and it falls in all.
    assert max(np.diff(errors)) < 0.1 * errors[0] and errors[-1] < 0.01 * errors[0]
    for end, level in zip(code.ends, (0, 2 / 3, 1, 5 / 3, 2)):
        assert levels[end] >= level - 0.02 and (not end or levels[end - 1] <= level + 0.02)


def test_any_bytes_are_a_latent(coder):
    rng = np.random.default_rng(5)
    for length in (0, 1, 30, 300, 3000):
        found = decoded(coder, (4, 3), rng.bytes(length))
        assert np.isfinite(found.y_hat).all() and 0 <= found.level <= PLANES - 1


def test_second_trits_come_after_the_first_ones_they_depend_on():
    tables = PlaneTables.computed()
    halved = tables.second_order > 0
    assert 0.3 < halved.mean() < 0.8
    assert tables.digit_order[halved].min() > tables.second_order.max()
    # A digit has two trits where it takes a bit or more; the two together take what it takes.
    bits = tables.digit_entropy * ENTROPY_UNIT
    assert bits[halved].min() >= 1 and (tables.first_entropy <= tables.digit_entropy).all()
    np.testing.assert_array_equal(tables.first_entropy[~halved], tables.digit_entropy[~halved])
    low, high = (x[halved] / 65536 for x in (tables.digit_low, tables.digit_high))
    second = tables.trits.low[halved.size :][halved.ravel()] / 65536
    first_bits, second_bits = (-p * np.log2(p) - (1 - p) * np.log2(1 - p) for p in (high, second))
    np.testing.assert_allclose(tables.first_entropy[halved] * ENTROPY_UNIT, first_bits, atol=2e-3)
    np.testing.assert_allclose(bits[halved], first_bits + high * second_bits, atol=2e-3)
    np.testing.assert_allclose(second * high, low, atol=2**-16)


def test_certain_elements_are_not_coded(model):
    """Elements of the smallest scale are zero without a symbol, whatever the latent is."""
    weights = {v.name.removesuffix(":0"): np.zeros(v.shape) for v in model.prior_variables}
    for name, bias in weights.items():
        if name.endswith("output/bias"):
            # The second half has scales; the first half of these are smallest.
            bias[len(bias) // 2 :][: len(bias) // 4] = -10.0
    arrays = integer_kernels(weights)
    coder = PlaneCoder(ContextModels(StoredModel(TINY, arrays)), PlaneTables.computed())
    code = coder.encode(latent((4, 3)))
    found = decoded(coder, (4, 3), code.string)
    np.testing.assert_array_equal(np.rint(found.y_hat * 9), code.planes[-1])
    # With slices of 2, 2 and 4 channels, these have the smallest scale in all planes.
    certain = [0, 2, 4]
    for plane in code.planes:
        assert not plane[..., certain].any() and plane.any((0, 1)).sum() > plane.shape[-1] // 3


def test_tables_have_the_frequencies_that_were_counted():
    rng, count, scale = np.random.default_rng(9), 400_000, 30
    counts = Counts()
    # Half of the digits of a parent 1 are -1. Its center is above the mean.
    digits = rng.choice([-1, 0, 1], count, p=[0.5, 0.2, 0.3])
    counts.add_digits(digits, *(np.full(count, k) for k in (1, 3 * 8 - 4, scale)))
    # Those of a parent -1 are the mirror image.
    counts.add_digits(-digits, *(np.full(count, k) for k in (-1, 4 - 3 * 8, scale)))
    values = rng.choice([-20, 2, 3, 4, 5], count, p=[0.1, 0.3, 0.2, 0.3, 0.1])
    counts.add_values(values, np.full(count, 3 * 8 + 1), np.full(count, scale))
    assert counts.digits.sum() == 2 * count and counts.sides.sum() == count
    tables, usual = PlaneTables.computed(counts), PlaneTables.computed()
    assert tables.digit_low[4, scale] / 65536 == pytest.approx(0.5, abs=5e-3)
    assert tables.digit_high[4, scale] / 65536 == pytest.approx(0.7, abs=5e-3)
    entropy = -sum(p * np.log2(p) for p in (0.5, 0.2, 0.3))
    assert tables.digit_entropy[4, scale] * ENTROPY_UNIT == pytest.approx(entropy, abs=0.01)
    entry = (1 + 4) * SCALES + scale
    assert tables.value_low.ravel()[entry] / 65536 == pytest.approx(0.4, abs=5e-3)
    assert tables.value_high.ravel()[entry] / 65536 == pytest.approx(0.6, abs=5e-3)
    # Three in four of those above are at a distance of 1, three in four of those below as well.
    above, below = tables.value_stop[1, entry] / 65536, tables.value_stop[0, entry] / 65536
    np.testing.assert_allclose(above[:2], [0.75, 1.0], atol=5e-3)
    np.testing.assert_allclose(below[:2], [0.75, 0.0], atol=5e-3)
    assert below[-1] == pytest.approx(1 / 8, abs=5e-3)
    # Nothing else differs.
    assert (tables.digit_low != usual.digit_low).sum() == 1
    assert (tables.value_low != usual.value_low).sum() == 1


def test_tables_are_probabilities():
    tables = PlaneTables.computed()
    pairs = (
        (tables.digit_low, tables.digit_high, tables.digit_coded),
        (tables.value_low, tables.value_high, tables.value_coded),
    )
    for low, high, coded in pairs:
        assert (high > low).all() and high.max() < 65535
        # What is not coded is certain.
        assert high[~coded].min() > 65536 * 0.999 and 0 < (~coded).sum() < coded.sum()
    assert not tables.digit_entropy[~tables.digit_coded].any()
    # At the mean, digits and sides are symmetric; a distant parent leans towards the mean.
    low, high = (x[0][tables.digit_coded[0]] for x in (tables.digit_low, tables.digit_high))
    np.testing.assert_allclose(low, 65536 - high.astype(int), atol=1)
    assert (tables.digit_expected <= 0).all()
    # The next digit leans towards the mean as well; that of 0 at the mean is balanced.
    assert (tables.digit_rest[:, :, 1:] <= 0).all() and (tables.digit_rest[:8, :, 0] >= 0).all()
    np.testing.assert_array_equal(tables.digit_rest[0, :, 0], -tables.digit_rest[0, :, 2])
    assert not tables.digit_rest[0, :, 1].any() and tables.digit_rest.min() < -(2**14) / 4


@pytest.mark.parametrize("count", [0, 1, 7, 13, 14, 500])
def test_elements_are_ordered_in_blocks(monkeypatch, count):
    monkeypatch.setattr(plane_coder, "_SORTED", 7)
    gains = np.random.default_rng(7).integers(250, 256, count).astype(np.uint8)
    expected = np.argsort(~gains, kind="stable")
    np.testing.assert_array_equal(plane_coder._ordered(gains), expected)


def test_an_open_distance_has_its_expectation():
    """Elements cut within their distances have the mean of the integers with the same beginning."""
    tables, scale, count = PlaneTables.computed(), 40, 200_000
    spread = integer_context.SMALLEST_SCALE * integer_context.SCALE_RATIO**scale
    values = np.random.default_rng(5).logistic(0.25, spread, size=(1, 1, count))
    target = np.clip(np.rint(values), -64, 64).astype(np.int16)
    part = plane_coder._Integers(
        tables, Parameters(np.full(target.shape, 2), np.full(target.shape, scale))
    )
    run = part.code(target)
    request = next(run)
    for _ in range(6):
        cut = len(request.symbols) // 2
        found = part.known(request.symbols[:cut]).ravel()
        for start in np.unique(np.round(found, 3)):
            same = np.abs(found - start) < 1e-2
            noise = 4 * target.ravel()[same].std() / np.sqrt(same.sum())
            assert abs(target.ravel()[same].mean() - start) < noise + 0.02
        request = run.send(request.symbols)

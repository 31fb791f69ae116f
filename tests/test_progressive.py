"""The progressive model: nested planes, causal contexts, probabilities, and its training."""

from __future__ import annotations

import dataclasses
import itertools
import types

import numpy as np
import pytest
import tensorflow as tf
from progressive_models import TINY

import sae
from sae import images, scripts
from sae.config import ProgressiveTrainingConfig
from sae.errors import SaeError
from sae.model import families
from sae.model.integer_context import SCALE_RATIO
from sae.model.model_store import ModelStore
from sae.model.modules import ResidualBlock
from sae.model.plane_priors import PASSES, Digits, SliceContext, digit_cost, integer_cost
from sae.model.progressive import Planes, ProgressiveModel
from sae.model.progressive_config import PLANES, ProgressiveConfig
from sae.model.progressive_transforms import Decoded
from sae.model.quantization import NEAR_DIGIT, NEAR_INTEGER, boundary_weights
from sae.training import loop
from sae.training.patches import Patches
from sae.training.progressive import ProgressiveStage, Trainer
from sae.training.state import TrainingState


@pytest.fixture(scope="module")
def model():
    tf.keras.utils.set_random_seed(1)
    return ProgressiveModel(TINY)


def random_latent(shape, spread=2.0):
    return np.random.default_rng(2).normal(scale=spread, size=shape).astype(np.float32)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 4), (5, 3)])
def test_a_slice_context_reads_only_what_is_coded_before(size):
    tf.keras.utils.set_random_seed(1)
    context = SliceContext("context", TINY.slice_sizes, 8, 6, tf.float32)
    q = np.round(random_latent((1, *size, 8)))
    slices = np.repeat(np.arange(3), TINY.slice_sizes)
    order = np.zeros((*size, 8), int)
    for row, column in itertools.product(*map(range, size)):
        order[row, column] = 4 * slices + PASSES.index((row % 2, column % 2))
    before = np.stack(context.parameters(tf.constant(q)))
    changed_later = False
    for part in np.unique(order):
        perturbed = np.where(order >= part, q + 3, q)
        after = np.stack(context.parameters(tf.constant(perturbed, tf.float32)))
        same = np.broadcast_to(order <= part, before.shape[1:])
        np.testing.assert_allclose(after[:, same], before[:, same], atol=1e-5)
        changed_later |= not np.allclose(after, before, atol=1e-3)
    assert changed_later


def test_masses_of_integers_and_digits_sum_to_one():
    shape = (401, 1, 1, 1)
    means, scales = tf.fill(shape, 0.3), tf.fill(shape, 35.0)
    integers = tf.reshape(tf.range(-200.0, 201.0), shape)
    bits = integer_cost(integers, integers, means, scales).bits.numpy()
    assert np.sum(2.0**-bits) == pytest.approx(1, abs=1e-4)
    for parent in (-2.0, 0.0, 7.0):
        digits = tf.reshape([-1.0, 0.0, 1.0], (3, 1, 1, 1))
        parents = tf.fill((3, 1, 1, 1), 3 * parent)
        cost, _, expected = digit_cost(digits, parents, parents, means[:3], scales[:3])
        probabilities = 2.0 ** -cost.bits.numpy()
        assert np.sum(probabilities) == pytest.approx(1, abs=1e-4)
        mean = probabilities[2] - probabilities[0]
        np.testing.assert_allclose(np.ravel(expected.expected), mean, atol=1e-5)
        # The logistic's mean is 0.3: digits of other parents are drawn towards it.
        assert parent == 0 or np.sign(mean) == -np.sign(parent)
        # The same logistic in thirds of a step gives the next digits.
        finer = scales[:3] + np.log(3) / np.log(SCALE_RATIO)
        centers = 3 * (parents + digits)
        _, _, following = digit_cost(0 * digits, centers, centers, 3 * means[:3], finer)
        np.testing.assert_allclose(3 * expected.rest, following.expected, atol=1e-5)


def test_digits_cost_what_a_finer_integer_costs():
    """Under one logistic, the parent and its digit together are the finer integer."""

    def one(value):
        return tf.fill((1, 1, 1, 1), np.float32(value))

    mean, finer_scale = 1.3, 20 + np.log(3) / np.log(1.125)
    y = 4.4
    finer = integer_cost(one(4), one(y), one(3 * mean), one(finer_scale))
    parent = integer_cost(one(1), one(y / 3), one(mean), one(20))
    digit, parent_slope, _ = digit_cost(one(1), one(3), one(y), one(3 * mean), one(finer_scale))
    assert (digit.bits + parent.bits).numpy() == pytest.approx(finer.bits.numpy(), abs=1e-3)
    # The slopes are spread over other shares of an interval.
    shares = 2 * NEAR_DIGIT, 2 * NEAR_INTEGER
    np.testing.assert_allclose(shares[0] * digit.slope, shares[1] * finer.slope, rtol=1e-3)
    np.testing.assert_allclose(3 * shares[0] * parent_slope, shares[1] * parent.slope, rtol=1e-3)


def test_slopes_are_differences_of_bits_near_boundaries():
    def bits(q):
        return integer_cost(*(tf.fill((1, 1, 1, 1), v) for v in (q, q, 0.4, 33.0))).bits.numpy()

    for y, below in ((0.4, 0.0), (0.6, 0.0), (-1.4, -2.0), (3.0, None), (0.1, None)):
        q = np.float32(np.round(y))
        arguments = (tf.fill((1, 1, 1, 1), np.float32(v)) for v in (q, y, 0.4, 33.0))
        slope = integer_cost(*arguments).slope.numpy().item()
        expected = (
            0.0 if below is None else (bits(below + 1) - bits(below)).item() / (2 * NEAR_INTEGER)
        )
        assert slope == pytest.approx(expected, rel=1e-4)


def test_an_unreachable_parent_has_no_slope(model):
    """Channels that plane 0 does not have: their bits change with the digits alone."""
    y = tf.constant(random_latent((1, 2, 2, 12), 0.2))
    with tf.GradientTape() as tape:
        tape.watch(y)
        bits = model.code(y).bits[1]
    gradient = tape.gradient(bits, y).numpy()
    near = np.abs(3 * y - np.round(3 * y)) > 0.5 - NEAR_DIGIT
    assert (np.abs(gradient[..., 8:10][near[..., 8:10]]) > 0).all()
    assert near[..., 8:10].any() and not gradient[..., 10:].any()


def test_a_fresh_model_is_a_transform_codec(photos):
    model = ProgressiveModel(
        ProgressiveConfig(plane_depths=(64,) * 3, slices=(8,), hidden_filters=8)
    )
    x = tf.image.decode_png((photos / "astronaut.png").read_bytes())[None, :256, :256]
    x = tf.cast(x, tf.float32) / 255.0
    planes = model.code(model.analysis(x))
    psnr = []
    for p in range(PLANES):
        x_hat = model.synthesis(planes.end(p), tf.constant([float(p)]))
        psnr.append(float(tf.image.psnr(x, x_hat, 1.0)))
    assert 18 < psnr[0] < psnr[1] - 1 < psnr[2] - 1


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
def test_transforms_read_no_farther_than_their_reach(blocks):
    config = dataclasses.replace(TINY, analysis_blocks=blocks, synthesis_blocks=blocks)
    tf.keras.utils.set_random_seed(1)
    model = ProgressiveModel(config)
    for variable in model.trainable_variables:
        variable.assign_add(tf.random.normal(variable.shape, stddev=0.1))
    rows = 2 * config.reach + 3
    middle = np.arange(rows)[:, None, None] == config.reach + 1
    y = random_latent((1, rows, 1, 12), 0.1)

    def image(y):
        decoded = Decoded(tf.constant(y), tf.zeros_like(y), tf.ones_like(y))
        return model.synthesis(decoded, tf.constant([1.0])).numpy()

    x = np.random.default_rng(3).uniform(size=(1, 16 * rows, 16, 3)).astype(np.float32)
    changes = (
        image(y + middle) - image(y),
        model._analysis(x + np.repeat(middle, 16, 0)) - model._analysis(x),
    )
    for change in changes:
        changed = np.abs(change).reshape(rows, -1).max(-1) > 1e-7
        # The outermost rows are beyond the reach of the middle one, the next ones within it.
        assert not changed[[0, -1]].any() and (changed[1] or changed[-2])


def test_residual_blocks_begin_as_the_identity():
    x = tf.constant(random_latent((1, 6, 5, 4)))
    block = ResidualBlock("block", 4)
    np.testing.assert_array_equal(block(x), x)
    block._reduce.kernel.assign_add(tf.random.normal(block._reduce.kernel.shape))
    assert np.abs(block(x) - x).max() > 0.1


@pytest.mark.parametrize(
    "change, reason", [({"step": None}, "step is missing"), ({"gain": 1}, "gain")]
)
def test_a_configuration_has_all_fields_and_no_others(change, reason):
    values = {**dataclasses.asdict(TINY), **change}
    values = {name: value for name, value in values.items() if value is not None}
    with pytest.raises(TypeError, match=reason):
        ProgressiveConfig.from_json(values)


def test_levels_between_planes_are_interpolated(model):
    y = tf.constant(random_latent((3, 2, 2, 12)))
    table = model._synthesis._linear_gains[0].table
    table.assign(np.float32([[1.0], [2.0], [4.0]]) * np.ones((3, 12), np.float32))
    low, middle, high = (
        model.synthesis(Decoded(y[:1], tf.zeros_like(y[:1]), tf.ones(())), tf.constant([level]))
        for level in (1.0, 1.25, 2.0)
    )
    table.assign(np.ones((3, 12), np.float32))
    np.testing.assert_allclose(middle, 0.75 * low + 0.25 * high, atol=1e-5)
    assert np.abs(high - low).max() > 0.1


def test_gradient_scales_act_on_the_latent_alone(model):
    y = tf.constant(random_latent((2, 2, 2, 12)))

    def gradients(scale):
        with tf.GradientTape() as tape:
            tape.watch(y)
            scales = [tf.fill((2,), scale)] * PLANES
            bits = model.code(y, scales).bits
            total = tf.reduce_sum(tf.add_n(bits))
        return tape.gradient(total, [y, *model.prior_variables])

    one, third = gradients(1.0), gradients(1 / 3)
    assert np.abs(one[0]).max() > 0.1
    np.testing.assert_allclose(third[0], one[0] / 3, rtol=1e-4, atol=1e-5)
    for a, b in zip(one[1:], third[1:]):
        np.testing.assert_allclose(a, b, atol=1e-5)


TRAINING = ProgressiveTrainingConfig(
    3000.0, 24, batchsize=4, patchsize=32, warmup=1, photo_side=64, cuts=0
)


def changed(**values):
    """Returns the configuration of a training with other values."""
    return dataclasses.replace(TRAINING, **values)


@pytest.fixture(scope="module")
def make_stage(photos):
    """Makes stages of one trainer: compiling another takes half a minute."""
    patches = Patches([photos], 64)
    trainer = Trainer(TINY, TRAINING, "mse")
    fresh = trainer.arrays()

    def make(folder, **values):
        trainer.config = changed(**values)
        trainer.set_arrays(fresh)
        store = ModelStore(families.named("progressive-mse"), folder)
        options = {**dataclasses.asdict(TINY), **dataclasses.asdict(trainer.config)}
        return ProgressiveStage(trainer, store, patches, options)

    return make


@pytest.mark.slow
def test_a_training_lowers_the_loss_and_resumes_exactly(make_stage, tmp_path, monkeypatch):
    finished = []
    monkeypatch.setattr(ProgressiveStage, "finish", lambda stage, record: finished.append(record))
    ends = []
    for folder, steps in (("whole", (24,)), ("parts", (10, 24))):
        for last_step in steps:
            # What decays at the end of a part would not be as in the whole.
            stage = make_stage(tmp_path / folder, last_step=last_step, decay_from=1.0)
            state = TrainingState(stage.folder / "state.npz", stage)
            loop.run(stage)
            state.step, state.seconds = last_step, 1.0
            state.save()
        ends.append(stage.arrays())
    for name, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][name], name)
    shorter = make_stage(tmp_path / "parts", last_step=9, decay_from=1.0)
    with pytest.raises(SaeError, match="a training of 24 steps, more than 9; give a larger"):
        loop.run(shorter)
    losses = [
        sum(value for name, value in scores.items() if name.endswith("loss"))
        for record in finished[1:]
        for scores in record["validation"]
    ]
    assert len(losses) == 2 and losses[1] < losses[0]


@pytest.mark.slow
def test_the_last_steps_fix_latents_and_come_to_rest(make_stage, tmp_path):
    trainer = make_stage(tmp_path, last_step=6, decay_from=0.5, decoder_from=0.5)._trainer
    x = np.zeros((4, 32, 32, 3), np.uint8)
    before = trainer.arrays()
    for number in range(3, 6):
        shown = trainer.step(number, x + np.uint8(40 * number))
    after = trainer.arrays()
    prefix = "weights/"
    moved = {
        name.removeprefix(prefix)
        for name in before
        if name.startswith(prefix) and not np.array_equal(before[name], after[name])
    }
    decoder = {v.name.removesuffix(":0") for v in trainer.model.decoder_variables}
    assert moved <= decoder and len(moved) > 0.8 * len(decoder)
    whole = dataclasses.replace(trainer.config, decay_from=1.0)
    rest = Trainer.learning_rate(types.SimpleNamespace(config=whole), 5)
    assert shown["learning_rate"] == pytest.approx(rest / 3)
    assert trainer.learning_rate(6) == 0.0


@pytest.mark.slow
def test_a_model_is_trained_by_its_script(photos, tmp_path, capsys):
    arguments = ["--data", str(photos), "--family", "progressive-mse", "--preset", "tiny"]
    arguments += ["--checkpoints", str(tmp_path), "--last_step", "3", "--cuts_from", "0.3"]
    scripts.train("base", arguments)
    store = ModelStore(families.named("progressive-mse"), tmp_path)
    record = store.training("base")
    assert record["patches"] == 9 and record["validation"][-1]["step"] == 3
    assert not (store.path / "training" / "state.npz").exists()
    image = images.sample_photos()["coffee"][:60, :50]
    data = sae.compress(image, checkpoints=tmp_path)
    assert sae.decompress(data, checkpoints=tmp_path).shape == image.shape
    capsys.readouterr()
    weights = (store.path / "weights.npz").read_bytes()
    scripts.train("base", arguments)
    scripts.train("el2", arguments)
    said = capsys.readouterr().out
    assert (
        "progressive-mse is trained already" in said and "el2 of progressive-mse is a cut" in said
    )
    assert (store.path / "weights.npz").read_bytes() == weights
    for words, reason in (
        (["--patchsize", "40"], "multiples of 16"),
        (["--patchsize", "256"], "at most 176 x 176"),
        (["--cuts", "4"], "cannot have 4 cuts"),
        (["--strategy", "cores"], "on one device"),
    ):
        with pytest.raises(SystemExit, match="2"):
            scripts.train("base", [*arguments, "--force", *words])
        assert reason in capsys.readouterr().err


def test_cuts_lead_from_one_end_to_the_next(model):
    planes = model.code(tf.constant(random_latent((2, 3, 4, 12))))
    for p in (1, 2):
        for share, end in ((0.0, planes.end(p - 1)), (1.0, planes.end(p))):
            cut = planes.cut(p, tf.fill((2,), share))
            np.testing.assert_array_equal(cut.y_hat, end.y_hat)
        low, high = (planes.cut(p, tf.constant([share, 0.5])) for share in (0.3, 0.6))
        # The channels of a plane alone have digits in it.
        depth = TINY.plane_depths[p]
        come = [np.isclose(cut.width, 3.0**-p)[..., :depth] for cut in (low, high)]
        # What has come stays, each image has its own share, and the best digits come first.
        assert np.all(come[1] >= come[0]) and come[1][0].sum() > come[0][0].sum()
        np.testing.assert_array_equal(come[0][1], come[1][1])
        steps = planes.digits[p - 1].steps()
        gains, bits = steps.gains.numpy()[0, 0], steps.bits.numpy()[0, 0]
        width = low.width.numpy()[0, ..., :depth] * 3**p
        first = np.isclose(width, 1) | np.isclose(width, 2)
        assert gains[first].min() >= gains[~first].max()
        assert 0.2 <= bits[first].sum() / steps.bits.numpy()[0].sum() < 0.4


def test_halved_digits_are_decoded_in_two_trits():
    """First whether it is the outward one, then, after all first trits, which of the others."""
    low, high, outward, rest = [0.5, 0.3], [0.2, 0.3], [True, False], [0.1, -0.1]
    digits = Digits(*(tf.constant([[[row]]]) for row in (low, high, outward, rest)))
    integers = [tf.constant([[[[3.0, 6.0]]]]), tf.constant([[[[8.0, 19.0]]]])]
    planes = Planes(integers, [], [digits])
    # The second element's mean is above its parent, so that -1 is its outward digit.
    steps = digits.steps()
    assert steps.halved.numpy().all()
    np.testing.assert_allclose(np.ravel(steps.inner), [0.5 / 0.8, 0.3 / 0.7], rtol=1e-5)
    first = np.ravel(steps.bits[:, 0])
    assert first == pytest.approx([0.7219, 0.8813], abs=1e-4)
    whole = [-sum(p * np.log2(p) for p in q) for q in ((0.5, 0.3, 0.2), (0.3, 0.4, 0.3))]
    np.testing.assert_allclose(tf.reduce_sum(steps.bits, 1)[0, 0, 0], whole, rtol=1e-5)
    assert (steps.gains[:, 0].numpy() > steps.gains[:, 1].numpy().max()).all()
    both = planes.cut(1, tf.constant([(first.sum() - 0.01) / sum(whole)], tf.float32))
    centers, means = np.ravel(both.y_hat), np.ravel(both.expected)
    np.testing.assert_allclose(centers, [8.5 / 3, 18.5 / 3], rtol=1e-5)
    np.testing.assert_allclose(np.ravel(both.width), [2 / 3, 2 / 3], rtol=1e-5)
    # Digits -1 and 0 of the first one, and 0 and 1 of the second one: means of these intervals.
    np.testing.assert_allclose(3 * (centers + means), [9 - 0.5 / 0.8, 18 + 0.3 / 0.7], rtol=1e-5)
    # An outward digit needs no second trit.
    planes.integers[1] = tf.constant([[[[10.0, 17.0]]]])
    outer = planes.cut(1, tf.constant([(first.sum() - 0.01) / sum(whole)], tf.float32))
    np.testing.assert_allclose(np.ravel(outer.y_hat), [10 / 3, 17 / 3], rtol=1e-5)


def test_what_is_expected_of_digits_is_what_they_are():
    """Gain and bits of the trits against the sums over the three digits."""
    shape = (3, 1, 1, 1)
    digits, parents = tf.reshape([-1.0, 0.0, 1.0], shape), tf.fill(shape, 6.0)
    scales = tf.fill(shape, 33.0)
    (bits, _), _, found = digit_cost(digits, parents, parents, tf.fill(shape, 5.1), scales)
    p, t = 2.0 ** -bits.numpy(), np.array([-1, 0, 1])
    mean = p @ t
    steps = found.steps()
    np.testing.assert_allclose(np.ravel(found.expected), mean, rtol=1e-3)
    np.testing.assert_allclose(np.ravel(tf.reduce_sum(steps.bits, 1)), p @ bits.numpy(), rtol=1e-3)
    gain = np.ravel(tf.reduce_sum(steps.gains * steps.bits, 1))
    np.testing.assert_allclose(gain, p @ (t - mean) ** 2, rtol=1e-3)
    assert 0.05 < abs(mean) < 0.9


@pytest.mark.parametrize("cuts", [0, 2])
def test_levels_of_a_batch(cuts):
    trainer = Trainer(TINY, changed(batchsize=8), "mse")
    draws = np.stack([trainer.batch_levels(number, cuts) for number in range(50)])
    assert draws.shape == (50, 8)
    at_cuts, at_ends = draws[:, :cuts], draws[:, cuts:]
    assert set(np.unique(at_ends)) == {0, 1, 2}
    assert ((at_cuts > 0) & (at_cuts < 2)).all()
    counts = [np.sum(at_ends == p) for p in range(3)]
    assert max(counts) < 1.3 * min(counts)


def test_gradients_pass_near_boundaries_in_decoded_channels():
    x = np.random.default_rng(4).uniform(size=(1, 32, 32, 3)).astype(np.float32)
    trainer = Trainer(TINY, changed(batchsize=1), "mse")
    y = trainer.model.analysis(tf.constant(x))
    # Without the gradient of the bits, that of the distortion is left.
    planes = trainer.model.code(y)
    free = planes._replace(bits=[tf.stop_gradient(bits) for bits in planes.bits])
    for level, width in ((0, 1.0), (1, 1 / 3), (2, 1 / 9)):
        trainer.model.analysis = lambda _: y
        trainer.model.code = lambda *_: free
        with tf.GradientTape() as tape:
            tape.watch(y)
            loss = trainer._loss(x, tf.constant([float(level)]))
        gradient = tf.convert_to_tensor(tape.gradient(loss, y)).numpy()
        away = np.abs(y - width * np.round(y / width)) / width
        near = away > 0.5 - (NEAR_INTEGER if level == 0 else NEAR_DIGIT)
        near[..., TINY.plane_depths[level] :] = False
        assert near.any() and not near.all()
        assert (gradient[~near] == 0).all() and (gradient[near] != 0).mean() > 0.9


def test_boundary_weights_have_a_mean_of_one():
    distance = tf.linspace(-1.5, 1.5, 3001)
    for share in (0.15, 0.25, 0.5):
        weights = boundary_weights(distance, 3.0, share).numpy()
        assert abs(weights.mean() - 1) < 0.01
        np.testing.assert_allclose(weights[[0, -1]], 0.5 / share)
    assert not boundary_weights(distance, 0.0, 0.25).numpy().any()


def test_a_batch_has_the_mean_of_the_losses_of_its_images():
    x = np.random.default_rng(3).uniform(size=(1, 32, 32, 3)).astype(np.float32)

    def loss(levels, cuts=0):
        trainer = Trainer(TINY, changed(batchsize=len(levels)), "mse")
        images = np.repeat(x, len(levels), 0)
        return float(trainer._loss(images, tf.constant(levels, tf.float32), cuts))

    each = [loss([p]) for p in range(PLANES)]
    assert loss([2, 0, 1]) == pytest.approx(np.mean(each), rel=1e-4)
    # A cut just before an end is that end.
    assert loss([1.9999], cuts=1) == pytest.approx(each[2], rel=0.02)
    assert loss([0.0001], cuts=1) == pytest.approx(each[0], rel=0.02)

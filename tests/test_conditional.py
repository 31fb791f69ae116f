"""Layers that see and use what is already decoded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from sae import images, metrics
from sae.coding import bitstream, codec
from sae.config import COARSENESS_UNIT
from sae.model import prior_network
from sae.model.bottleneck import uniform_noise
from sae.model.cascade import Cascade
from sae.model.conditional_bottleneck import ConditionalBottleneck
from sae.model.families import named
from sae.model.layer import Context, build
from sae.model.presets import defaults
from sae.model.prior_network import Exact, Floats


@pytest.fixture(scope="module")
def x():
    blocks = np.random.default_rng(0).uniform(size=(2, 6, 8, 3))
    return tf.constant(blocks.repeat(16, axis=1).repeat(16, axis=2), tf.float32)


def test_a_file_of_conditional_layers_is_decoded_layer_by_layer(conditional_store, x):
    store = conditional_store
    image = np.uint8(255 * x[0])[:-5, :-3]
    data = codec.compress(image, 3, store.family.name, store.folder)
    decoder = codec.Decoder(checkpoints=store.folder)
    decoded = [x_hat for k in range(0, len(data), 50) for x_hat in decoder.feed(data[k : k + 50])]
    assert [x_hat.shape for x_hat in decoded] == [image.shape] * 3
    again = codec.Decoder(checkpoints=store.folder).feed(data)
    np.testing.assert_array_equal(decoded, again)
    np.testing.assert_array_equal(codec.decompress(data, checkpoints=store.folder), decoded[-1])


def test_every_part_uses_the_lower_latents(x, conditional_cascade):
    *lower, layer = conditional_cascade.layers
    below = Cascade(lower).context(x)
    y_hat, bits = layer.rate(layer.analyse(x, below), below)
    for k in range(2):
        latents = tuple(latent + (i == k) for i, latent in enumerate(below.latents))
        other = Context(latents, lambda: below.x_hat)
        assert np.any(layer.write(y_hat, other) != layer.write(y_hat, below))
        assert np.any(layer.synthesise(y_hat, other) != layer.synthesise(y_hat, below))
        assert np.any(layer.rate(y_hat, other, "none")[1] != bits)


def test_the_analysis_sees_what_is_decoded(x, conditional_cascade):
    layer = conditional_cascade.layers[1]
    below = Cascade(conditional_cascade.layers[:1]).context(x)
    other = Context((below.latents[0] + 1,), lambda: below.x_hat)
    assert np.any(layer.analyse(x, other) != layer.analyse(x, below))


def test_a_conditional_layer_needs_no_lower_reconstruction(x, conditional_cascade):
    def never():
        raise AssertionError("computed")

    for layer, latents in zip(
        conditional_cascade.layers, ((), *(c.latents for c, _ in conditional_cascade.code(x)))
    ):
        context = Context(latents, never)
        y_hat = tf.round(layer.analyse(x, context))
        layer.write(y_hat, context)
        layer.synthesise(y_hat, context)


def test_the_whole_layer_has_gradients(x, conditional_cascade):
    lower = conditional_cascade.layers[:1]
    layer = build(defaults("el1", named("conditional-mse"), "tiny")[0], lower)
    for variable in layer.trainable_variables:
        # Silent at first.
        if "/conv_2/" in variable.name or variable.name.endswith("/second:0"):
            variable.assign(tf.random.stateless_normal(variable.shape, (0, 1)))
    context = Cascade(lower).context(x)
    with tf.GradientTape() as tape:
        y_tilde, bits = layer.rate(layer.analyse(x, context), context, "noise", tf.constant([0, 0]))
        x_hat = layer.synthesise(y_tilde, context)
        loss = tf.reduce_mean(tf.square(x - x_hat)) + tf.reduce_mean(bits) * 1e-6
    assert all(np.any(g) for g in tape.gradient(loss, layer.trainable_variables))


def test_training_sends_no_gradient_through_what_the_prior_knows(x, conditional_cascade):
    """A search does: there, the latent alone is free."""
    layer, context = conditional_cascade.layers[0], Context.empty(x.shape)
    y, seed = layer.analyse(x, context), tf.constant([0, 7])

    def gradient(of):
        with tf.GradientTape() as tape:
            tape.watch(y)
            bits = of(y)
        return tape.gradient(bits, y)

    found = gradient(lambda y: layer.rate(y, context, "mixed", seed)[1])
    noise, y_hat = uniform_noise(tf.shape(y), seed), tf.round(y)
    expected = gradient(lambda y: layer.bottleneck.bits(y + noise, y_hat))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    free = gradient(lambda y: layer.rate(y, context, "none")[1])
    bound = gradient(lambda y: layer.bottleneck.bits(y, tf.stop_gradient(y)))
    assert np.max(np.abs(free - bound)) > 0.01 * np.max(np.abs(free))


DEPTH, BELOW = 6, 5


@pytest.fixture(scope="module")
def bottleneck():
    """A bottleneck of three slices fitted to `latents`, so that the estimate is meaningful."""
    tf.keras.utils.set_random_seed(2)
    bottleneck = ConditionalBottleneck(DEPTH, BELOW, 64, 5, "test/bottleneck", slices=3)
    optimizer = tf.keras.optimizers.Adam(3e-3)

    @tf.function
    def fit(y, lower, seed):
        with tf.GradientTape() as tape:
            noisy = y + uniform_noise(tf.shape(y), seed)
            bits = tf.reduce_mean(bottleneck.bits(noisy, tf.round(y), [lower]))
        variables = bottleneck.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(bits, variables), variables))

    for step in range(300):
        fit(*latents(step, 4, 10, 12), tf.constant([0, step]))
    bottleneck.build_tables()
    return bottleneck


@pytest.mark.slow
def test_quantization_takes_what_is_better_on_the_whole(bottleneck):
    y, lower = latents(1000, 2, 9, 11)

    def objective(y_hat, worth):
        bits = bottleneck.bits(y_hat, y_hat, [lower])
        return tf.reduce_sum(bits) + worth * tf.reduce_sum(tf.square(y - y_hat))

    np.testing.assert_array_equal(bottleneck.quantize(y, [lower], 1e9), tf.round(y))
    for worth in (3.0, 10.0):
        y_hat = bottleneck.quantize(y, [lower], worth)
        np.testing.assert_array_equal(y_hat, tf.round(y_hat))
        assert np.max(np.abs(y - y_hat)) <= 1.5
        assert objective(y_hat, worth) < objective(tf.round(y), worth)
        # Exactly, and coded on the way.
        coded, strings = bottleneck.encode(y, [lower], worth)
        assert np.mean(coded != y_hat) < 0.01
        np.testing.assert_array_equal(bottleneck.decompress(strings, (9, 11), [lower]), coded)


def test_an_image_with_more_errors_is_rounded_in_coarser_steps(conditional_cascade):
    base = conditional_cascade.layers[0]
    x = images.sample_photos()["coffee"][None, :64, :96] / np.float32(255)
    y = base.analyse(x, Context.empty(x.shape))
    found = [base.coarseness(share * y) for share in (0.0, 0.2, 1.0)]
    assert found == sorted(found) and found[0] < 1 < found[-1]
    assert all(one / COARSENESS_UNIT == round(one / COARSENESS_UNIT) for one in found)


def test_a_latent_means_the_same_in_whatever_steps_it_is_given(conditional_cascade, x):
    fine, coarse = Context.empty(x.shape), Context.empty(x.shape, 1.5)
    for layer in conditional_cascade.layers:
        y = layer.analyse(x, fine)
        np.testing.assert_allclose(layer.analyse(x, coarse), y / 1.5, atol=1e-4)
        fine, coarse = fine.extended(layer, y), coarse.extended(layer, y / 1.5)
        np.testing.assert_allclose(coarse.x_hat, fine.x_hat, atol=1e-5)


@pytest.mark.slow
def test_a_file_says_how_coarse_it_is(conditional_store, ms_ssim_store, x):
    image = np.uint8(255 * x[0])
    data = codec.compress(image, 2, "conditional-mse", conditional_store.folder)
    header = bitstream.parse(data).header
    assert header.coarseness != 1
    shorter = bitstream.truncate(data, 1)
    assert codec.extend(shorter, image, 2, conditional_store.folder) == data
    # In other steps, the latents of the file would be those of another image.
    own, other = (
        codec.decompress(
            bitstream.pack(header._replace(coarseness=one), bitstream.parse(data).records),
            checkpoints=conditional_store.folder,
        )
        for one in (header.coarseness, 1.0)
    )
    assert metrics.psnr(image, own) > metrics.psnr(image, other)
    data = codec.compress(image, 2, "conditional-ms-ssim", ms_ssim_store.folder)
    assert bitstream.parse(data).header.coarseness == 1


def latents(seed, *shape):
    """Returns y and a lower latent, of which y has its scale; it has its mean of y above."""
    rng = np.random.default_rng(seed)
    lower = rng.integers(1, 9, size=(*shape, BELOW))
    y = rng.normal(size=(*shape, DEPTH)) * lower[..., :1] ** 2 / 4
    for row in range(1, shape[1]):
        y[:, row] += 0.9 * y[:, row - 1]
    return tf.constant(y, tf.float32), tf.constant(lower, tf.float32)


@pytest.mark.parametrize("size", [(20, 30), (7, 9), (2, 1), (1, 1)])
def test_decoded_is_quantized(bottleneck, size):
    y, lower = latents(900, 3, *size)
    y_hat = tf.round(y)
    strings = bottleneck.compress(y_hat, [lower])
    np.testing.assert_array_equal(bottleneck.decompress(strings, size, [lower]), y_hat)


def test_values_beyond_the_tables_survive(bottleneck):
    y, lower = latents(901, 1, 5, 4)
    y_hat = tf.round(y * 1000)
    strings = bottleneck.compress(y_hat, [lower])
    np.testing.assert_array_equal(bottleneck.decompress(strings, (5, 4), [lower]), y_hat)


def test_size_is_the_estimate(bottleneck):
    y, lower = latents(902, 4, 33, 47)
    y_hat = tf.round(y)
    bits = bottleneck.bits(y_hat, y_hat, [lower]).numpy()
    for string, estimate in zip(bottleneck.compress(y_hat, [lower]).numpy(), bits / 8):
        assert abs(len(string) - estimate) <= 0.01 * estimate + 4


def test_the_prior_knows_the_lower_latent_and_the_neighbours(bottleneck):
    y, lower = latents(903, 2, 32, 32)
    order = np.random.default_rng(0).permutation(32 * 32)

    def shuffled(x):
        return tf.reshape(tf.gather(tf.reshape(x, (2, 32 * 32, -1)), order, axis=1), x.shape)

    def bits(y, lower):
        return np.sum(bottleneck.bits(tf.round(y), tf.round(y), [lower]))

    assert bits(y, lower) < 0.99 * bits(shuffled(y), shuffled(lower))
    # Little where earlier slices already tell the scale.
    assert bits(shuffled(y), shuffled(lower)) < 0.998 * bits(shuffled(y), lower)


@pytest.mark.slow
def test_later_slices_know_the_earlier_ones_at_their_position():
    """The halves of the channels are the same: a prior that knows one half spends on that alone."""

    def repeated(seed):
        y = tf.random.stateless_normal((4, 8, 8, DEPTH // 2), (0, seed), stddev=8.0)
        return tf.tile(tf.round(y), (1, 1, 1, 2))

    tf.keras.utils.set_random_seed(2)
    bottleneck = ConditionalBottleneck(DEPTH, 0, 32, 3, "test/bottleneck", slices=2)
    optimizer = tf.keras.optimizers.Adam(1e-2)

    @tf.function
    def fit(y):
        with tf.GradientTape() as tape:
            bits = tf.reduce_mean(bottleneck.bits(y, y))
        variables = bottleneck.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(bits, variables), variables))

    for step in range(500):
        fit(repeated(step))
    independent = 8 * 8 * DEPTH * math.log2(8 * math.sqrt(2 * math.pi * math.e))
    y = repeated(999)
    assert np.mean(bottleneck.bits(y, y)) < 0.8 * independent


def test_bits_with_noise_bound_the_estimate(bottleneck):
    y, lower = latents(904, 4, 32, 48)
    y_hat, noise = tf.round(y), uniform_noise(tf.shape(y), tf.constant([1, 2]))
    bound = bottleneck.bits(y + noise, y_hat, [lower])
    assert np.all(bound > 0.97 * bottleneck.bits(y_hat, y_hat, [lower]))


def parameters(bottleneck, y, lower, arithmetic):
    """Returns means and scales' indices of all parts of round(y)."""
    bottleneck._network.forget()
    found = []

    def known(part, *pair):
        found.extend(np.asarray(x) for x in pair)
        return tf.round(y)[part]

    bottleneck._network.traverse(known, y.shape, [lower], arithmetic)
    return found


def test_sums_may_be_taken_in_any_order(bottleneck):
    y, lower = latents(905, 2, 20, 30)
    order = np.random.default_rng(0).permutation(BELOW)
    first = bottleneck.trainable_variables
    first = next(v for v in first if v.name == "test/bottleneck/below_0/kernel:0")
    exact, floats = (parameters(bottleneck, y, lower, of) for of in (Exact, Floats))
    kernel = first.numpy()
    first.assign(kernel[:, :, order])
    lower = tf.gather(lower, order, axis=-1)
    exact_again, floats_again = (parameters(bottleneck, y, lower, of) for of in (Exact, Floats))
    first.assign(kernel)
    bottleneck._network.forget()
    assert all(np.array_equal(one, other) for one, other in zip(exact, exact_again))
    assert not all(np.array_equal(one, other) for one, other in zip(floats, floats_again))


def test_both_arithmetics_are_of_one_network():
    # How much a rounding matters differs between fits: these weights are always the same.
    tf.keras.utils.set_random_seed(2)
    bottleneck = ConditionalBottleneck(DEPTH, BELOW, 64, 5, "test/bottleneck", slices=3)
    y, lower = latents(905, 2, 20, 30)
    exact, floats = (parameters(bottleneck, y, lower, of) for of in (Exact, Floats))
    for one, other in zip(exact, floats):
        assert np.max(np.abs(one - other)) < 0.3 * np.std(other)
        assert np.mean(np.abs(one - other)) < 0.07 * np.std(other)


@pytest.mark.parametrize(("slices", "below"), [(1, 0), (3, BELOW)])
def test_all_at_once_is_as_part_by_part(slices, below):
    network = prior_network.PriorNetwork(DEPTH, below, 16, 5, "test", slices=slices)
    for variable in network.trainable_variables:  # Biases too, which begin as zero.
        variable.assign_add(tf.random.normal(variable.shape, stddev=0.1, seed=0))
    y, lower = latents(907, 2, 9, 11)
    y_hat, latents_below, found = np.round(y), [lower] if below else [], np.zeros((2, *y.shape))

    def known(part, *parameters):
        for whole, one in zip(found, parameters):
            whole[part] = one
        return y_hat[part]

    network.traverse(known, y.shape, latents_below, Floats)
    np.testing.assert_allclose(network.parameters(y_hat, latents_below), found, atol=1e-3)


@pytest.mark.parametrize("reads", [prior_network._LATENT, prior_network._ACTIVATION])
@pytest.mark.parametrize("size", [1e-4, 0.1, 30.0])
def test_float32_holds_every_sum_in_every_order(reads, size):
    rng = np.random.default_rng(3)
    weights = np.float16(size * rng.normal(size=(1, 1, 384, 20)) ** 3)
    weights[..., 0] = 0
    kernel = Exact.kernel(weights, reads)[0, 0]
    assert kernel.dtype == np.float32
    # The bits that so many weights leave to one, but for the last.
    error = np.abs(kernel / reads.step - weights[0, 0])
    total = np.sum(np.abs(weights.astype(float)), axis=2)[0, 0]
    assert np.all(error <= total / (2**24 * reads.step / reads.bound - 384 / 2))
    steps = rng.integers(reads.bound / reads.step + 1, size=(7, 384))
    # The largest sum there can be, and any other.
    largest = np.sign(kernel.T) * (reads.bound / reads.step)
    for x in (largest, steps):
        products = np.float32(x)[:, :, None] * kernel
        whole = np.sum(products.astype(np.float64), axis=1)
        for order in (np.arange(384), rng.permutation(384), np.argsort(-kernel[:, 1])):
            summed = np.cumsum(products[:, order], axis=1, dtype=np.float32)
            np.testing.assert_array_equal(summed[:, -1], whole)


@pytest.mark.slow
def test_the_estimate_compiles_under_xla(bottleneck):
    y, lower = latents(907, 2, 5, 4)
    compiled = tf.function(
        lambda y: bottleneck.bits(y, tf.round(y), [lower]), jit_compile=True, autograph=False
    )
    np.testing.assert_allclose(compiled(y), bottleneck.bits(y, tf.round(y), [lower]), rtol=1e-4)


def test_a_damaged_string_is_refused(bottleneck):
    y, lower = latents(906, 1, 8, 8)
    string = bottleneck.compress(tf.round(y), [lower]).numpy()[0]
    for damaged in (string + b"xyz", b"\xff" * 200):
        with pytest.raises(tf.errors.InvalidArgumentError):
            bottleneck.decompress([damaged], (8, 8), [lower])

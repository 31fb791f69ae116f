"""SOAP: what its step is, where it is known, and that it resumes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from sae.errors import SaeError
from sae.training.optimizer import SOAP, make_optimizer


def orthogonal(side, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(side, side)))[0]


@pytest.mark.parametrize("shape", [(6, 4), (3, 3, 5, 4)])
def test_it_takes_the_newton_direction_where_the_eigenvectors_are_known(shape):
    """The Hessian of sum_i h_i (q_i . w)^2 / 2 is Kronecker-factored, with eigenvectors q_i.

    Gradients at normal points w are H w, of covariance H^2: in its eigenbasis their
    root mean square is h, by which Adam divides, so the step is that of Newton.
    """
    folded = (9, *shape[2:]) if len(shape) == 4 else shape
    bases = [orthogonal(side, seed) for seed, side in enumerate(folded)]
    scales = [np.geomspace(1, 30, side) for side in folded]

    def product(matrices, x):
        for mode, matrix in enumerate(matrices):
            x = np.moveaxis(np.tensordot(matrix, x, (1, mode)), 0, mode)
        return x

    hessians = [q * h @ q.T for q, h in zip(bases, scales)]
    inverses = [q / h @ q.T for q, h in zip(bases, scales)]
    w = tf.Variable(tf.zeros(shape))
    # Without a memory of the mean, and with a long one of the covariance.
    optimizer = SOAP(0.0, beta_1=0.0, beta_2=0.999, shampoo_beta=0.999)
    optimizer.build([w])
    step = tf.function(lambda gradient: optimizer.apply_gradients([(gradient, w)]))
    rng = np.random.default_rng(7)
    for _ in range(1500):
        point = rng.normal(size=folded)
        step(tf.constant(product(hessians, point).reshape(shape), tf.float32))
    gradient = product(hessians, rng.normal(size=folded))
    optimizer.learning_rate.assign(1.0)
    step(tf.constant(gradient.reshape(shape), tf.float32))

    def cosine(a, b):
        return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)

    taken, newton = -w.numpy().reshape(folded), product(inverses, gradient)
    assert cosine(taken, newton) > 0.99
    assert cosine(gradient, newton) < 0.7
    assert np.linalg.norm(taken) == pytest.approx(np.linalg.norm(newton), rel=0.1)


def test_vectors_and_priors_take_the_steps_of_adam():
    rng = np.random.default_rng(0)
    ours, theirs = ([tf.Variable(tf.ones(s)) for s in ((5,), (4, 3, 1))] for _ in range(2))
    options = {"learning_rate": 0.1, "beta_1": 0.95, "beta_2": 0.95, "epsilon": 1e-8}
    for optimizer, variables in (
        (SOAP(**options), ours),
        (tf.keras.optimizers.Adam(**options), theirs),
    ):
        rng = np.random.default_rng(0)
        optimizer.build(variables)
        for _ in range(5):
            gradients = [tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables]
            optimizer.apply_gradients(zip(gradients, variables))
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_a_mode_too_large_for_a_basis_has_none():
    w = tf.Variable(tf.zeros((3, 2049)))
    optimizer = SOAP(0.1)
    optimizer.build([w])
    sides = {variable.shape[0] for variable in optimizer.variables if "basis" in variable.name}
    assert sides == {3}
    gradient = tf.random.stateless_normal(w.shape, (0, 1))
    for _ in range(2):
        optimizer.apply_gradients([(gradient, w)])
    assert np.all(np.isfinite(w)) and tf.reduce_sum(w * gradient) < 0


@pytest.mark.parametrize("shape", [(5,), (3, 3, 4, 2)])
def test_one_gradient_out_of_all_proportion_hardly_moves_the_weights(shape):
    """It counts as one of twice the usual norm; a gradient of zero before it as none."""
    gradients = [np.random.default_rng(k).normal(size=shape) for k in range(61)]
    weights = []
    for clip, outlier in ((2.0, 1.0), (2.0, 1e4), (0.0, 1e4)):
        w = tf.Variable(tf.zeros(shape))
        optimizer = SOAP(0.01, clip=clip)
        optimizer.build([w])
        scales = [0.0] + [1.0] * 30 + [outlier] + [1.0] * 29
        for gradient, scale in zip(gradients, scales):
            optimizer.apply_gradients([(tf.constant(scale * gradient, tf.float32), w)])
        weights.append(w.numpy())
    usual, clipped, free = weights
    assert np.linalg.norm(usual) > 0
    moved, unbounded = (np.linalg.norm(w - usual) for w in (clipped, free))
    assert moved < 0.3 * unbounded


def test_adam_does_not_clip():
    with pytest.raises(SaeError, match="--clip"):
        make_optimizer("adam", clip=2.0)


def steps(optimizer, variable, first, last):
    for number in range(first, last):
        gradient = np.random.default_rng(number).normal(size=variable.shape)
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])


@pytest.mark.parametrize("cut", [1, 7, 10])
def test_a_restored_state_goes_on_bit_for_bit(cut):
    whole, begun, resumed = (tf.Variable(tf.ones((3, 3, 4, 2))) for _ in range(3))
    optimizers = [SOAP(0.01, clip=2.0) for _ in range(3)]
    for optimizer, variable in zip(optimizers, (whole, begun, resumed)):
        optimizer.build([variable])
    steps(optimizers[0], whole, 0, 25)
    steps(optimizers[1], begun, 0, cut)
    for variable, other in zip(optimizers[2].variables, optimizers[1].variables):
        variable.assign(other)
    resumed.assign(begun)
    steps(optimizers[2], resumed, cut, 25)
    np.testing.assert_array_equal(resumed, whole)


@pytest.mark.slow
def test_replicas_take_the_same_step():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    alone, mirrored = tf.Variable(tf.ones((3, 3, 4, 2))), None
    with strategy.scope():
        mirrored = tf.Variable(tf.ones((3, 3, 4, 2)))
        optimizer = SOAP(0.01)
        optimizer.build([mirrored])

    @tf.function
    def step(gradient):
        strategy.run(lambda g: optimizer.apply_gradients([(g, mirrored)]), (gradient,))

    for number in range(12):
        step(tf.constant(np.random.default_rng(number).normal(size=alone.shape), tf.float32))
    other = SOAP(0.01)
    other.build([alone])
    steps(other, alone, 0, 12)
    np.testing.assert_allclose(mirrored, alone, atol=1e-5)


def test_its_configuration_makes_it_again():
    optimizer = SOAP(0.02, refresh_every=5, clip=2.0)
    again = SOAP.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()

"""The kernels of the transforms against the library's own parametrisation."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from sae.model.transforms import FourierKernel


@pytest.mark.parametrize("support", [5, 9])
def test_kernels_and_their_gradients_are_the_librarys(support):
    tf.keras.utils.set_random_seed(3)
    ours = FourierKernel(support, 3, 4)
    theirs = tfc.RDFTParameter(tf.zeros((support, support, 3, 4)))
    parts = (ours.real, ours.imag), (theirs.real, theirs.imag)
    for one, other in zip(*parts):
        other.assign(one)
    weights = tf.random.normal((support, support, 3, 4))
    found = []
    for kernel, variables in zip((ours, theirs), parts):
        with tf.GradientTape() as tape:
            value = kernel()
            loss = tf.reduce_sum(value * weights)
        found.append([value, *tape.gradient(loss, variables)])
    for one, other in zip(*found):
        assert np.abs(other).max() > 0.01
        np.testing.assert_allclose(one, other, atol=1e-5)

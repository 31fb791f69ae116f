"""The transforms in onnxruntime, compared with TensorFlow's."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from progressive_models import SMALL, random_model

from sae import images
from sae.coding.plane_coder import PartialLatent
from sae.coding.progressive_codec import ProgressiveCodec
from sae.config import STRIDE
from sae.model import progressive_transforms as transforms
from sae.model.progressive_config import PLANES, RATIO


@pytest.fixture(scope="module")
def model():
    # Convolutional paths are far from zero.
    return random_model(SMALL, 0.1)


@pytest.fixture(scope="module")
def codec(model):
    return ProgressiveCodec(model)


def restored(transform, model):
    for variable in transform.variables:
        variable.assign(model.arrays[variable.name.removesuffix(":0")].astype(np.float32))
    return transform


@pytest.mark.parametrize("size", [(1, 1), (16, 48), (75, 61)])
def test_latents_are_those_of_training(model, codec, size):
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    padded = images.pad(image, STRIDE)[None].astype(np.float32) / 255
    expected = restored(transforms.Analysis(SMALL), model)(padded)[0].numpy()
    found = codec.analysis(image)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)
    for plane in range(PLANES):
        scaled = expected * RATIO**plane
        clear = np.abs(scaled - np.floor(scaled) - 0.5) > 1e-4 * RATIO**plane
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(
            np.rint(found * RATIO**plane)[clear], np.rint(scaled)[clear], f"plane {plane}"
        )


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 7)])
def test_images_are_those_of_training(model, codec, level, size):
    draw = np.random.default_rng(3)
    y_hat = draw.normal(scale=0.5, size=(*size, SMALL.latent_depth)).astype(np.float32)
    expected = 0.2 * draw.normal(size=y_hat.shape).astype(np.float32)
    synthesis = restored(transforms.Synthesis(SMALL), model)
    decoded = transforms.Decoded(y_hat[None], expected[None], tf.ones(()))
    x_hat = synthesis(decoded, tf.constant([level]))[0]
    height, width = 16 * size[0] - 3, 16 * size[1]
    image = np.clip(np.rint(255 * x_hat[:height, :width].numpy()), 0, 255)
    assert image.std() > 10
    found = codec.synthesis(PartialLatent(y_hat, expected, level), height, width)
    assert found.dtype == np.uint8 and found.shape == (height, width, 3)
    difference = np.abs(found - image)
    assert difference.max() <= 1 and difference.mean() < 1e-3

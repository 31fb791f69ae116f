"""A training step of a residual layer on frozen lower layers, and scores on held-out patches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from sae.model.quantization import uniform_noise
from sae.model.rate_distortion import RateDistortionLoss, psnr
from sae.model.residual import ResidualModel
from sae.model.residual_layer import ResidualLayer


def make_step(
    below: ResidualModel,
    layer: ResidualLayer,
    loss: RateDistortionLoss,
    optimizer: tf.keras.optimizers.Optimizer,
    quantization: str = "noise",
    noise: float = 0.0,
    seed: int = 0,
) -> Callable:
    """Returns the training step of a layer.

    Args:
      below: frozen layers below.
      layer: layer to train; only its variables change.
      loss: loss of the layer.
      optimizer: optimizer, whose step counter seeds the noise.
      quantization: method of `sae.model.quantization.quantized`.
      noise: half width of uniform noise added to the images, on the scale of [0, 1].
      seed: seed of all noise.

    Returns:
      A tf.function (patches: uint8 [B, P, P, 3], learning_rate: float32 []) ->
      {"loss", "bpp", "distortion"}, means over the batch. B is the batch of one pipeline; under a
      distribution strategy, batches are those distributed by the strategy. It compiles under XLA.
    """
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    optimizer.build(layer.trainable_variables)
    fixed = quantization == "rounded"
    variables = layer.decoder_variables if fixed else layer.trainable_variables

    def replica_step(patches, learning_rate):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        counted = tf.stack([seed + 1_000_003 * tf.cast(replica, tf.int64), optimizer.iterations])
        x = tf.cast(patches, tf.float32) / 255.0
        if noise:
            # The noise of latents has positive counts; negative counts give independent noise.
            x += 2 * noise * uniform_noise(tf.shape(x), counted * [1, -1] - [0, 1])
        x_hat = below.reconstruction(x)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            y_hat, bits = layer.rate(layer.analysis(x - x_hat), quantization, counted)
            terms = loss.terms(x, x_hat + layer.synthesis(y_hat), bits)
            terms = {name: tf.reduce_mean(term) for name, term in terms.items()}
        gradients = tape.gradient(terms["loss"], variables)
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply_gradients([(g / replicas, v) for g, v in zip(gradients, variables)])
        return terms

    @tf.function
    def step(patches, learning_rate):
        terms = strategy.run(replica_step, (patches, learning_rate))
        return {k: strategy.reduce("MEAN", v, axis=None) for k, v in terms.items()}

    return step


def make_validation(
    below: ResidualModel, layer: ResidualLayer, loss: RateDistortionLoss
) -> Callable[[np.ndarray], dict[str, float]]:
    """Returns a function patches -> means of loss, bpp, distortion and PSNR, latents rounded."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def scores(patches):
        x = tf.cast(patches, tf.float32) / 255.0
        x_hat = below.reconstruction(x)
        y_hat, bits = layer.rate(layer.analysis(x - x_hat))
        x_hat += layer.synthesis(y_hat)
        return {**loss.terms(x, x_hat, bits), "psnr": psnr(x, x_hat)}

    def validate(patches):
        batches = [scores(patches[k : k + 8]) for k in range(0, len(patches), 8)]
        return {k: float(np.mean(np.concatenate([b[k] for b in batches]))) for k in batches[0]}

    return validate

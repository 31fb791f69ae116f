"""One training step of one layer, on frozen lower layers, and the scores on held-out patches."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from sae.model.bottleneck import uniform_noise
from sae.model.cascade import Cascade
from sae.model.layer import Layer
from sae.model.objective import Objective


def make_step(
    cascade: Cascade,
    layer: Layer,
    objective: Objective,
    optimizer: tf.keras.optimizers.Optimizer,
    quantization: str = "noise",
    noise: float = 0.0,
    seed: int = 0,
) -> Callable:
    """Returns the training step of a layer.

    Args:
      cascade: the frozen layers below.
      layer: the layer to train; only its variables move.
      objective: the loss.
      optimizer: its step counter is the training's.
      quantization: as of `Layer.rate`.
      noise: half width of uniform noise added to the images.
      seed: of all noise.

    Returns:
      A tf.function (patches: uint8 [B, P, P, 3], learning_rate: float32 []) ->
      {"loss", "bpp", "distortion"}, means over the batch, where B is the batch of
      one pipeline. Called under a distribution strategy it takes that strategy's
      distributed batches. It compiles under XLA.
    """
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    optimizer.build(layer.trainable_variables)
    rounded = quantization == "rounded"
    variables = layer.decoder_variables if rounded else layer.trainable_variables

    def replica_step(patches, learning_rate):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        counted = tf.stack([seed + 1_000_003 * tf.cast(replica, tf.int64), optimizer.iterations])
        x = tf.cast(patches, tf.float32) / 255.0
        if noise:
            # Another stream of the same generator: the latent's has positive counts.
            x += 2 * noise * uniform_noise(tf.shape(x), counted * [1, -1] - [0, 1])
        context = cascade.context(x)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            y = layer.analyse(x, context)
            if rounded:
                y = layer.quantize(y, context)
            y_tilde, bits = layer.rate(y, context, quantization, counted)
            terms = objective.terms(x, layer.synthesise(y_tilde, context), bits)
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
    cascade: Cascade, layer: Layer, objective: Objective
) -> Callable[[np.ndarray], dict[str, float]]:
    """Returns a function patches -> means of loss, bpp, distortion and psnr, latents rounded."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def scores(patches):
        x = tf.cast(patches, tf.float32) / 255.0
        context = cascade.context(x)
        y_hat, bits = layer.rate(layer.quantize(layer.analyse(x, context), context), context)
        x_hat = layer.synthesise(y_hat, context)
        mse = tf.reduce_mean(tf.square(x - tf.clip_by_value(x_hat, 0.0, 1.0)), axis=(1, 2, 3))
        psnr = -10.0 * tf.math.log(mse) / math.log(10.0)
        return {**objective.terms(x, x_hat, bits), "psnr": psnr}

    def validate(patches):
        batches = [scores(patches[k : k + 8]) for k in range(0, len(patches), 8)]
        return {k: float(np.mean(np.concatenate([b[k] for b in batches]))) for k in batches[0]}

    return validate

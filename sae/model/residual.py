"""The model of the paper: layers, each of which codes the residual of the layers below.

x_hat_0 = 0
y = analysis(x - x_hat), x_hat += synthesis(round(y))        layer after layer
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tensorflow as tf

from sae.model.residual_layer import ResidualLayer


class ResidualModel:
    """The layers of one family; images x are float32 [B, H, W, 3] in [0, 1].

    Args:
      layers: layers, lowest first.
    """

    def __init__(self, layers: Sequence[ResidualLayer] = ()):
        self.layers = list(layers)

    def code(self, x: tf.Tensor) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Codes images with every layer in turn, without bytes.

        Yields:
          After each layer, the reconstruction so far, not clipped, and the layer's bits [B].
        """
        x_hat = tf.zeros_like(x)
        for layer in self.layers:
            y_hat, bits = layer.rate(layer.analysis(x - x_hat))
            x_hat = tf.stop_gradient(x_hat + layer.synthesis(y_hat))
            yield x_hat, bits

    def reconstruction(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the reconstruction by all layers, without gradient; zeros without layers."""
        x_hat = tf.zeros_like(x)
        for x_hat, _ in self.code(x):  # noqa: B007
            pass
        return x_hat

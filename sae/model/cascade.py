"""The scalable auto-encoder: layers, each in the context of those below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tensorflow as tf

from sae.model.layer import Context, Layer


class Cascade:
    """The layers of one family, lowest first.

    Images x are float32 [B, H, W, 3] in [0, 1], H and W multiples of 16.
    """

    def __init__(self, layers: Sequence[Layer] = ()):
        self.layers = list(layers)

    def code(self, x: tf.Tensor) -> Iterator[tuple[Context, tf.Tensor]]:
        """Codes x with every layer in turn, without making bytes.

        Args:
          x: the images.

        Yields:
          After each layer, the context it leaves (context.x_hat is its
          reconstruction, not clipped) and its estimated bits [B].
        """
        context = Context.empty(tf.shape(x))
        for layer in self.layers:
            y_hat = layer.quantize(layer.analyse(x, context), context)
            _, bits = layer.rate(y_hat, context)
            context = context.extended(layer, y_hat)
            yield context, bits

    def context(self, x: tf.Tensor) -> Context:
        """Returns the context that a further layer, on top of these, would have."""
        context = Context.empty(tf.shape(x))
        for context, _ in self.code(x):  # noqa: B007
            pass
        return context

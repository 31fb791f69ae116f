"""Analysis and synthesis transforms of one layer (Balle et al., ICLR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_compression as tfc

from sae.config import LayerConfig

# Kernels are variables themselves: the library's default, their Fourier
# transform, costs a third of a training step on a CPU, and would make decoding
# depend on an FFT.
_CONV = {"padding": "same_zeros", "kernel_parameter": "variable"}

# GDN is x / (beta + gamma |x|^alpha)^epsilon.
_GDN = {
    "simplified": {"alpha_parameter": 1, "epsilon_parameter": 1},
    "paper": {"alpha_parameter": 2, "epsilon_parameter": 0.5},
}


class Transform(tf.Module):
    """Keras layers applied one after another.

    Args:
      layers: what to apply, in order.
      channels: of the input to each layer.
    """

    def __init__(self, layers: Sequence[tf.keras.layers.Layer], channels: Sequence[int]):
        super().__init__()
        self.layers = list(layers)
        for layer, depth in zip(self.layers, channels):
            with tf.name_scope(layer.name):
                layer.build([None, None, None, depth])

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def analysis_transform(config: LayerConfig) -> Transform:
    """Returns the map from images [B, H, W, 3] to latents [B, H/16, W/16, latent_depth].

    H and W are multiples of 16.
    """
    scope, filters = f"{config.name}/analysis", config.hidden_filters

    def conv(index, depth, support, stride, bias=True):
        name = f"{scope}/conv_{index}"
        return tfc.SignalConv2D(
            depth, support, corr=True, strides_down=stride, use_bias=bias, name=name, **_CONV
        )

    def gdn(index):
        return tfc.GDN(name=f"{scope}/gdn_{index}", **_GDN[config.gdn])

    return Transform(
        [
            conv(0, filters, support=9, stride=4),
            gdn(0),
            conv(1, filters, support=5, stride=2),
            gdn(1),
            conv(2, config.latent_depth, support=5, stride=2, bias=False),
        ],
        [3, filters, filters, filters, filters],
    )


def synthesis_transform(config: LayerConfig) -> Transform:
    """Returns the map from latents [B, h, w, latent_depth] to images [B, 16 h, 16 w, 3]."""
    scope, filters = f"{config.name}/synthesis", config.hidden_filters

    def conv(index, depth, support, stride):
        name = f"{scope}/conv_{index}"
        return tfc.SignalConv2D(
            depth, support, corr=False, strides_up=stride, use_bias=True, name=name, **_CONV
        )

    def igdn(index):
        return tfc.GDN(inverse=True, name=f"{scope}/igdn_{index}", **_GDN[config.gdn])

    return Transform(
        [
            conv(0, filters, support=5, stride=2),
            igdn(0),
            conv(1, filters, support=5, stride=2),
            igdn(1),
            conv(2, 3, support=9, stride=4),
        ],
        [config.latent_depth, filters, filters, filters, filters],
    )

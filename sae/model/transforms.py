"""Analysis and synthesis transforms of one layer (Balle et al., ICLR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from sae.config import LayerConfig

# GDN is x / (beta + gamma |x|^alpha)^epsilon.
_GDN = {
    "simplified": {"alpha_parameter": 1, "epsilon_parameter": 1},
    "paper": {"alpha_parameter": 2, "epsilon_parameter": 0.5},
}


class Kernel(tfc.RDFTParameter):
    """The library's Fourier parametrisation of a kernel, with a product in place of its FFT.

    Adam does much better on Fourier coefficients than on the taps themselves.
    But transforming thousands of tiny kernels by FFT costs a third of a
    training step on a CPU, and decoding should not depend on an FFT.

    Args:
      support: side of the kernel.
      channels: of the input.
      filters: channels of the output.
    """

    def __init__(self, support: int, channels: int, filters: int):
        initial = tf.keras.initializers.VarianceScaling()((support, support, channels, filters))
        super().__init__(initial, name="kernel")
        units = np.eye(support * (support // 2 + 1)).reshape(-1, support, support // 2 + 1)
        # How much each tap has of each coefficient, [coefficients, support^2].
        self._real, self._imag = (
            tf.constant(np.reshape(taps * support, (len(units), -1)), tf.float32)
            for taps in (np.fft.irfft2(part * units, units.shape[1:2] * 2) for part in (1, 1j))
        )

    def __call__(self, compute_dtype=None) -> tf.Tensor:
        """Returns the kernel, [support, support, channels, filters]."""
        support, _, channels, filters = self.shape
        real, imag = (tf.reshape(part, (channels * filters, -1)) for part in (self.real, self.imag))
        kernel = tf.matmul(real, self._real) + tf.matmul(imag, self._imag)
        kernel = tf.reshape(kernel, (channels, filters, support, support))
        return tf.cast(tf.transpose(kernel, (2, 3, 0, 1)), compute_dtype or self.dtype)


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


def analysis_transform(config: LayerConfig, channels: int = 3) -> Transform:
    """Returns the map from [B, H, W, channels] to latents [B, H/16, W/16, latent_depth].

    H and W are multiples of 16.
    """
    scope, filters = f"{config.name}/analysis", config.hidden_filters

    def conv(index, depth, support, stride, channels=filters, bias=True):
        name = f"{scope}/conv_{index}"
        with tf.name_scope(name):
            kernel = Kernel(support, channels, depth)
        return tfc.SignalConv2D(
            depth,
            support,
            corr=True,
            strides_down=stride,
            padding="same_zeros",
            # Padding of its own leaves the gradients to TensorFlow's fast kernels on a CPU.
            use_explicit=False,
            use_bias=bias,
            kernel_parameter=kernel,
            name=name,
        )

    def gdn(index):
        return tfc.GDN(name=f"{scope}/gdn_{index}", **_GDN[config.gdn])

    return Transform(
        [
            conv(0, filters, support=9, stride=4, channels=channels),
            gdn(0),
            conv(1, filters, support=5, stride=2),
            gdn(1),
            conv(2, config.latent_depth, support=5, stride=2, bias=False),
        ],
        [channels, filters, filters, filters, filters],
    )


def synthesis_transform(config: LayerConfig, context_depth: int = 0) -> Transform:
    """Returns the map from latents [B, h, w, depth] to images [B, 16 h, 16 w, 3].

    The depth is latent_depth + context_depth.
    """
    depth = config.latent_depth + context_depth
    scope, filters = f"{config.name}/synthesis", config.hidden_filters

    def conv(index, outputs, support, stride, channels=filters):
        name = f"{scope}/conv_{index}"
        with tf.name_scope(name):
            kernel = Kernel(support, channels, outputs)
        return tfc.SignalConv2D(
            outputs,
            support,
            corr=False,
            strides_up=stride,
            padding="same_zeros",
            use_bias=True,
            kernel_parameter=kernel,
            name=name,
        )

    def igdn(index):
        return tfc.GDN(inverse=True, name=f"{scope}/igdn_{index}", **_GDN[config.gdn])

    return Transform(
        [
            conv(0, filters, support=5, stride=2, channels=depth),
            igdn(0),
            conv(1, filters, support=5, stride=2),
            igdn(1),
            conv(2, 3, support=9, stride=4),
        ],
        [depth, filters, filters, filters, filters],
    )

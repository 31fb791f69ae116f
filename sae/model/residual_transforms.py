"""Analysis and synthesis transforms of one layer (Balle et al., ICLR 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from sae.config import LayerConfig

# Receptive field of a pixel, in rows of the latent above and below it: 1 + 1/2 + 1/4.
REACH = 2

# GDN is x / (beta + gamma |x|^alpha)^epsilon.
_GDN: dict[str, dict[str, float]] = {
    "simplified": {"alpha_parameter": 1, "epsilon_parameter": 1},
    "paper": {"alpha_parameter": 2, "epsilon_parameter": 0.5},
}


class FourierKernel(tfc.RDFTParameter):
    """The library's Fourier parameterization of a kernel, with a product in place of its FFT.

    Adam converges much faster on Fourier coefficients than on the taps. But the FFT of thousands of
    tiny kernels takes a third of a training step on a CPU. A product avoids it, and decoding does
    not depend on an FFT.

    Args:
      support: side of the kernel.
      channels: number of input channels.
      filters: number of output channels.
    """

    def __init__(self, support: int, channels: int, filters: int):
        initial = tf.keras.initializers.VarianceScaling()((support, support, channels, filters))
        super().__init__(initial, name="kernel")
        units = np.eye(support * (support // 2 + 1)).reshape(-1, support, support // 2 + 1)
        # These are the shares of each coefficient in each tap, [coefficients, support^2].
        self._real, self._imag = (
            tf.constant(np.reshape(taps * support, (len(units), -1)), tf.float32)
            for taps in (np.fft.irfft2(part * units, units.shape[1:2] * 2) for part in (1, 1j))
        )

    def __call__(self, compute_dtype: tf.DType | None = None) -> tf.Tensor:
        """Returns the kernel, [support, support, channels, filters]."""
        support, _, channels, filters = self.shape
        real, imag = (tf.reshape(part, (channels * filters, -1)) for part in (self.real, self.imag))
        kernel = tf.matmul(real, self._real) + tf.matmul(imag, self._imag)
        kernel = tf.reshape(kernel, (channels, filters, support, support))
        return tf.cast(tf.transpose(kernel, (2, 3, 0, 1)), compute_dtype or self.dtype)


def plain_kernel(support: int, channels: int, filters: int) -> tf.Variable:
    """Returns the taps as a variable, [support, support, channels, filters]."""
    initial = tf.keras.initializers.VarianceScaling()((support, support, channels, filters))
    return tf.Variable(initial, name="kernel")


KERNELS = {"fourier": FourierKernel, "plain": plain_kernel}


class Transform(tf.Module):
    """Keras layers applied one after another.

    Args:
      layers: layers in the order of application.
      channels: number of input channels of each layer.
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


class Compiled(tf.Module):
    """A transform as a graph, traced once for all sizes.

    The graph takes two thirds of the time of eager operations.

    Args:
      whole: transform of a tensor [B, H, W, channels].
      channels: number of channels of its input.
    """

    def __init__(self, whole: Callable[[tf.Tensor], tf.Tensor], channels: int):
        super().__init__()
        self.whole = whole
        signature = [tf.TensorSpec([None, None, None, channels])]
        self._traced = tf.function(whole, signature, autograph=False)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        # Inside another graph it is a part of that, with static sizes where that has them.
        return self._traced(x) if tf.executing_eagerly() else self.whole(x)


def _convolution(
    config: LayerConfig, name: str, channels: int, filters: int, support: int, **options: object
) -> tfc.SignalConv2D:
    """Returns a convolution of the library with a kernel of the configured kind."""
    with tf.name_scope(name):
        kernel = KERNELS[config.kernel](support, channels, filters)
    return tfc.SignalConv2D(
        filters, support, padding="same_zeros", kernel_parameter=kernel, name=name, **options
    )


class _FixedGDN(tfc.GDN):
    """The library's GDN, with exponents as numbers.

    The library selects a formula by their values. Where these are tensors, a graph has a branch for
    every formula.
    """

    @property
    def alpha(self):
        return float(self.alpha_parameter)

    @property
    def epsilon(self):
        return float(self.epsilon_parameter)


def _gdn(config: LayerConfig, name: str, inverse: bool = False) -> tfc.GDN:
    return _FixedGDN(inverse=inverse, name=name, **_GDN[config.gdn])


def make_analysis(config: LayerConfig) -> Transform:
    """Returns the map from [B, H, W, 3] to latents [B, H/16, W/16, latent_depth]."""
    scope, filters = f"{config.name}/analysis", config.hidden_filters

    def conv(index, channels, filters, support, stride, bias=True):
        name = f"{scope}/conv_{index}"
        # Without explicit padding, TensorFlow's fast CPU kernels compute the gradients.
        options = {"corr": True, "strides_down": stride, "use_explicit": False, "use_bias": bias}
        return _convolution(config, name, channels, filters, support, **options)

    return Transform(
        [
            conv(0, 3, filters, support=9, stride=4),
            _gdn(config, f"{scope}/gdn_0"),
            conv(1, filters, filters, support=5, stride=2),
            _gdn(config, f"{scope}/gdn_1"),
            conv(2, filters, config.latent_depth, support=5, stride=2, bias=False),
        ],
        [3, filters, filters, filters, filters],
    )


def make_synthesis(config: LayerConfig) -> Transform:
    """Returns the map from latents [B, h, w, latent_depth] to images [B, 16 h, 16 w, 3]."""
    scope, filters = f"{config.name}/synthesis", config.hidden_filters
    depth = config.latent_depth

    def conv(index, channels, filters, support, stride):
        name = f"{scope}/conv_{index}"
        options = {"corr": False, "strides_up": stride, "use_bias": True}
        return _convolution(config, name, channels, filters, support, **options)

    return Transform(
        [
            conv(0, depth, filters, support=5, stride=2),
            _gdn(config, f"{scope}/igdn_0", inverse=True),
            conv(1, filters, filters, support=5, stride=2),
            _gdn(config, f"{scope}/igdn_1", inverse=True),
            conv(2, filters, 3, support=9, stride=4),
        ],
        [depth, filters, filters, filters, filters],
    )

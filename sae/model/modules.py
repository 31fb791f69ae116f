"""Modules of the progressive model: convolution, residual block, GDN, and tables over the planes.

Each module takes the scope of its variables; their names are those in stored weights. Convolutions
may compute in bfloat16, with inputs, weights and results in float32.
"""

from __future__ import annotations

import tensorflow as tf

from sae.model.progressive_config import EXPANSION, GDN_FLOOR, LEAK, SUPPORT


def variable(scope: str, name: str, initial: tf.Tensor) -> tf.Variable:
    """Returns a float32 variable named `scope`/`name`."""
    return tf.Variable(tf.cast(initial, tf.float32), name=f"{scope}/{name}")


class Convolution(tf.Module):
    """A two-dimensional convolution with zero padding "same".

    Args:
      scope: prefix of the variables' names.
      support: side of the kernel.
      channels: number of input channels.
      filters: number of output channels.
      stride: downsampling factor, or upsampling factor of a transposed convolution.
      transposed: whether it is the transpose of a convolution from `filters` to `channels`.
      bias: whether it adds a bias.
      zero: whether the kernel is zero-initialized.
      compute_dtype: type of the products, float32 or bfloat16.
    """

    def __init__(
        self,
        scope: str,
        support: int,
        channels: int,
        filters: int,
        stride: int = 1,
        *,
        transposed: bool = False,
        bias: bool = True,
        zero: bool = False,
        compute_dtype: tf.DType = tf.float32,
    ):
        super().__init__()
        shape = (support, support, *((filters, channels) if transposed else (channels, filters)))
        # A transposed kernel is initialized like that of the convolution.
        initial = tf.zeros(shape) if zero else tf.keras.initializers.VarianceScaling()(shape)
        self.kernel = variable(scope, "kernel", initial)
        self.bias = variable(scope, "bias", tf.zeros(filters)) if bias else None
        self._filters, self._stride, self._transposed = filters, stride, transposed
        self._dtype = compute_dtype

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns float32 [B, H', W', filters] for float32 [B, H, W, channels]."""
        y = self.product(x, self.kernel)
        return y if self.bias is None else y + self.bias

    def product(self, x: tf.Tensor, kernel: tf.Tensor, padding: str = "SAME") -> tf.Tensor:
        """Returns the convolution of x with a kernel of the same shape, without bias."""
        x, kernel = tf.cast(x, self._dtype), tf.cast(kernel, self._dtype)
        if self._transposed:
            batch, height, width, _ = tf.unstack(tf.shape(x))
            size = (batch, height * self._stride, width * self._stride, self._filters)
            y = tf.nn.conv2d_transpose(x, kernel, size, self._stride, padding)
        else:
            y = tf.nn.conv2d(x, kernel, self._stride, padding)
        return tf.cast(y, tf.float32)


class ResidualBlock(tf.Module):
    """A residual block: a depthwise convolution, and two layers over the channels.

    It is zero-initialized, and the depthwise kernel is near the identity.

    Args:
      scope: prefix of the variables' names.
      channels: number of channels.
      compute_dtype: type of the products over channels, as in `Convolution`.
    """

    def __init__(self, scope: str, channels: int, compute_dtype: tf.DType = tf.float32):
        super().__init__()
        shape = (SUPPORT, SUPPORT, channels, 1)
        center = tf.one_hot(SUPPORT**2 // 2, SUPPORT**2)
        identity = tf.reshape(center, (SUPPORT, SUPPORT, 1, 1))
        initial = identity + tf.keras.initializers.RandomNormal(stddev=0.5 / SUPPORT**2)(shape)
        self._depthwise = variable(scope, "depthwise", initial)
        wide, dtype = EXPANSION * channels, {"compute_dtype": compute_dtype}
        self._expand = Convolution(f"{scope}/expand", 1, channels, wide, **dtype)
        self._reduce = Convolution(f"{scope}/reduce", 1, wide, channels, zero=True, **dtype)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns x with the block's change, [B, H, W, channels]."""
        h = tf.nn.depthwise_conv2d(x, self._depthwise, (1, 1, 1, 1), "SAME")
        return x + self._reduce(tf.nn.leaky_relu(self._expand(h), LEAK))


class GDN(tf.Module):
    """Simplified generalized divisive normalization, x / (beta + gamma |x|), or its inverse.

    The square and the root of Balle et al. (ICLR 2017) are left out (Johnston et al., 2019,
    arXiv 1912.08771). beta and gamma are squares of the variables, hence not negative.

    Args:
      scope: prefix of the variables' names.
      channels: number of channels.
      inverse: whether x is multiplied instead of divided.
      compute_dtype: type of the products, as in `Convolution`.
    """

    def __init__(
        self,
        scope: str,
        channels: int,
        inverse: bool = False,
        compute_dtype: tf.DType = tf.float32,
    ):
        super().__init__()
        self._inverse = inverse
        self._beta = variable(scope, "beta", tf.ones(channels))
        self._gamma = variable(scope, "gamma", 0.32 * tf.eye(channels))
        self._dtype = compute_dtype

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the normalized x, [B, H, W, channels]."""
        gamma = tf.cast(tf.square(self._gamma)[None, None], self._dtype)
        norm = tf.nn.conv2d(tf.cast(tf.abs(x), self._dtype), gamma, 1, "SAME")
        norm = tf.cast(norm, tf.float32) + tf.square(self._beta) + GDN_FLOOR
        return x * norm if self._inverse else x / norm


def plane_weights(level: tf.Tensor, planes: int) -> tf.Tensor:
    """Returns the weights of linear interpolation between planes, [B, planes].

    Args:
      level: places between the planes, float32 [B] in [0, planes - 1].
      planes: number of planes.
    """
    return tf.nn.relu(1.0 - tf.abs(level[:, None] - tf.range(planes, dtype=tf.float32)))


class PlaneTable(tf.Module):
    """A learned vector for each plane, interpolated between the planes.

    Args:
      scope: name of the variable.
      planes: number of planes.
      channels: length of a vector.
      initial: initial value of all elements.
    """

    def __init__(self, scope: str, planes: int, channels: int, initial: float):
        super().__init__()
        self.table = tf.Variable(tf.fill((planes, channels), initial), name=scope)

    def __call__(self, level: tf.Tensor) -> tf.Tensor:
        """Returns float32 [B, 1, 1, channels] for levels [B] in [0, planes - 1]."""
        weights = plane_weights(level, self.table.shape[0])
        return tf.matmul(weights, self.table)[:, None, None, :]

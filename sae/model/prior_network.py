"""The network of a conditional prior: a mean and a scale for every element of a latent.

It computes them from the latents of the lower layers and from the part of this
latent that is decoded already. The positions of the latent are coded in four
phases, those of a grid of 2 x 2, so that the later ones know most of their
neighbours, and the channels of a phase in slices, so that the later ones know
the earlier ones at their position. (Minnen et al., NeurIPS 2018, for the
conditional mean and scale; He et al., CVPR 2021, for phases in place of single
positions; Minnen and Singh, ICIP 2020, and He et al., CVPR 2022, for slices,
small ones first.) Whatever it reads is embedded first, position by position,
since a scale depends on the magnitudes around, which a sum of values has lost.

Encoder and decoder must arrive at the same mean and scale to the last bit, on
any machine. Only products of matrices differ between machines, which add their
terms in orders of their own. To code, these are therefore exact: weights and
activations are multiples of powers of two, the weights' the finest with which
float32 holds every sum, so that no order matters. All else is one rounding of
one operation, as IEEE 754 has it. (Balle et al., ICLR 2019, for integer
networks; here nothing is trained in integers, because with so many bits the
rounding costs nothing.) It is one network with two arithmetics: TensorFlow's to
train, and NumPy's to code, where so many small operations take half the time.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

# Rows and columns modulo two, in the order of coding.
_PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))

# The network says 0 for the scale with index 30, and n / 8 for the n-th above it.
_SCALE_ONE, _SCALE_STEPS = 30, 8

# Integers up to this are all in float32, which has 24 bits.
_EXACT = 2.0**24


class _Input(NamedTuple):
    """What a convolution reads: multiples of a step, up to a bound in magnitude."""

    step: float
    bound: float


_LATENT, _ACTIVATION = _Input(1.0, 2.0**8), _Input(2.0**-4, 2.0**7)


class PriorNetwork(tf.Module):
    """The variables of the network, and the way through a latent.

    Args:
      depth: channels of the latent.
      context_depth: channels of the latents of all lower layers together.
      filters: channels between the network's convolutions.
      support: side of the convolution over the latent's own decoded phases, odd.
      name: scope of the variables.
      slices: of the channels, each but the first as large as all before it together.
    """

    def __init__(
        self,
        depth: int,
        context_depth: int,
        filters: int,
        support: int,
        name: str,
        slices: int = 1,
    ):
        super().__init__()
        bounds = sorted({0, *(depth >> k for k in range(slices))})
        self._slices = [slice(*pair) for pair in zip(bounds, bounds[1:])]
        with tf.name_scope(name):
            sizes = ((1, context_depth), (3, filters)) if context_depth else ()
            self._below = [
                _Convolution(f"below_{k}", *size, filters) for k, size in enumerate(sizes)
            ]
            self._own_embedding = _Convolution("own_embedding", 1, depth, filters)
            self._own = _Convolution("own", support, filters, filters)
            # Tells the phases apart.
            self._phase = tf.Variable(tf.zeros((len(_PHASES), filters)), name="phase")
            # These tell of the slices before one, and the slices apart.
            self._same_embedding = self._same = self._slice_bias = None
            if len(self._slices) > 1:
                self._same_embedding = _Convolution("same_embedding", 1, bounds[-2], filters)
                initial = tf.keras.initializers.VarianceScaling()((1, 1, filters, filters))
                self._same = tf.Variable(initial, name="same")
                self._slice_bias = tf.Variable(
                    tf.zeros((len(self._slices), filters)), name="slice_bias"
                )
            self._joint = [
                _Convolution(name, 1, filters, filters) for name in ("joint_0", "joint_1")
            ]
            self._mean = _Convolution("mean", 1, filters, depth)
            self._scale = _Convolution("scale", 1, filters, depth)
        self._exact: _Weights | None = None

    def forget(self) -> None:
        """Rounds the weights anew when they are next needed to code, since they have changed."""
        self._exact = None

    def traverse(
        self,
        choose: Callable,
        shape: Sequence[int] | tf.Tensor,
        latents: Sequence[tf.Tensor],
        arithmetic: type[Floats] | type[Exact],
    ):
        """Goes through the parts of a latent in the order of coding; returns the latent.

        Args:
          choose: (where a part is in the latent, its means, its scales' indices, neither
            rounded) -> the elements of the part, on which those of later parts depend.
          shape: of the latent, [B, h, w, depth].
          latents: of the lower layers.
          arithmetic: what to calculate in.
        """
        weights, planes, seen = self._weights(arithmetic), [], []
        below = weights.from_below(latents)
        for phase in range(len(_PHASES)):
            around, found = weights.around(phase, seen, below, shape), []
            for number, channels in enumerate(self._slices):
                part = (*_positions(phase), channels)
                found.append(choose(part, *weights.of_slice(number, found, around)))
            planes.append(arithmetic.concat(found, -1))
            seen.append(weights.seen(planes[-1]))
        return arithmetic.joined(planes, shape)

    def parameters(
        self, y_hat: tf.Tensor, latents: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the means and the scales' indices of a known latent, both of its shape.

        They are what `traverse` has part by part, in floats. All at once, a small latent takes
        little more than half the time.

        Args:
          y_hat: [B, h, w, depth].
          latents: of the lower layers.
        """
        weights, shape = self._weights(Floats), tf.shape(y_hat)
        below = weights.from_below(latents)
        told, phases = weights.seen(y_hat), range(len(_PHASES))
        seen = [told[_positions(phase)] for phase in phases]
        planes = [weights.around(phase, seen[:phase], below, shape) for phase in phases]
        around = Floats.joined(planes, shape)
        sizes = [channels.stop - channels.start for channels in self._slices]
        found = tf.split(y_hat, sizes, -1)
        slices = [weights.of_slice(k, found[:k], around) for k in range(len(found))]
        return tuple(tf.concat(of_all, -1) for of_all in zip(*slices))

    def _weights(self, arithmetic) -> _Weights:
        """Returns the weights for an arithmetic; those to code with are kept."""
        if arithmetic is Floats:
            return self._converted(Floats)
        self._exact = self._exact or self._converted(Exact)
        return self._exact

    def _converted(self, arithmetic) -> _Weights:
        kernel, bias, concat = arithmetic.kernel, arithmetic.bias, arithmetic.concat

        def weights(convolution, reads, factor=1.0, channels=None):
            """Returns kernel and bias of what reads so many channels."""
            read = convolution.kernel[:, :, :channels]
            return factor * kernel(read, reads), factor * bias(convolution.bias)

        means = weights(self._mean, _ACTIVATION)
        scales = weights(self._scale, _ACTIVATION, _SCALE_STEPS)
        scales = (scales[0], scales[1] + _SCALE_ONE)
        slices = []
        for number, channels in enumerate(self._slices):
            read = before = told = None
            if self._same is not None:
                read = weights(self._same_embedding, _LATENT, channels=channels.start)
                before, told = kernel(self._same, _ACTIVATION), bias(self._slice_bias[number])
            parameters = [
                concat([part[..., channels] for part in pair], -1) for pair in zip(means, scales)
            ]
            slices.append(_Slice(read, before, told, parameters))
        return _Weights(
            arithmetic,
            [weights(c, reads) for c, reads in zip(self._below, (_LATENT, _ACTIVATION))],
            weights(self._own_embedding, _LATENT),
            kernel(self._own.kernel, _ACTIVATION),
            bias(self._own.bias) + bias(self._phase),
            slices,
            [weights(c, _ACTIVATION) for c in self._joint],
        )


class _Slice(NamedTuple):
    """What the network has for one slice of the channels.

    Attributes:
      embedding: kernel and bias of the convolution that reads the slices before it,
      same: the kernel for what that says, [1, 1, filters, filters], and
      bias: what tells the slices apart; all None where there is one slice.
      parameters: the kernel and the bias of means and scales' indices.
    """

    embedding: tuple | None
    same: tf.Tensor | None
    bias: tf.Tensor | None
    parameters: Sequence[tf.Tensor]


class _Weights(NamedTuple):
    """The weights as a calculation takes them, and its parts.

    Attributes:
      arithmetic: `Floats` or `Exact`.
      below: of the convolutions over the lower latents, kernel and bias.
      embedding: kernel and bias of the convolution that reads earlier phases, and
      own: the kernel for what that says of them.
      phases: what is added to that, for each phase.
      slices: of the channels.
      joint: of the convolutions after these, kernel and bias.
    """

    arithmetic: type[Floats] | type[Exact]
    below: Sequence[tuple]
    embedding: tuple
    own: tf.Tensor | np.ndarray
    phases: tf.Tensor | np.ndarray
    slices: Sequence[_Slice]
    joint: Sequence[tuple]

    def from_below(self, latents):
        """Returns what the latents of the lower layers say, [B, h, w, filters]."""
        if not self.below:
            return None
        first, second = self.below
        return self._convolved(self._embedded(tf.concat(latents, -1), first), second)

    def seen(self, plane):
        """Returns what later phases read of the elements of a phase."""
        return self._embedded(plane, self.embedding)

    def around(self, phase, seen, below, shape):
        """Returns what lower latents and earlier phases say of a phase's positions.

        Args:
          phase: its number.
          seen: of the earlier phases.
          below: as `from_below` returned it.
          shape: of the latent.
        """
        sides = [(shape[k + 1] + 1 - _PHASES[phase][k]) // 2 for k in range(2)]
        x = self.arithmetic.zeros((shape[0], *sides, self.own.shape[-1])) + self.phases[phase]
        if below is not None:
            x += below[_positions(phase)]
        for earlier, plane in enumerate(seen):
            (rows, before_rows), (columns, before_columns) = (
                _taps(self.own.shape[0], *pair) for pair in zip(_PHASES[phase], _PHASES[earlier])
            )
            kernel = self.own[rows, columns]
            height, width = kernel.shape[:2]
            padding = ((0, 0), (before_rows, height), (before_columns, width), (0, 0))
            # That may be more than the taps reach.
            plane = self.arithmetic.pad(plane, padding)
            plane = plane[:, : sides[0] + height - 1, : sides[1] + width - 1]
            x += self.arithmetic.convolve(plane, kernel, padding="VALID")
        return x

    def of_slice(self, number, found, around):
        """Returns the means and the scales' indices, not rounded, of one slice.

        Args:
          number: of the slice.
          found: the elements of earlier slices, at the positions of a phase or at all.
          around: as `around` returned it for these positions.
        """
        embedding, same, bias, parameters = self.slices[number]
        x = around if bias is None else around + bias
        if found:
            found = self._embedded(self.arithmetic.concat(found, -1), embedding)
            x = x + self.arithmetic.convolve(found, same)
        x = self.arithmetic.activation(x)
        for weights in self.joint:
            x = self._activated(x, weights)
        x = self._convolved(x, parameters)
        half = x.shape[-1] // 2
        return x[..., :half], x[..., half:]

    def _embedded(self, latent, weights):
        return self._activated(self.arithmetic.input(latent), weights)

    def _activated(self, x, weights):
        return self.arithmetic.activation(self._convolved(x, weights))

    def _convolved(self, x, weights):
        kernel, bias = weights
        x = self.arithmetic.convolve(x, kernel)
        x += bias
        return x


class Floats:
    """What the network calculates with in training, in TensorFlow."""

    concat, pad, zeros = map(staticmethod, (tf.concat, tf.pad, tf.zeros))
    round, sign, where = map(staticmethod, (tf.round, tf.sign, tf.where))
    softplus, bias = map(staticmethod, (tf.nn.softplus, tf.convert_to_tensor))

    @staticmethod
    def clip(x, low, high):
        """Returns x within bounds; beyond them, a gradient passes that leads back."""
        return tfc.upper_bound(tfc.lower_bound(x, low), high)

    @staticmethod
    def kernel(variable, reads):
        """Returns a kernel as it is; nothing has steps."""
        return tf.convert_to_tensor(variable)

    @staticmethod
    def input(latent):
        return tf.clip_by_value(latent, -_LATENT.bound, _LATENT.bound)

    @staticmethod
    def activation(x):
        return tf.clip_by_value(x, 0.0, _ACTIVATION.bound)

    @staticmethod
    def convolve(x, kernel, padding="SAME"):
        """Returns the convolution, which is empty where a latent is one position wide."""
        sides = [1, 1] if padding == "SAME" else kernel.shape[:2]
        if all(known and known >= side for known, side in zip(x.shape[1:3], sides)):
            return tf.nn.conv2d(x, kernel, 1, padding)
        # TensorFlow refuses empty results, so that a convolution of zeros is cut off.
        shape = tf.shape(x)[1:3]
        lacking = tf.maximum(sides - shape, 0)
        x = tf.pad(x, ((0, 0), (0, lacking[0]), (0, lacking[1]), (0, 0)))
        height, width = tf.unstack(shape - sides + 1)
        return tf.nn.conv2d(x, kernel, 1, padding)[:, :height, :width]

    @staticmethod
    def joined(planes, shape):
        """Returns the latent that has these phases."""
        # On even sizes every phase has as many; what others lack lies outside, and is cut off.
        full = [(shape[k + 1] + 1) // 2 for k in range(2)]
        padded = []
        for plane in planes:
            lacking = [(0, full[k] - tf.shape(plane)[k + 1]) for k in range(2)]
            padded.append(tf.pad(plane, ((0, 0), *lacking, (0, 0))))
        # An update of a strided slice XLA would not compile.
        in_order = [padded[_PHASES.index(phase)] for phase in sorted(_PHASES)]
        return tf.nn.depth_to_space(tf.concat(in_order, -1), 2)[:, : shape[1], : shape[2]]


class Exact:
    """What the network calculates with to code, in NumPy: to the same bits on any machine.

    Activations are counted in their steps.
    """

    concat, pad = map(staticmethod, (np.concatenate, np.pad))
    round, sign, where = map(staticmethod, (np.round, np.sign, np.where))
    softplus, clip = staticmethod(functools.partial(np.logaddexp, 0)), staticmethod(np.clip)
    zeros = staticmethod(functools.partial(np.zeros, dtype=np.float32))
    bias = staticmethod(np.array)

    @staticmethod
    def kernel(variable, reads):
        """Returns a kernel rounded so that float32 holds all sums of its products.

        Args:
          variable: [height, width, channels, filters].
          reads: what it will be multiplied with.
        """
        kernel = np.array(variable, np.float64)
        largest = reads.bound / reads.step
        # What may be left of 24 bits for the weights of a sum, half a step of each to round it.
        steps = _EXACT / largest - kernel.shape[2] / 2
        # The power of two that is next above.
        _, exponent = np.frexp(abs(kernel).sum(2, keepdims=True) / steps)
        step = np.ldexp(1.0, exponent)
        return np.float32(np.round(kernel / step) * step * reads.step)

    @staticmethod
    def input(latent):
        return np.clip(np.asarray(latent, np.float32), -_LATENT.bound, _LATENT.bound)

    @staticmethod
    def activation(x):
        """Returns the activation of x, in its place."""
        x *= 1 / _ACTIVATION.step
        np.clip(x, 0.0, _ACTIVATION.bound / _ACTIVATION.step, out=x)
        return np.rint(x, out=x)

    @staticmethod
    def convolve(x, kernel, padding="SAME"):
        height, width = kernel.shape[:2]
        if padding == "SAME" and height > 1:
            x = np.pad(x, ((0, 0), *[(height // 2,) * 2] * 2, (0, 0)))
        rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
        taps = (
            _product(x[:, row : row + rows, column : column + columns], kernel[row, column])
            for row in range(height)
            for column in range(width)
        )
        return functools.reduce(operator.iadd, taps)

    @staticmethod
    def joined(planes, shape):
        """Returns the latent that has these phases, float32."""
        y = np.empty(shape, np.float32)
        for phase, plane in enumerate(planes):
            y[_positions(phase)] = plane
        return y


def _product(x, matrix):
    """Returns the product of x [..., channels] and a matrix [channels, filters], float32."""
    # TensorFlow's kernel is up to four times as fast as NumPy's; tf.matmul, around it, loses much.
    product = tf.raw_ops.MatMul(a=x.reshape(-1, x.shape[-1]), b=matrix).numpy()
    return product.reshape(*x.shape[:-1], matrix.shape[1])


class _Convolution(tf.Module):
    """The variables of a convolution with a bias."""

    def __init__(self, name: str, support: int, channels: int, filters: int):
        super().__init__()
        with tf.name_scope(name):
            initial = tf.keras.initializers.VarianceScaling()((support, support, channels, filters))
            self.kernel = tf.Variable(initial, name="kernel")
            self.bias = tf.Variable(tf.zeros(filters), name="bias")


def _positions(phase):
    """Returns where the elements of one phase of [B, h, w, C] are."""
    row, column = _PHASES[phase]
    return slice(None), slice(row, None, 2), slice(column, None, 2)


def _taps(support, first, earlier):
    """Returns which taps of a kernel, along one axis, lie on an earlier phase, and the padding.

    Args:
      support: side of the kernel.
      first: row or column modulo two of the phase around whose positions the kernel lies.
      earlier: that of the phase that it reads.

    Returns:
      The slice of the taps, and how many positions the first of them lies before.
    """
    start = (support // 2 - first + earlier) % 2
    return slice(start, None, 2), (support // 2 - first + earlier - start) // 2

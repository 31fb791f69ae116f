"""The optimizers: Adam, and SOAP (Vyas et al., 2024, arXiv 2409.11321).

SOAP is Adam in a slowly rotating basis. Each mode of a weight tensor has a factor of Shampoo's
preconditioner (Gupta et al., 2018). It is the moving average of the gradient's unfolding times its
transpose, and its eigenvectors are the basis of the mode. The gradient is rotated into these bases,
Adam's moments are taken there, and the step is rotated back. The bases are refreshed every few
steps by one step of orthogonal iteration, which also sorts them by eigenvalue.

A single gradient of many times the usual norm moves the weights for dozens of steps, as it stays in
the moving averages. Each variable's gradient can therefore be clipped to a multiple of the moving
average of its norm (AdaGC, Wang et al., 2025, arXiv 2502.11034).
"""

from __future__ import annotations

import math

import tensorflow as tf

from sae.errors import SaeError


class SOAP(tf.keras.optimizers.Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner.

    Matrices have two modes. The kernel of a convolution, [k, k, in, out], is taken as
    [k * k, in, out] and has three. Its bases are therefore small, and a step takes about the time
    of Adam's. A mode larger than `largest_basis` has no basis, as in the paper. In a kernel of
    Fourier coefficients, only the frequencies have a basis. Tensors of any other rank (vectors, and
    the densities of a factorized prior) take Adam's steps.

    The first step updates only tensors without bases; for the others, it computes the bases.

    Args:
      learning_rate: step size, similar to that of Adam.
      beta_1: decay of the moving average of the gradient.
      beta_2: decay of the moving average of the squared gradient, in the basis.
      shampoo_beta: decay of the preconditioner's factors.
      refresh_every: number of steps between two refreshments of the bases.
      clip: limit of the norm of a variable's gradient, as a multiple of its moving average; 0 for
        none.
      clip_beta: decay of that moving average.
      epsilon: constant that is added to the root of the average square in a divisor.
      largest_basis: side of the largest basis; the time to refresh one grows with its cube.
    """

    def __init__(
        self,
        learning_rate: float = 3e-3,
        beta_1: float = 0.95,
        beta_2: float = 0.95,
        shampoo_beta: float = 0.95,
        refresh_every: int = 10,
        clip: float = 0.0,
        clip_beta: float = 0.98,
        epsilon: float = 1e-8,
        largest_basis: int = 2048,
        name: str = "SOAP",
        jit_compile: bool = False,
        **kwargs: object,
    ):
        super().__init__(name=name, jit_compile=jit_compile, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1, self.beta_2, self.shampoo_beta = beta_1, beta_2, shampoo_beta
        self.refresh_every, self.epsilon = refresh_every, epsilon
        self.clip, self.clip_beta = clip, clip_beta
        self.largest_basis = largest_basis

    def build(self, var_list):
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._modes, self._norms = [], []
        self._means, self._squares, self._factors, self._bases = [], [], [], []
        for variable in var_list:
            shape, modes = _folded(variable.shape, self.largest_basis)
            self._modes.append(modes)
            self._norms.append(self._slot(variable, "norm", ()) if self.clip else None)
            self._means.append(self._slot(variable, "mean", shape))
            self._squares.append(self._slot(variable, "square", shape))
            sides = [shape[mode] for mode in modes]
            self._factors.append(
                [self._slot(variable, f"factor_{n}", (n, n), k) for k, n in enumerate(sides)]
            )
            self._bases.append(
                [self._slot(variable, f"basis_{n}", (n, n), k) for k, n in enumerate(sides)]
            )
        self._built = True

    def _slot(self, variable, name, shape, index=0):
        return self.add_variable_from_reference(
            variable, f"{name}_{index}", shape, initial_value=tf.zeros(shape, variable.dtype)
        )

    def update_step(self, gradient, variable):
        index = self._index_dict[self._var_key(variable)]
        mean, square = self._means[index], self._squares[index]
        factors, bases, modes = self._factors[index], self._bases[index], self._modes[index]
        gradient = tf.reshape(gradient, mean.shape)
        if self.clip:
            gradient = self._clipped(gradient, self._norms[index])

        for factor, mode in zip(factors, modes):
            factor.assign(
                self.shampoo_beta * factor + (1 - self.shampoo_beta) * _gram(gradient, mode)
            )
        # Bases are zero before the first refreshment, and so are the rotated gradient and the step.
        for basis, mode in zip(bases, modes):
            gradient = _turn(gradient, basis, mode)
        mean.assign(self.beta_1 * mean + (1 - self.beta_1) * gradient)
        square.assign(self.beta_2 * square + (1 - self.beta_2) * tf.square(gradient))
        # Moments of variables with bases do not contain the first gradient.
        taken = tf.maximum(self.iterations, 1) if modes else self.iterations + 1
        step = tf.cast(taken, variable.dtype)
        correction = tf.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        change = mean / (tf.sqrt(square) + self.epsilon)
        for basis, mode in zip(bases, modes):
            change = _turn(change, basis, mode, back=True)
        variable.assign_sub(
            tf.cast(self._learning_rate, variable.dtype)
            * correction
            * tf.reshape(change, variable.shape)
        )
        if modes:
            due = tf.equal(self.iterations % self.refresh_every, 0)
            tf.cond(due, lambda: self._refresh(index), lambda: False)

    def _clipped(self, gradient, average):
        """Clips a gradient to `clip` times the average of its norm, and updates the average."""
        norm = tf.norm(gradient)
        # Without an average so far, the norm of the gradient is not limited.
        usual = tf.where(tf.equal(average, 0.0), norm, average)
        cut = tf.minimum(norm, self.clip * usual)
        average.assign(self.clip_beta * usual + (1 - self.clip_beta) * cut)
        return gradient * tf.math.divide_no_nan(cut, norm)

    def _refresh(self, index):
        """Updates the bases to the factors, and the moments to the bases."""
        first = tf.equal(self.iterations, 0)
        mean, square = self._means[index], self._squares[index]
        turned, sorted_square = tf.convert_to_tensor(mean), tf.convert_to_tensor(square)
        for factor, basis, mode in zip(
            self._factors[index], self._bases[index], self._modes[index]
        ):
            factor = factor / (tf.linalg.trace(factor) + 1e-30)

            def begin(factor=factor):
                return tf.linalg.eigh(factor)[1], tf.range(factor.shape[0])

            def go_on(factor=factor, basis=basis):
                product = tf.matmul(factor, basis)
                values = tf.reduce_sum(basis * product, axis=0)
                order = tf.argsort(values, direction="DESCENDING")
                # Where the factor is nearly singular, the old basis completes the new one.
                product = tf.gather(product + 1e-7 * basis, order, axis=1)
                return tf.linalg.qr(product)[0], order

            new, order = tf.cond(first, begin, go_on)
            turned = _turn(_turn(turned, basis, mode, back=True), new, mode)
            sorted_square = tf.gather(sorted_square, order, axis=mode)
            basis.assign(new)
        mean.assign(turned)
        square.assign(sorted_square)
        return True

    def get_config(self):
        decays = ("beta_1", "beta_2", "shampoo_beta", "clip_beta")
        names = (*decays, "refresh_every", "clip", "epsilon", "largest_basis")
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            **{name: getattr(self, name) for name in names},
        }


def _folded(shape, largest):
    """Returns the shape as which a variable is taken, and its modes with a basis."""
    shape = list(shape)
    if len(shape) not in (2, 4):
        return shape, []
    if len(shape) == 4:
        shape = [shape[0] * shape[1], *shape[2:]]
    return shape, [mode for mode, side in enumerate(shape) if 1 < side <= largest]


def _gram(x, mode):
    """Returns the product of the unfolding of x along a mode with its transpose."""
    x = _unfolded(x, mode)
    if x.shape.rank == 2:
        return tf.matmul(x, x, transpose_a=True)
    return tf.reduce_sum(tf.matmul(x, x, transpose_b=True), axis=0)


def _turn(x, basis, mode, back=False):
    """Multiplies x along a mode by a basis, transposed, or by the basis itself."""
    unfolded = _unfolded(x, mode)
    if unfolded.shape.rank == 2:
        turned = tf.matmul(unfolded, basis, transpose_b=back)
    else:
        turned = tf.matmul(basis, unfolded, transpose_a=not back)
    return tf.reshape(turned, x.shape)


def _unfolded(x, mode):
    """Returns x as [axes before a mode, the mode, axes after it], without the last if that is 1.

    Many products of single columns would take far longer than one of a matrix.
    """
    before, after = math.prod(x.shape[:mode]), math.prod(x.shape[mode + 1 :])
    return tf.reshape(x, (before, x.shape[mode], after) if after > 1 else (before, x.shape[mode]))


def make_optimizer(name: str, clip: float = 0.0) -> tf.keras.optimizers.Optimizer:
    """Returns an optimizer.

    Args:
      name: name of the optimizer, "adam" or "soap".
      clip: limit of gradient norms as in `SOAP`, 0 for none.

    Raises:
      SaeError: the optimizer cannot clip gradients.
    """
    if name == "soap":
        return SOAP(clip=clip)
    if clip:
        raise SaeError("Only SOAP clips gradients; take --clip 0 with another optimizer.")
    return tf.keras.optimizers.Adam()

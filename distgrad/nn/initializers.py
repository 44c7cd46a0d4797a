"""Initial values of variables: rules that draw them from a generator.

A rule is called as ``rule(generator, shape, dtype)``. Those that look at a kernel's fans take its
last two axes for inputs and outputs, and the axes before them for the window of a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from distgrad.dtypes import float64
from distgrad.eager import asarray
from distgrad.errors import ShapeError
from distgrad.ops.creation import full
from distgrad.ops.elementwise.arithmetic import multiply, sign
from distgrad.ops.elementwise.selection import where
from distgrad.ops.linalg.parts import diagonal
from distgrad.ops.linalg.triangular import qr
from distgrad.ops.shaping.structure import astype, matrix_transpose, reshape
from distgrad.random import Generator

Initializer = Callable[[Generator, Sequence[int], Any], Any]

__all__ = [
    "constant",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "zeros",
]

# The standard deviation of a standard normal number, given that it lies within two of them:
# sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
_TRUNCATED_DEVIATION = 0.8796256610342398


def constant(value: Any) -> Initializer:
    """Return the rule that fills a variable with a number, or takes an array of its shape."""

    def fill(generator: Generator, shape: Sequence[int], dtype: Any) -> Any:
        if isinstance(value, (bool, int, float, complex)):
            return full(tuple(shape), value, dtype=dtype)
        array = asarray(value, dtype=dtype)
        if array.shape != tuple(shape):
            raise ShapeError(
                f"constant: the value has shape {array.shape}, the variable {tuple(shape)}; "
                "expected the same shape, or a number"
            )
        return array

    return fill


def zeros() -> Initializer:
    """Return the rule that fills a variable with 0."""
    return constant(0)


def ones() -> Initializer:
    """Return the rule that fills a variable with 1."""
    return constant(1)


def normal(deviation: float = 0.02, mean: float = 0.0) -> Initializer:
    """Return the rule of normal numbers.

    Parameters
    ----------
    deviation, mean : float
        Standard deviation, by default that of [1]_, section 4.1, and mean.

    References
    ----------
    .. [1] Radford et al., "Improving language understanding by generative pre-training", 2018.
    """

    def draw(generator: Generator, shape: Sequence[int], dtype: Any) -> Any:
        return generator.normal(shape, dtype=dtype, mean=mean, deviation=deviation)

    return draw


def truncated_normal(deviation: float = 0.02) -> Initializer:
    """Return the rule of normal numbers around 0 within two of the given deviations.

    Notes
    -----
    `deviation` is that before the tails are cut off, as in Keras and PyTorch; that of the numbers
    is 0.88 times as large.
    """

    def draw(generator: Generator, shape: Sequence[int], dtype: Any) -> Any:
        return multiply(generator.truncated_normal(shape, dtype=dtype), deviation)

    return draw


def uniform(low: float = -0.05, high: float = 0.05) -> Initializer:
    """Return the rule of numbers that are even in [low, high)."""

    def draw(generator: Generator, shape: Sequence[int], dtype: Any) -> Any:
        return generator.uniform(shape, low, high, dtype=dtype)

    return draw


def glorot_uniform(gain: float = 1.0) -> Initializer:
    """Return Glorot's rule (Xavier's): even numbers of variance 2 gain^2 / (inputs + outputs).

    Parameters
    ----------
    gain : float
        A factor for the numbers.

    Notes
    -----
    For activations that are linear around 0, such as tanh. Inputs and outputs are counted with the
    taps of a convolution's window.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010, equation 16.
    """
    return partial(_even, _glorot_variance, gain)


def glorot_normal(gain: float = 1.0) -> Initializer:
    """Return Glorot's rule with normal numbers, cut off at two deviations; see `glorot_uniform`.

    Notes
    -----
    Cut off as in Keras and JAX, and scaled so that the variance holds; PyTorch does not cut off.
    """
    return partial(_normal, _glorot_variance, gain)


def he_uniform(gain: float = 2**0.5) -> Initializer:
    """Return He's rule (Kaiming's): even numbers of variance gain^2 / inputs.

    Parameters
    ----------
    gain : float
        The square root of 2 for ReLU, which the default is for.

    References
    ----------
    He et al., "Delving deep into rectifiers", ICCV 2015, arXiv:1502.01852, equation 10.
    """
    return partial(_even, _forward_variance, gain)


def he_normal(gain: float = 2**0.5) -> Initializer:
    """Return He's rule with normal numbers, cut off as those of `glorot_normal`."""
    return partial(_normal, _forward_variance, gain)


def lecun_uniform() -> Initializer:
    """Return LeCun's rule: even numbers of variance 1 / inputs.

    References
    ----------
    LeCun et al., "Efficient backprop", 1998, section 4.6.
    """
    return partial(_even, _forward_variance, 1.0)


def lecun_normal() -> Initializer:
    """Return LeCun's rule with normal numbers, cut off as those of `glorot_normal`."""
    return partial(_normal, _forward_variance, 1.0)


def orthogonal(gain: float = 1.0) -> Initializer:
    """Return the rule of matrices with orthonormal columns, or rows if there are fewer of them.

    Parameters
    ----------
    gain : float
        A factor for the numbers.

    Notes
    -----
    All axes but the last together are the matrix's rows. The Q of a normal matrix, each column with
    the sign of R's diagonal, which makes it uniform among all [2]_; computed in float64.

    References
    ----------
    .. [1] Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in
       deep linear neural networks", 2013, arXiv:1312.6120.
    .. [2] Mezzadri, "How to generate random matrices from the classical compact groups", 2006,
       arXiv:math-ph/0609050.
    """

    def draw(generator: Generator, shape: Sequence[int], dtype: Any) -> Any:
        if len(shape) < 2:
            raise ShapeError(f"orthogonal: shape is {tuple(shape)}; expected two axes or more")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = (max(rows, columns), min(rows, columns))
        q, r = qr(generator.normal(tall, dtype=float64))
        signs = sign(diagonal(r))
        q = q * where(signs == 0, 1.0, signs) * gain
        return astype(reshape(q if rows >= columns else matrix_transpose(q), tuple(shape)), dtype)

    return draw


def _even(
    variance: Any, gain: float, generator: Generator, shape: Sequence[int], dtype: Any
) -> Any:
    """Return even numbers of a variance, which is a third of the square of their bound."""
    bound = gain * math.sqrt(3 * variance(shape))
    return generator.uniform(shape, -bound, bound, dtype=dtype)


def _normal(
    variance: Any, gain: float, generator: Generator, shape: Sequence[int], dtype: Any
) -> Any:
    deviation = gain * math.sqrt(variance(shape)) / _TRUNCATED_DEVIATION
    return multiply(generator.truncated_normal(shape, dtype=dtype), deviation)


def _glorot_variance(shape: Sequence[int]) -> float:
    inputs, outputs = _fans(shape)
    return 2 / (inputs + outputs)


def _forward_variance(shape: Sequence[int]) -> float:
    return 1 / _fans(shape)[0]


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return how many inputs an output has, and how many outputs an input has."""
    if len(shape) < 2:
        raise ShapeError(
            f"initializer: shape {tuple(shape)} has no inputs and outputs; expected two axes or "
            "more"
        )
    taps = math.prod(shape[:-2])
    return max(taps * shape[-2], 1), max(taps * shape[-1], 1)

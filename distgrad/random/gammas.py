"""Numbers of the gamma distribution, and of those that are made of it, with gradients.

Functions of a source of bits, which is a generator: they are its methods. A gradient in a shape
parameter is by how much a number's quantile moves with it ("implicit reparameterization"): that is
unbiased for every expectation, although the method that draws the numbers rejects some.

References
----------
Figurnov, Mohamed and Mnih, "Implicit reparameterization gradients", NeurIPS 2018, arXiv:1805.08498.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.op import Composed, Kind, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import DTypeLike, as_dtype, float64, is_differentiable
from distgrad.eager import asarray
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import add, divide, multiply, negative, subtract
from distgrad.ops.elementwise.comparison import less
from distgrad.ops.elementwise.selection import where
from distgrad.ops.elementwise.transcendental import log, log1p, sqrt
from distgrad.ops.neural.softmax import sigmoid, softmax
from distgrad.ops.random import RANDOM_GAMMA
from distgrad.ops.shaping.structure import astype, broadcast_to
from distgrad.ops.special.incomplete import GAMMA_CARRIED
from distgrad.random.arguments import as_shape, floating_dtype, is_number
from distgrad.random.continuous import normal, uniform
from distgrad.random.source import Source
from distgrad.shapes import Shape, broadcast
from distgrad.tensor import Tensor


def gamma(
    source: Source,
    concentration: Any,
    shape: int | Sequence[int] | None = None,
    *,
    dtype: DTypeLike | None = None,
) -> Tensor:
    """Return gamma-distributed numbers of scale 1; gradients flow into the concentration.

    Parameters
    ----------
    concentration : float or Tensor
        The shape parameter, above 0 (NaN elsewhere).
    shape : int or sequence of int
        To which the concentration is broadcast; its own by default.
    dtype : dtype, optional
        Real floating; by default the concentration's, or the default one.

    Notes
    -----
    Drawn by Marsaglia and Tsang's method. The gradient is how the number at one quantile moves,
    ``-(dP/da) / density`` with the distribution function P, to any order. For the method, see [1]_.
    Numbers of a small concentration may be too small for their dtype, and 0: `beta` and `dirichlet`
    go by their logarithms.

    References
    ----------
    .. [1] Figurnov, Mohamed and Mnih, "Implicit reparameterization gradients", NeurIPS 2018,
       arXiv:1805.08498.

    Examples
    --------
    >>> import distgrad as dg
    >>> a = dg.Variable(2.5, dtype="float64")
    >>> with dg.GradientTape() as tape:
    ...     mean = dg.mean(dg.random.Generator(7).gamma(a, 10_000))
    >>> print(f"{mean:.1f}, slope {tape.gradient(mean, a):.1f}")
    2.5, slope 1.0
    """
    given = _floating(source, "gamma", concentration, dtype)
    stream = source._next()
    lead = stream.shape[:-1]
    # Streams of several examples count their leading axes with those of the concentration.
    wanted = _lengths(given, shape)
    given = broadcast_to(given, broadcast("gamma", (*lead, *wanted), given.shape))
    if is_number(concentration):
        return apply(RANDOM_GAMMA, stream, given, start=0)
    fixed = apply(_FIXED, given)
    return apply(GAMMA_CARRIED, apply(RANDOM_GAMMA, stream, fixed, start=0), fixed, given)


def chi_square(
    source: Source,
    freedom: Any,
    shape: int | Sequence[int] | None = None,
    *,
    dtype: DTypeLike | None = None,
) -> Tensor:
    """Return numbers distributed as the sum of the squares of standard normal ones.

    Parameters
    ----------
    freedom : float or Tensor
        How many normal numbers: above 0, and not only whole. Gradients flow into it.
    shape, dtype
        As for `gamma`.
    """
    return multiply(gamma(source, _half(source, freedom), shape, dtype=dtype), 2.0)


def student_t(
    source: Source,
    freedom: Any,
    shape: int | Sequence[int] | None = None,
    *,
    dtype: DTypeLike | None = None,
) -> Tensor:
    """Return numbers of Student's t distribution; gradients flow into the degrees of freedom.

    Parameters
    ----------
    freedom : float or Tensor
        Degrees of freedom, above 0.
    shape, dtype
        As for `gamma`.

    Notes
    -----
    A normal number over the square root of an independent `chi_square` over its freedom.
    """
    half = _half(source, freedom)
    power = gamma(source, half, shape, dtype=dtype)
    wanted = _lengths(half, shape)
    return multiply(normal(source, wanted, dtype=power.dtype), sqrt(divide(half, power)))


def beta(
    source: Source,
    a: Any,
    b: Any,
    shape: int | Sequence[int] | None = None,
    *,
    dtype: DTypeLike | None = None,
) -> Tensor:
    """Return beta-distributed numbers between 0 and 1; gradients flow into both parameters.

    Parameters
    ----------
    a, b : float or Tensor
        The powers of x and 1 - x in the density, plus 1; above 0.
    shape : int or sequence of int, optional
        To which the parameters are broadcast; by default what they broadcast to.
    dtype : dtype, optional
        As for `gamma`.

    Notes
    -----
    ``X / (X + Y)`` for gamma-distributed X and Y, by their logarithms: near 0 and 1 nothing is lost
    for small parameters. It takes four draws.
    """
    if shape is None:
        shape = broadcast("beta", _lengths(a, None), _lengths(b, None))
    first = _log_gamma(source, a, shape, dtype)
    second = _log_gamma(source, b, shape, dtype)
    return sigmoid(subtract(first, second))


def dirichlet(
    source: Source,
    concentration: Any,
    shape: int | Sequence[int] | None = None,
    *,
    dtype: DTypeLike | None = None,
) -> Tensor:
    """Return probabilities that are Dirichlet-distributed; gradients flow into the concentration.

    Parameters
    ----------
    concentration : Tensor or array, shape (..., classes)
        Above 0.
    shape : int or sequence of int, optional
        Of the result without the classes' axis; by default that of the concentration.
    dtype : dtype, optional
        As for `gamma`.

    Returns
    -------
    Tensor, shape (..., classes)
        Of sum 1 along the last axis.

    Raises
    ------
    ShapeError
        If the concentration has no axis.

    Notes
    -----
    Gamma-distributed numbers over their sum, by their logarithms. It takes two draws.
    """
    lengths = _lengths(concentration, None)
    if not lengths:
        raise ShapeError("dirichlet: the concentration has no axis; expected one of classes")
    whole = lengths if shape is None else (*as_shape(shape), lengths[-1])
    return softmax(_log_gamma(source, concentration, whole, dtype), axis=-1)


def _log_gamma(
    source: Source, concentration: Any, shape: int | Sequence[int], dtype: DTypeLike | None
) -> Tensor:
    """Return the logarithm of gamma-distributed numbers, also where they are below all numbers.

    Below a concentration of 1, G(a) is distributed as G(a + 1) U^(1/a) with a uniform number U
    (Marsaglia and Tsang, ACM TOMS 26 (2000), section 6).
    """
    a = _floating(source, "gamma", concentration, dtype)
    small = less(a, 1)
    numbers = gamma(source, where(small, add(a, 1), a), shape, dtype=a.dtype)
    u = uniform(source, as_shape(shape), dtype=float64)
    exponent = astype(log1p(negative(u)), a.dtype)
    return add(log(numbers), where(small, divide(exponent, a), 0))


def _floating(source: Source, name: str, parameter: Any, dtype: DTypeLike | None) -> Tensor:
    """Return a parameter as a tensor of the dtype of the numbers."""
    given = asarray(parameter, backend=source._home(parameter))
    own = given.dtype if is_differentiable(given.dtype) else None
    return astype(given, floating_dtype(name, own if dtype is None else dtype))


def _half(source: Source, freedom: Any) -> Any:
    if is_number(freedom):
        return freedom / 2
    return multiply(_floating(source, "gamma", freedom, None), 0.5)


def _lengths(parameter: Any, shape: int | Sequence[int] | None) -> Shape:
    """Return the shape that is asked for, or else the parameter's own."""
    if shape is not None:
        return as_shape(shape)
    return tuple(getattr(parameter, "shape", None) or asarray(parameter).shape)


def _fixed_again(
    xp: Any, size: int, batched: Sequence[bool], arrays: Sequence[Any], params: Any
) -> Any:
    return apply(_FIXED, *arrays)


# The concentration as it is when the numbers are drawn: what a derivative moves is that to which
# they are carried.
_FIXED = Composed(
    "drawn_concentration",
    Kind.ELEMENTWISE,
    lambda x: Spec(tuple(x.shape), as_dtype(x.dtype)),
    compose=lambda xp, x: x,
    batch=_fixed_again,
)

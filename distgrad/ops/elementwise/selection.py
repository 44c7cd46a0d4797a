"""Selection: take elements from one array or another, and keep them within bounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.core.op import Array, Kind, Namespace, Op
from distgrad.core.seam import apply, operands
from distgrad.dtypes import DType
from distgrad.ops.elementwise.arithmetic import maximum, minimum
from distgrad.ops.rules.families import (
    conjugate,
    elementwise_spec,
    expand_to,
    fit,
    joint,
    sum_of,
)


def _branches(condition: Any, *branches: Any) -> DType:
    return joint(*branches)


def _where_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    condition, a, b = xs
    to_a = fit(xp, xp.where(condition, g, 0), a) if needs[1] else None
    to_b = fit(xp, xp.where(condition, 0, g), b) if needs[2] else None
    return None, to_a, to_b


def _where_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    _, to_a, to_b = tangents
    tangent = xp.where(xs[0], 0 if to_a is None else to_a, 0 if to_b is None else to_b)
    return expand_to(xp, tangent, y)


WHERE = Op(
    "where",
    Kind.ELEMENTWISE,
    elementwise_spec("where", _branches),
    _where_vjp,
    _where_jvp,
    keep=((), (0,), (0,)),
)


def where(condition: Any, x1: Any, x2: Any, /) -> Any:
    """Return x1 where a condition holds and x2 elsewhere, with broadcasting.

    Parameters
    ----------
    condition : Tensor or array of bool, or bool
        Which to take.
    x1, x2 : Tensor, Variable, array or scalar
        The two sources.

    Notes
    -----
    The branch that is not taken gets the cotangent 0, and passes 0 on through elementwise
    operations even where their own derivative is infinite or NaN: the gradient of
    ``where(x > 0, x * log(x), 0)`` at 0 is 0, where TensorFlow, PyTorch and JAX give NaN. So it is
    in a traced function too, if `where` stands in it. The masked branch is computed all the same,
    and NumPy may warn of its infinities.
    """
    if isinstance(condition, (bool, int)):  # kernels ask a condition for its dtype
        condition = np.asarray(condition)
    return apply(WHERE, condition, x1, x2)


def _no_nan_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    a, b = xs
    to_a = to_b = None
    if needs[0]:
        to_a = fit(xp, xp.multiply_no_nan(g, conjugate(xp, b)), a)
    if needs[1]:
        to_b = fit(xp, xp.multiply_no_nan(conjugate(xp, a), g), b)
    return to_a, to_b


def _no_nan_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    terms = []
    if tangents[0] is not None:
        terms.append(xp.multiply_no_nan(tangents[0], xs[1]))
    if tangents[1] is not None:
        terms.append(xp.multiply_no_nan(xs[0], tangents[1]))
    return expand_to(xp, sum_of(terms), y)


def _no_nan_compose(xp: Namespace, x: Array, y: Array) -> Array:
    return xp.where(xp.equal(y, 0), 0, x * y)


MULTIPLY_NO_NAN = Op(
    "multiply_no_nan",
    Kind.ELEMENTWISE,
    elementwise_spec("multiply_no_nan", joint),
    _no_nan_vjp,
    _no_nan_jvp,
    keep=((1,), (0,)),
    compose=_no_nan_compose,
)


def multiply_no_nan(x1: Any, x2: Any, /) -> Any:
    """Return x1 * x2, and 0 where x2 is 0 even if x1 is infinite or NaN, with broadcasting.

    Parameters
    ----------
    x1, x2 : Tensor, Variable, array or scalar
        The factors; `x2` decides.

    Notes
    -----
    The derivative in `x2` is x1, also where x2 is 0; a cotangent of 0 stays 0. This is how
    gradients go back behind a `where`.
    """
    return apply(MULTIPLY_NO_NAN, x1, x2)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """Return x kept within bounds; None is no bound. At a bound the gradient still goes to x."""
    if not hasattr(x, "shape"):
        x, *_ = operands(x, min, max)
    if min is not None:
        x = maximum(x, min)
    return x if max is None else minimum(x, max)


OPS = (WHERE, MULTIPLY_NO_NAN)

"""Selection: take elements from one array or another, and keep them within bounds."""

from __future__ import annotations

from typing import Any

from distgrad.core.op import Array, Kind, Namespace, Op
from distgrad.core.seam import apply
from distgrad.dtypes import DType
from distgrad.ops.arithmetic import maximum, minimum
from distgrad.ops.families import elementwise_spec, expand_to, fit, joint


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
    condition : Tensor or array of bool
        Which to take.
    x1, x2 : Tensor, Variable, array or scalar
        The two sources.

    Notes
    -----
    The branch that is not taken gets the cotangent 0. If its *own* derivative is infinite there (as
    in ``where(x > 0, log(x), 0)`` at 0) the product 0 * inf is NaN, as in TensorFlow, PyTorch and
    JAX; put a safe value inside: ``where(x > 0, log(where(x > 0, x, 1)), 0)``.
    """
    return apply(WHERE, condition, x1, x2)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """Return x kept within bounds; None is no bound. At a bound the gradient still goes to x."""
    if min is not None:
        x = maximum(x, min)
    return x if max is None else minimum(x, max)


OPS = (WHERE,)

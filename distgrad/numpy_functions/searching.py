"""NumPy's functions that find, count and compare elements on tensors: no derivative, but traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.core.seam import operands
from distgrad.numpy_functions.arguments import (
    as_axis,
    as_operand,
    as_parameter,
    as_tensor,
    flag,
    known_values,
    refuse_out,
)
from distgrad.ops.elementwise.arithmetic import abs as absolute
from distgrad.ops.elementwise.arithmetic import add, multiply, subtract
from distgrad.ops.elementwise.comparison import (
    equal,
    isfinite,
    isinf,
    isnan,
    less_equal,
    logical_and,
    logical_not,
    logical_or,
    not_equal,
)
from distgrad.ops.elementwise.complex_numbers import imag
from distgrad.ops.elementwise.magnitudes import signbit
from distgrad.ops.elementwise.selection import where as choose
from distgrad.ops.ordering import searching
from distgrad.ops.reducing import reductions
from distgrad.ops.shaping.structure import astype, flip, reshape, stack

# --- places ---------------------------------------------------------------------------------------


def _searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    order = None if sorter is None else as_parameter(sorter)
    return _found(as_parameter(a), as_parameter(v), side, order)


def _found(line: Any, values: Any, side: str, sorter: Any = None) -> Any:
    joint = np.result_type(line.dtype, values.dtype)
    return searching.searchsorted(
        astype(line, joint), astype(values, joint), side=side, sorter=sorter
    )


def _digitize(x: Any, bins: Any, right: bool = False) -> Any:
    values, edges = as_parameter(x), as_parameter(bins)
    steps = np.diff(known_values("digitize", bins, decided="the order of the bins depends"))
    side = "left" if right else "right"
    if np.all(steps >= 0):
        return _found(edges, values, side)
    if not np.all(steps <= 0):
        raise ValueError("digitize: bins must be monotonically increasing or decreasing")
    # Of falling edges the order is turned, and with it the side.
    turned = _found(flip(edges), values, "right" if right else "left")
    return subtract(edges.shape[0], turned)


def _flatnonzero(a: Any) -> Any:
    return searching.nonzero(reshape(as_tensor(a), (-1,)))[0]


def _argwhere(a: Any) -> Any:
    x = as_tensor(a)
    if not x.ndim:
        return as_parameter(np.argwhere(known_values("argwhere", x)))
    return stack(list(searching.nonzero(x)), axis=-1)


def _nanposition(name: str, find: Callable[..., Any], worst: float) -> Callable[..., Any]:
    def function(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = None) -> Any:
        refuse_out(name, out)
        x, place, keep = as_tensor(a), as_axis(axis), flag(keepdims)
        unknown = isnan(x)
        position = find(choose(unknown, worst, x), axis=place, keepdims=keep)
        nothing = reductions.all(unknown, axis=place, keepdims=keep)
        if nothing.read().kernels.level:  # nobody can raise for a value that is not known yet
            return choose(nothing, -1, position)
        if np.any(nothing.numpy()):
            raise ValueError(f"{name}: All-NaN slice encountered")
        return position

    return function


# --- counts and predicates ------------------------------------------------------------------------


def _count_nonzero(a: Any, axis: Any = None, *, keepdims: Any = False) -> Any:
    return searching.count_nonzero(as_tensor(a), axis=as_axis(axis), keepdims=flag(keepdims))


def _isclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Any:
    x, y = operands(as_tensor(a), as_operand(b))
    with np.errstate(invalid="ignore"):  # of two infinities, which are equal or not
        gap = absolute(subtract(x, y))
        near = less_equal(gap, add(multiply(absolute(y), rtol), atol))
    close = logical_or(logical_and(near, isfinite(y)), equal(x, y))
    return logical_or(close, logical_and(isnan(x), isnan(y))) if equal_nan else close


def _infinite(name: str, is_wanted: Callable[..., Any]) -> Callable[..., Any]:
    def function(x: Any, out: Any = None) -> Any:
        refuse_out(name, out)
        z = as_tensor(x)
        if np.dtype(z.dtype).kind == "c":
            raise TypeError(f"{name}: a complex tensor; expected a real one")
        return logical_and(isinf(z), is_wanted(signbit(z)))

    return function


def _iscomplex(x: Any) -> Any:
    z = as_tensor(x)
    if np.dtype(z.dtype).kind == "c":
        return not_equal(imag(z), 0)
    return as_parameter(np.zeros(z.shape, np.bool_))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "searchsorted": _searchsorted,
    "digitize": _digitize,
    "nonzero": lambda a: searching.nonzero(as_tensor(a)),
    "flatnonzero": _flatnonzero,
    "argwhere": _argwhere,
    "nanargmax": _nanposition("nanargmax", reductions.argmax, -np.inf),
    "nanargmin": _nanposition("nanargmin", reductions.argmin, np.inf),
    "count_nonzero": _count_nonzero,
    "isclose": _isclose,
    "isneginf": _infinite("isneginf", lambda sign: sign),
    "isposinf": _infinite("isposinf", logical_not),
    "iscomplex": _iscomplex,
    "isreal": lambda x: logical_not(_iscomplex(x)),
}

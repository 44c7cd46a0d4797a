"""NumPy's reductions and running sums on tensors, those that skip NaN among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.dtypes import is_differentiable
from distgrad.numpy_functions.arguments import (
    as_axis,
    as_condition,
    as_parameter,
    as_tensor,
    flag,
    given,
    refuse_out,
)
from distgrad.ops.elementwise.arithmetic import (
    add,
    divide,
    maximum,
    minimum,
    multiply,
    square,
    subtract,
)
from distgrad.ops.elementwise.comparison import isnan, logical_and, logical_not
from distgrad.ops.elementwise.complex_numbers import conj, real
from distgrad.ops.elementwise.selection import where as choose
from distgrad.ops.reducing import reductions, running
from distgrad.ops.reducing.deviations import deviation
from distgrad.ops.shaping.structure import astype, broadcast_to, reshape
from distgrad.tensor import Operators


def _masked(a: Any, where: Any, neutral: Any) -> Any:
    """Return a with a neutral number where it does not count."""
    return choose(as_condition(where), a, neutral) if given(where) and where is not True else a


def _total(name: str, reduce: Callable[..., Any], join: Callable[..., Any], neutral: int) -> Any:
    def function(
        a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = None,
        initial: Any = None, where: Any = True,
    ) -> Any:  # fmt: skip
        refuse_out(name, out)
        counted = _masked(as_tensor(a), where, neutral)
        total = reduce(counted, axis=as_axis(axis), dtype=dtype, keepdims=flag(keepdims))
        return join(total, initial) if given(initial) else total

    return function


def _extremum(name: str, reduce: Callable[..., Any], either: Callable[..., Any]) -> Any:
    def function(
        a: Any, axis: Any = None, out: Any = None, keepdims: Any = None, initial: Any = None,
        where: Any = True,
    ) -> Any:  # fmt: skip
        refuse_out(name, out)
        if given(where) and where is not True:
            if not given(initial):
                raise ValueError(f"{name}: with where= an initial value is needed; give initial=")
            a = choose(as_condition(where), as_tensor(a), initial)
        best = reduce(as_tensor(a), axis=as_axis(axis), keepdims=flag(keepdims))
        return either(best, initial) if given(initial) else best

    return function


def _count(shape: tuple[int, ...], where: Any, axis: Any, keepdims: bool) -> Any:
    """Return how many elements count in each mean: a number, or a tensor of integers."""
    if given(where) and where is not True:
        counted = broadcast_to(astype(as_parameter(as_condition(where)), np.int64), shape)
        return reductions.sum(counted, axis=axis, keepdims=keepdims)
    axes = range(len(shape)) if axis is None else np.atleast_1d(axis)
    return int(np.prod([shape[a] for a in axes], dtype=np.int64))


def _mean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = None,
    *, where: Any = True,
) -> Any:  # fmt: skip
    refuse_out("mean", out)
    x = as_tensor(a)
    x = x if dtype is None else astype(x, dtype)
    axes, keep = as_axis(axis), flag(keepdims)
    if not given(where) or where is True:
        return reductions.mean(x, axis=axes, keepdims=keep)
    total = reductions.sum(_masked(x, where, 0), axis=axes, keepdims=keep)
    return divide(total, _in_dtype(_count(x.shape, where, axes, keep), total))


def _in_dtype(count: Any, like: Any) -> Any:
    """Return counts in the precision of what they divide."""
    if not is_differentiable(like.dtype):
        return count
    precision = np.empty(0, like.dtype).real.dtype
    return astype(count, precision) if isinstance(count, Operators) else float(count)


def _var(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    ddof: Any = 0,
    keepdims: Any = None,
    *,
    where: Any = True,
    mean: Any = None,
    correction: Any = None,
) -> Any:
    refuse_out("var", out)
    x = as_tensor(a)
    x = x if dtype is None else astype(x, dtype)
    if not is_differentiable(x.dtype):
        x = astype(x, np.float64)
    axes, keep = as_axis(axis), flag(keepdims)
    off = correction if given(correction) else ddof
    centre = mean if given(mean) else _mean(x, axes, keepdims=True, where=where)
    deviation = _masked(subtract(x, centre), where, 0)
    is_complex = np.dtype(deviation.dtype).kind == "c"
    squares = real(multiply(deviation, conj(deviation))) if is_complex else square(deviation)
    total = reductions.sum(squares, axis=axes, keepdims=keep)
    count = _count(x.shape, where, axes, keep)
    if isinstance(count, Operators):
        return divide(total, maximum(subtract(_in_dtype(count, total), off), 0))
    # No observations to spare: 0 / 0 is NaN with NumPy's warning, where Python's division raises.
    return divide(total, float(max(count - off, 0)))


def _std(*arguments: Any, **options: Any) -> Any:
    return deviation(_var(*arguments, **options))


def _ptp(a: Any, axis: Any = None, out: Any = None, keepdims: Any = None) -> Any:
    refuse_out("ptp", out)
    x, axes, keep = as_tensor(a), as_axis(axis), flag(keepdims)
    largest = reductions.max(x, axis=axes, keepdims=keep)
    return subtract(largest, reductions.min(x, axis=axes, keepdims=keep))


def _average(
    a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: Any = None
) -> Any:
    x, axes, keep = as_tensor(a), as_axis(axis), flag(keepdims)
    if weights is None:
        mean = reductions.mean(x, axis=axes, keepdims=keep)
        total: Any = as_parameter(np.asarray(x.size // max(mean.size, 1), mean.dtype))
    else:
        w = as_parameter(weights)
        if w.shape != x.shape:
            if not isinstance(axes, int) or w.shape != (x.shape[axes],):
                raise ValueError(
                    f"average: weights have shape {w.shape}; expected {x.shape}, or one number "
                    "for each place of a single axis"
                )
            shape = [1] * x.ndim
            shape[axes] = w.shape[0]
            w = reshape(w, tuple(shape))
        weighted = broadcast_to(w, x.shape)
        total = reductions.sum(weighted, axis=axes, keepdims=keep)
        products = reductions.sum(multiply(x, weighted), axis=axes, keepdims=keep)
        mean = divide(products, total)
    return (mean, broadcast_to(total, mean.shape)) if returned else mean


# --- without NaN --------------------------------------------------------------------------------


def _known(a: Any, where: Any) -> tuple[Any, Any]:
    """Return a tensor, and where it is a number and counts."""
    x = as_tensor(a)
    known = logical_not(isnan(x))
    if not given(where) or where is True:
        return x, known
    return x, logical_and(known, broadcast_to(as_parameter(as_condition(where)), x.shape))


def _nantotal(total: Callable[..., Any]) -> Any:
    def function(
        a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = None,
        initial: Any = None, where: Any = True,
    ) -> Any:  # fmt: skip
        x, known = _known(a, where)
        return total(x, axis, dtype, out, keepdims, initial, known)

    return function


def _nanextremum(
    name: str, reduce: Callable[..., Any], either: Callable[..., Any], worst: float
) -> Any:
    def function(
        a: Any, axis: Any = None, out: Any = None, keepdims: Any = None, initial: Any = None,
        where: Any = True,
    ) -> Any:  # fmt: skip
        refuse_out(name, out)
        x, known = _known(a, where)
        axes, keep = as_axis(axis), flag(keepdims)
        best = reduce(choose(known, x, worst), axis=axes, keepdims=keep)
        if given(initial):
            return either(best, initial)
        return choose(reductions.any(known, axis=axes, keepdims=keep), best, np.nan)

    return function


def _nanmean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = None,
    *, where: Any = True,
) -> Any:  # fmt: skip
    x, known = _known(a, where)
    return _mean(x, axis, dtype, out, keepdims, where=known)


def _nanvar(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0,
    keepdims: Any = None, *, where: Any = True, mean: Any = None, correction: Any = None,
) -> Any:  # fmt: skip
    x, known = _known(a, where)
    filled = choose(known, x, 0)
    return _var(
        filled, axis, dtype, out, ddof, keepdims, where=known, mean=mean, correction=correction
    )


def _nanstd(*arguments: Any, **options: Any) -> Any:
    return deviation(_nanvar(*arguments, **options))


# --- running sums and products --------------------------------------------------------------------


def _running(name: str, run: Callable[..., Any], neutral: int | None) -> Any:
    def function(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        refuse_out(name, out)
        x = as_tensor(a)
        if neutral is not None:
            x = choose(isnan(x), neutral, x)
        if axis is None:
            x, axis = reshape(x, (-1,)), 0
        return run(x, axis=as_axis(axis), dtype=dtype)

    return function


def _cumulative(name: str, run: Callable[..., Any]) -> Any:
    def function(
        x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None,
        include_initial: bool = False,
    ) -> Any:  # fmt: skip
        refuse_out(name, out)
        return run(as_tensor(x), axis=as_axis(axis), dtype=dtype, include_initial=include_initial)

    return function


def _logical(name: str, reduce: Callable[..., Any]) -> Any:
    def function(
        a: Any, axis: Any = None, out: Any = None, keepdims: Any = None, *, where: Any = True
    ) -> Any:
        refuse_out(name, out)
        x = _masked(as_tensor(a), where, name == "all")
        return reduce(x, axis=as_axis(axis), keepdims=flag(keepdims))

    return function


def _position(name: str, find: Callable[..., Any]) -> Any:
    def function(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = None) -> Any:
        refuse_out(name, out)
        return find(as_tensor(a), axis=as_axis(axis), keepdims=flag(keepdims))

    return function


_sum = _total("sum", reductions.sum, add, 0)
_prod = _total("prod", reductions.prod, multiply, 1)
_max = _extremum("max", reductions.max, maximum)
_min = _extremum("min", reductions.min, minimum)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _sum,
    "prod": _prod,
    "max": _max,
    "amax": _max,
    "min": _min,
    "amin": _min,
    "mean": _mean,
    "var": _var,
    "std": _std,
    "ptp": _ptp,
    "average": _average,
    "nansum": _nantotal(_sum),
    "nanprod": _nantotal(_prod),
    "nanmax": _nanextremum("nanmax", reductions.max, maximum, -np.inf),
    "nanmin": _nanextremum("nanmin", reductions.min, minimum, np.inf),
    "nanmean": _nanmean,
    "nanvar": _nanvar,
    "nanstd": _nanstd,
    "cumsum": _running("cumsum", running.cumulative_sum, None),
    "cumprod": _running("cumprod", running.cumulative_prod, None),
    "nancumsum": _running("nancumsum", running.cumulative_sum, 0),
    "nancumprod": _running("nancumprod", running.cumulative_prod, 1),
    "cumulative_sum": _cumulative("cumulative_sum", running.cumulative_sum),
    "cumulative_prod": _cumulative("cumulative_prod", running.cumulative_prod),
    "all": _logical("all", reductions.all),
    "any": _logical("any", reductions.any),
    "argmax": _position("argmax", reductions.argmax),
    "argmin": _position("argmin", reductions.argmin),
}

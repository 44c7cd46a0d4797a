"""NumPy's functions of sampled signals on tensors: differences, integrals, filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.dtypes import is_complex, is_differentiable
from distgrad.numpy_functions.arguments import NoValue, as_parameter, as_tensor, one_axis
from distgrad.ops.elementwise.arithmetic import abs as absolute
from distgrad.ops.elementwise.arithmetic import add, divide, floor, multiply, remainder, subtract
from distgrad.ops.elementwise.comparison import equal, greater, less, logical_and
from distgrad.ops.elementwise.complex_numbers import conj
from distgrad.ops.elementwise.selection import clip
from distgrad.ops.elementwise.selection import where as choose
from distgrad.ops.neural.convolution import conv
from distgrad.ops.ordering.searching import searchsorted
from distgrad.ops.ordering.sorting import argsort
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing import running
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.structure import astype, broadcast_to, concat, flip, reshape
from distgrad.tensor import Operators


def _part(x: Any, axis: int, start: int | None, stop: int | None, step: int | None = None) -> Any:
    return getitem(x, (slice(None),) * axis + (slice(start, stop, step),))


def _diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = NoValue, append: Any = NoValue) -> Any:
    x = as_tensor(a)
    place = one_axis("axis", axis, x.ndim)
    ends = {}
    for name, end in (("prepend", prepend), ("append", append)):
        if end is not NoValue and end is not None:
            value = as_tensor(end)
            shape = (*x.shape[:place], 1, *x.shape[place + 1 :])
            ends[name] = value if value.ndim else broadcast_to(value, shape)
    return running.diff(x, axis=place, n=n, **ends)


def _ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Any:
    x = reshape(as_tensor(ary), (-1,))
    parts = [running.diff(x)]
    if to_begin is not None:
        parts.insert(0, reshape(as_tensor(to_begin), (-1,)))
    if to_end is not None:
        parts.append(reshape(as_tensor(to_end), (-1,)))
    return concat(parts, axis=0) if len(parts) > 1 else parts[0]


def _trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    values = as_tensor(y)
    place = one_axis("axis", axis, values.ndim)
    middle = add(_part(values, place, 1, None), _part(values, place, None, -1))
    if x is None:
        width: Any = dx
    else:
        at = as_parameter(x)
        if at.ndim == 1:
            shape = [1] * values.ndim
            shape[place] = -1
            width = reshape(running.diff(at), tuple(shape))
        else:
            width = running.diff(at, axis=place)
    return multiply(sum_over(multiply(middle, width), axis=place), 0.5)


def _gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    x = as_tensor(f)
    if not is_differentiable(x.dtype):
        x = astype(x, np.float64)
    axes = tuple(range(x.ndim)) if axis is None else tuple(np.atleast_1d(axis))
    axes = tuple(one_axis("axis", int(each), x.ndim) for each in axes)
    spacings = varargs or (1.0,)
    spacings = spacings * len(axes) if len(spacings) == 1 else spacings
    if len(spacings) != len(axes):
        raise TypeError(f"gradient: {len(varargs)} spacings; expected none, one or {len(axes)}")
    results = [_slope(x, place, h, edge_order) for place, h in zip(axes, spacings, strict=True)]
    return results[0] if len(results) == 1 and (axis is not None or x.ndim == 1) else tuple(results)


def _slope(x: Any, place: int, spacing: Any, edge_order: int) -> Any:
    """Return the derivative along an axis by NumPy's formulas, of second order inside."""
    length = x.shape[place]
    if edge_order not in (1, 2):
        raise ValueError(f"gradient: edge_order is {edge_order}; expected 1 or 2")
    if length < edge_order + 1:
        raise ValueError(
            f"gradient: axis {place} has {length} places; expected edge_order + 1 or more"
        )
    grid = spacing if isinstance(spacing, Operators) else np.asarray(spacing, np.float64)
    if grid.ndim > 1 or (grid.ndim and grid.shape[0] != length):
        raise ValueError(
            f"gradient: a spacing has shape {grid.shape}; expected a number, or the {length} "
            f"coordinates along axis {place}"
        )
    # Arrays and tensors alike, so that the coordinates may be differentiated.
    steps = np.diff(grid) if grid.ndim else np.broadcast_to(grid, (length - 1,))

    def inside(start: int, stop: int | None, weights: Any) -> Any:
        shape = tuple(-1 if axis == place else 1 for axis in range(x.ndim))
        factors = weights.reshape(shape).astype(precision)  # of an array, or of a tensor
        return multiply(_part(x, place, start, stop), factors)

    def edge(first: int, weights: list[Any]) -> Any:
        terms = [
            multiply(_part(x, place, first + k, first + k + 1), _number(weight, precision))
            for k, weight in enumerate(weights)
        ]
        return (
            terms[0]
            if len(terms) == 1
            else add(terms[0], terms[1])
            if len(terms) == 2
            else (add(add(terms[0], terms[1]), terms[2]))
        )

    precision = np.empty(0, x.dtype).real.dtype
    parts = []
    if length > 2 and not grid.ndim:
        twice = _number(2 * grid, precision)
        rise = subtract(_part(x, place, 2, None), _part(x, place, None, -2))
        parts = [divide(rise, twice)]
    elif length > 2:
        before, after = steps[:-1], steps[1:]
        both = before + after
        parts = [
            add(
                add(
                    inside(0, length - 2, -after / (before * both)),
                    inside(1, length - 1, (after - before) / (before * after)),
                ),
                inside(2, None, before / (after * both)),
            )
        ]
    if edge_order == 1:
        first, last = steps[0], steps[-1]
        start, end = [-1 / first, 1 / first], [-1 / last, 1 / last]
    else:
        first, second = steps[0], steps[1]
        start = [
            -(2 * first + second) / (first * (first + second)),
            (first + second) / (first * second),
            -first / (second * (first + second)),
        ]
        second, last = steps[-2], steps[-1]
        end = [
            last / (second * (last + second)),
            -(last + second) / (second * last),
            (2 * last + second) / (last * (last + second)),
        ]
    reach = len(start)
    return concat([edge(0, start), *parts, edge(length - reach, end)], axis=place)


def _number(value: Any, dtype: Any) -> Any:
    return astype(value, dtype) if isinstance(value, Operators) else float(value)


def _unwrap(p: Any, discont: Any = None, axis: int = -1, *, period: Any = 2 * np.pi) -> Any:
    x = as_tensor(p)
    if not is_differentiable(x.dtype):
        x = astype(x, np.float64)
    place = one_axis("axis", axis, x.ndim)
    jumps = running.diff(x, axis=place)
    least = period / 2 if discont is None else discont
    # What is taken away is a whole number of periods, of which only the period has a derivative.
    low = subtract(jumps, -period / 2)
    turns = floor(divide(low, period))
    on_edge = logical_and(equal(low, multiply(turns, period)), greater(jumps, 0))
    turns = choose(on_edge, subtract(turns, 1), turns)
    turns = choose(less(absolute(jumps), least), 0, turns)
    away = multiply(running.cumulative_sum(turns, axis=place), period)
    return concat([_part(x, place, None, 1), subtract(_part(x, place, 1, None), away)], axis=place)


# --- filters --------------------------------------------------------------------------------------


def _convolve(a: Any, v: Any, mode: str = "full") -> Any:
    x, kernel = as_tensor(a), as_tensor(v)
    x, kernel = (reshape(each, (1,)) if each.ndim == 0 else each for each in (x, kernel))
    if x.ndim != 1 or kernel.ndim != 1:
        raise ValueError(f"convolve: shapes {x.shape} and {kernel.shape}; expected one axis each")
    if not x.size or not kernel.size:
        raise ValueError("convolve: an operand is empty; expected one element or more")
    if kernel.size > x.size:
        x, kernel = kernel, x
    reach = kernel.size - 1
    padding = {"full": (reach, reach), "same": (reach - reach // 2, reach // 2), "valid": (0, 0)}
    if mode not in padding:
        raise ValueError(f"convolve: mode is {mode!r}; expected 'full', 'same' or 'valid'")
    joint = np.result_type(x.dtype, kernel.dtype)
    batch = reshape(astype(x, joint), (1, -1, 1))
    taps = reshape(astype(flip(kernel), joint), (-1, 1, 1))
    return reshape(conv(batch, taps, padding=[padding[mode]]), (-1,))


def _correlate(a: Any, v: Any, mode: str = "valid") -> Any:
    x, kernel = as_tensor(a), as_tensor(v)
    if kernel.size <= x.size:
        return _convolve(x, flip(_conjugate(kernel)), mode)
    # NumPy exchanges the operands, and turns the result.
    return flip(_conjugate(_convolve(kernel, flip(_conjugate(x)), mode)))


def _conjugate(x: Any) -> Any:
    return conj(x) if is_complex(x.dtype) else x  # that of a bool would be an integer


def _interp(
    x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None
) -> Any:
    at, grid, values = as_tensor(x), as_parameter(xp), as_parameter(fp)
    if period is not None:
        if not period:
            raise ValueError("interp: period is 0; expected another number")
        length = abs(period)
        at, grid = remainder(at, length), remainder(grid, length)
        order = argsort(grid)
        grid, values = getitem(grid, order), getitem(values, order)
        grid = concat(
            [subtract(getitem(grid, slice(-1, None)), length), grid,
             add(getitem(grid, slice(0, 1)), length)], axis=0,
        )  # fmt: skip
        values = concat(
            [getitem(values, slice(-1, None)), values, getitem(values, slice(0, 1))], axis=0
        )
    count = grid.shape[0]
    joint = np.result_type(at.dtype, grid.dtype)
    above = searchsorted(astype(grid, joint), astype(at, joint), side="right")
    above = clip(above, 1, count - 1) if count > 1 else multiply(above, 0)
    below = subtract(above, 1) if count > 1 else above
    x0, x1 = getitem(grid, below), getitem(grid, above)
    y0, y1 = getitem(values, below), getitem(values, above)
    width = choose(equal(x1, x0), 1, subtract(x1, x0))
    inside = add(y0, multiply(divide(subtract(at, x0), width), subtract(y1, y0)))
    first = getitem(values, 0) if left is None or period is not None else left
    last = getitem(values, count - 1) if right is None or period is not None else right
    result = choose(less(at, getitem(grid, 0)), first, inside)
    return choose(greater(at, getitem(grid, count - 1)), last, result)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "diff": _diff,
    "ediff1d": _ediff1d,
    "trapezoid": _trapezoid,
    "trapz": _trapezoid,  # of NumPy up to 2.3
    "gradient": _gradient,
    "unwrap": _unwrap,
    "convolve": _convolve,
    "correlate": _correlate,
    "interp": _interp,
}

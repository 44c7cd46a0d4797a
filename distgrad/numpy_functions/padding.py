"""np.pad on tensors, in all of its modes but a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.numpy_functions.arguments import as_parameter, as_tensor, hosted, tensors_in
from distgrad.ops.elementwise.arithmetic import add, multiply, subtract
from distgrad.ops.ordering.sorting import sort
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing.reductions import max as largest
from distgrad.ops.reducing.reductions import mean
from distgrad.ops.reducing.reductions import min as smallest
from distgrad.ops.shaping.structure import astype, broadcast_to, concat, flip


def _part(x: Any, axis: int, start: int | None, stop: int | None, step: int | None = None) -> Any:
    return getitem(x, (slice(None),) * axis + (slice(start, stop, step),))


def _pad(array: Any, pad_width: Any, mode: Any = "constant", **options: Any) -> Any:
    x = as_tensor(array)
    widths = _widths(pad_width, x.ndim)
    if callable(mode):
        raise TypeError("pad: a function as mode is not taken for tensors; give a mode's name")
    if mode in ("edge", "wrap", "reflect", "symmetric") and options.get("reflect_type") != "odd":
        # NumPy's own padding of positions says where each element comes from.
        for place, (before, after) in enumerate(widths):
            if before or after:
                positions = np.pad(np.arange(x.shape[place]), (before, after), mode=mode)
                x = getitem(x, (slice(None),) * place + (positions,))
        return x
    if mode in ("reflect", "symmetric"):
        return _pad_odd(x, widths, mode)
    for place, (before, after) in enumerate(widths):
        ends = _ends(x, place, (before, after), mode, options)
        x = concat([ends[0], x, ends[1]], axis=place) if before or after else x
    return x


def _widths(pad_width: Any, ndim: int) -> list[tuple[int, int]]:
    if isinstance(pad_width, dict):
        widths = [(0, 0)] * ndim
        for axis, width in pad_width.items():
            widths[axis] = tuple(np.broadcast_to(width, (2,)).tolist())
        return widths
    return [tuple(pair) for pair in np.broadcast_to(hosted(pad_width), (ndim, 2)).tolist()]


def _pair(options: dict[str, Any], name: str, place: int, ndim: int, default: Any) -> Any:
    value = options.get(name, default)
    if tensors_in(value):  # numbers that are differentiated
        row = getitem(broadcast_to(as_parameter(value), (ndim, 2)), place)
        return (getitem(row, 0), getitem(row, 1))
    if value is None or np.ndim(value) == 0:
        return (value, value)
    return tuple(np.broadcast_to(value, (ndim, 2))[place].tolist())


def _ends(
    x: Any, place: int, counts: tuple[int, int], mode: str, options: dict[str, Any]
) -> list[Any]:
    """Return what goes before and after x along an axis."""
    length = x.shape[place]
    ends = []
    for side, count in enumerate(counts):
        shape = (*x.shape[:place], count, *x.shape[place + 1 :])
        edge = _part(x, place, 0, 1) if side == 0 else _part(x, place, length - 1, None)
        if mode == "constant":
            value = _pair(options, "constant_values", place, x.ndim, 0)[side]
            ends.append(broadcast_to(astype(as_parameter(value), x.dtype), shape))
        elif mode == "linear_ramp":
            value = _pair(options, "end_values", place, x.ndim, 0)[side]
            steps = np.arange(count, dtype=np.float64) / max(count, 1)
            ramp = steps if side == 0 else steps[::-1]
            sizes = [1] * x.ndim
            sizes[place] = -1
            share = ramp.reshape(sizes).astype(np.empty(0, x.dtype).real.dtype)
            ends.append(add(value, multiply(share, subtract(edge, value))))
        elif mode in _STATISTICS:
            some = _pair(options, "stat_length", place, x.ndim, None)[side]
            some = length if some is None else min(int(some), length)
            part = _part(x, place, 0, some) if side == 0 else _part(x, place, length - some, None)
            ends.append(broadcast_to(_STATISTICS[mode](part, place), shape))
        elif mode == "empty":
            ends.append(broadcast_to(astype(as_parameter(0), x.dtype), shape))
        else:
            raise ValueError(f"pad: mode '{mode}' is not supported")
    return ends


def _middle(x: Any, place: int) -> Any:
    ordered, n = sort(x, axis=place), x.shape[place]
    low = _part(ordered, place, (n - 1) // 2, (n - 1) // 2 + 1)
    return multiply(add(low, _part(ordered, place, n // 2, n // 2 + 1)), 0.5)


_STATISTICS: dict[str, Callable[[Any, int], Any]] = {
    "maximum": lambda x, place: largest(x, axis=place, keepdims=True),
    "minimum": lambda x, place: smallest(x, axis=place, keepdims=True),
    "mean": lambda x, place: mean(x, axis=place, keepdims=True),
    "median": _middle,
}


def _pad_odd(x: Any, widths: list[tuple[int, int]], mode: str) -> Any:
    """Return x continued by turning it about its ends by half a turn."""
    skip = 1 if mode == "reflect" else 0
    for place, missing in enumerate(widths):
        left_over, right_over = missing
        while left_over or right_over:
            length = x.shape[place]
            most = length - skip
            if most <= 0:
                raise ValueError(f"pad: axis {place} has {length} places; expected {skip + 1}")
            left, right = min(left_over, most), min(right_over, most)
            first, last = _part(x, place, 0, 1), _part(x, place, length - 1, None)
            parts = [
                subtract(multiply(first, 2), flip(_part(x, place, skip, skip + left), axis=place)),
                x,
                subtract(
                    multiply(last, 2),
                    flip(_part(x, place, length - skip - right, length - skip), axis=place),
                ),
            ]
            x = concat(parts, axis=place)
            left_over, right_over = left_over - left, right_over - right
    return x


FUNCTIONS: dict[str, Callable[..., Any]] = {"pad": _pad}

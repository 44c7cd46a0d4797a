"""NumPy's functions that pick, insert, delete and replace elements, on tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.numpy_functions.arguments import (
    as_tensor,
    given,
    host,
    hosted,
    one_axis,
    refuse_out,
)
from distgrad.ops.elementwise import selection
from distgrad.ops.elementwise.arithmetic import add, multiply
from distgrad.ops.elementwise.comparison import isnan
from distgrad.ops.linalg.parts import diag, diagonal
from distgrad.ops.ordering.searching import nonzero
from distgrad.ops.picking.along import take_along_axis
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.arrangement import moveaxis
from distgrad.ops.shaping.structure import astype, broadcast_to, concat, reshape


def _line(a: Any, axis: Any) -> tuple[Any, int]:
    x = as_tensor(a)
    if axis is None:
        return reshape(x, (-1,)), 0
    return x, one_axis("axis", axis, x.ndim)


def _at(x: Any, place: int, index: Any) -> Any:
    return getitem(x, ((slice(None),) * place + (index,)))


def _take(a: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Any:
    refuse_out("take", out)
    x, place = _line(a, axis)
    positions = np.asarray(hosted(indices))
    if mode == "wrap":
        positions = positions % x.shape[place]
    elif mode == "clip":
        positions = np.clip(positions, 0, x.shape[place] - 1)
    return _at(x, place, positions if positions.ndim else int(positions))


def _take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Any:
    x, place = _line(arr, axis)
    return take_along_axis(x, hosted(indices), axis=place)


def _compress(condition: Any, a: Any, axis: Any = None, out: Any = None) -> Any:
    refuse_out("compress", out)
    x, place = _line(a, axis)
    return _at(x, place, np.flatnonzero(hosted(condition)))


def _extract(condition: Any, arr: Any) -> Any:
    return _at(reshape(as_tensor(arr), (-1,)), 0, np.flatnonzero(hosted(condition)))


def _delete(arr: Any, obj: Any, axis: Any = None) -> Any:
    x, place = _line(arr, axis)
    return _at(x, place, np.delete(np.arange(x.shape[place]), hosted(obj)))


def _insert(arr: Any, obj: Any, values: Any, axis: Any = None) -> Any:
    x, place = _line(arr, axis)
    length = x.shape[place]
    # NumPy's own insertion of marks says where each element comes from.
    single = np.ndim(hosted(obj)) == 0 and not isinstance(obj, slice)
    new = as_tensor(values)
    if single:
        many = new.shape[place] if new.ndim == x.ndim else 1
        count = new.size if x.ndim == 1 else many
        start = operator.index(hosted(obj))
        start = start + length if start < 0 else start
        marks = np.insert(np.arange(length), [start] * count, -1 - np.arange(count))
    else:
        where = np.arange(length)[obj] if isinstance(obj, slice) else np.asarray(hosted(obj))
        where = np.flatnonzero(where) if where.dtype == np.bool_ else where
        count = where.size
        marks = np.insert(np.arange(length), where, -1 - np.arange(count))
    shape = (*x.shape[:place], count, *x.shape[place + 1 :])
    if single and new.ndim == x.ndim - 1 and x.ndim > 1:
        new = reshape(new, (*new.shape[:place], 1, *new.shape[place:]))
    elif x.ndim == 1:
        new = reshape(new, (-1,)) if new.ndim else new
    joined = concat([x, broadcast_to(astype(new, x.dtype), shape)], axis=place)
    return _at(joined, place, np.where(marks < 0, length - 1 - marks, marks))


def _where(condition: Any, x: Any = None, y: Any = None, /) -> Any:
    if x is None and y is None:
        return nonzero(as_tensor(condition))
    if x is None or y is None:
        raise ValueError("where: either both or neither of x and y should be given")
    return selection.where(hosted(condition) != 0, x, y)


def _select(condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    if len(condlist) != len(choicelist):
        raise ValueError(
            f"select: {len(condlist)} conditions and {len(choicelist)} choices; expected as many"
        )
    result = default
    for condition, choice in zip(condlist[::-1], choicelist[::-1], strict=True):
        result = selection.where(hosted(condition), choice, result)
    return result


def _choose(a: Any, choices: Sequence[Any], out: Any = None, mode: str = "raise") -> Any:
    refuse_out("choose", out)
    which = np.asarray(hosted(a))
    count = len(choices)
    if mode == "raise" and np.any((which < 0) | (which >= count)):
        raise ValueError(f"choose: an entry is no choice; expected 0 to {count - 1}")
    which = which % count if mode == "wrap" else np.clip(which, 0, count - 1)
    result = choices[0]
    for place in range(1, count):
        result = selection.where(which == place, choices[place], result)
    return add(result, np.zeros(which.shape, np.int8))


def _piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **kw: Any) -> Any:
    z = as_tensor(x)
    conditions = [np.asarray(hosted(each)) for each in condlist]
    functions = list(funclist)
    if len(functions) == len(conditions) + 1:
        conditions.append(~np.any(conditions, axis=0))
    elif len(functions) != len(conditions):
        raise ValueError(
            f"piecewise: {len(conditions)} conditions and {len(functions)} functions; expected as "
            "many, or one function more for the rest"
        )
    result = multiply(z, 0)
    for condition, function in zip(conditions, functions, strict=True):
        part = function(z, *args, **kw) if callable(function) else function
        result = selection.where(condition, part, result)
    return result


def _clip(
    a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None,
    max: Any = None, **ignored: Any,
) -> Any:  # fmt: skip
    refuse_out("clip", out)
    low = a_min if given(a_min) else (min if given(min) else None)
    high = a_max if given(a_max) else (max if given(max) else None)
    return selection.clip(as_tensor(a), low, high)


def _nan_to_num(
    x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None
) -> Any:
    z = as_tensor(x)
    info = np.finfo(np.empty(0, z.dtype).real.dtype)
    z = selection.where(isnan(z), nan, z)
    values = host(z)
    z = selection.where(values == np.inf, info.max if posinf is None else posinf, z)
    return selection.where(values == -np.inf, info.min if neginf is None else neginf, z)


def _diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    x = as_tensor(a)
    first, second = one_axis("axis1", axis1, x.ndim), one_axis("axis2", axis2, x.ndim)
    return diagonal(moveaxis(x, (first, second), (-2, -1)), offset=offset)


def _trace(
    a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None
) -> Any:
    refuse_out("trace", out)
    return sum_over(_diagonal(a, offset, axis1, axis2), axis=-1, dtype=dtype)


def _diag(v: Any, k: int = 0) -> Any:
    x = as_tensor(v)
    return diag(x, k=k) if x.ndim == 1 else _diagonal(x, k)


def _diagflat(v: Any, k: int = 0) -> Any:
    return diag(reshape(as_tensor(v), (-1,)), k=k)


_NO_CHANGE = (
    "{}: tensors do not change; take t = t.at[indices].set(values), which is differentiated"
)


def _in_place(name: str) -> Callable[..., Any]:
    def function(*arguments: Any, **options: Any) -> Any:
        raise TypeError(_NO_CHANGE.format(name))

    return function


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "take": _take,
    "take_along_axis": _take_along_axis,
    "compress": _compress,
    "extract": _extract,
    "delete": _delete,
    "insert": _insert,
    "where": _where,
    "select": _select,
    "choose": _choose,
    "piecewise": _piecewise,
    "clip": _clip,
    "nan_to_num": _nan_to_num,
    "diagonal": _diagonal,
    "trace": _trace,
    "diag": _diag,
    "diagflat": _diagflat,
    **{
        name: _in_place(name)
        for name in ("put", "put_along_axis", "place", "putmask", "copyto", "fill_diagonal")
    },
}

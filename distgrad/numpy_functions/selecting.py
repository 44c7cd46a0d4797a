"""NumPy's functions that pick, insert, delete and replace elements, on tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.dtypes import is_complex, is_real_floating
from distgrad.numpy_functions.arguments import (
    as_condition,
    as_operand,
    as_parameter,
    as_tensor,
    called,
    given,
    hosted,
    known_values,
    one_axis,
    refuse_out,
)
from distgrad.ops.elementwise import selection
from distgrad.ops.elementwise.arithmetic import add, multiply, remainder
from distgrad.ops.elementwise.comparison import equal, isnan, logical_not, logical_or
from distgrad.ops.elementwise.complex_numbers import imag, real
from distgrad.ops.linalg.parts import diag, diagonal
from distgrad.ops.ordering.searching import nonzero
from distgrad.ops.picking.along import take_along_axis
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.arrangement import moveaxis
from distgrad.ops.shaping.structure import astype, broadcast_to, concat, reshape
from distgrad.promotion import finfo
from distgrad.tensor import Operators


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
    if isinstance(indices, Operators):
        return _at(x, place, _within(indices, x.shape[place], mode))
    positions = _within(np.asarray(hosted(indices)), x.shape[place], mode)
    return _at(x, place, positions if positions.ndim else int(positions))


def _within(positions: Any, length: int, mode: str) -> Any:
    """Return positions that are kept among those of an axis, arrays or tensors."""
    if mode == "wrap":
        return positions % length
    return np.clip(positions, 0, length - 1) if mode == "clip" else positions


def _take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Any:
    x, place = _line(arr, axis)
    return take_along_axis(x, as_parameter(indices), axis=place)


def _compress(condition: Any, a: Any, axis: Any = None, out: Any = None) -> Any:
    refuse_out("compress", out)
    x, place = _line(a, axis)
    return _at(x, place, np.flatnonzero(known_values("compress", condition)))


def _extract(condition: Any, arr: Any) -> Any:
    where = np.flatnonzero(known_values("extract", condition))
    return _at(reshape(as_tensor(arr), (-1,)), 0, where)


def _delete(arr: Any, obj: Any, axis: Any = None) -> Any:
    x, place = _line(arr, axis)
    return _at(x, place, np.delete(np.arange(x.shape[place]), known_values("delete", obj)))


def _insert(arr: Any, obj: Any, values: Any, axis: Any = None) -> Any:
    x, place = _line(arr, axis)
    length, obj = x.shape[place], known_values("insert", obj)
    # NumPy's own insertion of marks says where each element comes from.
    single = np.ndim(obj) == 0 and not isinstance(obj, slice)
    new = as_tensor(values)
    if single:
        many = new.shape[place] if new.ndim == x.ndim else 1
        count = new.size if x.ndim == 1 else many
        start = operator.index(obj)
        start = start + length if start < 0 else start
        marks = np.insert(np.arange(length), [start] * count, -1 - np.arange(count))
    else:
        where = np.arange(length)[obj] if isinstance(obj, slice) else np.asarray(obj)
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
        return nonzero(as_parameter(condition))
    if x is None or y is None:
        raise ValueError("where: either both or neither of x and y should be given")
    return selection.where(as_condition(condition), as_operand(x), as_operand(y))


def _select(condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    if len(condlist) != len(choicelist):
        raise ValueError(
            f"select: {len(condlist)} conditions and {len(choicelist)} choices; expected as many"
        )
    result = as_operand(default)
    for condition, choice in zip(condlist[::-1], choicelist[::-1], strict=True):
        result = selection.where(as_condition(condition), as_operand(choice), result)
    return result


def _choose(a: Any, choices: Sequence[Any], out: Any = None, mode: str = "raise") -> Any:
    refuse_out("choose", out)
    which, count = as_parameter(a), len(choices)
    if mode == "raise":
        values = np.asarray(
            known_values(
                "choose", a, decided="with mode='raise' an error depends", remedy="give mode='clip'"
            )
        )
        if np.any((values < 0) | (values >= count)):
            raise ValueError(f"choose: an entry is no choice; expected 0 to {count - 1}")
    which = remainder(which, count) if mode == "wrap" else selection.clip(which, 0, count - 1)
    result = as_tensor(choices[0])
    for place in range(1, count):
        result = selection.where(equal(which, place), as_operand(choices[place]), result)
    shape = np.broadcast_shapes(result.shape, which.shape)
    return result if result.shape == shape else broadcast_to(result, shape)


def _piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **kw: Any) -> Any:
    z = as_tensor(x)
    conditions = [as_parameter(as_condition(each)) for each in _conditions(condlist, z.ndim)]
    functions = list(funclist)
    if len(functions) == len(conditions) + 1:
        rest = conditions[0]
        for condition in conditions[1:]:
            rest = logical_or(rest, condition)
        conditions.append(logical_not(rest))
    elif len(functions) != len(conditions):
        raise ValueError(
            f"piecewise: {len(conditions)} conditions and {len(functions)} functions; expected as "
            "many, or one function more for the rest"
        )
    result = broadcast_to(as_parameter(np.zeros((), z.dtype)), z.shape)
    for condition, function in zip(conditions, functions, strict=True):
        part = called(function, z, *args, **kw) if callable(function) else function
        result = selection.where(condition, astype(as_tensor(part), z.dtype), result)
    return result


def _conditions(condlist: Any, rank: int) -> list[Any]:
    """Return the conditions of `piecewise`; a line of numbers is one of them, as NumPy has it."""
    if isinstance(condlist, (np.ndarray, Operators)):
        single = condlist.ndim == 0 or (condlist.ndim == 1 and rank != 0)
    elif isinstance(condlist, (list, tuple)):
        arrays = (list, tuple, np.ndarray, Operators)
        single = rank != 0 and not isinstance(condlist[0], arrays)
    else:
        single = True
    return [condlist] if single else list(condlist)


def _clip(
    a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None,
    max: Any = None, **ignored: Any,
) -> Any:  # fmt: skip
    refuse_out("clip", out)
    low = a_min if given(a_min) else (min if given(min) else None)
    high = a_max if given(a_max) else (max if given(max) else None)
    return selection.clip(as_tensor(a), _bound(low), _bound(high))


def _bound(value: Any) -> Any:
    return as_parameter(value) if isinstance(value, (list, tuple)) else value


def _nan_to_num(
    x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None
) -> Any:
    z = as_tensor(x)
    if is_complex(z.dtype):
        parts = [_nan_to_num(part(z), copy, nan, posinf, neginf) for part in (real, imag)]
        return add(parts[0], multiply(parts[1], 1j))
    if not is_real_floating(z.dtype):
        return z
    limits = finfo(z.dtype)
    z = selection.where(isnan(z), _filling(nan), z)
    high = limits.max if posinf is None else _filling(posinf)
    low = limits.min if neginf is None else _filling(neginf)
    return selection.where(equal(z, -np.inf), low, selection.where(equal(z, np.inf), high, z))


def _filling(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float, np.generic)) else as_parameter(value)


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


def _copyto(dst: Any, src: Any, casting: Any = "same_kind", where: Any = True) -> None:
    if isinstance(dst, Operators):
        raise TypeError(_NO_CHANGE.format("copyto"))
    # What np.full(shape, t) comes to as well: the array is NumPy's, and keeps no gradient.
    np.copyto(dst, np.asarray(src), casting=casting, where=hosted(where))


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
    "copyto": _copyto,
    **{
        name: _in_place(name)
        for name in ("put", "put_along_axis", "place", "putmask", "fill_diagonal")
    },
}

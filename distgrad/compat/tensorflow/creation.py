"""Tensors from nothing: constants, ranges and their like."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import (
    at_home,
    dims,
    home_of,
    quotients,
    tensor_dtype,
    together,
)
from distgrad.compat.tensorflow.dtypes import as_dtype, float32
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor
from distgrad.tensor import Operators


def constant(value: Any, dtype: Any = None, shape: Any = None, name: str = "Const") -> Tensor:
    """Return a tensor of given values.

    Parameters
    ----------
    value : scalar, array or nested lists
        Python's floats become float32, its integers int32; arrays keep their dtype.
    dtype : dtype, optional
        The dtype wanted.
    shape : shape, optional
        Into which the values are brought; a single one fills it.

    Raises
    ------
    TypeError
        If the number of values does not fit the shape, or Python's numbers not the dtype.
    """
    tensor = convert_to_tensor(value, dtype)
    if shape is None:
        return tensor
    lengths = dims(shape)
    count = int(np.prod(lengths))
    if tensor.size == count:
        return compute(dg.reshape, tensor, lengths)
    if tensor.size == 1:
        return compute(lambda x: dg.broadcast_to(dg.reshape(x, ()), lengths), tensor)
    raise TypeError(
        f"Eager execution of tf.constant with unsupported shape. Tensor {tensor!r} (converted from "
        f"{value!r}) has {tensor.size} elements, but got `shape` {tuple(lengths)} with "
        f"{count} elements)."
    )


def zeros(shape: Any, dtype: Any = float32, name: str | None = None) -> Tensor:
    """Return zeros."""
    return Tensor(dg.zeros(_not_negative(shape), dtype=tensor_dtype(dtype, float32)))


def ones(shape: Any, dtype: Any = float32, name: str | None = None) -> Tensor:
    """Return ones."""
    return Tensor(dg.ones(_not_negative(shape), dtype=tensor_dtype(dtype, float32)))


def _not_negative(shape: Any) -> tuple[int, ...]:
    lengths = _lengths(shape)
    for length in lengths:
        if length < 0:
            raise InvalidArgumentError(f"Dimension {length} must be >= 0, got shape {lengths}")
    return lengths


def zeros_like(input: Any, dtype: Any = None, name: str | None = None) -> Tensor:
    """Return zeros in the shape of a tensor, and in its dtype unless another is given."""
    wanted = None if dtype is None else as_dtype(dtype).dtype
    return compute(dg.zeros_like, convert_to_tensor(input), dtype=wanted)


def ones_like(input: Any, dtype: Any = None, name: str | None = None) -> Tensor:
    """Return ones in the shape of a tensor, and in its dtype unless another is given."""
    wanted = None if dtype is None else as_dtype(dtype).dtype
    return compute(dg.ones_like, convert_to_tensor(input), dtype=wanted)


def fill(dims: Any, value: Any, name: str | None = None) -> Tensor:
    """Return a tensor of one value, in the value's dtype."""
    return compute(dg.broadcast_to, convert_to_tensor(value), _not_negative(dims))


_lengths = dims  # `fill` has a parameter of that name


def eye(
    num_rows: Any,
    num_columns: Any = None,
    batch_shape: Any = None,
    dtype: Any = float32,
    name: str | None = None,
) -> Tensor:
    """Return a matrix with ones on its diagonal, else zeros, or a batch of such."""
    columns = None if num_columns is None else int(num_columns)
    matrix = dg.eye(int(num_rows), columns, dtype=tensor_dtype(dtype, float32))
    if batch_shape is None:
        return Tensor(matrix)
    return compute(dg.broadcast_to, matrix, (*dims(batch_shape), *matrix.shape))


def range(
    start: Any, limit: Any = None, delta: Any = 1, dtype: Any = None, name: str = "range"
) -> Tensor:
    """Return evenly spaced numbers from `start` up to, but without, `limit`.

    Parameters
    ----------
    start, limit, delta : number or scalar tensor
        With one argument the numbers run from 0 up to it.
    dtype : dtype, optional
        By default the widest of the arguments': int32 for Python's integers, float32 for floats.
    """
    if limit is None:
        start, limit = 0, start
    given = [convert_to_tensor(each) for each in (start, limit, delta)]
    if dtype is None:
        order = ("int32", "int64", "float16", "float32", "float64")
        names = [tensor.dtype.name for tensor in given]
        wanted = np.dtype(max(names, key=lambda name: order.index(name) if name in order else 0))
    else:
        wanted = as_dtype(dtype).dtype
    first, last, step = (tensor.item() for tensor in given)
    return compute(dg.arange, first, last, step, dtype=wanted)


@at_home
def linspace(start: Any, stop: Any, num: Any, name: str | None = None, axis: int = 0) -> Tensor:
    """Return evenly spaced numbers from `start` to `stop`, along a new axis.

    Parameters
    ----------
    start, stop : number or Tensor of one dtype
        The first and the last; integers become floating, as in a division.
    num : int
        How many.
    axis : int
        Where the new axis goes.

    Raises
    ------
    InvalidArgumentError
        If `num` is negative, or the shapes do not broadcast.
    """
    first, last = quotients(*together("linspace", convert_to_tensor(start), stop))
    count = int(num)
    if count < 0:
        raise InvalidArgumentError(f"linspace: num is {count}; expected 0 or more")
    with home_of(first):
        places = dg.arange(count, dtype=first.dtype)

    def of(a: dg.Tensor, b: dg.Tensor, places: dg.Tensor) -> Any:
        a, b = (dg.expand_dims(each, axis=axis) for each in dg.broadcast_arrays(a, b))
        before = axis % a.ndim
        places = dg.reshape(places, (-1, *(1,) * (a.ndim - 1 - before)))
        spaced = a + (b - a) / builtins.max(count - 1, 1) * places
        # The last one exactly, whatever its distance from the first was rounded to.
        return dg.where(dg.equal(places, count - 1), b, spaced) if count > 1 else spaced

    return compute(of, first, last, places)


def one_hot(
    indices: Any,
    depth: Any,
    on_value: Any = None,
    off_value: Any = None,
    axis: int | None = None,
    dtype: Any = None,
    name: str | None = None,
) -> Tensor:
    """Return `on_value` at each position along a new axis, and `off_value` elsewhere.

    Parameters
    ----------
    indices : Tensor or array of int
        The positions; one outside of the axis gives `off_value` alone.
    depth : int
        The length of the new axis.
    on_value, off_value : scalar, optional
        1 and 0 by default.
    axis : int, optional
        Where the new axis goes; it is the last by default.
    dtype : dtype, optional
        By default that of `on_value` or `off_value`, else float32.
    """
    chosen = dtype
    if chosen is None:
        given = on_value if on_value is not None else off_value
        chosen = float32 if given is None else convert_to_tensor(given).dtype
    wanted = as_dtype(chosen).dtype
    on = 1 if on_value is None else on_value
    off = 0 if off_value is None else off_value
    positions = convert_to_tensor(indices).read()

    def of(x: dg.Tensor) -> Any:
        if on_value is None and off_value is None:
            hot = dg.one_hot(x, int(depth), dtype=wanted)
        else:
            values = [dg.astype(convert_to_tensor(v).read(), wanted) for v in (on, off)]
            hot = dg.where(dg.one_hot(x, int(depth), dtype="bool"), *values)
        place = hot.ndim - 1 if axis is None or axis == -1 else axis
        order = list(builtins.range(hot.ndim - 1))
        order.insert(place, hot.ndim - 1)
        return hot if axis is None or axis == -1 else dg.permute_dims(hot, order)

    return compute(of, positions)


def is_tensor(x: Any) -> bool:
    """Return whether a value is a tensor or variable."""
    return isinstance(x, Operators)

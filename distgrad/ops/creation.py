"""Arrays from nothing: constants and ranges, made on the backend in force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from distgrad.core.op import Kind, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import DType, DTypeLike, as_dtype, bool_, complex_of, default_dtype, int64
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import operand
from distgrad.ops.rules.families import undifferentiable
from distgrad.ops.shaping.placement import to_device
from distgrad.ops.shaping.structure import astype, broadcast_to
from distgrad.shapes import Shape, integer


def _full_spec(*, shape: Shape, fill_value: Any, dtype: DType) -> Spec:
    return Spec(shape, dtype)


FULL = undifferentiable("full", _full_spec)


def full(
    shape: int | Sequence[int],
    fill_value: Any,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
) -> Any:
    """Return an array of one value.

    Parameters
    ----------
    shape : int or sequence of int
        Its shape.
    fill_value : scalar, or Tensor without axes
        The value of every element; the gradient flows to a tensor.
    dtype : dtype, optional
        By default bool, int64, the default dtype or its complex one, as `fill_value` is, or that of
        the tensor.
    device : str, optional
        Where to put it: a device of the backend in force, such as ``"cuda:1"``; by default the
        backend's own choice.

    Raises
    ------
    ValueError
        If the backend has no such device.
    """
    if hasattr(fill_value, "shape"):
        value = fill_value if dtype is None else astype(fill_value, dtype)
        return to_device(broadcast_to(value, _as_shape(shape)), device)
    chosen = dtype_of_scalar(fill_value) if dtype is None else as_dtype(dtype)
    made = apply(FULL, shape=_as_shape(shape), fill_value=fill_value, dtype=chosen)
    return to_device(made, device)


def zeros(
    shape: int | Sequence[int], *, dtype: DTypeLike | None = None, device: str | None = None
) -> Any:
    """Return an array of zeros, of the default dtype unless another is given; see `full`."""
    return full(shape, 0, dtype=default_dtype() if dtype is None else dtype, device=device)


def ones(
    shape: int | Sequence[int], *, dtype: DTypeLike | None = None, device: str | None = None
) -> Any:
    """Return an array of ones, of the default dtype unless another is given; see `full`."""
    return full(shape, 1, dtype=default_dtype() if dtype is None else dtype, device=device)


def empty(
    shape: int | Sequence[int], *, dtype: DTypeLike | None = None, device: str | None = None
) -> Any:
    """Return an array of no particular values, in fact of zeros; see `full`.

    A tensor's values do not change by themselves, so there is no use for memory that was not set.
    """
    return zeros(shape, dtype=dtype, device=device)


def _full_like_spec(x: Spec, *, fill_value: Any, dtype: DType) -> Spec:
    return Spec(tuple(x.shape), dtype)


FULL_LIKE = undifferentiable("full_like", _full_like_spec, kind=Kind.ELEMENTWISE)


def full_like(
    x: Any,
    /,
    fill_value: Any,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
) -> Any:
    """Return an array of one value in the shape, and on the backend, of another array.

    Parameters
    ----------
    x : Tensor, Variable or array
        Whose shape and, unless another is given, whose dtype.
    fill_value : scalar, or Tensor without axes
        The value of every element.
    dtype, device : optional
        As for `full`.
    """
    x = operand(x)
    chosen = as_dtype(x.dtype if dtype is None else dtype)
    if hasattr(fill_value, "shape"):
        return full(tuple(x.shape), fill_value, dtype=chosen, device=device)
    return to_device(apply(FULL_LIKE, x, fill_value=fill_value, dtype=chosen), device)


def empty_like(x: Any, /, *, dtype: DTypeLike | None = None, device: str | None = None) -> Any:
    """Return an array of no particular values, in fact of zeros; see `full_like`."""
    return full_like(x, 0, dtype=dtype, device=device)


def full_beside(x: Any, shape: Shape, fill_value: Any, dtype: DType) -> Any:
    """Return an array of any shape on the backend of another array, whichever is in force."""
    there = broadcast_to(x, tuple(x.shape))  # a tensor, also of an array
    return there.kernels.recorded.full(shape=shape, fill_value=fill_value, dtype=dtype)


def dtype_of_scalar(value: bool | int | float | complex) -> DType:
    """Return the dtype that a Python scalar gets where no array decides."""
    if isinstance(value, bool):
        return bool_
    if isinstance(value, int):
        return int64
    return default_dtype() if isinstance(value, float) else complex_of(default_dtype())


def _as_shape(shape: int | Sequence[int]) -> Shape:
    lengths = shape if isinstance(shape, (tuple, list)) else (shape,)
    plain = tuple([integer("full", "shape", length) for length in lengths])
    if min(plain, default=0) < 0:
        raise ShapeError(f"full: shape is {plain}; expected lengths of 0 or more")
    return plain


def _arange_spec(*, start: Any, stop: Any, step: Any, dtype: DType) -> Spec:
    return Spec((max(math.ceil((stop - start) / step), 0),), dtype)


ARANGE = undifferentiable("arange", _arange_spec)


def arange(
    start: int | float,
    /,
    stop: int | float | None = None,
    step: int | float = 1,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
) -> Any:
    """Return evenly spaced values from `start` up to, but without, `stop`.

    With one argument the values run from 0 up to it. The dtype is int64 where all arguments are
    integers, and else the default one.

    Raises
    ------
    ValueError
        If `step` is 0.
    """
    if stop is None:
        start, stop = 0, start
    for name, value in (("start", start), ("stop", stop), ("step", step)):
        if not isinstance(value, Real) and getattr(value, "shape", None) != ():
            raise TypeError(f"arange: {name} is {value!r}; expected a real number")
    if step == 0:
        raise ValueError("arange: step is 0; expected a number that is not 0")
    if dtype is None:
        integers = all(isinstance(v, Integral) for v in (start, stop, step))
        dtype = int64 if integers else default_dtype()
    made = apply(ARANGE, start=start, stop=stop, step=step, dtype=as_dtype(dtype))
    return to_device(made, device)


def _linspace_spec(*, start: Any, stop: Any, num: int, dtype: DType, endpoint: bool) -> Spec:
    return Spec((num,), dtype)


LINSPACE = undifferentiable("linspace", _linspace_spec)


def linspace(
    start: int | float | complex,
    stop: int | float | complex,
    /,
    num: int,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    endpoint: bool = True,
) -> Any:
    """Return `num` evenly spaced values from `start` to `stop`, which is left out on request."""
    num = integer("linspace", "num", num)
    if num < 0:
        raise ValueError(f"linspace: num is {num}; expected 0 or more")
    if dtype is None:
        is_complex = isinstance(start, complex) or isinstance(stop, complex)
        dtype = complex_of(default_dtype()) if is_complex else default_dtype()
    made = apply(
        LINSPACE, start=start, stop=stop, num=num, dtype=as_dtype(dtype), endpoint=endpoint
    )
    return to_device(made, device)


def _eye_spec(*, n_rows: int, n_cols: int, k: int, dtype: DType) -> Spec:
    return Spec((n_rows, n_cols), dtype)


EYE = undifferentiable("eye", _eye_spec)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: DTypeLike | None = None,
    device: str | None = None,
) -> Any:
    """Return a matrix with ones on its k-th diagonal (above the main one for k > 0), else zeros."""
    rows = integer("eye", "n_rows", n_rows)
    columns = rows if n_cols is None else integer("eye", "n_cols", n_cols)
    if rows < 0 or columns < 0:
        raise ShapeError(f"eye: shape is {(rows, columns)}; expected lengths of 0 or more")
    made = apply(
        EYE,
        n_rows=rows,
        n_cols=columns,
        k=integer("eye", "k", k),
        dtype=default_dtype() if dtype is None else as_dtype(dtype),
    )
    return to_device(made, device)


OPS = (FULL, FULL_LIKE, ARANGE, LINSPACE, EYE)

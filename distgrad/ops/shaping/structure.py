"""Structure: change the shape, order or dtype of elements, join arrays; linear, all of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

from distgrad.backend.protocol import Backend
from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Slice, Spec
from distgrad.core.seam import apply, operands
from distgrad.dtypes import DTypeLike, as_dtype
from distgrad.errors import ShapeError
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import joint, linear, shape_of, sum_to, undifferentiable
from distgrad.ops.shaping.placement import to_device
from distgrad.shapes import (
    Axis,
    Shape,
    broadcast,
    integer,
    integers,
    normalize_axes,
    normalize_axis,
    shape_given,
)

# --- shape --------------------------------------------------------------------------------------


def _reshape_spec(x: Spec, *, shape: Shape) -> Spec:
    size, given = prod(x.shape), prod(length for length in shape if length != -1)
    unknown = shape.count(-1)
    if unknown > 1 or any(length < -1 for length in shape):
        raise ShapeError(f"reshape: shape is {shape}; expected lengths >= 0, one of them may be -1")
    if (size != given) if not unknown else (given == 0 or size % given):
        raise ShapeError(f"reshape: {tuple(x.shape)} has {size} elements and cannot become {shape}")
    return Spec(tuple(size // given if length == -1 else length for length in shape), x.dtype)


def _reshape_transpose(xp: Namespace, g: Array, primal: Shape, shape: Shape) -> Array:
    return xp.reshape(g, shape=tuple(primal))


RESHAPE = linear("reshape", _reshape_transpose, _reshape_spec, batch=batching.reshape)


def reshape(x: Any, /, shape: int | Sequence[int], *, copy: bool | None = None) -> Any:
    """Return the same elements, in row-major order, in another shape.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of any shape.
    shape : int or sequence of int
        The new shape; one length may be -1, which means what is left.
    copy : bool, optional
        Accepted for the standard's sake: nobody sees whether tensors share memory.

    Raises
    ------
    ShapeError
        If the number of elements differs.
    """
    if isinstance(shape, (tuple, list)):
        return apply(RESHAPE, x, shape=tuple([_length(length) for length in shape]))
    return apply(RESHAPE, x, shape=(_length(shape),))


def _length(value: Any) -> int:
    return value if value.__class__ is int else integer("reshape", "shape", value)


def _broadcast_to_spec(x: Spec, *, shape: Shape) -> Spec:
    if len(x.shape) > len(shape) or broadcast("broadcast_to", tuple(x.shape), shape) != shape:
        raise ShapeError(f"broadcast_to: {tuple(x.shape)} does not broadcast to {shape}")
    return Spec(shape, x.dtype)


def _broadcast_to_transpose(xp: Namespace, g: Array, primal: Shape, shape: Shape) -> Array:
    return sum_to(xp, g, tuple(primal))


BROADCAST_TO = linear(
    "broadcast_to", _broadcast_to_transpose, _broadcast_to_spec, batch=batching.broadcast_to
)


def broadcast_to(x: Any, /, shape: Sequence[int]) -> Any:
    """Return x repeated along new axes, and along those of length 1, to a shape."""
    if shape.__class__ is not tuple:
        shape = integers("broadcast_to", "shape", shape)
    return apply(BROADCAST_TO, x, shape=shape)


def _expand_dims_spec(x: Spec, *, axis: int) -> Spec:
    place = normalize_axis("expand_dims", axis, len(x.shape) + 1)
    return Spec((*x.shape[:place], 1, *x.shape[place:]), x.dtype)


def _expand_dims_transpose(xp: Namespace, g: Array, primal: Shape, axis: int) -> Array:
    return xp.reshape(g, shape=tuple(primal))


EXPAND_DIMS = linear(
    "expand_dims", _expand_dims_transpose, _expand_dims_spec, batch=batching.expand_dims
)


def expand_dims(x: Any, /, axis: int = 0) -> Any:
    """Return x with a new axis of length 1 at a position of the result."""
    return apply(EXPAND_DIMS, x, axis=axis)


def _squeeze_spec(x: Spec, *, axis: Axis) -> Spec:
    axes = normalize_axes("squeeze", axis, len(x.shape))
    for a in axes:
        if x.shape[a] != 1:
            raise ShapeError(
                f"squeeze: axis {a} of {tuple(x.shape)} has length {x.shape[a]}, not 1"
            )
    return Spec(tuple(n for a, n in enumerate(x.shape) if a not in axes), x.dtype)


def _squeeze_transpose(xp: Namespace, g: Array, primal: Shape, axis: Axis) -> Array:
    return xp.reshape(g, shape=tuple(primal))


SQUEEZE = linear("squeeze", _squeeze_transpose, _squeeze_spec, batch=batching.along_axes("squeeze"))


def squeeze(x: Any, /, axis: Axis = None) -> Any:
    """Return x without axes of length 1: those named, or all such by default."""
    if axis is None:
        axis = tuple(a for a, length in enumerate(shape_given(x)) if length == 1)
    return apply(SQUEEZE, x, axis=axis)


# --- order --------------------------------------------------------------------------------------


def _permute_dims_spec(x: Spec, *, axes: Shape) -> Spec:
    order = normalize_axes("permute_dims", axes, len(x.shape))
    if len(order) != len(x.shape):
        raise ShapeError(
            f"permute_dims: axes {axes} do not name all {len(x.shape)} axes of {tuple(x.shape)}"
        )
    return Spec(tuple(x.shape[a] for a in order), x.dtype)


def _permute_dims_transpose(xp: Namespace, g: Array, primal: Shape, axes: Shape) -> Array:
    return xp.permute_dims(g, axes=_undone(axes))


@cache
def _undone(axes: Shape) -> Shape:
    """Return the order of axes that brings them back from another one."""
    places = {axis % len(axes): place for place, axis in enumerate(axes)}
    return tuple(places[axis] for axis in range(len(axes)))


PERMUTE_DIMS = linear(
    "permute_dims", _permute_dims_transpose, _permute_dims_spec, batch=batching.permute_dims
)


def permute_dims(x: Any, /, axes: Sequence[int]) -> Any:
    """Return x with its axes in another order: axis i of the result is axis ``axes[i]`` of x."""
    if axes.__class__ is not tuple:
        axes = integers("permute_dims", "axes", axes)
    return apply(PERMUTE_DIMS, x, axes=axes)


def _matrix_transpose_spec(x: Spec) -> Spec:
    if len(x.shape) < 2:
        raise ShapeError(f"matrix_transpose: two axes or more expected, got {tuple(x.shape)}")
    return Spec((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype)


def _matrix_transpose_transpose(xp: Namespace, g: Array, primal: Shape) -> Array:
    return xp.matrix_transpose(g)


MATRIX_TRANSPOSE = linear(
    "matrix_transpose",
    _matrix_transpose_transpose,
    _matrix_transpose_spec,
    batch=batching.trailing("matrix_transpose"),
)


def matrix_transpose(x: Any, /) -> Any:
    """Return x with its last two axes exchanged."""
    return apply(MATRIX_TRANSPOSE, x)


def _flip_spec(x: Spec, *, axis: Axis = None) -> Spec:
    normalize_axes("flip", axis, len(x.shape))
    return Spec(tuple(x.shape), x.dtype)


def _flip_transpose(xp: Namespace, g: Array, primal: Shape, axis: Axis = None) -> Array:
    return xp.flip(g, axis=axis)


FLIP = linear("flip", _flip_transpose, _flip_spec, batch=batching.along_axes("flip"))


def flip(x: Any, /, *, axis: Axis = None) -> Any:
    """Return x with the order of elements reversed along axes; along all of them by default."""
    return apply(FLIP, x, axis=axis)


# --- dtype --------------------------------------------------------------------------------------


def _astype_spec(x: Spec, *, dtype: Any) -> Spec:
    return Spec(tuple(x.shape), as_dtype(dtype))


def _astype_transpose(xp: Namespace, g: Array, primal: Spec, dtype: Any) -> Array:
    if g.dtype in xp.complex_dtypes and primal.dtype not in xp.complex_dtypes:
        g = xp.real(g)
    return xp.astype(g, dtype=primal.dtype)


ASTYPE = linear("astype", _astype_transpose, _astype_spec, kind=Kind.ELEMENTWISE, keep=Keep.SPECS)


def astype(x: Any, dtype: DTypeLike, /, *, copy: bool = True, device: str | None = None) -> Any:
    """Return x in another dtype; the gradient comes back in x's own, and integers end it.

    Parameters
    ----------
    x : Tensor, Variable or array
        What to convert.
    dtype : dtype
        To what.
    copy : bool
        Whether to copy also where x is a tensor of this dtype already; if not, that is returned.
    device : str, optional
        Where to put it, among the devices of x's backend; by default where x is.
    """
    chosen = as_dtype(dtype)
    if not copy and hasattr(x, "read") and x.dtype == chosen:
        return to_device(x.read(), device)
    return to_device(apply(ASTYPE, x, dtype=chosen), device)


# --- joining ------------------------------------------------------------------------------------


def _concat_spec(*xs: Spec, axis: int) -> Spec:
    first = shape_of(xs[0])
    place = normalize_axis("concat", axis, len(first))
    for position, x in enumerate(xs):
        shape = shape_of(x)
        if len(shape) != len(first) or any(
            n != m for a, (n, m) in enumerate(zip(shape, first, strict=True)) if a != place
        ):
            raise ShapeError(
                f"concat: array {position} has shape {shape}, array 0 has {first}; "
                f"expected equal lengths in every axis but {place}"
            )
    total = sum(x.shape[place] for x in xs)
    return Spec((*first[:place], total, *first[place + 1 :]), joint(*xs))


def _concat_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    if xs is None:  # one array, or empty ones: each input has the shape of the output
        return tuple(g for _ in needs)
    axis = params["axis"] % len(g.shape)
    cotangents, start = [], 0
    for shape, need in zip(xs, needs, strict=True):
        stop = start + shape[axis]
        index = (*(Slice(None, None, None),) * axis, Slice(start, stop, None))
        cotangents.append(xp.getitem(g, index=index) if need else None)
        start = stop
    return cotangents


def _concat_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return xp.concat(
        *(xp.zeros_like(x) if t is None else t for t, x in zip(tangents, xs, strict=True)), **params
    )


CONCAT = Op(
    "concat",
    Kind.OPAQUE,
    _concat_spec,
    _concat_vjp,
    _concat_jvp,
    Keep.SHAPES,
    batch=batching.concat,
)


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Any:
    """Return arrays joined along an axis.

    Parameters
    ----------
    arrays : sequence of Tensor, Variable or array
        One or more; equal in every axis but `axis`.
    axis : int or None
        The axis to join along; None flattens the arrays first.

    Raises
    ------
    ShapeError
        If there is no array, or shapes differ in another axis.
    """
    arrays = _several("concat", arrays)
    if not arrays:
        raise ShapeError("concat: arrays is empty; expected one array or more")
    if axis is None:
        return apply(CONCAT, *(reshape(x, -1) for x in arrays), axis=0)
    return apply(CONCAT, *arrays, axis=axis)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    """Return arrays of one shape joined along a new axis at a position of the result."""
    arrays = _several("stack", arrays)
    if not arrays:
        raise ShapeError("stack: arrays is empty; expected one array or more")
    return concat([expand_dims(x, axis=axis) for x in operands(*arrays)], axis=axis)


def _several(operation: str, arrays: Any) -> tuple[Any, ...]:
    if arrays.__class__ is list:
        return tuple(arrays)
    if not hasattr(arrays, "__iter__") or isinstance(arrays, (str, dict)):
        raise TypeError(
            f"{operation}: arrays is of type {type(arrays).__name__}; expected a list or tuple of "
            "arrays"
        )
    return tuple(arrays)


# --- values in the shape of another array -------------------------------------------------------


def _like_spec(x: Spec) -> Spec:
    return Spec(tuple(x.shape), x.dtype)


ZEROS_LIKE = undifferentiable("zeros_like", _like_spec, kind=Kind.ELEMENTWISE)
ONES_LIKE = undifferentiable("ones_like", _like_spec, kind=Kind.ELEMENTWISE)


def zeros_like(x: Any, /, *, dtype: DTypeLike | None = None, device: str | None = None) -> Any:
    """Return zeros in the shape, dtype and on the backend of an array."""
    zeros = apply(ZEROS_LIKE, x)
    return to_device(zeros if dtype is None else astype(zeros, dtype), device)


def ones_like(x: Any, /, *, dtype: DTypeLike | None = None, device: str | None = None) -> Any:
    """Return ones in the shape, dtype and on the backend of an array."""
    ones = apply(ONES_LIKE, x)
    return to_device(ones if dtype is None else astype(ones, dtype), device)


# --- moving to another backend ------------------------------------------------------------------


def _transfer_spec(x: Spec, *, source: Backend, backend: Backend) -> Spec:
    return Spec(tuple(x.shape), x.dtype)


def _transfer(xp: Namespace, x: Array, source: Backend, backend: Backend) -> Array:
    return backend.asarray(source.to_host(x))


def _transfer_transpose(
    xp: Namespace, g: Array, primal: Shape, source: Backend, backend: Backend
) -> Array:
    return xp.transfer(g, source=backend, backend=source)


TRANSFER = linear(
    "transfer", _transfer_transpose, _transfer_spec, kind=Kind.OPAQUE, compose=_transfer
)


OPS = (RESHAPE, BROADCAST_TO, EXPAND_DIMS, SQUEEZE, PERMUTE_DIMS, MATRIX_TRANSPOSE, FLIP) + (
    ASTYPE,
    CONCAT,
    ZEROS_LIKE,
    ONES_LIKE,
    TRANSFER,
)

"""Arrangement: axes moved, elements rolled, repeated, cut to triangles, arrays taken apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Slice, Spec
from distgrad.core.seam import apply, operands
from distgrad.errors import ShapeError
from distgrad.ops.picking.indexing import take
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import linear, shape_of
from distgrad.ops.shaping.structure import broadcast_to, expand_dims, permute_dims, reshape
from distgrad.shapes import (
    Axis,
    Shape,
    broadcast,
    integer,
    normalize_axes,
    normalize_axis,
    shape_given,
)

_EVERYTHING = Slice(None, None, None)

# --- axes ---------------------------------------------------------------------------------------


def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int], /) -> Any:
    """Return x with axes moved to other places; the rest keep their order.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of one axis or more.
    source, destination : int or sequence of int
        Which axes, and where each of them goes.

    Raises
    ------
    ShapeError
        If there is no such axis, one is named twice, or the numbers of axes differ.
    """
    ndim = len(shape_given(x))
    froms = normalize_axes("moveaxis", _plain("moveaxis", "source", source), ndim)
    tos = normalize_axes("moveaxis", _plain("moveaxis", "destination", destination), ndim)
    if len(froms) != len(tos):
        raise ShapeError(
            f"moveaxis: source {source} and destination {destination} differ in length; expected "
            "one place for each axis"
        )
    order = [axis for axis in range(ndim) if axis not in froms]
    for place, axis in sorted(zip(tos, froms, strict=True)):
        order.insert(place, axis)
    return permute_dims(x, order)


def _plain(operation: str, argument: str, axes: int | Sequence[int]) -> int | tuple[int, ...]:
    """Return axes as Python's integers."""
    if isinstance(axes, (tuple, list)):
        return tuple(integer(operation, argument, axis) for axis in axes)
    return integer(operation, argument, axes)


def broadcast_arrays(*arrays: Any) -> list[Any]:
    """Return arrays, each in the shape to which all of them broadcast.

    Raises
    ------
    ShapeError
        If the shapes do not broadcast.
    """
    arrays = operands(*arrays, joint=False)
    shape = broadcast("broadcast_arrays", *(shape_given(x) for x in arrays))
    return [broadcast_to(x, shape) for x in arrays]


def meshgrid(*arrays: Any, indexing: str = "xy") -> list[Any]:
    """Return coordinate matrices from coordinate vectors.

    Parameters
    ----------
    *arrays : Tensor, Variable or array
        The coordinates along each axis, of one axis each (or none, for a single one).
    indexing : {"xy", "ij"}
        Whether the first vector runs along the second axis, as in a picture, or along the first,
        as in a matrix.

    Raises
    ------
    ValueError
        If `indexing` is neither.
    ShapeError
        If a vector has several axes.
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing is {indexing!r}; expected 'xy' or 'ij'")
    arrays = operands(*arrays, joint=False)
    lengths = []
    for position, x in enumerate(arrays):
        shape = shape_given(x)
        if len(shape) > 1:
            raise ShapeError(f"meshgrid: array {position} has shape {shape}; expected one axis")
        lengths.append(shape[0] if shape else 1)
    axes = list(range(len(arrays)))
    if indexing == "xy" and len(axes) > 1:
        axes[:2] = [1, 0]
    whole = [0] * len(arrays)
    for axis, length in zip(axes, lengths, strict=True):
        whole[axis] = length
    grids = []
    for axis, x in zip(axes, arrays, strict=True):
        own = tuple(-1 if place == axis else 1 for place in range(len(arrays)))
        grids.append(broadcast_to(reshape(x, own), whole))
    return grids


# --- rolling ------------------------------------------------------------------------------------


def _roll_spec(x: Spec, *, shift: Shape, axis: Shape) -> Spec:
    normalize_axes("roll", tuple(set(axis)), len(x.shape))
    return Spec(tuple(x.shape), x.dtype)


def _roll_transpose(xp: Namespace, g: Array, primal: Shape, shift: Shape, axis: Shape) -> Array:
    return xp.roll(g, shift=tuple(-by for by in shift), axis=axis)


def _roll_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    rank = len(arrays[0].shape) - 1
    axis = tuple(normalize_axis("roll", a, rank) + 1 for a in params["axis"])
    return xp.roll(arrays[0], shift=params["shift"], axis=axis)


ROLL = linear("roll", _roll_transpose, _roll_spec, batch=_roll_batch)


def roll(x: Any, /, shift: int | Sequence[int], *, axis: Axis = None) -> Any:
    """Return x with its elements moved along axes; those that leave come in at the other end.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of any shape.
    shift : int or tuple of int
        By how many places; one number for each axis, or one for all.
    axis : int or tuple of int, optional
        Along which axes; by default x is rolled as one line, in row-major order.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or shifts and axes differ in number.
    """
    shifts = _plain("roll", "shift", shift)
    if axis is None:
        by = shifts if isinstance(shifts, int) else math.fsum(shifts)
        line = apply(ROLL, reshape(x, -1), shift=(int(by),), axis=(0,))
        return reshape(line, shape_given(x))
    axes = _plain("roll", "axis", axis)
    axes = (axes,) if isinstance(axes, int) else axes
    shifts = (shifts,) * len(axes) if isinstance(shifts, int) else shifts
    if len(axes) == 1:
        axes *= len(shifts)
    if len(shifts) != len(axes):
        raise ShapeError(
            f"roll: shift {shift} and axis {axis} differ in length; expected one shift for each "
            "axis, or one for all"
        )
    return apply(ROLL, x, shift=shifts, axis=axes)


# --- repetition ---------------------------------------------------------------------------------


def repeat(x: Any, repeats: Any, /, *, axis: int | None = None) -> Any:
    """Return x with each element repeated along an axis.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of any shape.
    repeats : int or integer array
        How often; an array has a number for each position along `axis`, whose values are read, so
        inside a traced function it has to be one of NumPy's.
    axis : int, optional
        Along which axis; by default x is repeated as one line.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or `repeats` has another length than it.
    """
    if axis is None:
        return repeat(reshape(x, -1), repeats, axis=0)
    shape = shape_given(x)
    place = normalize_axis("repeat", axis, len(shape))
    if not isinstance(repeats, int):
        is_host = isinstance(repeats, (list, tuple, np.ndarray, np.generic))
        # A tensor's or a device's numbers come to the host: the result's shape depends on them.
        counts = np.asarray(repeats) if is_host else reshape(repeats, shape_given(repeats)).numpy()
        if counts.size != 1:
            if counts.shape != (shape[place],):
                raise ShapeError(
                    f"repeat: repeats has shape {counts.shape}; expected an integer, or one number "
                    f"for each of the {shape[place]} positions along axis {axis}"
                )
            # A list goes to the backend of what is picked from.
            return take(x, np.repeat(np.arange(counts.size), counts).tolist(), axis=place)
        repeats = int(counts.reshape(())[()])
    if repeats < 0:
        raise ShapeError(f"repeat: repeats is {repeats}; expected 0 or more")
    rows = broadcast_to(
        expand_dims(x, axis=place + 1), (*shape[: place + 1], repeats, *shape[place + 1 :])
    )
    return reshape(rows, (*shape[:place], shape[place] * repeats, *shape[place + 1 :]))


def tile(x: Any, repetitions: int | Sequence[int], /) -> Any:
    """Return x laid out several times along each axis.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of any shape.
    repetitions : tuple of int
        How often along each axis; the shorter of it and the shape is filled up with ones in front.
    """
    given = _plain("tile", "repetitions", repetitions)
    times: tuple[int, ...] = (given,) if isinstance(given, int) else given
    shape = shape_given(x)
    rank = max(len(shape), len(times))
    shape = (1,) * (rank - len(shape)) + shape
    times = (1,) * (rank - len(times)) + times
    if all(time == 1 for time in times):
        return reshape(x, shape)
    split = [length for n in shape for length in (1, n)]
    whole = [length for pair in zip(times, shape, strict=True) for length in pair]
    laid = broadcast_to(reshape(x, split), whole)
    return reshape(laid, tuple(time * n for time, n in zip(times, shape, strict=True)))


# --- triangles ----------------------------------------------------------------------------------


def _triangle(name: str) -> Op:
    def spec(x: Spec, *, k: int) -> Spec:
        _check_matrix(name, x)
        return Spec(tuple(x.shape), x.dtype)

    def transpose(xp: Namespace, g: Array, primal: Shape, k: int) -> Array:
        return getattr(xp, name)(g, k=k)

    return linear(name, transpose, spec, kind=Kind.OPAQUE, batch=batching.trailing(name))


def _check_matrix(name: str, x: Any) -> None:
    shape = shape_given(x)
    if len(shape) < 2:
        raise ShapeError(f"{name}: two axes or more expected, got {shape}")


TRIL = _triangle("tril")
TRIU = _triangle("triu")


def tril(x: Any, /, *, k: int = 0) -> Any:
    """Return matrices with zeros above the k-th diagonal.

    Parameters
    ----------
    x : Tensor, Variable or array
        A matrix, or a stack of them along the first axes.
    k : int
        Which diagonal; 0 is the main one, those above it are positive.

    Raises
    ------
    ShapeError
        If `x` has fewer than two axes.
    """
    _check_matrix("tril", x)  # of a line NumPy's would make a matrix
    return apply(TRIL, x, k=integer("tril", "k", k))


def triu(x: Any, /, *, k: int = 0) -> Any:
    """Return matrices with zeros below the k-th diagonal; parameters and errors as for `tril`."""
    _check_matrix("triu", x)
    return apply(TRIU, x, k=integer("triu", "k", k))


# --- taking apart -------------------------------------------------------------------------------


def _unstack_spec(x: Spec, *, axis: int) -> tuple[Spec, ...]:
    place = normalize_axis("unstack", axis, len(x.shape))
    part = Spec((*x.shape[:place], *x.shape[place + 1 :]), x.dtype)
    return (part,) * x.shape[place]


def _unstack_vjp(xp: Namespace, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> Any:
    # One cotangent for all parts: by single subscripts each would be an array of x's size.
    axis = params["axis"] % (len(shape_of(g[0])) + 1)
    return (xp.concat(*(xp.expand_dims(each, axis=axis) for each in g), axis=axis),)


def _unstack_jvp(xp: Namespace, tangents: Any, y: Any, xs: Any, params: Any) -> Any:
    return xp.unstack(tangents[0], **params)


def _unstack_compose(xp: Namespace, x: Array, axis: int) -> tuple[Array, ...]:
    place = axis % len(x.shape)
    before = (_EVERYTHING,) * place
    return tuple(xp.getitem(x, index=(*before, i)) for i in range(x.shape[place]))


def _unstack_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Any:
    return xp.unstack(arrays[0], axis=params["axis"] % (len(arrays[0].shape) - 1) + 1)


UNSTACK = Op(
    "unstack",
    Kind.VIEW,
    _unstack_spec,
    _unstack_vjp,
    _unstack_jvp,
    Keep.SPECS,
    _unstack_compose,
    _unstack_batch,
    outputs=None,
)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """Return the slices of x along an axis, as a tuple.

    Raises
    ------
    ShapeError
        If `x` has no such axis.
    """
    shape = shape_given(x)
    place = normalize_axis("unstack", axis, len(shape))
    return apply(UNSTACK, x, axis=place) if shape[place] else ()


OPS = (ROLL, TRIL, TRIU, UNSTACK)

"""Searching: where elements are, and where they would go; positions have no derivative."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from distgrad.core.op import Array, Kind, Namespace, Spec
from distgrad.core.seam import apply, operands
from distgrad.dtypes import as_dtype, int64
from distgrad.errors import ShapeError, TraceError
from distgrad.ops.picking.indexing import take
from distgrad.ops.rules.batching import seen_shape, with_batch
from distgrad.ops.rules.families import joint, undifferentiable
from distgrad.shapes import Axis, normalize_axes, reduced, shape_given

# --- counting -----------------------------------------------------------------------------------


def _count_nonzero_spec(x: Spec, *, axis: Axis = None, keepdims: bool = False) -> Spec:
    axes = normalize_axes("count_nonzero", axis, len(x.shape))
    return Spec(reduced(tuple(x.shape), axes, keepdims), int64)


def _count_nonzero(xp: Namespace, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    hits = xp.astype(xp.not_equal(x, 0), dtype=int64)
    return xp.sum(hits, axis=axis, keepdims=keepdims)


COUNT_NONZERO = undifferentiable(
    "count_nonzero", _count_nonzero_spec, kind=Kind.REDUCTION, compose=_count_nonzero
)


def count_nonzero(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return in int64 how many elements over axes are not 0.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of any dtype.
    axis : int or tuple of int, optional
        The axes to count over; all of them by default.
    keepdims : bool
        Whether these axes stay, with length 1.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or an axis is named twice.
    """
    return apply(COUNT_NONZERO, x, axis=axis, keepdims=keepdims)


# --- positions ----------------------------------------------------------------------------------


def refuse_to_foretell(name: str) -> TraceError:
    """Return the error for an operation whose result has a shape that depends on values."""
    return TraceError(
        f"{name}: the shape of the result depends on values, which a trace does not know; "
        "compute it outside of the function, or mask in place of picking (dg.where)"
    )


def _nonzero_spec(x: Spec) -> Spec:
    if not x.shape:
        raise ShapeError("nonzero: x has no axes; expected one axis or more")
    raise refuse_to_foretell("nonzero")


NONZERO = undifferentiable("nonzero", _nonzero_spec, outputs=None)


def nonzero(x: Any, /) -> tuple[Any, ...]:
    """Return the positions of the elements that are not 0, in row-major order.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of one axis or more.

    Returns
    -------
    tuple of Tensor
        In int64, one array for each axis of `x`.

    Raises
    ------
    ShapeError
        If `x` has no axes.
    TraceError
        In a traced function: the shape depends on values.
    """
    return apply(NONZERO, x)


def _searchsorted_spec(x1: Spec, x2: Any, *, side: str) -> Spec:
    if len(x1.shape) != 1:
        raise ShapeError(f"searchsorted: x1 has shape {tuple(x1.shape)}; expected one axis")
    return Spec(tuple(getattr(x2, "shape", ())), int64)


def _searchsorted_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    lines, sought = arrays
    if not batched[0]:  # one order for the whole batch serves all at once
        return xp.searchsorted(lines, sought, **params)
    dtype = joint(lines, sought)
    shape = seen_shape(sought, batched[1])
    if hasattr(sought, "shape"):
        whole = with_batch(xp, size, xp.astype(sought, dtype=dtype), batched[1])
        rows = xp.reshape(whole, shape=(size, prod(shape)))
    else:
        rows = xp.full(shape=(size, 1), fill_value=sought, dtype=dtype)
    return xp.reshape(_places_in_rows(xp, lines, rows, **params), shape=(size, *shape))


def _places_in_rows(xp: Namespace, lines: Array, rows: Array, side: str) -> Array:
    """Return where elements of rows go into sorted lines: one line for each row.

    In the stable order of both together stand before an element those of the line, whose number
    is sought, and those of the row that are before it in the row's own order. Of equal elements
    those come first that are put in first.
    """
    lines = xp.astype(lines, dtype=as_dtype(rows.dtype))
    both = xp.concat(*((rows, lines) if side == "left" else (lines, rows)), axis=1)
    start = 0 if side == "left" else lines.shape[1]
    among_both = _ranks(xp, both)[:, start : start + rows.shape[1]]
    return among_both - _ranks(xp, rows)


def _ranks(xp: Namespace, rows: Array) -> Array:
    """Return the place of each element in the stable order of its row."""
    order = {"axis": 1, "descending": False, "stable": True}
    return xp.argsort(xp.argsort(rows, **order), **order)


SEARCHSORTED = undifferentiable("searchsorted", _searchsorted_spec, batch=_searchsorted_batch)


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
    """Return the positions at which elements go into a sorted array so that it stays sorted.

    Parameters
    ----------
    x1 : Tensor, Variable or array
        Of one axis, in ascending order, or in that by `sorter`.
    x2 : Tensor, Variable, array or scalar
        What to find places for, of any shape.
    side : {"left", "right"}
        Whether before or behind elements that are equal.
    sorter : integer array, optional
        What `argsort` returns for `x1`.

    Returns
    -------
    Tensor
        In int64, in the shape of `x2`.

    Raises
    ------
    ShapeError
        If `x1` has not exactly one axis.
    ValueError
        If `side` is something else.
    """
    if side not in ("left", "right"):
        raise ValueError(f"searchsorted: side is {side!r}; expected 'left' or 'right'")
    if len(shape_given(x1)) != 1:
        raise ShapeError(f"searchsorted: x1 has shape {shape_given(x1)}; expected one axis")
    x1, x2 = operands(x1, x2)
    line = x1 if sorter is None else take(x1, sorter, axis=0)
    return apply(SEARCHSORTED, line, x2, side=side)


OPS = (COUNT_NONZERO, NONZERO, SEARCHSORTED)

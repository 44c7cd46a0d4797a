"""Sorting: order the elements along an axis, and say at which positions they stood."""

from __future__ import annotations

from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import int64
from distgrad.ops.picking.along import lines_index
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import undifferentiable
from distgrad.shapes import normalize_axis


def _sort_spec(x: Spec, *, axis: int, descending: bool, stable: bool) -> Spec:
    normalize_axis("sort", axis, len(x.shape))
    return Spec(tuple(x.shape), x.dtype)


def _argsort_spec(x: Spec, *, axis: int, descending: bool, stable: bool) -> Spec:
    normalize_axis("argsort", axis, len(x.shape))
    return Spec(tuple(x.shape), int64)


def _sort_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    # Each position of x stands in the order exactly once: what comes back is set, and not added.
    x, axis = xs[0], params["axis"] % len(g.shape)
    order = xp.argsort(x, **{**params, "stable": True})
    grids, index = lines_index(xp, order, axis)
    return (xp.index_set(xp.zeros_like(g), g, *grids, index=index),)


def _sort_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    order = xp.argsort(xs[0], **{**params, "stable": True})
    return xp.take_along_axis(tangents[0], order, axis=params["axis"])


SORT = Op(
    "sort",
    Kind.OPAQUE,
    _sort_spec,
    _sort_vjp,
    _sort_jvp,
    Keep.INPUTS,
    batch=batching.along_one_axis("sort"),
)
ARGSORT = undifferentiable("argsort", _argsort_spec, batch=batching.along_one_axis("argsort"))


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """Return the elements in order along an axis.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of one axis or more, of real numbers; NaN counts as larger than all.
    axis : int
        The axis.
    descending : bool
        Whether the largest come first.
    stable : bool
        Accepted for the standard's sake: equal elements cannot be told apart in the result.

    Raises
    ------
    ShapeError
        If `x` has no such axis.

    Notes
    -----
    The gradient goes to where each element stood; of equal ones in their order of `argsort`.
    """
    return apply(SORT, x, axis=axis, descending=bool(descending), stable=bool(stable))


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """Return the positions along an axis, in int64, in the order that sorts the elements.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of one axis or more, of real numbers.
    axis : int
        The axis.
    descending : bool
        Whether the largest come first.
    stable : bool
        Whether equal elements keep their order; else it is the backend's choice, and quicker.

    Raises
    ------
    ShapeError
        If `x` has no such axis.
    """
    return apply(ARGSORT, x, axis=axis, descending=bool(descending), stable=bool(stable))


OPS = (SORT, ARGSORT)

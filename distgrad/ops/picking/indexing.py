"""Indexing: pick elements by position, and its adjoint, which puts them back and adds them up."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np

from distgrad.backend.adapters.indexing import subscript
from distgrad.core.op import Array, Keep, Kind, Namespace, Placeholder, Slice, Spec
from distgrad.core.seam import apply
from distgrad.errors import PositionError, ShapeError
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import linear
from distgrad.shapes import Shape, normalize_axis, shape_given

Index: TypeAlias = tuple[Any, ...]  # of int, Slice, None, Ellipsis, and Placeholder.ARRAY


def encode(key: Any) -> tuple[Index, list[Any]]:
    """Return a subscript as hashable metadata, and the arrays that stand in its placeholders."""
    index: list[Any] = []
    arrays: list[Any] = []
    for part in key if isinstance(key, tuple) else (key,):
        if part is None or part is Ellipsis:
            index.append(part)
        elif isinstance(part, slice):
            index.append(Slice(*(_bound(b) for b in (part.start, part.stop, part.step))))
        elif isinstance(part, (int, np.integer)) and not isinstance(part, (bool, np.bool_)):
            index.append(int(part))
        else:
            index.append(Placeholder.ARRAY)
            # A list goes to the backend of what is indexed.
            arrays.append(np.asarray(part) if isinstance(part, (bool, np.bool_)) else part)
    if len(arrays) == 1 and _is_empty_list(arrays[0]):
        # No positions at all: as a slice, which needs no array of the right backend.
        nothing = Slice(0, 0, None)
        return tuple(nothing if p is Placeholder.ARRAY else p for p in index), []
    # Of an empty list NumPy would make floating numbers.
    return tuple(index), [np.empty(0, np.int64) if _is_empty_list(a) else a for a in arrays]


def _is_empty_list(part: Any) -> bool:
    return isinstance(part, list) and not part


def _bound(value: Any) -> int | None:
    return None if value is None else operator.index(value)


def _getitem_spec(x: Spec, *arrays: Spec, index: Index) -> Spec:
    # NumPy's own rules on an array of the same shape that takes no memory.
    stand_in = np.broadcast_to(np.empty((), np.bool_), tuple(x.shape))
    positions = tuple(_stand_in(a) for a in arrays)
    try:
        return Spec(stand_in[subscript(index, positions)].shape, x.dtype)
    except IndexError as error:
        raise PositionError(f"getitem: {error}; the array has shape {tuple(x.shape)}") from error


def _stand_in(positions: Spec) -> np.ndarray[Any, Any]:
    """Return an index array of a shape; a mask picks one element, which fits any other index."""
    array = np.zeros(positions.shape, positions.dtype)
    if array.dtype == np.bool_ and array.size:
        array.flat[0] = True
    return array


def _getitem_transpose(
    xp: Namespace, g: Array, primal: Spec, *arrays: Array, index: Index
) -> Array:
    return xp.scatter_add(g, *arrays, index=index, shape=tuple(primal.shape))


GETITEM = linear(
    "getitem",
    _getitem_transpose,
    _getitem_spec,
    kind=Kind.OPAQUE,
    keep=Keep.REST,
    batch=batching.getitem,
)


def getitem(x: Any, key: Any, /) -> Any:
    """Return ``x[key]`` by NumPy's rules.

    Parameters
    ----------
    x : Tensor, Variable or array
        What to pick from.
    key : int, slice, None, Ellipsis, integer or bool array, or a tuple of these
        Basic and advanced indices; where an element is picked several times, its gradients add.

    Raises
    ------
    PositionError
        If an index is out of range, there are too many, or a mask does not fit; an `IndexError`
        too. CuPy does not look into index arrays that lie on the device: they wrap around.
    """
    index, arrays = encode(key)
    return apply(GETITEM, x, *arrays, index=index)


def _scatter_add_spec(g: Spec, *arrays: Spec, index: Index, shape: Shape) -> Spec:
    return Spec(shape, g.dtype)


def _scatter_add_transpose(
    xp: Namespace, g: Array, primal: Spec, *arrays: Array, index: Index, shape: Shape
) -> Array:
    return xp.getitem(g, *arrays, index=index)


SCATTER_ADD = linear(
    "scatter_add",
    _scatter_add_transpose,
    _scatter_add_spec,
    kind=Kind.OPAQUE,
    keep=Keep.REST,
    batch=batching.scatter("scatter_add"),
)


def take(x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    """Return the slices of x at positions along an axis.

    Parameters
    ----------
    x : Tensor, Variable or array
        What to pick from.
    indices : integer array or sequence of int
        Positions along `axis`, of any shape, which takes the place of that axis.
    axis : int, optional
        The axis; may be left out where `x` has exactly one.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or `axis` is left out where it has several.
    """
    ndim = len(shape_given(x))
    if axis is None:
        if ndim != 1:
            raise ShapeError(f"take: axis is needed for an array of {ndim} axes; give axis=")
        axis = 0
    place = normalize_axis("take", axis, ndim)
    positions = list(indices) if isinstance(indices, tuple) else indices
    return getitem(x, (*(slice(None),) * place, positions))


OPS = (GETITEM, SCATTER_ADD)

"""Along one axis: pick elements by positions of their own in each line, and put them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Placeholder, Spec
from distgrad.core.seam import apply, operands
from distgrad.dtypes import int64
from distgrad.errors import ShapeError
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import linear
from distgrad.ops.shaping.structure import astype
from distgrad.shapes import broadcast, normalize_axis


def lines_index(
    xp: Namespace, indices: Array, axis: int
) -> tuple[list[Array], tuple[Placeholder, ...]]:
    """Return the subscript that picks positions along one axis, and its own place on all others.

    Parameters
    ----------
    xp : namespace
        Where to compute.
    indices : integer array
        Positions along `axis`.
    axis : int
        Counted from the front.

    Returns
    -------
    list of array, tuple of Placeholder
        Index arrays that broadcast against each other, and the metadata of the subscript.
    """
    rank = len(indices.shape)
    grids = []
    for place, length in enumerate(indices.shape):
        if place == axis:
            grids.append(indices)
            continue
        line = xp.arange(start=0, stop=int(length), step=1, dtype=int64)
        own = tuple(-1 if other == place else 1 for other in range(rank))
        grids.append(xp.reshape(line, shape=own))
    return grids, (Placeholder.ARRAY,) * rank


def _take_along_axis_spec(x: Spec, indices: Spec, *, axis: int) -> Spec:
    rank = len(x.shape)
    place = normalize_axis("take_along_axis", axis, rank)
    if len(indices.shape) != rank:
        raise ShapeError(
            f"take_along_axis: indices has shape {tuple(indices.shape)}, x {tuple(x.shape)}; "
            "expected as many axes"
        )
    others = (
        (*shape[:place], 1, *shape[place + 1 :]) for shape in (tuple(x.shape), tuple(indices.shape))
    )
    whole = broadcast("take_along_axis", *others)
    return Spec((*whole[:place], indices.shape[place], *whole[place + 1 :]), x.dtype)


def _take_along_axis_transpose(
    xp: Namespace, g: Array, primal: Spec, indices: Array, axis: int
) -> Array:
    shape = tuple(primal.shape)
    place = axis % len(shape)
    # Where x has length 1 and the indices more, x was repeated: there its own position is 0.
    stretched = (*shape[:place], 1, *shape[place + 1 :]) != (
        *g.shape[:place],
        1,
        *g.shape[place + 1 :],
    )
    if tuple(indices.shape) != tuple(g.shape):
        indices = xp.broadcast_to(indices, shape=tuple(g.shape))
    whole = (*g.shape[:place], shape[place], *g.shape[place + 1 :])
    grids, index = lines_index(xp, indices, place)
    spread = xp.scatter_add(g, *grids, index=index, shape=whole)
    if not stretched:
        return spread
    axes = tuple(a for a in range(len(shape)) if shape[a] == 1 != whole[a])
    return xp.sum(spread, axis=axes, keepdims=True)


def _take_along_axis_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    x, indices = (
        batching.with_batch(xp, size, array, own)
        for array, own in zip(arrays, batched, strict=True)
    )
    axis = normalize_axis("take_along_axis", params["axis"], len(x.shape) - 1)
    return xp.take_along_axis(x, indices, axis=axis + 1)


TAKE_ALONG_AXIS = linear(
    "take_along_axis",
    _take_along_axis_transpose,
    _take_along_axis_spec,
    kind=Kind.OPAQUE,
    keep=Keep.REST,
    batch=_take_along_axis_batch,
)


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """Return the elements at positions along an axis, which are other ones in each line.

    Parameters
    ----------
    x : Tensor, Variable or array
        What to pick from.
    indices : integer array
        Of as many axes as `x`; off `axis` their shapes broadcast. What `argsort` returns, say.
    axis : int
        The axis.

    Raises
    ------
    ShapeError
        If there is no such axis, or the shapes do not fit.
    PositionError
        If a position lies outside of the axis (CuPy does not look into index arrays).

    Notes
    -----
    Where an element is picked several times, its gradients add.
    """
    x, positions = operands(x, indices, joint=False)
    if isinstance(indices, (list, tuple)):  # an empty one would hold floating numbers
        positions = astype(positions, int64)
    return apply(TAKE_ALONG_AXIS, x, positions, axis=axis)


OPS = (TAKE_ALONG_AXIS,)

"""Positions: gather and scatter by TensorFlow's signatures."""

from __future__ import annotations

from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import (
    at_home,
    axes,
    converted,
    dims,
    dtype_of,
    home_of,
    together,
)
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor
from distgrad.core.op import Placeholder
from distgrad.core.seam import apply
from distgrad.ops.picking.indexing import SCATTER_ADD
from distgrad.ops.picking.updates import INDEX_SET


@at_home
def gather(
    params: Any,
    indices: Any,
    validate_indices: Any = None,
    axis: Any = None,
    batch_dims: int = 0,
    name: str | None = None,
) -> Tensor:
    """Return the slices of a tensor at positions along an axis.

    Along the first axis the gradient is an `IndexedSlices`, if `params` is a source that no
    recorded operation computed, as a variable is. All other gradients are dense.

    Parameters
    ----------
    params : Tensor, Variable or array
        What to pick from.
    indices : Tensor or array of int
        Positions, of any shape, which takes the place of the axis.
    axis : int, optional
        The axis; the first after the batch axes by default, and with a negative `batch_dims` the
        one of that position from the end.
    batch_dims : int
        How many leading axes both have in common; negative ones count from the end of those of
        `indices`.

    Raises
    ------
    InvalidArgumentError
        If the positions are no integers, or one lies outside of the axis, or the batch axes differ.
    """
    x = converted(params)  # a variable under its own identity: its gradient is sparse
    picked = convert_to_tensor(indices)
    place = batch_dims if axis is None else axes(axis)
    batch = batch_dims + len(picked.shape) if batch_dims < 0 else batch_dims
    lengths = x.shape
    _check("gather", picked, lengths[place] if -len(lengths) <= place < len(lengths) else 0)
    return compute(dg.gather, x, picked, axis=place, batch_dims=batch)


@at_home
def gather_nd(params: Any, indices: Any, batch_dims: int = 0, name: str | None = None) -> Tensor:
    """Return the elements (or slices) at positions along several leading axes.

    Parameters
    ----------
    params : Tensor, Variable or array
        What to pick from.
    indices : Tensor or array of int, of shape (..., axes)
        In the last axis the position along each leading axis of `params`.
    batch_dims : int
        How many leading axes both have in common; the positions are along those after them.

    Raises
    ------
    ValueError
        If `indices` has no more axes than `batch_dims`.
    InvalidArgumentError
        If a position lies outside of an axis, there are more than axes, or the batch axes differ.
    """
    x, picked = convert_to_tensor(params), convert_to_tensor(indices)
    batch, rank = int(batch_dims), len(picked.shape)
    if not 0 <= batch < rank:
        raise ValueError(
            f"gather_nd: batch_dims = {batch}; expected from 0 up and less than rank(indices) = "
            f"{rank}"
        )
    common, depth = tuple(x.shape[:batch]), picked.shape[-1]
    if tuple(picked.shape[:batch]) != common or batch + depth > len(x.shape):
        raise InvalidArgumentError(
            f"gather_nd: params has shape {x.shape}, indices {picked.shape}; expected the same "
            f"first {batch} lengths and at most {len(x.shape) - batch} positions, got {depth}"
        )
    columns = tuple(picked[..., k] for k in range(depth))
    for column, length in zip(columns, x.shape[batch:], strict=False):
        _check("gather_nd", column, length)
    if not depth:  # of no positions: all of params, once for each
        whole = (*picked.shape[:-1], *x.shape[batch:])
        between = (1,) * (rank - 1 - batch)
        apart = compute(dg.reshape, x, (*common, *between, *x.shape[batch:]))
        return compute(dg.broadcast_to, apart, whole)
    lines = (
        np.arange(length).reshape(-1, *(1,) * (rank - 2 - place))
        for place, length in enumerate(common)
    )
    return x[(*lines, *columns)]


@at_home
def boolean_mask(tensor: Any, mask: Any, axis: Any = None, name: str = "boolean_mask") -> Tensor:
    """Return the elements (or slices, from an axis on) for which a mask is true, or not zero."""
    chosen, x = convert_to_tensor(mask), convert_to_tensor(tensor)
    if not len(chosen.shape):
        raise ValueError("mask cannot be scalar.")
    place = 0 if axis is None else axes(axis)
    place += len(x.shape) if place < 0 else 0
    covered = x.shape[place : place + len(chosen.shape)]
    if tuple(covered) != tuple(chosen.shape):
        raise ValueError(
            f"Shapes {covered} and {chosen.shape} are incompatible: the mask must have the shape "
            "of the axes that it chooses from"
        )
    return x[(slice(None),) * place + (chosen if chosen.dtype.is_bool else chosen != 0,)]


def scatter_nd(indices: Any, updates: Any, shape: Any, name: str | None = None) -> Tensor:
    """Return zeros of a shape with values added at positions; the transpose of `gather_nd`.

    Parameters
    ----------
    indices : Tensor or array of int, of shape (..., axes)
        In the last axis the position along each leading axis of the result.
    updates : Tensor, Variable or array
        The values; those of one position are added up.
    shape : shape
        The shape of the result.
    """
    lengths, values = dims(shape), converted(updates)
    columns = _columns("scatter_nd", indices, values, lengths)
    index = (Placeholder.ARRAY,) * len(columns)
    if values.dtype.kind == "b":  # the sum of truth values is their disjunction
        numbers = dg.astype(values, "int32")
        total = compute(apply, SCATTER_ADD, numbers, *columns, index=index, shape=lengths)
        return compute(dg.not_equal, total, 0)
    return compute(apply, SCATTER_ADD, values, *columns, index=index, shape=lengths)


def tensor_scatter_nd_add(
    tensor: Any, indices: Any, updates: Any, name: str | None = None
) -> Tensor:
    """Return a tensor with values added at positions."""
    x, added = together("tensor_scatter_nd_add", tensor, updates)
    return compute(dg.add, x, scatter_nd(indices, added, x.shape))


def tensor_scatter_nd_update(
    tensor: Any, indices: Any, updates: Any, name: str | None = None
) -> Tensor:
    """Return a tensor with the values at positions replaced; of those of one the last stays."""
    x, new = together("tensor_scatter_nd_update", tensor, updates)
    columns = _columns("tensor_scatter_nd_update", indices, new, x.shape)
    index = (Placeholder.ARRAY,) * len(columns)
    return compute(apply, INDEX_SET, x, new, *columns, index=index)


def _columns(name: str, indices: Any, values: dg.Tensor, lengths: tuple[int, ...]) -> list[Tensor]:
    """Return the positions along each leading axis of an array of which slices are written.

    Raises
    ------
    InvalidArgumentError
        If positions lie outside, or the values have not the shape of the slices.
    """
    with home_of(values):
        picked = convert_to_tensor(indices)
    columns = [picked[..., k] for k in range(picked.shape[-1])]
    for column, length in zip(columns, lengths, strict=False):
        _check(name, column, length)
    expected = (*picked.shape[:-1], *lengths[len(columns) :])
    if not 0 < len(columns) <= len(lengths) or tuple(values.shape) != expected:
        raise InvalidArgumentError(
            f"{name}: updates has shape {tuple(values.shape)}; expected {expected}, of indices "
            f"of shape {tuple(picked.shape)} into shape {tuple(lengths)}"
        )
    return columns


def _check(name: str, positions: Tensor, length: int) -> None:
    """Refuse positions that are no integers, or, where the host can see them, outside an axis.

    Python's negative positions count from the end; TensorFlow has none.
    """
    if dtype_of(positions).kind not in "iu":
        raise InvalidArgumentError(
            f"{name}: Value for attr 'Tindices' of {positions.dtype.name} is not in the list of "
            "allowed values: int16, int32, int64; use tf.cast(x, tf.int32)"
        )
    host = positions.array
    if isinstance(host, np.ndarray) and host.size:
        wrong = host[(host < 0) | (host >= length)].ravel()
        if wrong.size:
            raise InvalidArgumentError(f"{name}: index {wrong[0]} is not in [0, {length})")

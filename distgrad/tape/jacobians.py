"""Jacobians of what a tape recorded: one walk for all rows, by a cotangent with a batch axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

from distgrad.batching import Batched, BatchedValueError
from distgrad.core.op import Placeholder
from distgrad.core.seam import apply
from distgrad.dtypes import int64
from distgrad.eager import current_kernels
from distgrad.errors import ShapeError
from distgrad.ops.neural.softmax import one_hot
from distgrad.ops.picking.indexing import SCATTER_ADD
from distgrad.ops.shaping.structure import broadcast_to, permute_dims, reshape, stack
from distgrad.sparse import IndexedSlices, densified
from distgrad.tape.arguments import as_gradient, value_of
from distgrad.tape.backward import backpropagate
from distgrad.tensor import Operators, Tensor
from distgrad.vectorizing import vmap


class VectorizationError(BatchedValueError, ValueError):
    """The rows of a Jacobian cannot be computed at once, but can be one by one.

    Causes: a gradient that a user wrote asks for the value of its cotangent, by ``if``, `float` or
    ``numpy()``; in a vectorised walk that stands for the cotangents of all rows.
    """


class Manner(NamedTuple):
    """How a Jacobian is taken.

    Attributes
    ----------
    batch : bool
        Whether each example of a batch is differentiated with respect to its own input alone.
    chunk_size : int or None
        How many rows to compute at once; None for all.
    together : bool
        Whether rows are computed at once; otherwise there is a walk for each.
    """

    batch: bool = False
    chunk_size: int | None = None
    together: bool = True


def jacobians(
    records: list[Any],
    target: Any,
    sources: Sequence[Any],
    connected: set[int] | None,
    manner: Manner,
) -> dict[int, Tensor]:
    """Return the Jacobian of one target for each source that it depends on, by identity.

    Parameters
    ----------
    records : list of Record
        What to walk over; it stays as it is.
    target : Tensor or IndexedSlices
        Under the identity by which the records know it.
    sources : sequence of Tensor or Variable
        With respect to what.
    connected : set of int or None
        See `distgrad.tape.backward.backpropagate`.
    manner : Manner
        How to walk.

    Returns
    -------
    dict of int to Tensor
        Arrays of the shape that `jacobian_shape` says.
    """
    if isinstance(target, IndexedSlices):
        of_rows = jacobians(records, target.values, sources, connected, manner)
        return {key: _spread(found, target) for key, found in of_rows.items()}
    holders = {source.key: source for source in sources}
    reached: list[int] = []

    def row(unit: Tensor) -> list[Tensor]:
        """Return the gradients for one cotangent, which `vmap` makes all cotangents."""
        found = backpropagate(
            records,
            {target.key: unit},
            holders.keys(),
            connected=connected,
            recorded=True,
            consume=False,
        )
        reached[:] = found
        return [densified(as_gradient(holders[key], c)) for key, c in found.items()]

    if manner.together or not target.size:
        try:
            rows = for_units(row, target, manner)
        except BatchedValueError as error:
            raise VectorizationError(
                "Encountered an exception while vectorizing the jacobian computation. "
                "Vectorization can be disabled by setting experimental_use_pfor to False. "
                f"A backward function needs the value of its cotangent ({error})"
            ) from error
    else:
        positions = _positions(target, manner)
        each_row = (row(_unit(p, target, manner)) for p in positions)
        rows = [stack(each) for each in zip(*each_row, strict=True)]
    arrange = _batch_in_front if manner.batch else _rows_as_target
    return {
        key: arrange(found, target, holders[key]) for key, found in zip(reached, rows, strict=True)
    }


def _spread(found: Tensor, target: IndexedSlices) -> Tensor:
    """Return the Jacobian of the array that slices stand for, from that of their rows."""
    shape = (*target.shape, *found.shape[target.ndim :])
    index = (Placeholder.ARRAY,)
    whole: Tensor = apply(SCATTER_ADD, found, target.indices, index=index, shape=shape)
    return whole


def jacobian_shape(target: Any, source: Any, manner: Manner) -> tuple[int, ...]:
    """Return the shape of the Jacobian of a target with respect to a source."""
    return (*target.shape, *(source.shape[1:] if manner.batch else source.shape))


def check_batch(target: Any, source: Any) -> None:
    """Refuse what has no Jacobian for each example of a batch.

    Raises
    ------
    TypeError
        If target or source is no single tensor or variable.
    ShapeError
        If a rank is less than 2, or the lengths of the first axes differ.
    """
    for name, value in (("target", target), ("source", source)):
        if not isinstance(value, Operators) or isinstance(value, IndexedSlices):
            raise TypeError(
                f"batch_jacobian: {name} is a {type(value).__name__}; expected one Tensor or "
                "Variable: call it once for each"
            )
        if len(value.shape) < 2:
            raise ShapeError(
                f"batch_jacobian: {name}: Shape {value.shape} must have rank at least 2, a batch "
                "axis and one more; take jacobian, or dg.expand_dims first"
            )
    if target.shape[0] != source.shape[0]:
        raise ShapeError(
            f"batch_jacobian: Need first dimension of target shape {target.shape} and source shape "
            f"{source.shape} to match; it counts the examples in both"
        )


def for_units(f: Callable[[Tensor], Any], x: Tensor, manner: Manner, out_axes: int = 0) -> Any:
    """Return the results of a function for each unit array of the shape of x, stacked.

    Parameters
    ----------
    f : callable
        Takes an array with a one at one element, in every example of a batch, and else zeros.
    x : Tensor
        Whose shape and dtype the unit arrays have.
    manner : Manner
        Whether x is a batch, and how many to compute at once: all units exist at once only if they
        are all computed at once.
    out_axes : int, optional
        Where the results have the axis of the units.
    """
    if manner.chunk_size is None or not x.size:
        return vmap(f, out_axes=out_axes)(_units(x, manner))
    by_position = vmap(
        lambda p: f(_unit(p, x, manner)), out_axes=out_axes, chunk_size=manner.chunk_size
    )
    return by_position(_positions(x, manner))


def _units(x: Tensor, manner: Manner) -> Tensor:
    """Return all unit arrays, stacked."""
    shape = _unit_shape(x, manner)
    units = _identity(prod(shape), x)
    if manner.batch:
        count = x.shape[0]
        units = reshape(units, (prod(shape), 1, *shape))
        return broadcast_to(units, (prod(shape), count, *shape))
    return units if len(shape) == 1 else reshape(units, (prod(shape), *shape))


def _unit_shape(x: Tensor, manner: Manner) -> tuple[int, ...]:
    return tuple(x.shape[1:] if manner.batch else x.shape)


def _positions(x: Tensor, manner: Manner) -> Tensor:
    """Return the positions of the elements of x, or of one example of it, in row-major order."""
    kernels = _kernels_of_numbers(x)
    size = prod(_unit_shape(x, manner))
    return Tensor(kernels.arange(start=0, stop=size, step=1, dtype=int64), kernels)


def _unit(position: Tensor, x: Tensor, manner: Manner) -> Tensor:
    """Return an array like x with a one at a position, in every example of a batch, else zeros."""
    shape = _unit_shape(x, manner)
    unit: Tensor = reshape(one_hot(position, prod(shape), dtype=x.dtype), shape)
    return broadcast_to(unit, tuple(x.shape)) if manner.batch else unit


def _identity(size: int, x: Tensor) -> Tensor:
    """Return an identity matrix of numbers, which the transformations around `x` lift to theirs."""
    kernels = _kernels_of_numbers(x)
    return Tensor(kernels.eye(n_rows=size, n_cols=size, k=0, dtype=x.dtype), kernels)


def _kernels_of_numbers(x: Tensor) -> Any:
    """Return the kernels of the backend of numbers below the transformations around `x`."""
    kernels, array = x.kernels, x.array
    while isinstance(array, Batched):
        kernels, array = array.value.kernels, array.value.array
    if kernels.level:  # a trace, which may know by now where its graph will run
        kernels = getattr(kernels.backend, "home", None) or current_kernels()
    return kernels


def _rows_as_target(rows: Tensor, target: Tensor, source: Any) -> Tensor:
    if len(target.shape) == 1:
        return rows
    return reshape(rows, (*target.shape, *value_of(source).shape))


def _batch_in_front(rows: Tensor, target: Tensor, source: Any) -> Tensor:
    swapped = permute_dims(rows, (1, 0, *range(2, len(rows.shape))))
    return reshape(swapped, (*target.shape, *value_of(source).shape[1:]))

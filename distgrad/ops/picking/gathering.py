"""Gathering: pick rows by their positions, with a gradient that holds no rows but those picked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Placeholder, Spec
from distgrad.core.seam import apply, operands
from distgrad.errors import DTypeError, PositionError, ShapeError
from distgrad.ops.picking.indexing import getitem, take
from distgrad.ops.reducing.running import cumulative_sum
from distgrad.ops.rules import batching
from distgrad.ops.shaping.structure import ones_like, permute_dims
from distgrad.shapes import Shape, normalize_axis, shape_given

_ROWS = (Placeholder.ARRAY,)  # the index that picks along the first axis


class Rows:
    """The cotangent of an array of which only some rows are not zero.

    What a VJP returns, and a walk adds up, in place of an array of the primal's size. It is made by
    one rule and changed by the walk that received it alone; see `IndexedSlices` for the public
    form.

    Parameters
    ----------
    values : array of shape (n, ...)
        Rows, in the form (raw or recorded) in which the rule was asked to compute.
    indices : integer array of shape (n,)
        Where each belongs along the first axis; those of one place add up.
    shape : tuple of int
        The shape of the primal.

    Attributes
    ----------
    parts : list of (array, array)
        Values and indices, one pair for each contribution.
    rest : array or None
        The sum of the dense contributions.
    """

    __slots__ = ("_owns_rest", "parts", "rest", "shape")

    def __init__(self, values: Array, indices: Array, shape: Shape) -> None:
        self.parts = [(values, indices)]
        self.rest: Array = None
        self.shape = shape
        self._owns_rest = False

    def add(self, term: Any) -> None:
        """Take one more contribution in: rows, or an array of the primal's shape."""
        if isinstance(term, Rows):
            self.parts += term.parts
            term = term.rest
        if term is None:
            return
        if self.rest is None:
            self.rest = term
        elif self._owns_rest and self.rest.dtype == term.dtype:
            self.rest += term
        else:
            self.rest, self._owns_rest = self.rest + term, True

    def joined(self, xp: Namespace) -> tuple[Array, Array]:
        """Return the values and the indices of all parts, end to end."""
        if len(self.parts) > 1:
            values, indices = zip(*self.parts, strict=True)
            self.parts = [(xp.concat(*values, axis=0), xp.concat(*indices, axis=0))]
        return self.parts[0]

    def dense(self, xp: Namespace) -> Array:
        """Return the array that this stands for."""
        values, indices = self.joined(xp)
        whole = xp.scatter_add(values, indices, index=_ROWS, shape=self.shape)
        return whole if self.rest is None else self.rest + whole


def sum_with_rows(present: Any, term: Any) -> Rows:
    """Return the sum of two contributions of which one at least is rows, by changing that one."""
    rows, other = (present, term) if isinstance(present, Rows) else (term, present)
    rows.add(other)
    return rows


# --- the operation ------------------------------------------------------------------------------


def _gather_spec(params: Spec, indices: Any) -> Spec:
    if not params.shape:
        raise ShapeError("gather: params has no axes; expected one at least, to pick rows along")
    return Spec((*indices.shape, *params.shape[1:]), params.dtype)


def _gather_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Sequence[int]
) -> Sequence[Any]:
    primal, indices = xs
    if len(indices.shape) != 1:
        count = int(np.prod(indices.shape, dtype=np.int64))
        g = xp.reshape(g, shape=(count, *primal.shape[1:]))
        indices = xp.reshape(indices, shape=(count,))
    return Rows(g, indices, tuple(primal.shape)), None


def _gather_jvp(
    xp: Namespace, tangents: Sequence[Array | None], y: Array, xs: Any, params: dict[str, Any]
) -> Array:
    return xp.gather(tangents[0], xs[1])


def _gather_compose(xp: Namespace, params: Array, indices: Array) -> Array:
    return xp.getitem(params, indices, index=_ROWS)


def _gather_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    if not batched[0]:  # the batch is some more axes of positions
        return xp.gather(*arrays)
    return batching.getitem(xp, size, batched, arrays, {"index": _ROWS})


GATHER = Op(
    "gather",
    Kind.OPAQUE,
    _gather_spec,
    _gather_vjp,
    _gather_jvp,
    Keep.REST,
    _gather_compose,
    _gather_batch,
)


def gather(params: Any, indices: Any, /, *, axis: int = 0, batch_dims: int = 0) -> Any:
    """Return the slices of an array at positions along an axis; on the first, its rows.

    Parameters
    ----------
    params : Tensor, Variable or array
        What to pick from.
    indices : integer array or nested lists of int
        Positions, of any shape, which takes the place of the axis; negative ones count from the
        end.
    axis : int
        The axis; the first by default, and not before the batch axes.
    batch_dims : int
        How many leading axes `params` and `indices` have in common: each example has positions of
        its own. With some, the default axis is the one after them.

    Returns
    -------
    Tensor
        Of shape ``(*params.shape[:axis], *indices.shape[batch_dims:], *params.shape[axis + 1:])``.

    Raises
    ------
    DTypeError
        If positions are no integers.
    ShapeError
        If there is no such axis, or the batch axes differ.
    PositionError
        If a position lies outside of the axis; CuPy does not look, there they wrap around.

    Notes
    -----
    Along the first axis the gradient of `params` is an `IndexedSlices`, if `params` is a source
    that no recorded operation computed, as a variable is: it costs the memory of the rows that were
    picked, not of the whole array. Everywhere else, and where dense contributions meet it, the
    gradient is dense. `take` and subscripts always have a dense one.

    Examples
    --------
    >>> import distgrad as dg
    >>> table = dg.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> with dg.GradientTape() as tape:
    ...     y = dg.sum(dg.gather(table, [2, 0, 2]))
    >>> gradient = tape.gradient(y, table)
    >>> gradient.indices.tolist(), gradient.numpy().tolist()
    ([2, 0, 2], [[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]])
    """
    positions = _positions("gather", indices)
    if batch_dims:
        params, positions = operands(params, positions, joint=False)
        return _gather_each(params, positions, axis, batch_dims)
    place = normalize_axis("gather", axis, len(shape_given(params)))
    if place == 0:
        return apply(GATHER, params, positions)
    return take(params, positions, axis=place)


def embedding(table: Any, ids: Any, /) -> Any:
    """Return the vectors of a table for identifiers: a row for each.

    Parameters
    ----------
    table : Tensor, Variable or array of shape (identifiers, width)
        One vector for each identifier.
    ids : integer array or nested lists of int, of any shape
        Identifiers.

    Returns
    -------
    Tensor
        Of shape ``(*ids.shape, width)``.

    Raises
    ------
    ShapeError
        If the table has not two axes.
    DTypeError
        If identifiers are no integers.
    PositionError
        If an identifier is none of the table's; negative ones are none. Those in a device's memory,
        and those that a graph computes or takes, are as for `gather`.

    Notes
    -----
    The gradient of the table is an `IndexedSlices`, see `gather`.
    """
    shape = shape_given(table)
    if len(shape) != 2:
        raise ShapeError(
            f"embedding: table has shape {tuple(shape)}; expected two axes, identifiers and "
            "width: dg.gather picks from arrays of any shape"
        )
    ids = _positions("embedding", ids)
    _check_identifiers(ids, int(shape[0]))
    return apply(GATHER, table, ids)


def _check_identifiers(ids: Any, count: int) -> None:
    """Refuse identifiers that a table does not have, where the host can look at them."""
    host = ids.read().array if hasattr(ids, "read") else ids
    if isinstance(host, list):
        host = np.asarray(host) if _holds_numbers(host) else None
    if not isinstance(host, np.ndarray) or not host.size:
        return
    host = host if host.dtype.isnative else host.astype(host.dtype.newbyteorder("="))
    unsigned = _UNSIGNED.get(host.dtype)
    # One pass instead of two: without a sign, what is negative is larger than any table.
    if (host if unsigned is None else host.view(unsigned)).max() >= count:
        wrong = host[(host < 0) | (host >= count)].ravel()[0]
        raise PositionError(
            f"embedding: identifier {wrong} is not in the table; expected 0 to {count - 1}: give "
            "what stands for no identifier, such as padding, a row of its own"
        )


_UNSIGNED = {np.dtype(f"i{size}"): np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


def _holds_numbers(nested: Any) -> bool:
    """Return whether nested lists hold numbers, and neither tensors nor symbols of a trace."""
    if isinstance(nested, (list, tuple)):
        return all(map(_holds_numbers, nested))
    return isinstance(nested, (int, np.integer))


def _positions(function: str, indices: Any) -> Any:
    """Return positions in a form that operations take, and refuse what are none."""
    if isinstance(indices, (int, np.integer)) and not isinstance(indices, bool):
        return np.asarray(indices)
    first = indices
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    if isinstance(first, (list, tuple)):  # NumPy would make floating numbers of no positions
        return np.empty(shape_given(indices), np.int64)
    dtype = getattr(first, "dtype", type(first))
    if dtype in (bool, float, complex) or getattr(dtype, "kind", "i") not in "iu":
        raise DTypeError(
            f"{function}: positions have dtype {getattr(dtype, '__name__', dtype)}; expected "
            "integers: convert them with astype('int64'), or pick by a mask with x[mask]"
        )
    return list(indices) if isinstance(indices, tuple) else indices


def _gather_each(params: Any, indices: Any, axis: int, batch_dims: int) -> Any:
    """Return the slices of each example at positions of its own."""
    shape, picked = shape_given(params), shape_given(indices)
    if not 0 <= batch_dims <= min(len(shape) - 1, len(picked)):
        raise ShapeError(
            f"gather: batch_dims is {batch_dims} for params of shape {shape} and indices of shape "
            f"{picked}; expected no more axes than the indices have, and fewer than params has"
        )
    if shape[:batch_dims] != picked[:batch_dims]:
        raise ShapeError(
            f"gather: params has shape {shape}, indices {picked}; expected the same first "
            f"{batch_dims} lengths, one for each of batch_dims"
        )
    place = normalize_axis("gather", axis, len(shape)) if axis else batch_dims
    if place < batch_dims:
        raise ShapeError(
            f"gather: axis {axis} is one of the {batch_dims} batch axes; expected a later one"
        )
    ones = ones_like(indices)
    examples = [cumulative_sum(ones, axis=k) - 1 for k in range(batch_dims)]
    between = place - batch_dims
    found = getitem(params, (*examples, *(slice(None),) * between, indices))
    if not between:
        return found
    # NumPy puts what arrays pick, where slices part them, in front of all.
    own = len(picked) - batch_dims
    order = list(range(len(shape) - 1 + own))
    block = order[batch_dims : batch_dims + own]
    del order[batch_dims : batch_dims + own]
    return permute_dims(found, (*order[:place], *block, *order[place:]))


OPS = (GATHER,)

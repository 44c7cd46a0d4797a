"""Batching rules: what an operation does to arrays that carry a hidden leading batch axis.

A rule is ``rule(xp, size, batched, arrays, params) -> array``. ``arrays`` are the operands; those
marked in ``batched`` have the batch axis, of length ``size``, in front of the axes that the user
sees. ``params`` are the metadata as the user sees them. The result has the batch axis in front. A
rule that does not cover a case returns NotImplemented; then the operation's composition serves, and
for want of one the examples are computed one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from distgrad.core.op import Array, BatchRule, Kind, Namespace, Op, Placeholder, Slice
from distgrad.dtypes import bool_
from distgrad.errors import ShapeError
from distgrad.shapes import broadcast, normalize_axes, normalize_axis

_EVERYTHING = Slice(None, None, None)


def seen_shape(array: Any, is_batched: bool) -> tuple[int, ...]:
    """Return the shape without the batch axis."""
    shape = tuple(getattr(array, "shape", ()))
    return shape[1:] if is_batched else shape


def with_batch(xp: Namespace, size: int, array: Array, is_batched: bool) -> Array:
    """Return an array with the batch axis, repeated along it if it had none."""
    if is_batched:
        return array
    return xp.broadcast_to(array, shape=(size, *array.shape))


def with_rank(xp: Namespace, array: Array, is_batched: bool, rank: int) -> Array:
    """Return an array with visible axes of length 1 put in front, up to a rank."""
    if not is_batched or not hasattr(array, "shape"):
        return array
    shape = tuple(array.shape)
    missing = rank - (len(shape) - 1)
    return xp.reshape(array, shape=(shape[0], *(1,) * missing, *shape[1:])) if missing else array


def rule_of(op: Op) -> BatchRule | None:
    """Return an operation's batching rule: its own, or the one that follows from its kind."""
    if op.batch is not None:
        return op.batch
    if op.kind is Kind.ELEMENTWISE:
        return elementwise(op.name)
    return along_axes(op.name) if op.kind is Kind.REDUCTION else None


def elementwise(name: str) -> BatchRule:
    """Return the rule of an operation whose operands broadcast."""

    def rule(
        xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
    ) -> Array:
        pairs = list(zip(arrays, batched, strict=True))
        rank = max(len(seen_shape(*pair)) for pair in pairs)
        return getattr(xp, name)(*(with_rank(xp, *pair, rank) for pair in pairs), **params)

    return rule


def along_axes(name: str) -> BatchRule:
    """Return the rule of an operation of one array over an axis or axes; None means all of them."""

    def rule(
        xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
    ) -> Array:
        rank = len(arrays[0].shape) - 1
        given = params.get("axis")
        axes = tuple(axis + 1 for axis in normalize_axes(name, given, rank))
        axis = axes[0] if isinstance(given, int) else axes
        return getattr(xp, name)(arrays[0], **{**params, "axis": axis})

    return rule


def along_one_axis(name: str) -> BatchRule:
    """Return the rule of an operation over one axis, where None means the flattened array."""

    def rule(
        xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
    ) -> Array:
        x, rank = arrays[0], len(arrays[0].shape) - 1
        axis = params.get("axis")
        if axis is not None:
            shifted = {**params, "axis": normalize_axis(name, axis, rank) + 1}
            return getattr(xp, name)(x, **shifted)
        flat = xp.reshape(x, shape=(size, prod(x.shape[1:])))
        result = getattr(xp, name)(flat, **{**params, "axis": 1})
        if params.get("keepdims"):
            return xp.reshape(result, shape=(size, *(1,) * rank))
        return result

    return rule


def trailing(name: str) -> BatchRule:
    """Return the rule of an operation that counts axes from the back, and needs all in front."""

    def rule(
        xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
    ) -> Array:
        full = (with_batch(xp, size, a, b) for a, b in zip(arrays, batched, strict=True))
        return getattr(xp, name)(*full, **params)

    return rule


# --- structure ----------------------------------------------------------------------------------


def reshape(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    """Batch `reshape`."""
    shape = params["shape"]
    if -1 in shape:
        elements, given = prod(arrays[0].shape[1:]), prod(n for n in shape if n != -1)
        if given == 0 or elements % given:
            raise ShapeError(f"reshape: {tuple(arrays[0].shape[1:])} cannot become {shape}")
        shape = tuple(elements // given if n == -1 else n for n in shape)
    return xp.reshape(arrays[0], shape=(size, *shape))


def broadcast_to(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    """Batch `broadcast_to`."""
    shape = params["shape"]
    return xp.broadcast_to(with_rank(xp, arrays[0], True, len(shape)), shape=(size, *shape))


def expand_dims(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    """Batch `expand_dims`."""
    axis = normalize_axis("expand_dims", params["axis"], len(arrays[0].shape))
    return xp.expand_dims(arrays[0], axis=axis + 1)


def permute_dims(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    """Batch `permute_dims`."""
    order = normalize_axes("permute_dims", params["axes"], len(arrays[0].shape) - 1)
    return xp.permute_dims(arrays[0], axes=(0, *(axis + 1 for axis in order)))


def concat(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    """Batch `concat`."""
    full = [with_batch(xp, size, a, b) for a, b in zip(arrays, batched, strict=True)]
    axis = normalize_axis("concat", params["axis"], len(full[0].shape) - 1)
    return xp.concat(*full, axis=axis + 1)


# --- products -----------------------------------------------------------------------------------


def matmul(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    """Batch `matmul`, as one large product wherever one factor is the same for the whole batch."""
    a, b = arrays
    rank_a, rank_b = len(seen_shape(a, batched[0])), len(seen_shape(b, batched[1]))
    if not batched[1] and rank_b == 2:  # rows of all examples times one matrix
        if rank_a == 1:
            return xp.matmul(a, b)
        rows = xp.reshape(a, shape=(prod(a.shape[:-1]), a.shape[-1]))
        return xp.reshape(xp.matmul(rows, b), shape=(*a.shape[:-1], b.shape[-1]))
    if not batched[0] and rank_a == 2 and rank_b == 1:  # one matrix times a vector each
        return xp.matmul(b, xp.matrix_transpose(a))
    # A vector becomes a matrix of one row or column, whose axis is taken away at the end.
    if rank_a == 1:
        a = xp.expand_dims(a, axis=-2)
    if rank_b == 1:
        b = xp.expand_dims(b, axis=-1)
    rank = max(rank_a, rank_b, 2)
    product = xp.matmul(with_rank(xp, a, batched[0], rank), with_rank(xp, b, batched[1], rank))
    shape = tuple(product.shape)
    if rank_b == 1:
        shape = shape[:-1]
    if rank_a == 1:
        shape = (*shape[:-2], shape[-1]) if rank_b > 1 else shape[:-1]
    return product if shape == tuple(product.shape) else xp.reshape(product, shape=shape)


# --- indexing -----------------------------------------------------------------------------------


def getitem(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    """Batch `getitem`: positions shared by the batch, or one's own for each example."""
    x, positions, index = arrays[0], arrays[1:], params["index"]
    if not any(batched[1:]):
        result = xp.getitem(x, *positions, index=(_EVERYTHING, *index))
        # Where a slice parts the arrays of an index, NumPy puts what they pick in front of all.
        behind = 0 if _are_adjacent(index) else _picked_rank(positions)
        return _moved(xp, result, behind, 0)
    if _has_mask(positions):
        return NotImplemented  # how many elements it picks differs from example to example
    index = _without_ellipsis(index, len(seen_shape(x, batched[0])))
    place = _place_of_picked(index)
    own = _own_positions(xp, positions, batched[1:])
    if not batched[0]:
        return _moved(xp, xp.getitem(x, *own, index=index), place, 0)
    examples = _examples(xp, own[0])
    result = xp.getitem(x, examples, *own, index=(Placeholder.ARRAY, *index))
    picked = len(own[0].shape) - 1
    return _block_moved(xp, result, source=1, length=picked, target=1 + place) if place else result


def scatter(name: str) -> BatchRule:
    """Return the rule of an operation that puts values at the places of a subscript."""

    def rule(
        xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
    ) -> Array:
        return _scatter(xp, name, size, batched, arrays, params)

    return rule


def _scatter(
    xp: Namespace,
    name: str,
    size: int,
    batched: Sequence[bool],
    arrays: Sequence[Array],
    params: Any,
) -> Array:
    put = getattr(xp, name)
    positions, index, shape = arrays[1:], params["index"], (size, *params["shape"])
    g = with_batch(xp, size, arrays[0], batched[0])
    if not any(batched[1:]):
        behind = 0 if _are_adjacent(index) else _picked_rank(positions)
        g = _moved(xp, g, 0, behind)
        return put(g, *positions, index=(_EVERYTHING, *index), shape=shape)
    if _has_mask(positions):
        return NotImplemented
    index = _without_ellipsis(index, len(params["shape"]))
    place = _place_of_picked(index)
    own = _own_positions(xp, positions, batched[1:])
    if place:
        g = _block_moved(xp, g, source=1 + place, length=len(own[0].shape) - 1, target=1)
    examples = _examples(xp, own[0])
    return put(g, examples, *own, index=(Placeholder.ARRAY, *index), shape=shape)


def index_set(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    """Batch `index_set`, whose value has the shape of what the subscript picks."""
    positions, index = arrays[2:], params["index"]
    x = with_batch(xp, size, arrays[0], batched[0])
    value = arrays[1]
    if hasattr(value, "shape"):
        value = with_batch(xp, size, value, batched[1])
    if not any(batched[2:]):
        if hasattr(value, "shape"):
            behind = 0 if _are_adjacent(index) else _picked_rank(positions)
            value = _moved(xp, value, 0, behind)
        return xp.index_set(x, value, *positions, index=(_EVERYTHING, *index))
    if _has_mask(positions):
        return NotImplemented
    index = _without_ellipsis(index, len(x.shape) - 1)
    place = _place_of_picked(index)
    own = _own_positions(xp, positions, batched[2:])
    if place and hasattr(value, "shape"):
        value = _block_moved(xp, value, source=1 + place, length=len(own[0].shape) - 1, target=1)
    examples = _examples(xp, own[0])
    return xp.index_set(x, value, examples, *own, index=(Placeholder.ARRAY, *index))


def _has_mask(positions: Sequence[Array]) -> bool:
    return any(array.dtype == bool_ for array in positions)


def _without_ellipsis(index: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """Return an index without masks in which an ellipsis has become whole axes."""
    if Ellipsis not in index:
        return index
    place = index.index(Ellipsis)
    missing = rank - sum(part is not None and part is not Ellipsis for part in index)
    return (*index[:place], *(_EVERYTHING,) * missing, *index[place + 1 :])


def _are_adjacent(index: tuple[Any, ...]) -> bool:
    """Return whether the arrays (and single positions) of an index stand side by side."""
    if Placeholder.ARRAY not in index:
        return True
    places = [i for i, part in enumerate(index) if part is Placeholder.ARRAY or type(part) is int]
    return places[-1] - places[0] == len(places) - 1


def _place_of_picked(index: tuple[Any, ...]) -> int:
    """Return how many axes stand before those that the arrays of an index pick."""
    if not _are_adjacent(index):
        return 0
    return next(i for i, p in enumerate(index) if p is Placeholder.ARRAY or type(p) is int)


def _picked_rank(positions: Sequence[Array]) -> int:
    """Return how many axes index arrays pick together."""
    return max((len(array.shape) for array in positions), default=0)


def _own_positions(
    xp: Namespace, positions: Sequence[Array], batched: Sequence[bool]
) -> list[Array]:
    """Return index arrays with a batch axis each, broadcast against each other."""
    pairs = list(zip(positions, batched, strict=True))
    rank = max(len(seen_shape(*pair)) for pair in pairs)
    ranked = [with_rank(xp, *pair, rank) for pair in pairs]
    shape = broadcast("getitem", *(tuple(array.shape) for array in ranked))
    return [xp.broadcast_to(array, shape=shape) for array in ranked]


def _examples(xp: Namespace, positions: Array) -> Array:
    """Return the number of its example for each position: 0, 1, 2 ... along the batch axis."""
    return xp.cumulative_sum(xp.ones_like(positions), axis=0) - 1


def _moved(xp: Namespace, x: Array, source: int, target: int) -> Array:
    return x if source == target else _block_moved(xp, x, source, 1, target)


def _block_moved(xp: Namespace, x: Array, source: int, length: int, target: int) -> Array:
    """Return an array with a block of axes taken out and put back before another place."""
    order = list(range(len(x.shape)))
    block = order[source : source + length]
    del order[source : source + length]
    return xp.permute_dims(x, axes=(*order[:target], *block, *order[target:]))

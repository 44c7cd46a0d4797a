"""How a batch axis of a convolution's array joins one of its indices, and leaves it again.

The array has a role: "x" is the input (n, *spatial, c), "w" the kernel (*window, c / groups, k),
"y" the output (n, *spatial, k). The index is "example", "group", or the channel, in each group, of
the input ("i") or of the output ("o").
"""

from __future__ import annotations

from distgrad.core.op import Array, Namespace


def join_index(xp: Namespace, array: Array, role: str, index: str, groups: int) -> Array:
    """Return an array whose leading batch axis has joined an index."""
    size, *rest = array.shape
    if index == "example":
        return xp.reshape(array, shape=(size * rest[0], *rest[1:]))
    rank = len(rest)
    if role == "w" and index == "i":
        moved = xp.permute_dims(array, axes=(*range(1, rank - 1), 0, rank - 1, rank))
        return xp.reshape(moved, shape=(*rest[:-2], size * rest[-2], rest[-1]))
    outer = 1 if index == "group" else groups
    split = xp.reshape(array, shape=(size, *rest[:-1], outer, rest[-1] // outer))
    moved = xp.permute_dims(split, axes=(*range(1, rank + 1), 0, rank + 1))
    return xp.reshape(moved, shape=(*rest[:-1], size * rest[-1]))


def leave_index(
    xp: Namespace, array: Array, role: str, index: str, groups: int, size: int
) -> Array:
    """Return an array whose batch has left an index again, for an axis in front."""
    shape = tuple(array.shape)
    rank = len(shape)
    if index == "example":
        return xp.reshape(array, shape=(size, shape[0] // size, *shape[1:]))
    if role == "w" and index == "i":
        split = xp.reshape(array, shape=(*shape[:-2], size, shape[-2] // size, shape[-1]))
        return xp.permute_dims(split, axes=(rank - 2, *range(rank - 2), rank - 1, rank))
    outer = 1 if index == "group" else groups
    split = xp.reshape(array, shape=(*shape[:-1], outer, size, shape[-1] // (size * outer)))
    moved = xp.permute_dims(split, axes=(rank, *range(rank), rank + 1))
    return xp.reshape(moved, shape=(size, *shape[:-1], shape[-1] // size))

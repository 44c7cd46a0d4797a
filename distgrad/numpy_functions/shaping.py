"""NumPy's functions that change shapes, join, split and turn arrays, on tensors."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.numpy_functions.arguments import (
    as_axis,
    as_parameter,
    as_tensor,
    given,
    one_axis,
    refuse_out,
)
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.shaping import arrangement, structure
from distgrad.ops.shaping.structure import astype, concat, expand_dims, flip, permute_dims, reshape


def _reshape(
    a: Any, /, shape: Any = None, order: str = "C", *, newshape: Any = None, copy: Any = None
) -> Any:
    wanted = shape if shape is not None else newshape
    sizes = (operator.index(wanted),) if np.ndim(wanted) == 0 else tuple(map(int, wanted))
    x = as_tensor(a)
    if order == "F":
        turned = permute_dims(x, tuple(range(x.ndim))[::-1])
        sizes = np.empty(x.shape, np.bool_).reshape(sizes).shape
        return permute_dims(reshape(turned, sizes[::-1]), tuple(range(len(sizes)))[::-1])
    if order not in ("C", "A"):
        raise ValueError(f"reshape: order is {order!r}; expected 'C', 'F' or 'A'")
    return reshape(x, sizes)


def _ravel(a: Any, order: str = "C") -> Any:
    return _reshape(a, -1, "C" if order == "K" else order)


def _transpose(a: Any, axes: Any = None) -> Any:
    x = as_tensor(a)
    return permute_dims(x, tuple(range(x.ndim))[::-1] if axes is None else tuple(axes))


def _swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    x = as_tensor(a)
    order = list(range(x.ndim))
    first, second = (one_axis("axis", axis, x.ndim) for axis in (axis1, axis2))
    order[first], order[second] = order[second], order[first]
    return permute_dims(x, tuple(order))


def _rollaxis(a: Any, axis: int, start: int = 0) -> Any:
    x = as_tensor(a)
    place = one_axis("axis", axis, x.ndim)
    goal = start + x.ndim if start < 0 else start
    return arrangement.moveaxis(x, place, goal - 1 if place < goal else goal)


def _squeeze(a: Any, axis: Any = None) -> Any:
    x = as_tensor(a)
    if axis is None:
        axis = tuple(place for place, length in enumerate(x.shape) if length == 1)
    return structure.squeeze(x, axis=as_axis(axis))


def _expand_dims(a: Any, axis: Any) -> Any:
    x = as_tensor(a)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    rank = x.ndim + len(axes)
    for place in sorted(one_axis("axis", each, rank) for each in axes):
        x = expand_dims(x, axis=place)
    return x


def _at_least(rank: int) -> Callable[..., Any]:
    def function(*arrays: Any) -> Any:
        results = tuple(_raised(as_tensor(a), rank) for a in arrays)
        return results[0] if len(results) == 1 else results

    return function


def _raised(x: Any, rank: int) -> Any:
    if x.ndim >= rank:
        return x
    if rank == 3 and x.ndim == 2:
        return reshape(x, (*x.shape, 1))
    if rank == 3 and x.ndim == 1:
        return reshape(x, (1, x.shape[0], 1))
    return reshape(x, (1,) * (rank - x.ndim) + x.shape)


def _concatenate(
    arrays: Any, /, axis: Any = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> Any:
    refuse_out("concatenate", out)
    parts = [as_tensor(each) for each in arrays]
    if axis is None:
        parts, axis = [reshape(each, (-1,)) for each in parts], 0
    joined = concat(parts, axis=operator.index(axis))
    return joined if dtype is None else astype(joined, dtype)


def _stack(
    arrays: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> Any:
    refuse_out("stack", out)
    joined = structure.stack([as_tensor(each) for each in arrays], axis=operator.index(axis))
    return joined if dtype is None else astype(joined, dtype)


def _vstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Any:
    return _concatenate([_raised(as_tensor(each), 2) for each in tup], 0, dtype=dtype)


def _hstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Any:
    parts = [_raised(as_tensor(each), 1) for each in tup]
    return _concatenate(parts, 0 if parts and parts[0].ndim == 1 else 1, dtype=dtype)


def _dstack(tup: Any) -> Any:
    return _concatenate([_raised(as_tensor(each), 3) for each in tup], 2)


def _column_stack(tup: Any) -> Any:
    parts = [as_tensor(each) for each in tup]
    return _concatenate([p if p.ndim > 1 else reshape(p, (-1, 1)) for p in parts], 1)


def _append(arr: Any, values: Any, axis: Any = None) -> Any:
    return _concatenate((arr, values), axis)


def _block(arrays: Any) -> Any:
    depth = _depth(arrays)
    rank = max([depth, *(as_tensor(leaf).ndim for leaf in _leaves(arrays))])
    return _joined_block(arrays, depth, rank)


def _depth(nest: Any) -> int:
    return 1 + max(map(_depth, nest), default=0) if isinstance(nest, list) else 0


def _leaves(nest: Any) -> list[Any]:
    return [leaf for each in nest for leaf in _leaves(each)] if isinstance(nest, list) else [nest]


def _joined_block(nest: Any, depth: int, rank: int) -> Any:
    if not isinstance(nest, list):
        x = as_tensor(nest)
        return reshape(x, (1,) * (rank - x.ndim) + x.shape)
    return concat([_joined_block(each, depth - 1, rank) for each in nest], axis=-depth)


def _array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    x = as_tensor(ary)
    place = one_axis("axis", axis, x.ndim)
    length = x.shape[place]
    if np.ndim(indices_or_sections) == 0:
        sections = operator.index(indices_or_sections)
        if sections <= 0:
            raise ValueError(f"split: number of sections is {sections}; expected 1 or more")
        each, extra = divmod(length, sections)
        sizes = [each + 1] * extra + [each] * (sections - extra)
        bounds: Sequence[int] = np.cumsum(sizes)[:-1].tolist()
    else:
        bounds = [operator.index(bound) for bound in indices_or_sections]
    edges = [0, *bounds, length]
    before = (slice(None),) * place
    return [getitem(x, (*before, slice(start, stop))) for start, stop in itertools.pairwise(edges)]


def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    if np.ndim(indices_or_sections) == 0:
        x = as_tensor(ary)
        length = x.shape[one_axis("axis", axis, x.ndim)]
        if operator.index(indices_or_sections) and length % operator.index(indices_or_sections):
            raise ValueError(
                f"split: array split does not result in an equal division: {length} places in "
                f"{indices_or_sections} sections; use np.array_split"
            )
    return _array_split(ary, indices_or_sections, axis)


def _split_on(axis: int, line_axis: int | None = None) -> Callable[..., Any]:
    def function(ary: Any, indices_or_sections: Any) -> list[Any]:
        x = as_tensor(ary)
        chosen = line_axis if line_axis is not None and x.ndim == 1 else axis
        return _split(x, indices_or_sections, chosen)

    return function


def _flip(m: Any, axis: Any = None) -> Any:
    return flip(as_tensor(m), axis=as_axis(axis))


def _rot90(m: Any, k: int = 1, axes: Any = (0, 1)) -> Any:
    x = as_tensor(m)
    first, second = (one_axis("axes", axis, x.ndim) for axis in axes)
    if first == second:
        raise ValueError(f"rot90: axes are {tuple(axes)}; expected two different ones")
    turns = k % 4
    if turns == 0:
        return x
    if turns == 2:
        return flip(x, axis=(first, second))
    if turns == 1:
        return _swapaxes(flip(x, axis=second), first, second)
    return flip(_swapaxes(x, first, second), axis=second)


def _resize(a: Any, new_shape: Any) -> Any:
    x = reshape(as_tensor(a), (-1,))
    shape = (new_shape,) if np.ndim(new_shape) == 0 else tuple(new_shape)
    size = int(np.prod(shape, dtype=np.int64))
    if not x.size or not size:
        return structure.reshape(getitem(x, slice(0, 0)), shape) if not size else _zeros(x, shape)
    return reshape(getitem(x, np.arange(size) % x.size), shape)


def _zeros(x: Any, shape: Sequence[int]) -> Any:
    return as_parameter(np.zeros(shape, x.dtype))


def _tri(lower: bool) -> Callable[..., Any]:
    cut = arrangement.tril if lower else arrangement.triu

    def function(m: Any, k: int = 0) -> Any:
        return cut(as_tensor(m), k=k)

    return function


def _broadcast_to(array: Any, shape: Any, subok: bool = False) -> Any:
    return structure.broadcast_to(
        as_tensor(array), (shape,) if np.ndim(shape) == 0 else tuple(shape)
    )


def _broadcast_arrays(*arrays: Any, subok: bool = False) -> tuple[Any, ...]:
    return tuple(arrangement.broadcast_arrays(*map(as_tensor, arrays)))


def _meshgrid(
    *arrays: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy"
) -> tuple[Any, ...]:
    full = arrangement.meshgrid(
        *(reshape(as_tensor(each), (-1,)) for each in arrays), indexing=indexing
    )
    if not sparse:
        return tuple(full)
    rank = len(arrays)
    swapped = [1, 0, *range(2, rank)] if indexing == "xy" and rank > 1 else list(range(rank))
    return tuple(
        getitem(
            grid, tuple(slice(None) if a == swapped[place] else slice(0, 1) for a in range(rank))
        )
        for place, grid in enumerate(full)
    )


def _repeat(a: Any, repeats: Any, axis: Any = None) -> Any:
    x = as_tensor(a)
    return arrangement.repeat(reshape(x, (-1,)) if axis is None else x, repeats, axis=axis or 0)


def _tile(A: Any, reps: Any) -> Any:
    return arrangement.tile(as_tensor(A), (reps,) if np.ndim(reps) == 0 else tuple(reps))


def _roll(a: Any, shift: Any, axis: Any = None) -> Any:
    return arrangement.roll(as_tensor(a), shift, axis=as_axis(axis))


def _like(fill: Any) -> Callable[..., Any]:
    def function(
        a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None,
        *, device: Any = None,
    ) -> Any:  # fmt: skip
        return _filled(a, fill, dtype, shape)

    return function


def _full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True,
    shape: Any = None, *, device: Any = None,
) -> Any:  # fmt: skip
    return _filled(a, fill_value, dtype, shape)


def _filled(a: Any, fill: Any, dtype: Any, shape: Any) -> Any:
    x = as_tensor(a)
    sizes = x.shape if not given(shape) else ((shape,) if np.ndim(shape) == 0 else tuple(shape))
    value = astype(as_tensor(fill), x.dtype if dtype is None else dtype)
    return structure.broadcast_to(value, sizes)


def _copy(a: Any, order: str = "K", subok: bool = False) -> Any:
    return +as_tensor(a)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "shape": lambda a: a.shape,
    "ndim": lambda a: len(a.shape),
    "size": lambda a, axis=None: a.size if axis is None else a.shape[axis],
    "reshape": _reshape,
    "ravel": _ravel,
    "transpose": _transpose,
    "permute_dims": _transpose,
    "matrix_transpose": lambda x, /: structure.matrix_transpose(as_tensor(x)),
    "swapaxes": _swapaxes,
    "rollaxis": _rollaxis,
    "moveaxis": lambda a, source, destination: arrangement.moveaxis(
        as_tensor(a), as_axis(source), as_axis(destination)
    ),
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
    "atleast_1d": _at_least(1),
    "atleast_2d": _at_least(2),
    "atleast_3d": _at_least(3),
    "concatenate": _concatenate,
    "concat": _concatenate,
    "stack": _stack,
    "vstack": _vstack,
    "hstack": _hstack,
    "dstack": _dstack,
    "column_stack": _column_stack,
    "append": _append,
    "block": _block,
    "array_split": _array_split,
    "split": _split,
    "vsplit": _split_on(0),
    "hsplit": _split_on(1, line_axis=0),
    "dsplit": _split_on(2),
    "unstack": lambda x, /, *, axis=0: arrangement.unstack(as_tensor(x), axis=axis),
    "flip": _flip,
    "fliplr": lambda m: _flip(m, 1),
    "flipud": lambda m: _flip(m, 0),
    "rot90": _rot90,
    "roll": _roll,
    "resize": _resize,
    "tril": _tri(lower=True),
    "triu": _tri(lower=False),
    "broadcast_to": _broadcast_to,
    "broadcast_arrays": _broadcast_arrays,
    "meshgrid": _meshgrid,
    "repeat": _repeat,
    "tile": _tile,
    "zeros_like": _like(0),
    "ones_like": _like(1),
    "empty_like": _like(0),
    "full_like": _full_like,
    "copy": _copy,
    "astype": lambda x, dtype, /, *, copy=True, device=None: astype(as_tensor(x), dtype),
}

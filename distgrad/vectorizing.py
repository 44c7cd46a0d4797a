"""vmap: run a function on a whole batch at once, on arrays that hide the batch axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, cast

from distgrad import tree
from distgrad.backend.kernels import Kernels
from distgrad.batching import SCALARS, Batched, kernels_at, warning_once
from distgrad.callables import require_callable
from distgrad.eager import asarray, deeper
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.shaping.structure import broadcast_to, concat, permute_dims
from distgrad.shapes import normalize_axis
from distgrad.tensor import Operators, Tensor

Axes = Any  # an integer, None, or a nest of them


def vmap(
    f: Callable[..., Any],
    in_axes: Axes = 0,
    out_axes: Axes = 0,
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that maps `f` over an axis of its arguments, all examples at once.

    Parameters
    ----------
    f : callable
        Takes and returns nests of arrays, and sees one example. Where its way depends on values,
        it says so by `cond`, `while_loop` or `where`, not by Python's ``if``.
    in_axes : int, None, or sequence of such or of nests, one for each argument
        The axis of each argument to map over; None where an argument is the same for all.
    out_axes : int, or nest like the result
        Where the batch axis goes in each output.
    chunk_size : int, optional
        How many examples to compute at once; fewer take less memory. All by default.

    Returns
    -------
    callable
        Takes arguments with a batch axis each, returns results with one. Keyword arguments are the
        same for all examples, and so is what `in_axes` maps over None, which may be anything.

    Raises
    ------
    ShapeError
        If arguments differ in the length of their batch axis, or none is mapped.
    BatchedValueError
        If `f` asks for the value of an array.

    Warns
    -----
    UserWarning
        If an operation has no batching rule, and the examples are computed one by one; once for
        each such operation.

    Notes
    -----
    `vmap`, `grad`, `jvp`, tapes, traced functions and control flow nest in every order. The
    gradient of each example by itself, here of one shared weight vector, is ``vmap(grad(loss))``:
    it costs about one backward pass of the batch, and its memory is the batch times the weights,
    which `chunk_size` bounds.

    Examples
    --------
    >>> import distgrad as dg
    >>> per_example = dg.vmap(dg.grad(lambda w, x: dg.sum(w * x) ** 2), in_axes=(None, 0))
    >>> per_example(dg.asarray([1.0, 2.0]), dg.asarray([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    require_callable("vmap", f)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"vmap: chunk_size is {chunk_size}; expected 1 or more, or None")

    @wraps(f)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        leaves, treedef = tree.flatten(list(args))
        axes = _leaf_axes(in_axes, args)
        leaves = [
            asarray(leaf) if axis is not None else _shared(leaf)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        size = _batch_size(leaves, axes)
        front = [
            leaf if axis is None else _axis_to_front(leaf, axis)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        given = partial(f, **kwargs) if kwargs else f
        step = size if chunk_size is None else chunk_size
        parts = []
        result_treedef: Any = None
        for start in range(0, max(size, 1), max(step, 1)):
            some = [
                leaf if axis is None or step >= size else leaf[start : start + step]
                for leaf, axis in zip(front, axes, strict=True)
            ]
            count = min(step, size - start)
            outputs, result_treedef = _run(given, some, axes, treedef, count)
            parts.append(outputs)
        whole = parts[0] if len(parts) == 1 else [concat(each) for each in zip(*parts, strict=True)]
        places = _leaf_places(out_axes, result_treedef, len(whole))
        moved = [_front_to_axis(x, place) for x, place in zip(whole, places, strict=True)]
        return tree.unflatten(result_treedef, moved)

    return mapped


def _run(
    f: Callable[..., Any], leaves: list[Tensor], axes: list[int | None], treedef: Any, size: int
) -> tuple[list[Tensor], Any]:
    """Return the outputs for one chunk, with the batch axis in front of each."""
    with deeper() as level, warning_once():
        kernels = kernels_at(level)
        backend: Any = kernels.backend
        wrapped = [
            leaf if axis is None else Tensor(Batched(leaf, True, backend), kernels)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        result = f(*tree.unflatten(treedef, wrapped))
    outputs, result_treedef = tree.flatten(result)
    return [_unwrapped(output, kernels, size) for output in outputs], result_treedef


def _shared(leaf: Any) -> Any:
    """Return what is the same for all examples: arrays as tensors, anything else as it is."""
    if isinstance(leaf, (Operators, *SCALARS)):
        return leaf  # a Python number widens nothing
    try:
        return asarray(leaf)
    except DTypeError:  # a flag or a name, which says what to do
        return leaf


def _unwrapped(output: Any, kernels: Kernels, size: int) -> Tensor:
    tensor = asarray(output)
    if tensor.kernels is kernels:
        if tensor.array.is_batched:
            return tensor.array.value
        tensor = tensor.array.value
    return broadcast_to(tensor, (size, *tensor.shape))


def _leaf_axes(in_axes: Axes, args: Sequence[Any]) -> list[int | None]:
    """Return the mapped axis of each leaf of the arguments."""
    if in_axes is None or isinstance(in_axes, int):
        given: Sequence[Any] = [in_axes] * len(args)
    elif isinstance(in_axes, (tuple, list)) and len(in_axes) == len(args):
        given = in_axes
    else:
        raise ValueError(
            f"vmap: in_axes is {in_axes!r} for {len(args)} arguments; expected an integer, None, "
            "or one of these for each argument"
        )
    result: list[int | None] = []
    for axes, arg in zip(given, args, strict=True):
        count = len(tree.flatten(arg)[0])
        if axes is None or isinstance(axes, int):
            result.extend([axes] * count)
        else:
            treedef = tree.flatten(arg)[1]
            result.extend(cast("list[int | None]", treedef.flatten_up_to(axes)))
    return result


def _batch_size(leaves: list[Tensor], axes: list[int | None]) -> int:
    sizes: dict[int, int] = {}
    for position, (leaf, axis) in enumerate(zip(leaves, axes, strict=True)):
        if axis is not None:
            length = leaf.shape[normalize_axis("vmap", axis, leaf.ndim)]
            sizes.setdefault(length, position)
    if not sizes:
        raise ShapeError("vmap: no argument is mapped; expected in_axes with an integer in it")
    if len(sizes) > 1:
        found = " and ".join(f"{size} (array {place})" for size, place in sizes.items())
        raise ShapeError(f"vmap: the mapped axes have lengths {found}; expected one length")
    return next(iter(sizes))


def _axis_to_front(x: Tensor, axis: int) -> Tensor:
    place = normalize_axis("vmap", axis, x.ndim)
    if place == 0:
        return x
    return permute_dims(x, (place, *(a for a in range(x.ndim) if a != place)))


def _front_to_axis(x: Tensor, axis: int) -> Tensor:
    place = normalize_axis("vmap: out_axes", axis, x.ndim)
    if place == 0:
        return x
    order = list(range(1, x.ndim))
    order.insert(place, 0)
    return permute_dims(x, order)


def _leaf_places(out_axes: Axes, treedef: Any, count: int) -> list[int]:
    if isinstance(out_axes, int):
        return [out_axes] * count
    return list(treedef.flatten_up_to(out_axes))

"""vmap: run a function on a whole batch at once, on arrays that hide the batch axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

from distgrad import tree
from distgrad.backend.kernels import Kernels
from distgrad.batching import SCALARS, Batched, at_home, kernels_at, warning_once
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
        The axis of each argument to map over; None where an argument is the same for all. For an
        argument that is a nest, also a nest that begins like it: an entry holds for all below.
    out_axes : int, None, or nest that begins like the result
        Where the batch axis goes in each output; None where an output is the same for all examples
        and is to have none.
    chunk_size : int, optional
        How many examples to compute at once; fewer take less memory. All by default.

    Returns
    -------
    callable
        Takes arguments with a batch axis each, returns results with one. What `in_axes` maps over
        None is the same for all examples, and may be anything. Arrays given by keyword are mapped
        over their first axis, whatever `in_axes` says; what has no axes, as a number or a flag, is
        the same for all.

    Raises
    ------
    ShapeError
        If arguments differ in the length of their batch axis, or none is mapped.
    ValueError
        If `in_axes` or `out_axes` does not fit, or is None for an output that differs.
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

    Keyword arguments follow JAX, which maps them, and refuses those without axes. In
    ``torch.func.vmap`` they are the same for all examples: pass such arrays by position, with None
    in `in_axes`, or by ``functools.partial``.

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
        nest = (list(args), kwargs)
        leaves, treedef = tree.flatten(nest)
        axes = _leaf_axes(in_axes, args)
        axes += [0 if _has_axes(leaf) else None for leaf in leaves[len(axes) :]]
        leaves = [
            asarray(leaf) if axis is not None else _shared(leaf)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        size = _batch_size(leaves, axes, nest)
        front = [
            leaf if axis is None else _axis_to_front(leaf, axis)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        step = size if chunk_size is None else chunk_size
        parts: list[list[Any]] = []
        result_treedef: Any = None
        for start in range(0, max(size, 1), max(step, 1)):
            some = [
                leaf if axis is None or step >= size else leaf[start : start + step]
                for leaf, axis in zip(front, axes, strict=True)
            ]
            outputs, result_treedef = _run(f, some, axes, treedef, min(step, size - start))
            parts.append(outputs)
        places = _spread("out_axes", out_axes, result_treedef)
        outcomes = zip(zip(*parts, strict=True), places, strict=True)
        moved = [_whole(number, *outcome) for number, outcome in enumerate(outcomes)]
        return tree.unflatten(result_treedef, moved)

    return mapped


def _run(
    f: Callable[..., Any], leaves: list[Tensor], axes: list[int | None], treedef: Any, size: int
) -> tuple[list[_Output], Any]:
    """Return the outputs for one chunk, and the structure in which they came."""
    home = next(leaf for leaf, axis in zip(leaves, axes, strict=True) if axis is not None).backend
    with deeper() as level, warning_once(), at_home(level, home):
        kernels = kernels_at(level)
        backend: Any = kernels.backend
        wrapped = [
            leaf if axis is None else Tensor(Batched(leaf, True, backend), kernels)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        args, kwargs = tree.unflatten(treedef, wrapped)
        result = f(*args, **kwargs)
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


def _has_axes(leaf: Any) -> bool:
    """Return whether a keyword argument is an array that can be mapped."""
    return bool(getattr(_shared(leaf), "ndim", 0))


class _Output(NamedTuple):
    """An output for one chunk of examples: with a batch axis in front, if they differ in it."""

    value: Tensor
    differs: bool
    size: int


def _unwrapped(output: Any, kernels: Kernels, size: int) -> _Output:
    tensor = asarray(output)
    if tensor.kernels is not kernels:
        return _Output(tensor, False, size)
    return _Output(tensor.array.value, tensor.array.is_batched, size)


def _whole(number: int, chunks: Sequence[_Output], place: Any) -> Tensor:
    """Return an output of all examples, with the batch axis in its place, if it has one."""
    if place is None:
        if chunks[0].differs:
            raise ValueError(
                f"vmap: out_axes is None for output {number}, which differs from example to "
                "example; expected an integer"
            )
        return chunks[0].value
    parts = [
        value if differs else broadcast_to(value, (size, *value.shape))
        for value, differs, size in chunks
    ]
    return _front_to_axis(parts[0] if len(parts) == 1 else concat(parts), place)


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
    for place, (axes, arg) in enumerate(zip(given, args, strict=True)):
        result += _spread(f"in_axes of argument {place}", axes, tree.flatten(arg)[1])
    return result


def _spread(what: str, axes: Axes, treedef: Any) -> list[Any]:
    """Return the entry of each leaf of a structure."""
    if axes is None or isinstance(axes, int):
        return [axes] * treedef.num_leaves
    try:
        return tree.spread(axes, treedef)
    except ValueError as error:
        raise ValueError(
            f"vmap: {what} is {axes!r}, which does not begin like the nest it is for; expected an "
            f"integer or None, or a nest of such ({error})"
        ) from error


def _batch_size(leaves: list[Any], axes: list[int | None], nest: Any) -> int:
    sizes: dict[int, int] = {}
    for position, (leaf, axis) in enumerate(zip(leaves, axes, strict=True)):
        if axis is not None:
            if not leaf.ndim:
                raise ShapeError(
                    f"vmap: array {position} is mapped over axis {axis}, but has no axes; expected "
                    "None in in_axes for what is the same for all examples"
                )
            length = leaf.shape[normalize_axis("vmap", axis, leaf.ndim)]
            sizes.setdefault(length, position)
    if not sizes:
        raise ShapeError(
            "vmap: no argument is mapped; expected in_axes with an integer in it, or an array by "
            "keyword"
        )
    if len(sizes) > 1:
        found = " and ".join(f"{size} ({_name(place, nest)})" for size, place in sizes.items())
        raise ShapeError(
            f"vmap: the mapped axes have lengths {found}; expected one length, and by position, "
            "with None in in_axes, what is the same for all examples"
        )
    return next(iter(sizes))


def _name(place: int, nest: Any) -> str:
    """Return what a leaf of the arguments and the keyword arguments is called in messages."""
    args, kwargs = nest
    by_keyword = place - len(tree.paths(args))
    return (
        f"array {place}" if by_keyword < 0 else f"keyword argument {tree.paths(kwargs)[by_keyword]}"
    )


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

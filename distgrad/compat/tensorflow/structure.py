"""Shapes and order: reshape, join, cut, repeat and pad tensors by TensorFlow's signatures."""

from __future__ import annotations

import builtins
from contextlib import suppress
from itertools import pairwise
from typing import Any, cast

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import (
    at_home,
    axes,
    dims,
    dtype_of,
    home_of,
    integer_host,
    operands,
    tensor_dtype,
    together,
)
from distgrad.compat.tensorflow.dtypes import int32
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor, refused
from distgrad.dtypes import is_complex
from distgrad.entering import holds_tensors
from distgrad.errors import ShapeError
from distgrad.shapes import broadcast, normalize_axis
from distgrad.tensor import Operators

# --- shapes -------------------------------------------------------------------------------------


def shape(input: Any, out_type: Any = int32, name: str | None = None) -> Tensor:
    """Return the length of each axis as an integer tensor."""
    lengths = np.array(_shape_of(input), tensor_dtype(out_type, int32))
    return convert_to_tensor(lengths)


def rank(input: Any, name: str | None = None) -> Tensor:
    """Return the number of axes as an integer tensor."""
    return convert_to_tensor(len(_shape_of(input)))


def size(input: Any, out_type: Any = int32, name: str | None = None) -> Tensor:
    """Return the number of elements as an integer tensor."""
    count = np.prod(_shape_of(input), dtype=np.int64)
    return convert_to_tensor(count.astype(tensor_dtype(out_type, int32)))


def _shape_of(value: Any) -> tuple[int, ...]:
    # The shape of a variable is no read of it.
    return tuple(value.shape if isinstance(value, Operators) else convert_to_tensor(value).shape)


def reshape(tensor: Any, shape: Any, name: str | None = None) -> Tensor:
    """Return the same elements in another shape; one length may be -1, which means the rest."""
    return compute(dg.reshape, convert_to_tensor(tensor), dims(shape))


def broadcast_to(input: Any, shape: Any, name: str | None = None) -> Tensor:
    """Return a tensor repeated along new axes, and along those of length 1, to a shape."""
    return compute(dg.broadcast_to, convert_to_tensor(input), dims(shape))


def expand_dims(input: Any, axis: Any, name: str | None = None) -> Tensor:
    """Return a tensor with a new axis of length 1 at a position of the result."""
    return compute(dg.expand_dims, convert_to_tensor(input), axis=axes(axis))


def squeeze(input: Any, axis: Any = None, name: str | None = None) -> Tensor:
    """Return a tensor without axes of length 1: those named, or all such by default."""
    along = None if axis is None or axis == [] else axes(axis)
    return compute(dg.squeeze, convert_to_tensor(input), axis=along)


def transpose(
    a: Any, perm: Any = None, conjugate: bool = False, name: str | None = "transpose"
) -> Tensor:
    """Return a tensor with its axes in another order, by default in the opposite one."""
    x = convert_to_tensor(a).read()
    order = tuple(reversed(builtins.range(x.ndim))) if perm is None else dims(perm)
    turned = dg.conj(x) if conjugate and is_complex(x.dtype) else x
    return compute(dg.permute_dims, turned, order)


# --- joining and cutting ------------------------------------------------------------------------


def concat(values: Any, axis: Any, name: str = "concat") -> Tensor:
    """Return tensors of one dtype joined along an axis."""
    given = values if isinstance(values, (list, tuple)) else [values]
    return compute(dg.concat, _alike("ConcatV2", given), axis=axes(axis))


def stack(values: Any, axis: int = 0, name: str = "stack") -> Tensor:
    """Return tensors of one shape and dtype joined along a new axis.

    Raises
    ------
    ValueError
        If the result has no such axis; of no tensors it has one.
    """
    given = list(values)
    place = axes(axis)
    if not given and place:
        raise ValueError(f"stack: values is empty; expected one tensor or more for axis {axis}")
    if place == 0 and not any(map(holds_tensors, given)):
        with suppress(TypeError, ValueError):  # of unlike shapes: refused below
            # As one list, of which the first number decides the dtype.
            return convert_to_tensor(values if isinstance(values, np.ndarray) else given)
    alike = _alike("Pack", given)
    if not -(rank := alike[0].ndim + 1) <= place < rank:
        raise ValueError(f"Argument `axis` = {axis} not in range [{-rank}, {rank})")
    return compute(dg.stack, alike, axis=place)


def _alike(name: str, values: Any) -> list[Any]:
    tensors = [v if isinstance(v, Operators) else np.asarray(v) for v in values]
    if not any(isinstance(v, Operators) for v in values):
        # Lists of integers beside one of floats become floats, as a list of both would.
        hosts = [np.asarray(v) for v in values if not isinstance(v, np.ndarray)]
        wide = any(host.dtype.kind == "f" for host in hosts) and len(hosts) == len(values)
        tensors = [convert_to_tensor(v, dg.float32 if wide else None) for v in values]
    return together(name, *tensors)


def unstack(value: Any, num: int | None = None, axis: int = 0, name: str = "unstack") -> list[Any]:
    """Return the slices of a tensor along an axis, which they do not have."""
    x = convert_to_tensor(value)
    place = _place("unstack", axis, x)
    count = x.shape[place]
    if num is not None and num != count:
        raise ValueError(f"unstack: num is {num}, but axis {axis} has length {count}")
    return [x[(builtins.slice(None),) * place + (i,)] for i in builtins.range(count)]


def split(
    value: Any,
    num_or_size_splits: Any,
    axis: Any = 0,
    num: int | None = None,
    name: str = "split",
) -> list[Any]:
    """Return a tensor cut into parts along an axis.

    Parameters
    ----------
    value : Tensor, Variable or array
        What to cut.
    num_or_size_splits : int or sequence of int
        How many equal parts; or the length of each, of which one may be -1.
    axis : int
        Along which axis.
    num : int, optional
        Not needed: the number of lengths is known.

    Raises
    ------
    InvalidArgumentError
        If the axis cannot be cut so.
    """
    x = convert_to_tensor(value)
    place = _argument("split", axes(axis), x)
    length = x.shape[place]
    given = integer_host("split", num_or_size_splits)
    if given.ndim == 0:
        count = int(given)
        if count < 1 or length % count:
            raise InvalidArgumentError(
                "Number of ways to split should evenly divide the split dimension, but got "
                f"split_dim {place} (size = {length}) and num_split {count}"
            )
        lengths = [length // count] * count
    else:
        lengths = [int(n) for n in given]
        if lengths.count(-1) == 1:
            lengths[lengths.index(-1)] = length - sum(lengths) - 1
        if sum(lengths) != length or min(lengths, default=0) < 0:
            raise InvalidArgumentError(
                "Determined shape must either match input shape along split_dim exactly if fully "
                f"specified: got sizes {list(given)} for a length of {length}"
            )
    ends = np.cumsum([0, *lengths])
    front = (builtins.slice(None),) * place
    return [x[(*front, builtins.slice(int(start), int(stop)))] for start, stop in pairwise(ends)]


def slice(input_: Any, begin: Any, size: Any, name: str | None = None) -> Tensor:
    """Return a block of a tensor: from `begin`, of lengths `size`; -1 means to the end."""
    starts, lengths = dims(begin), dims(size)
    x = convert_to_tensor(input_)
    if not len(starts) == len(lengths) == len(x.shape):
        raise InvalidArgumentError(
            f"Expected begin and size arguments to be 1-D tensors of size {len(x.shape)}, but got "
            f"{len(starts)} and {len(lengths)} numbers"
        )
    for axis, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        if not 0 <= start <= x.shape[axis] or start + builtins.max(length, 0) > x.shape[axis]:
            raise InvalidArgumentError(
                f"Expected begin[{axis}] in [0, {x.shape[axis]}] and begin + size within, got "
                f"begin {start} and size {length}"
            )
    return x[
        tuple(
            builtins.slice(start, None if length == -1 else start + length)
            for start, length in zip(starts, lengths, strict=True)
        )
    ]


# --- repeating, turning and padding ---------------------------------------------------------------


def tile(input: Any, multiples: Any, name: str | None = None) -> Tensor:
    """Return a tensor repeated as a whole, a number of times along each axis."""
    x = convert_to_tensor(input).read()
    times = dims(multiples)
    if len(times) != x.ndim:
        raise InvalidArgumentError(
            f"Expected multiples argument to be a vector of length {x.ndim} but got length "
            f"{len(times)}"
        )
    apart = tuple(n for length in x.shape for n in (1, length))
    wide = tuple(n for pair in zip(times, x.shape, strict=True) for n in pair)
    whole = tuple(m * n for m, n in zip(times, x.shape, strict=True))
    return compute(lambda v: dg.reshape(dg.broadcast_to(dg.reshape(v, apart), wide), whole), x)


def repeat(input: Any, repeats: Any, axis: int | None = None, name: str | None = None) -> Tensor:
    """Return a tensor with each element (or slice along an axis) repeated in its place."""
    x = convert_to_tensor(input).read()
    if axis is None:
        x, axis = dg.reshape(x, -1), 0
    place, times = _place("repeat", axis, x), integer_host("repeat", repeats)
    return compute(lambda each: dg.repeat(each, times, axis=place), x)


def reverse(tensor: Any, axis: Any, name: str | None = None) -> Tensor:
    """Return a tensor with the order of elements reversed along axes."""
    return compute(dg.flip, convert_to_tensor(tensor), axis=axes(axis))


def roll(input: Any, shift: Any, axis: Any, name: str | None = None) -> Tensor:
    """Return a tensor with its elements moved round along axes."""
    x = convert_to_tensor(input).read()
    shifts, along = dims(shift), dims(axis)
    for by, place in zip(shifts, along, strict=True):
        x = dg.roll(x, by, axis=_argument("roll", place, x))
    return compute(dg.positive, x)


def pad(
    tensor: Any,
    paddings: Any,
    mode: str = "CONSTANT",
    constant_values: Any = 0,
    name: str | None = None,
) -> Tensor:
    """Return a tensor with elements added in front and behind along each axis.

    Parameters
    ----------
    tensor : Tensor, Variable or array
        What to pad.
    paddings : array of int of shape (axes, 2)
        How many elements to add in front of and behind each axis.
    mode : {"CONSTANT", "REFLECT", "SYMMETRIC"}
        What to add: `constant_values`, or the mirror image without or with the outermost element.
    constant_values : scalar
        The number to add.

    Raises
    ------
    InvalidArgumentError
        If `paddings` has another shape, is negative, or is larger than the mirror image.
    """
    x = convert_to_tensor(tensor).read()
    amounts = integer_host("pad", paddings)
    if amounts.shape != (x.ndim, 2):
        raise InvalidArgumentError(
            f"The first dimension of paddings must be the rank of inputs [{x.ndim},2] "
            f"{list(amounts.shape)}"
        )
    if (amounts < 0).any():
        raise InvalidArgumentError(f"Paddings must be non-negative: {amounts.tolist()}")
    kind = mode.upper()
    if kind not in ("CONSTANT", "REFLECT", "SYMMETRIC"):
        raise ValueError(
            f"Value of argument `mode` expected to be one of 'CONSTANT', 'REFLECT', or "
            f"'SYMMETRIC'. Received `mode` = {mode}"
        )
    for place, (front, behind) in enumerate(amounts.tolist()):
        if not (front or behind):
            continue
        if kind == "CONSTANT":
            x = _with_constant(x, place, front, behind, constant_values)
            continue
        room = x.shape[place] - (kind == "REFLECT")
        if builtins.max(front, behind) > room:
            raise InvalidArgumentError(
                f"paddings must be less than the dimension size: {front}, {behind} not less than "
                f"{room + 1} in axis {place}"
            )
        positions = np.pad(
            np.arange(x.shape[place]), (front, behind), mode=cast("Any", kind.lower())
        )
        x = dg.take(x, positions, axis=place)
    return compute(dg.positive, x)


def _with_constant(x: Any, place: int, front: int, behind: int, value: Any) -> Any:
    def piece(length: int) -> Any:
        lengths = (*x.shape[:place], length, *x.shape[place + 1 :])
        filler = convert_to_tensor(value).read()
        return dg.broadcast_to(dg.astype(filler, x.dtype), lengths)

    with home_of(x):
        return dg.concat([piece(front), x, piece(behind)], axis=place)


@at_home
def meshgrid(*args: Any, indexing: str = "xy", name: str | None = None) -> list[Any]:
    """Return coordinates broadcast against each other, one tensor for each argument."""
    if indexing not in ("xy", "ij"):
        raise ValueError(
            f"Argument `indexing` parameter must be either 'xy' or 'ij', got {indexing!r}"
        )
    flat = [dg.reshape(convert_to_tensor(a).read(), -1) for a in args]
    count = len(flat)
    places = list(builtins.range(count))
    if indexing == "xy" and count > 1:
        places[:2] = 1, 0
    lines = [
        dg.reshape(x, tuple(-1 if p == place else 1 for p in builtins.range(count)))
        for x, place in zip(flat, places, strict=True)
    ]
    whole = broadcast("meshgrid", *(tuple(x.shape) for x in lines))
    return [compute(dg.broadcast_to, x, whole) for x in lines]


def _place(name: str, axis: int, x: Any) -> int:
    """Return an axis counted from the front.

    Raises
    ------
    ValueError
        If there is no such axis.
    """
    return normalize_axis(name, axis, len(x.shape))


def _argument(name: str, axis: int, x: Any) -> int:
    """Return `_place`, or raise InvalidArgumentError."""
    try:
        return _place(name, axis, x)
    except ShapeError as error:
        raise refused(error) from error


# --- choosing -----------------------------------------------------------------------------------


@at_home
def where(condition: Any, x: Any = None, y: Any = None, name: str | None = None) -> Tensor:
    """Return x where a condition holds and y elsewhere; without them, where it holds.

    Parameters
    ----------
    condition : Tensor or array of bool
        Which to take.
    x, y : Tensor, Variable, array or scalar, optional
        The two sources, of one dtype; both or neither.

    Returns
    -------
    Tensor
        The elements taken; without `x` and `y` the positions, int64 of shape (count, axes).

    Raises
    ------
    ValueError
        If only one of `x` and `y` is given.
    """
    mask = convert_to_tensor(condition)
    if (x is None) != (y is None):
        raise ValueError("x and y must both be non-None or both be None.")
    if x is None:
        return convert_to_tensor(np.argwhere(mask.numpy()))
    if dtype_of(mask) != np.bool_:
        raise InvalidArgumentError(
            f"where: condition is {mask.dtype.name}; expected bool: compare it with something"
        )
    return compute(dg.where, mask, *operands("SelectV2", x, y))

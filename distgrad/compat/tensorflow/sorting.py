"""tf.sort, tf.argsort, tf.searchsorted, tf.unique, tf.math.top_k, tf.math.bincount."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import axes, integer_host, native, tensor_dtype
from distgrad.compat.tensorflow.dtypes import int32
from distgrad.compat.tensorflow.elementwise import require_numbers
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.missing import refuse_argument
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor
from distgrad.entering import beside


def _is_descending(function: str, direction: str) -> bool:
    if direction not in ("ASCENDING", "DESCENDING"):
        raise ValueError(
            f"{function}: direction is {direction!r}; expected 'ASCENDING' or 'DESCENDING'"
        )
    return direction == "DESCENDING"


def sort(
    values: Any, axis: int = -1, direction: str = "ASCENDING", name: str | None = None
) -> Tensor:
    """Return the elements in order along an axis."""
    x, down = require_numbers("sort", values), _is_descending("sort", direction)
    return compute(lambda v: dg.sort(v, axis=axes(axis), descending=down), x)


def argsort(
    values: Any,
    axis: int = -1,
    direction: str = "ASCENDING",
    stable: bool = False,
    name: str | None = None,
) -> Tensor:
    """Return in int32 the positions that sort an axis; equal elements keep their order."""
    x, down = require_numbers("argsort", values), _is_descending("argsort", direction)

    def positions(v: dg.Tensor) -> Any:
        return dg.astype(dg.argsort(v, axis=axes(axis), descending=down), "int32")

    return compute(positions, x)


class TopKV2(NamedTuple):
    """What `top_k` returns."""

    values: Tensor
    indices: Tensor


def top_k(
    input: Any,
    k: int = 1,
    sorted: bool = True,
    index_type: Any = int32,
    name: str | None = None,
) -> TopKV2:
    """Return the k largest elements along the last axis, the largest first, and where they stand.

    Raises
    ------
    InvalidArgumentError
        If there are fewer than k.
    """
    x = native(require_numbers("top_k", input))
    count = int(k)
    if not x.ndim or x.shape[-1] < count or count < 0:
        raise InvalidArgumentError(
            f"top_k: input must have at least k columns. Had {x.shape[-1] if x.ndim else 0}, "
            f"needed {count}"
        )
    order = dg.argsort(dg.stop_gradient(x), axis=-1, descending=True)[..., :count]
    values = dg.take_along_axis(x, order, axis=-1)
    return TopKV2(Tensor(values), Tensor(dg.astype(order, tensor_dtype(index_type, int32))))


def searchsorted(
    sorted_sequence: Any,
    values: Any,
    side: str = "left",
    out_type: Any = int32,
    name: str | None = None,
) -> Tensor:
    """Return the positions at which values go into sorted rows; one row for each row of values.

    Raises
    ------
    InvalidArgumentError
        If the leading axes differ.
    ValueError
        If `side` is neither ``"left"`` nor ``"right"``.
    """
    rows, sought = (native(convert_to_tensor(each)) for each in (sorted_sequence, values))
    if rows.shape[:-1] != sought.shape[:-1]:
        raise InvalidArgumentError(
            f"searchsorted: leading dimensions {rows.shape[:-1]} and {sought.shape[:-1]} differ; "
            "expected the same"
        )
    wanted = tensor_dtype(out_type, int32)
    if rows.ndim == 1:
        return Tensor(dg.astype(dg.searchsorted(rows, sought, side=side), wanted))
    lines = [dg.reshape(each, (prod(each.shape[:-1]), each.shape[-1])) for each in (rows, sought)]
    places = dg.vmap(lambda line, each: dg.searchsorted(line, each, side=side))(*lines)
    return Tensor(dg.astype(dg.reshape(places, sought.shape), wanted))


class Unique(NamedTuple):
    """What `unique` returns."""

    y: Tensor
    idx: Tensor


class UniqueWithCounts(NamedTuple):
    """What `unique_with_counts` returns."""

    y: Tensor
    idx: Tensor
    count: Tensor  # type: ignore[assignment]  # TensorFlow's name, which a tuple has for a method


def unique(x: Any, out_idx: Any = int32, name: str | None = None) -> Unique:
    """Return the distinct elements of a vector in the order in which they come, and which each is.

    Raises
    ------
    InvalidArgumentError
        If `x` has not exactly one axis.
    """
    found = unique_with_counts(x, out_idx)
    return Unique(found.y, found.idx)


def unique_with_counts(x: Any, out_idx: Any = int32, name: str | None = None) -> UniqueWithCounts:
    """Return what `unique` does, and how often each element comes."""
    vector = native(convert_to_tensor(x))
    if vector.ndim != 1:
        raise InvalidArgumentError("unique expects a 1D vector.")
    wanted = tensor_dtype(out_idx, int32)
    found = dg.unique_all(vector)
    coming = dg.argsort(found.indices)  # by first place, not by value
    places = dg.take(dg.argsort(coming), found.inverse_indices, axis=0)
    return UniqueWithCounts(
        Tensor(dg.take(found.values, coming, axis=0)),
        Tensor(dg.astype(places, wanted)),
        Tensor(dg.astype(dg.take(found.counts, coming, axis=0), wanted)),
    )


def bincount(
    arr: Any,
    weights: Any = None,
    minlength: Any = None,
    maxlength: Any = None,
    dtype: Any = int32,
    name: str | None = None,
    axis: Any = None,
    binary_output: bool = False,
) -> Tensor:
    """Return how often each number from 0 on comes, or the sums of the weights where it does.

    Raises
    ------
    InvalidArgumentError
        If a number is negative.
    """
    if axis is not None:
        refuse_argument("tf.math.bincount", "axis", axis, "None")
    if binary_output:
        refuse_argument("tf.math.bincount", "binary_output", binary_output, "False")
    numbers = integer_host("bincount", arr).ravel()
    if numbers.size and numbers.min() < 0:
        raise InvalidArgumentError("bincount: Input arr must be non-negative!")
    size = max(int(numbers.max()) + 1 if numbers.size else 0, int(minlength or 0))
    size = size if maxlength is None else min(size, int(maxlength))
    kept = numbers < size
    if weights is None:
        counts = np.bincount(numbers[kept], minlength=size)
        return convert_to_tensor(counts.astype(tensor_dtype(dtype, int32)))
    given = require_numbers("bincount", weights)
    flat = dg.reshape(native(given), -1)
    rows = flat[beside(np.flatnonzero(kept), flat)]
    zeros = dg.broadcast_to(dg.zeros_like(dg.sum(rows)), (size,))
    return Tensor(zeros.at[beside(numbers[kept], rows)].add(rows))

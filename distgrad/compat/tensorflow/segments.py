"""Segments: the sum, largest, smallest, mean and product of the rows that share a number."""

from __future__ import annotations

from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import integer_host, native
from distgrad.compat.tensorflow.elementwise import require_numbers
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.values import Tensor, compute
from distgrad.core.op import Op, Placeholder
from distgrad.core.seam import apply
from distgrad.entering import beside
from distgrad.ops.picking.indexing import SCATTER_ADD
from distgrad.ops.picking.updates import SCATTER_MAX, SCATTER_MIN, SCATTER_MULTIPLY

# --- numbers in any order -------------------------------------------------------------------------


def unsorted_segment_sum(
    data: Any, segment_ids: Any, num_segments: Any, name: str | None = None
) -> Tensor:
    """Return the sums of the rows that share a number.

    Parameters
    ----------
    data : Tensor, Variable or array
        The rows, along as many leading axes as `segment_ids` has.
    segment_ids : array of int
        The number of each row; rows with a negative one are left out.
    num_segments : int
        How many sums to return.

    Raises
    ------
    InvalidArgumentError
        If a number is `num_segments` or more.
    """
    ids, count = _numbers("unsorted_segment_sum", segment_ids, num_segments)
    x = require_numbers("unsorted_segment_sum", data)
    return _gathered(SCATTER_ADD, x, ids, count)[:count]


def unsorted_segment_max(
    data: Any, segment_ids: Any, num_segments: Any, name: str | None = None
) -> Tensor:
    """Return the largest of the rows that share a number; the smallest finite one for none.

    Parameters and errors are those of `unsorted_segment_sum`.
    """
    x = native(require_numbers("unsorted_segment_max", data))
    return _joined("unsorted_segment_max", SCATTER_MAX, x, segment_ids, num_segments, _lowest(x))


def unsorted_segment_min(
    data: Any, segment_ids: Any, num_segments: Any, name: str | None = None
) -> Tensor:
    """Return the smallest of the rows that share a number; the largest finite one for none."""
    x = native(require_numbers("unsorted_segment_min", data))
    highest = dg.iinfo(x).max if x.dtype.kind in "iu" else dg.finfo(x).max
    return _joined("unsorted_segment_min", SCATTER_MIN, x, segment_ids, num_segments, highest)


def unsorted_segment_prod(
    data: Any, segment_ids: Any, num_segments: Any, name: str | None = None
) -> Tensor:
    """Return the product of the rows that share a number; 1 for none."""
    x = native(require_numbers("unsorted_segment_prod", data))
    return _joined("unsorted_segment_prod", SCATTER_MULTIPLY, x, segment_ids, num_segments, 1)


def unsorted_segment_mean(
    data: Any, segment_ids: Any, num_segments: Any, name: str | None = None
) -> Tensor:
    """Return the mean of the rows that share a number; 0 for none."""
    x = require_numbers("unsorted_segment_mean", data)
    ids, count = _numbers("unsorted_segment_mean", segment_ids, num_segments)
    total = native(unsorted_segment_sum(x, ids, count))
    rows = np.maximum(_counts(ids, count), 1).reshape(-1, *(1,) * (total.ndim - 1))
    return Tensor(total / dg.astype(beside(rows, total), total.dtype))


def _lowest(x: dg.Tensor) -> Any:
    return dg.iinfo(x).min if x.dtype.kind in "iu" else dg.finfo(x).min


def _numbers(
    function: str, segment_ids: Any, num_segments: Any
) -> tuple[np.ndarray[Any, Any], int]:
    ids, count = integer_host(function, segment_ids), int(num_segments)
    if ids.size and ids.max() >= count:
        raise InvalidArgumentError(f"segment_ids = {ids.max()} is out of range [0, {count})")
    return ids, count


def _counts(ids: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Return how many rows each number has."""
    return np.bincount(ids[ids >= 0].ravel(), minlength=count)


def _joined(
    function: str, op: Op, x: dg.Tensor, segment_ids: Any, num_segments: Any, of_none: Any
) -> Tensor:
    ids, count = _numbers(function, segment_ids, num_segments)
    joined = _gathered(op, x, ids, count)
    none = _counts(ids, count) == 0
    return compute(_filled, joined, none=none, of_none=of_none)


def _gathered(op: Op, x: Any, ids: np.ndarray[Any, Any], count: int) -> Tensor:
    """Return the rows of each number joined, and one row more for what is left out."""
    if tuple(x.shape[: ids.ndim]) != ids.shape:
        raise InvalidArgumentError(
            f"segment_ids should be the same size as the rows: data.shape = {list(x.shape)} does "
            f"not start with segment_ids.shape = {list(ids.shape)}"
        )
    rows = beside(np.where(ids < 0, count, ids), native(x))
    shape = (count + 1, *x.shape[ids.ndim :])
    return compute(apply, op, x, rows, index=(Placeholder.ARRAY,), shape=shape)


def _filled(joined: dg.Tensor, *, none: np.ndarray[Any, Any], of_none: Any) -> Any:
    part = joined[: len(none)]
    if not none.any():
        return part
    mask = beside(none.reshape(-1, *(1,) * (part.ndim - 1)), part)
    return dg.where(mask, of_none, part)


# --- numbers that ascend --------------------------------------------------------------------------


def _sorted(function: str, segment_ids: Any) -> tuple[np.ndarray[Any, Any], int]:
    ids = integer_host(function, segment_ids)
    if ids.size and (np.any(np.diff(ids) < 0) or ids.min() < 0):
        raise InvalidArgumentError(
            f"{function}: segment ids are not increasing; use unsorted_{function}"
        )
    return ids, int(ids.max()) + 1 if ids.size else 0


def segment_sum(data: Any, segment_ids: Any, name: str | None = None) -> Tensor:
    """Return the sums of the rows that share a number; the numbers ascend from 0."""
    return unsorted_segment_sum(data, *_sorted("segment_sum", segment_ids))


def segment_max(data: Any, segment_ids: Any, name: str | None = None) -> Tensor:
    """Return the largest of the rows that share a number, which ascend from 0; 0 for none."""
    x = native(require_numbers("segment_max", data))
    return _joined("segment_max", SCATTER_MAX, x, *_sorted("segment_max", segment_ids), 0)


def segment_min(data: Any, segment_ids: Any, name: str | None = None) -> Tensor:
    """Return the smallest of the rows that share a number, which ascend from 0; 0 for none."""
    x = native(require_numbers("segment_min", data))
    return _joined("segment_min", SCATTER_MIN, x, *_sorted("segment_min", segment_ids), 0)


def segment_prod(data: Any, segment_ids: Any, name: str | None = None) -> Tensor:
    """Return the product of the rows that share a number, which ascend from 0; 1 for none."""
    x = native(require_numbers("segment_prod", data))
    return _joined("segment_prod", SCATTER_MULTIPLY, x, *_sorted("segment_prod", segment_ids), 1)


def segment_mean(data: Any, segment_ids: Any, name: str | None = None) -> Tensor:
    """Return the mean of the rows that share a number, which ascend from 0; 0 for none."""
    return unsorted_segment_mean(data, *_sorted("segment_mean", segment_ids))

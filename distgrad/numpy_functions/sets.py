"""NumPy's functions of sets and of bins on tensors: what they pick and sum is differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distgrad.numpy_functions.arguments import (
    as_parameter,
    as_tensor,
    cut,
    known_values,
    tensors_in,
)
from distgrad.ops.elementwise.arithmetic import divide, multiply
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.picking.updates import Updates
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.structure import astype, concat, reshape

# --- sets: the elements are picked at the positions that NumPy finds on the host ------------------


def _flat(a: Any) -> Any:
    return reshape(as_tensor(a), (-1,))


def _picked(x: Any, positions: Any, place: int = 0) -> Any:
    return getitem(x, (slice(None),) * place + (np.asarray(positions),))


def _unique(
    ar: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False,
    axis: Any = None, **options: Any,
) -> Any:  # fmt: skip
    x = as_tensor(ar)
    line, place = (reshape(x, (-1,)), 0) if axis is None else (x, axis % x.ndim)
    values = known_values("unique", x)
    _, first, inverse, counts = np.unique(values, True, True, True, axis, **options)
    found = [_picked(line, first, place)]
    wanted = {"index": return_index, "inverse": return_inverse, "counts": return_counts}
    places = {"index": first, "inverse": inverse, "counts": counts}
    rest = [places[name] for name, is_wanted in wanted.items() if is_wanted]
    return (*found, *_places("unique", x, *rest)) if rest else found[0]


def _places(name: str, x: Any, *arrays: Any) -> tuple[Any, ...]:
    """Return positions and counts, from which no gradient comes back."""
    result: tuple[Any, ...] = cut(f"numpy.{name}", tensors_in(x), arrays)
    return result


class UniqueAllResult(NamedTuple):
    """What `numpy.unique_all` returns."""

    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


class UniqueCountsResult(NamedTuple):
    """What `numpy.unique_counts` returns."""

    values: Any
    counts: Any


class UniqueInverseResult(NamedTuple):
    """What `numpy.unique_inverse` returns."""

    values: Any
    inverse_indices: Any


def _unique_all(x: Any) -> Any:
    return UniqueAllResult(*_unique(x, True, True, True, equal_nan=False))


def _unique_counts(x: Any) -> Any:
    return UniqueCountsResult(*_unique(x, return_counts=True, equal_nan=False))


def _unique_inverse(x: Any) -> Any:
    return UniqueInverseResult(*_unique(x, return_inverse=True, equal_nan=False))


def _unique_values(x: Any) -> Any:
    return _unique(x, equal_nan=False)


def _intersect1d(
    ar1: Any, ar2: Any, assume_unique: bool = False, return_indices: bool = False
) -> Any:
    first, second = _flat(ar1), _flat(ar2)
    mine, theirs = (known_values("intersect1d", each) for each in (first, second))
    _, here, there = np.intersect1d(mine, theirs, assume_unique, return_indices=True)
    joint = np.result_type(first.dtype, second.dtype)
    common = astype(_picked(first, here), joint)
    return (common, *_places("intersect1d", first, here, there)) if return_indices else common


def _union1d(ar1: Any, ar2: Any) -> Any:
    return _unique(concat([_flat(ar1), _flat(ar2)], axis=0))


def _setdiff1d(ar1: Any, ar2: Any, assume_unique: bool = False) -> Any:
    first = _flat(ar1) if assume_unique else _unique(ar1)
    values, others = (known_values("setdiff1d", each) for each in (first, ar2))
    return _picked(first, np.flatnonzero(np.isin(values, others, assume_unique=True, invert=True)))


def _setxor1d(ar1: Any, ar2: Any, assume_unique: bool = False) -> Any:
    parts = [_flat(each) if assume_unique else _unique(each) for each in (ar1, ar2)]
    both = concat(parts, axis=0)
    values = known_values("setxor1d", both)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    changes = np.concatenate(([True], ordered[1:] != ordered[:-1], [True]))
    return _picked(both, order[changes[1:] & changes[:-1]])


# --- bins: the weights that fall into each are summed ---------------------------------------------


def _bincount(x: Any, /, weights: Any = None, minlength: int = 0) -> Any:
    bins = np.asarray(known_values("bincount", x))
    if not tensors_in(weights):
        numbers = np.bincount(bins, weights, minlength)
        return cut("numpy.bincount", tensors_in(x), numbers)
    w = as_tensor(weights)
    count = np.bincount(bins, None, minlength).size
    if w.shape != bins.shape:
        raise ValueError(f"bincount: weights have shape {w.shape}; expected {bins.shape}, as x")
    zeros = as_parameter(np.zeros(count, np.result_type(w.dtype, np.float64)))
    return Updates(zeros)[bins].add(astype(w, zeros.dtype))


def _histogram(
    a: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> Any:
    values, edges = (known_values("histogram", each) for each in (a, bins))
    inputs = tensors_in([a, bins, weights])
    if not tensors_in(weights):
        return cut("numpy.histogram", inputs, np.histogram(values, edges, range, density, weights))
    w = reshape(as_tensor(weights), (-1,))
    edges = np.histogram_bin_edges(values, edges, range)
    values = np.ravel(values)
    if w.shape != values.shape:
        raise ValueError(f"histogram: weights have shape {w.shape}; expected {values.shape}, as a")
    # The last bin is closed; what lies outside goes into one behind it, which is cut off.
    place = np.searchsorted(edges, values, side="right") - 1
    place = np.where(values == edges[-1], len(edges) - 2, place)
    place = np.where((place < 0) | (place > len(edges) - 2), len(edges) - 1, place)
    zeros = as_parameter(np.zeros(len(edges), np.dtype(w.dtype)))
    sums = getitem(Updates(zeros)[place].add(w), slice(None, -1))
    if density:
        sums = divide(sums, multiply(sum_over(sums), np.diff(edges).astype(sums.dtype)))
    return sums, cut("numpy.histogram", inputs, edges)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "unique": _unique,
    "unique_all": _unique_all,
    "unique_counts": _unique_counts,
    "unique_inverse": _unique_inverse,
    "unique_values": _unique_values,
    "intersect1d": _intersect1d,
    "union1d": _union1d,
    "setdiff1d": _setdiff1d,
    "setxor1d": _setxor1d,
    "bincount": _bincount,
    "histogram": _histogram,
}

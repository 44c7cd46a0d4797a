"""Ordering: sort, search, tell what is distinct, and run along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.backend.adapters.host import HOST


def sort(backend: Any, x: Any, *, axis: int, descending: bool, stable: bool) -> Any:
    """Return the elements in order along an axis."""
    module = backend.module
    if not backend.speaks_numpy:
        return module.sort(x, axis=axis, descending=descending, stable=stable)
    # Equal elements cannot be told apart, so the quickest algorithm is stable enough.
    ordered = module.sort(x, axis=axis)
    return module.flip(ordered, axis=axis) if descending else ordered


def argsort(backend: Any, x: Any, *, axis: int, descending: bool, stable: bool) -> Any:
    """Return the positions in the order that sorts the elements along an axis."""
    module = backend.module
    if not backend.speaks_numpy:
        order = module.argsort(x, axis=axis, descending=descending, stable=stable)
        return module.astype(order, backend.own_dtype(np.dtype("int64")))
    kind = "stable" if stable else None
    if not descending:
        return module.argsort(x, axis=axis, kind=kind).astype(np.int64, copy=False)
    # Backwards twice: equal elements keep their order also where the largest come first.
    order = module.argsort(module.flip(x, axis=axis), axis=axis, kind=kind)
    return x.shape[axis] - 1 - module.flip(order, axis=axis).astype(np.int64, copy=False)


def searchsorted(backend: Any, x1: Any, x2: Any, *, side: str) -> Any:
    """Return the positions at which elements go into a sorted array."""
    module = backend.module
    if not backend.owns(x2):
        x2 = module.asarray(x2, dtype=x1.dtype)
    if not backend.speaks_numpy and x1.dtype != x2.dtype:
        joint = module.result_type(x1, x2)
        x1, x2 = module.astype(x1, joint), module.astype(x2, joint)
    places = module.searchsorted(x1, x2, side=side)
    int64 = backend.own_dtype(np.dtype("int64"))
    if places.dtype == int64:
        return places
    return places.astype(int64) if backend.speaks_numpy else module.astype(places, int64)


def unique(backend: Any, x: Any) -> tuple[Any, Any, Any]:
    """Return first places of the distinct elements, which of them each is, and how often."""
    module = backend.module
    if backend.speaks_numpy:
        _, first, inverse, counts = module.unique(
            x, return_index=True, return_inverse=True, return_counts=True, equal_nan=False
        )
        return (
            first.astype(np.int64, copy=False),
            inverse.reshape(x.shape).astype(np.int64, copy=False),
            counts.astype(np.int64, copy=False),
        )
    # The standard leaves the order of what it finds open.
    first, inverse, counts = unique(HOST, backend.to_host(x))
    return backend.asarray(first), backend.asarray(inverse), backend.asarray(counts)


def nonzero(backend: Any, x: Any) -> tuple[Any, ...]:
    """Return the positions of the elements that are not 0, in int64."""
    int64 = backend.own_dtype(np.dtype("int64"))
    found = backend.module.nonzero(x)
    if backend.speaks_numpy:
        return tuple(each.astype(int64, copy=False) for each in found)
    return tuple(backend.module.astype(each, int64) for each in found)


def count_nonzero(backend: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    """Return in int64 how many elements are not 0."""
    module = backend.module
    if backend.speaks_numpy:
        return (x if x.dtype.kind == "b" else x != 0).sum(
            axis=axis, dtype=np.int64, keepdims=keepdims
        )
    hits = x if x.dtype == module.bool else x != module.zeros_like(x)
    int64 = backend.own_dtype(np.dtype("int64"))
    return module.sum(module.astype(hits, int64), axis=axis, keepdims=keepdims)


def cumulative_sum(backend: Any, x: Any, *, axis: int | None = None) -> Any:
    """Return the running sum along an axis."""
    if axis is None and x.ndim != 1:
        raise ValueError("cumulative_sum needs an axis")
    if backend.speaks_numpy:
        return x.cumsum(axis)
    return backend.module.cumulative_sum(x, axis=axis)


def cumulative_prod(backend: Any, x: Any, *, axis: int | None = None) -> Any:
    """Return the running product along an axis."""
    if axis is None and x.ndim != 1:
        raise ValueError("cumulative_prod needs an axis")
    if backend.speaks_numpy:
        return x.cumprod(axis)
    return backend.module.cumulative_prod(x, axis=axis)


ORDERING: dict[str, Callable[..., Any]] = {
    "sort": sort,
    "argsort": argsort,
    "searchsorted": searchsorted,
    "unique": unique,
    "nonzero": nonzero,
    "count_nonzero": count_nonzero,
    "cumulative_sum": cumulative_sum,
    "cumulative_prod": cumulative_prod,
}

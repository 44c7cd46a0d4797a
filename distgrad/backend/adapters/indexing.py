"""Indexing: subscripts by metadata, and what puts values at their places.

The standard knows less of it than the vocabulary: what a module of the standard alone lacks is done
on the host, by NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distgrad.backend.adapters.host import HOST
from distgrad.core.op import Placeholder, Slice
from distgrad.errors import PositionError


def subscript(index: tuple[Any, ...], arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the subscript that metadata describes, with raw arrays in its placeholders."""
    rest = iter(arrays)
    return tuple(
        slice(*part) if type(part) is Slice else (next(rest) if part is Placeholder.ARRAY else part)
        for part in index
    )


def explained(name: str, error: IndexError, shape: tuple[int, ...]) -> PositionError:
    """Return the error for a position that does not exist."""
    return PositionError(
        f"{name}: {error}; the array has shape {shape}, expected positions "
        "within it, from -n to n - 1 along an axis of length n"
    )


# --- picking ------------------------------------------------------------------------------------


def getitem(backend: Any, x: Any, *arrays: Any, index: tuple[Any, ...]) -> Any:
    """Return what a subscript picks."""
    try:
        if backend.speaks_numpy:
            return x[subscript(index, arrays)]
        if not arrays:
            # The standard leaves open what fewer indices than axes mean, without an ellipsis.
            return x[subscript(index if Ellipsis in index else (*index, Ellipsis), ())]
        # The standard takes integer arrays only among themselves; NumPy takes any mixture.
        hosts = tuple(backend.to_host(a) for a in arrays)
        return backend.asarray(backend.to_host(x)[subscript(index, hosts)])
    except IndexError as error:
        raise explained("getitem", error, tuple(x.shape)) from error


def take_along_axis(backend: Any, x: Any, indices: Any, *, axis: int) -> Any:
    """Return the elements at positions along an axis."""
    if not backend.speaks_numpy:
        picked = take_along_axis(HOST, backend.to_host(x), backend.to_host(indices), axis=axis)
        return backend.asarray(picked)
    try:
        return backend.module.take_along_axis(x, indices, axis)
    except IndexError as error:
        raise explained("take_along_axis", error, tuple(x.shape)) from error


# --- putting ------------------------------------------------------------------------------------


def index_set(backend: Any, x: Any, value: Any, *arrays: Any, index: tuple[Any, ...]) -> Any:
    """Return a copy of x with values at the places of a subscript; of repeated ones the last."""
    if not backend.speaks_numpy:
        hosts = tuple(backend.to_host(a) for a in arrays)
        held = backend.to_host(value) if backend.owns(value) else value
        return backend.asarray(index_set(HOST, backend.to_host(x), held, *hosts, index=index))
    result = backend.module.array(x, copy=True)
    try:
        result[subscript(index, arrays)] = value
    except IndexError as error:
        raise explained("index_set", error, tuple(x.shape)) from error
    return result


def scatter(
    ufunc: str,
    backend: Any,
    values: Any,
    *arrays: Any,
    index: tuple[Any, ...],
    shape: tuple[int, ...],
) -> Any:
    """Return the identity of a ufunc with values joined to it at the places of a subscript."""
    module = backend.module
    # CuPy has `at` for those that its devices do atomically, and multiply is none of them.
    if not backend.speaks_numpy or (ufunc == "multiply" and module is not np):
        hosts = tuple(backend.to_host(a) for a in arrays)
        held = backend.to_host(values)
        return backend.asarray(scatter(ufunc, HOST, held, *hosts, index=index, shape=shape))
    result = module.full(shape, _identity(ufunc, values.dtype), dtype=values.dtype)
    where = subscript(index, arrays)
    try:
        if any(a.dtype.kind != "b" for a in arrays):
            getattr(module, ufunc).at(result, where, values)
        else:  # slices, single positions and masks name no place twice
            result[where] = values
    except IndexError as error:
        raise explained(f"scatter by {ufunc}", error, shape) from error
    return result


def _identity(ufunc: str, dtype: Any) -> Any:
    """Return what changes nothing when it is joined to a number of a dtype."""
    if ufunc in ("add", "multiply"):
        return 0 if ufunc == "add" else 1
    if dtype.kind == "b":
        return ufunc == "minimum"
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return limits.min if ufunc == "maximum" else limits.max
    return -np.inf if ufunc == "maximum" else np.inf


INDEXING: dict[str, Callable[..., Any]] = {
    "getitem": getitem,
    "take_along_axis": take_along_axis,
    "index_set": index_set,
    "scatter_add": partial(scatter, "add"),
    "scatter_multiply": partial(scatter, "multiply"),
    "scatter_max": partial(scatter, "maximum"),
    "scatter_min": partial(scatter, "minimum"),
}

"""Conventions: functions of the standard that take their arguments otherwise than kernels do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.dtypes import int64, result_type

_SCALARS = (bool, int, float, complex)


def astype(backend: Any, x: Any, *, dtype: Any) -> Any:
    """Return x in another dtype."""
    return backend.module.astype(x, backend.own_dtype(dtype))


def reshape(backend: Any, x: Any, *, shape: tuple[int, ...]) -> Any:
    """Return x in another shape."""
    return backend.module.reshape(x, shape)


def broadcast_to(backend: Any, x: Any, *, shape: tuple[int, ...]) -> Any:
    """Return x repeated to a shape."""
    return backend.module.broadcast_to(x, shape)


def concat(backend: Any, *arrays: Any, axis: int) -> Any:
    """Return arrays joined along an axis."""
    return backend.module.concat(arrays, axis=axis)


def where(backend: Any, condition: Any, a: Any, b: Any) -> Any:
    """Return a where a condition holds, and else b."""
    if not backend.speaks_numpy:
        joint = result_type(*(o if isinstance(o, _SCALARS) else o.dtype for o in (a, b)))
        a, b = (backend.brought_to(backend.own_dtype(joint), o) for o in (a, b))
    return backend.module.where(condition, a, b)


def full(backend: Any, *, shape: tuple[int, ...], fill_value: Any, dtype: Any) -> Any:
    """Return an array of one value."""
    return backend.module.full(shape, fill_value, dtype=backend.own_dtype(dtype))


def full_like(backend: Any, x: Any, *, fill_value: Any, dtype: Any) -> Any:
    """Return an array of one value in the shape of x."""
    return backend.module.full_like(x, fill_value, dtype=backend.own_dtype(dtype))


def arange(backend: Any, *, start: Any, stop: Any, step: Any, dtype: Any) -> Any:
    """Return evenly spaced values by their distance."""
    return backend.module.arange(start, stop, step, dtype=backend.own_dtype(dtype))


def linspace(backend: Any, *, start: Any, stop: Any, num: int, dtype: Any, endpoint: bool) -> Any:
    """Return evenly spaced values by their number."""
    own = backend.own_dtype(dtype)
    return backend.module.linspace(start, stop, num, dtype=own, endpoint=endpoint)


def eye(backend: Any, *, n_rows: int, n_cols: int, k: int, dtype: Any) -> Any:
    """Return a matrix with ones on a diagonal."""
    return backend.module.eye(n_rows, n_cols, k=k, dtype=backend.own_dtype(dtype))


def one_hot(backend: Any, labels: Any, *, classes: int, dtype: Any) -> Any:
    """Return rows with a one at the place of each label."""
    # In int64: in the labels' own dtype, such as uint8, the classes might not all fit.
    own = backend.own_dtype(int64)
    wide = labels if backend.speaks_numpy else backend.brought_to(own, labels)
    hits = backend.module.expand_dims(wide, axis=-1) == backend.module.arange(classes, dtype=own)
    return backend.module.astype(hits, backend.own_dtype(dtype))


CONVENTIONS: dict[str, Callable[..., Any]] = {
    "astype": astype,
    "reshape": reshape,
    "broadcast_to": broadcast_to,
    "concat": concat,
    "where": where,
    "full": full,
    "full_like": full_like,
    "arange": arange,
    "linspace": linspace,
    "eye": eye,
    "one_hot": one_hot,
}

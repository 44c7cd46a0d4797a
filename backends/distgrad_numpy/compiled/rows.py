"""Softmax, cross-entropy and norms along the last axis, a row at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distgrad_numpy.compiled import crew
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.offers import dense, real_of
from distgrad_numpy.threads import scratch

Array = np.ndarray[Any, Any]

_PIECE = 1 << 16  # elements that a thread takes at once
_PIECES = 64  # of a norm's cotangents: each has sums of its own

_COUNT, _ARRAY, _NUMBER, _FLAG = (
    ctypes.c_longlong,
    ctypes.c_void_p,
    ctypes.c_double,
    ctypes.c_int,
)
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "softmax": (_COUNT, _ARRAY, _ARRAY),
    "softmax_vjp": (_COUNT, _ARRAY, _ARRAY, _ARRAY),
    "log_softmax": (_COUNT, _ARRAY, _ARRAY),
    "label_cross_entropy": (_COUNT, _ARRAY, _ARRAY, _ARRAY),
    "label_cross_entropy_vjp": (_COUNT, _ARRAY, _ARRAY, _ARRAY, _ARRAY),
    "norm": (_COUNT, _NUMBER, _FLAG, *[_ARRAY] * 4),
    "norm_vjp": (_COUNT, _NUMBER, _FLAG, *[_ARRAY] * 6),
}


def _function(name: str, real: str) -> Callable[..., Any] | None:
    return crew.shared("rows", name, _ARGUMENTS[name], real)


def _rows_in(width: int) -> int:
    """Return how many rows make a piece."""
    return max(_PIECE // width, 1)


def _by_rows(
    name: str, real: str, given: tuple[Array, ...], shape: tuple[int, ...], width: int
) -> Any:
    """Return what a function makes of rows that do not depend on each other."""
    run = _function(name, real)
    if run is None:
        return None
    out = np.empty(shape, given[0].dtype)
    places = [address(each) for each in (*given, out)]
    rows = given[0].size // width if name != "label_cross_entropy_vjp" else given[0].size
    run(rows, _rows_in(width), width, *places)
    return out


# --- softmax --------------------------------------------------------------------------------------


def _is_last(x: Array, axis: int) -> bool:
    return x.ndim > 0 and axis in (-1, x.ndim - 1)


def _softmax(name: str, x: Array, axis: int) -> Any:
    real = real_of(x)
    if real is None or not _is_last(x, axis):
        return None
    return _by_rows(name, real, (x,), x.shape, x.shape[-1])


def softmax_vjp(g: Array, y: Array, axis: int) -> Any:
    """Return y (g - sum(g y)) along the last axis."""
    g = dense(g)
    real = real_of(g, y)
    if real is None or g.shape != y.shape or not _is_last(g, axis):
        return None
    return _by_rows("softmax_vjp", real, (g, y), g.shape, g.shape[-1])


# --- cross-entropy --------------------------------------------------------------------------------


def label_cross_entropy(logits: Array, labels: Array) -> Any:
    """Return the cross-entropy of rows; labels that are no classes are left to the own kernel."""
    real = real_of(logits)
    places = None if real is None else _classes(logits, labels)
    if real is None or places is None:
        return None
    return _by_rows("label_cross_entropy", real, (logits, places), labels.shape, logits.shape[-1])


def label_cross_entropy_vjp(g: Array, logits: Array, labels: Array) -> Any:
    """Return the cotangent of the logits."""
    g = dense(g)
    real = real_of(g, logits)
    places = None if real is None else _classes(logits, labels)
    if real is None or places is None or g.shape != labels.shape:
        return None
    width = logits.shape[-1]
    return _by_rows("label_cross_entropy_vjp", real, (g, logits, places), logits.shape, width)


def _classes(logits: Array, labels: Array) -> Array | None:
    """Return labels as places in rows; None where there is no such place."""
    if labels.shape != logits.shape[:-1] or labels.dtype.kind not in "iu":
        return None
    places = np.ascontiguousarray(labels, np.int64)
    if (
        np.maximum.reduce(places.reshape(-1).view(np.uint64)) >= logits.shape[-1]
    ):  # those below 0 are large then
        return None
    return places


# --- norms ----------------------------------------------------------------------------------------


def _norm(x: Array, *affine: Array, epsilon: float, centred: bool) -> Any:
    real = real_of(x, *affine)
    if real is None or x.ndim == 0 or any(a.shape != x.shape[-1:] for a in affine):
        return None
    run = _function("norm", real)
    if run is None:
        return None
    out = np.empty(x.shape, x.dtype)
    width = x.shape[-1]
    places = (
        address(x),
        *(address(each) for each in affine),
        *[None] * (2 - len(affine)),
        address(out),
    )
    run(x.size // width, _rows_in(width), width, epsilon, centred, *places)
    return out


def _norm_vjp(g: Array, x: Array, *affine: Array, epsilon: float, centred: bool) -> Any:
    g = dense(g)
    real = real_of(g, x, *affine)
    if real is None or x.ndim == 0 or g.shape != x.shape:
        return None
    if any(a.shape != x.shape[-1:] for a in affine):
        return None
    run = _function("norm_vjp", real)
    if run is None:
        return None
    out = np.empty(x.shape, x.dtype)
    width = x.shape[-1]
    rows = x.size // width
    each = max(_rows_in(width), -(-rows // _PIECES)) if affine else _rows_in(width)
    given = address(g), address(x)
    if not affine:
        run(rows, each, width, epsilon, centred, *given, None, address(out), None, None)
        return (out,)
    sums = np.zeros((-(-rows // each), 2, width))
    spare = scratch("norm", (crew.workers(), 2, width), x.dtype)
    ends = (out, spare, sums)
    run(rows, each, width, epsilon, centred, *given, *map(address, (affine[0], *ends)))
    return out, *sums.sum(axis=0).astype(x.dtype)[: len(affine)]


OFFERS: dict[str, Callable[..., Any]] = {
    "softmax": partial(_softmax, "softmax"),
    "softmax_vjp": softmax_vjp,
    "log_softmax": partial(_softmax, "log_softmax"),
    "label_cross_entropy": label_cross_entropy,
    "label_cross_entropy_vjp": label_cross_entropy_vjp,
    "layer_norm": partial(_norm, centred=True),
    "layer_norm_vjp": partial(_norm_vjp, centred=True),
    "rms_norm": partial(_norm, centred=False),
    "rms_norm_vjp": partial(_norm_vjp, centred=False),
}

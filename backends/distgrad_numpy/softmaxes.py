"""Softmax and cross-entropy over rows on numpy.ndarray, by blocks in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.errors import PositionError
from distgrad.ops.neural import softmax as ops
from distgrad.ops.neural.cross_entropy import LABEL_CROSS_ENTROPY, LABEL_CROSS_ENTROPY_VJP
from distgrad_numpy.blocked import composed
from distgrad_numpy.row_blocks import in_blocks, rows_of, sums_of, takes
from distgrad_numpy.threads import scratch

Array = np.ndarray[Any, Any]

# Below this, exponentials of float32 and their sums are far from the ends of the range.
_SAFE = 30.0


def _is_last(x: Array, axis: int) -> bool:
    return axis in (-1, x.ndim - 1)


def _exponentials(x: Array, out: Array) -> Array | None:
    """Write exp(x - top), and return the greatest of each row, top; None: nothing is taken off."""
    low, high = np.minimum.reduce(x, axis=None), np.maximum.reduce(x, axis=None)
    if low > -_SAFE and high < _SAFE:
        np.exp(x, out=out)
        return None
    top: Array = np.maximum.reduce(x, axis=1, keepdims=True)
    np.subtract(x, top, out=out)
    np.exp(out, out=out)
    return top


def softmax(x: Array, axis: int) -> Any:
    """Return exp(x) / sum(exp(x)) along an axis."""
    if not (takes(x) and _is_last(x, axis)):
        return composed(ops.SOFTMAX, x, axis=axis)
    out = np.empty_like(x)
    rows, results = rows_of(x), rows_of(out)

    def work(_: int, part: slice) -> None:
        y = results[part]
        _exponentials(rows[part], y)
        y /= sums_of(y)

    in_blocks(rows, work)
    return out


def softmax_vjp(g: Array, y: Array, axis: int) -> Any:
    """Return y (g - sum(g y)) along an axis, the cotangent of logits from that of their softmax."""
    if not (takes(g) and takes(y) and _is_last(g, axis)) or (g.shape, g.dtype) != (
        y.shape,
        y.dtype,
    ):
        return composed(ops.SOFTMAX_VJP, g, y, axis=axis)
    out = np.empty_like(g)
    rows, weights, results = rows_of(g), rows_of(y), rows_of(out)

    def work(_: int, part: slice) -> None:
        own, weight, result = rows[part], weights[part], results[part]
        np.subtract(own, np.vecdot(own, weight)[:, None], out=result)
        result *= weight

    in_blocks(rows, work)
    return out


def log_softmax(x: Array, axis: int) -> Any:
    """Return log(softmax(x)) along an axis."""
    if not (takes(x) and _is_last(x, axis)):
        return composed(ops.LOG_SOFTMAX, x, axis=axis)
    out = np.empty_like(x)
    rows, results = rows_of(x), rows_of(out)

    def work(_: int, part: slice) -> None:
        top = rows[part].max(axis=1, keepdims=True)
        top[~np.isfinite(top)] = 0  # infinities are the result themselves
        y = results[part]
        np.subtract(rows[part], top, out=y)
        powers = np.exp(y, out=scratch("powers", y.shape, y.dtype))
        with np.errstate(divide="ignore"):
            y -= np.log(sums_of(powers))

    in_blocks(rows, work)
    return out


def label_cross_entropy(logits: Array, labels: Array) -> Any:
    """Return the logarithm of the sum of a row's exponentials, less the logit at its label."""
    classes = logits.shape[-1]
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        wrong = labels[(labels < 0) | (labels >= classes)].ravel()[0]
        raise PositionError(
            f"softmax_cross_entropy: label {wrong} is no class; expected 0 to {classes - 1}"
        )
    if not labels.size:
        return composed(LABEL_CROSS_ENTROPY, logits, labels)
    picked = np.take_along_axis(logits, labels[..., None].astype(np.intp), axis=-1)
    if not takes(logits):
        top = logits.max(axis=-1, keepdims=True)
        total = np.log(np.exp(logits - top).sum(axis=-1))
        return total - (picked - top)[..., 0]
    rows = rows_of(logits)
    loss = picked.reshape(-1, 1)

    def work(_: int, part: slice) -> None:
        x, own = rows[part], loss[part]
        powers = scratch("powers", x.shape, x.dtype)
        top = _exponentials(x, powers)
        if top is not None:
            own -= top
        np.subtract(np.log(sums_of(powers)), own, out=own)

    in_blocks(rows, work)
    return loss.reshape(labels.shape)


def label_cross_entropy_vjp(g: Array, logits: Array, labels: Array) -> Any:
    """Return g times the softmax less 1 at the label, the cotangent of a row's cross-entropy."""
    if not (takes(logits) and g.dtype == logits.dtype):
        return composed(LABEL_CROSS_ENTROPY_VJP, g, logits, labels)
    out = np.empty_like(logits)
    rows, results = rows_of(logits), rows_of(out)
    places, factors = labels.reshape(-1).astype(np.intp), g.reshape(-1, 1)

    def work(_: int, part: slice) -> None:
        y, own = results[part], factors[part]
        _exponentials(rows[part], y)
        y *= own / sums_of(y)
        y[np.arange(len(y)), places[part]] -= own[:, 0]

    in_blocks(rows, work)
    return out


KERNELS: dict[str, Callable[..., Any]] = {
    "label_cross_entropy": label_cross_entropy,
    "label_cross_entropy_vjp": label_cross_entropy_vjp,
    "softmax": softmax,
    "softmax_vjp": softmax_vjp,
    "log_softmax": log_softmax,
}

"""Softmax, norms over rows, and moments over columns on numpy.ndarray, by blocks in the cache.

Sums over many rows are made of sums over blocks, added in float64 in the order of the blocks: no
digits of float32 are lost to the number of rows, and the number of threads changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distgrad.ops.neural import normalization
from distgrad.ops.neural.cross_entropy import LABEL_CROSS_ENTROPY_VJP
from distgrad.ops.neural.softmax import LOG_SOFTMAX, SOFTMAX
from distgrad_numpy import threads
from distgrad_numpy.blocked import vocabulary

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 16  # bytes at a time, as in `blocked`
_PIECE = 8  # blocks that a thread takes at once


def _takes(x: Array) -> bool:
    """Return whether the kernels here take an array, and it is worth it."""
    return (
        x.ndim > 0
        and x.nbytes > 1 << 12
        and x.dtype in (np.float32, np.float64)
        and x.flags.c_contiguous
    )


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _step(x: Array) -> int:
    """Return how many rows a block has."""
    row: int = x.shape[-1] * x.itemsize
    return max(_BLOCK // row, 1)


def _in_blocks(rows: Array, work: Callable[[int, slice], None]) -> int:
    """Do work on each block of rows, given the number of its piece; return how many pieces."""
    step, count = _step(rows), len(rows)
    piece = _PIECE * step

    def run(number: int) -> None:
        begin = number * piece
        for low in range(begin, min(begin + piece, count), step):
            work(number, slice(low, min(low + step, count)))

    pieces = -(-count // piece)
    threads.run(run, range(pieces))
    return pieces


def _pieces(rows: Array) -> int:
    return -(-len(rows) // (_PIECE * _step(rows)))


def _mean(x: Array) -> Array:
    total: Array = np.add.reduce(x, axis=1, keepdims=True)
    total /= x.shape[1]
    return total


# --- softmax --------------------------------------------------------------------------------------


def _is_last(x: Array, axis: int) -> bool:
    return axis in (-1, x.ndim - 1)


def softmax(x: Array, axis: int) -> Any:
    """Return exp(x) / sum(exp(x)) along an axis."""
    if not (_takes(x) and _is_last(x, axis)):
        return SOFTMAX.compose(vocabulary(), x, axis=axis)  # type: ignore[misc]  # it has one
    out = np.empty_like(x)
    rows, results = _rows(x), _rows(out)

    def work(_: int, part: slice) -> None:
        y = results[part]
        np.subtract(rows[part], rows[part].max(axis=1, keepdims=True), out=y)
        np.exp(y, out=y)
        y /= np.add.reduce(y, axis=1, keepdims=True)

    _in_blocks(rows, work)
    return out


def log_softmax(x: Array, axis: int) -> Any:
    """Return log(softmax(x)) along an axis."""
    if not (_takes(x) and _is_last(x, axis)):
        return LOG_SOFTMAX.compose(vocabulary(), x, axis=axis)  # type: ignore[misc]  # it has one
    out = np.empty_like(x)
    rows, results = _rows(x), _rows(out)

    def work(_: int, part: slice) -> None:
        top = rows[part].max(axis=1, keepdims=True)
        top[~np.isfinite(top)] = 0  # infinities are the result themselves
        y = results[part]
        np.subtract(rows[part], top, out=y)
        total = np.add.reduce(np.exp(y), axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            y -= np.log(total)

    _in_blocks(rows, work)
    return out


def label_cross_entropy_vjp(g: Array, logits: Array, labels: Array) -> Any:
    """Return g times the softmax less 1 at the label, the cotangent of a row's cross-entropy."""
    if not (_takes(logits) and g.dtype == logits.dtype):
        op = LABEL_CROSS_ENTROPY_VJP
        return op.compose(vocabulary(), g, logits, labels)  # type: ignore[misc]  # it has one
    out = softmax(logits, axis=-1)
    rows = _rows(out)
    rows[np.arange(len(rows)), labels.reshape(-1).astype(np.intp)] -= 1
    rows *= g.reshape(-1, 1)
    return out


# --- norms over rows ------------------------------------------------------------------------------


def _standardize(x: Array, out: Array, epsilon: float, centred: bool) -> Array:
    """Write standardized rows, and return what their deviations were multiplied by."""
    if centred:
        np.subtract(x, _mean(x), out=out)
    else:
        np.copyto(out, x)
    inverse = _mean(out * out)
    inverse += epsilon
    np.sqrt(inverse, out=inverse)
    np.divide(1, inverse, out=inverse)
    out *= inverse
    return inverse


def _norm(x: Array, *affine: Array, epsilon: float, centred: bool) -> Any:
    op = normalization.LAYER_NORM if centred else normalization.RMS_NORM
    if not (_takes(x) and all(each.dtype == x.dtype for each in affine)):
        return op.compose(vocabulary(), x, *affine, epsilon=epsilon)  # type: ignore[misc]  # ditto
    out = np.empty_like(x)
    rows, results = _rows(x), _rows(out)

    def work(_: int, part: slice) -> None:
        y = results[part]
        _standardize(rows[part], y, epsilon, centred)
        if affine:
            y *= affine[0]
        if len(affine) > 1:
            y += affine[1]

    _in_blocks(rows, work)
    return out


def _norm_vjp(g: Array, x: Array, *affine: Array, epsilon: float, centred: bool) -> Any:
    op = normalization.LAYER_NORM_VJP if centred else normalization.RMS_NORM_VJP
    alike = all(each.dtype == x.dtype for each in (g, *affine)) and g.shape == x.shape
    if not (_takes(x) and alike):
        return op.compose(vocabulary(), g, x, *affine, epsilon=epsilon)  # type: ignore[misc]
    out = np.empty_like(x)
    rows, results = _rows(x), _rows(out)
    given = g.reshape(rows.shape)
    sums = np.zeros((len(affine), _pieces(rows), rows.shape[1]))

    def work(piece: int, part: slice) -> None:
        y, own = results[part], given[part]
        h = threads.scratch("norm", own.shape, own.dtype)
        inverse = _standardize(rows[part], h, epsilon, centred)
        if affine:
            sums[0, piece] += np.einsum("ij,ij->j", own, h)
        if len(affine) > 1:
            sums[1, piece] += np.add.reduce(own, axis=0)
        k = own * affine[0] if affine else own
        product = np.multiply(k, h, out=y)
        share = _mean(product)
        h *= share
        np.subtract(k, h, out=y)
        if centred:
            y -= _mean(k)
        y *= inverse

    _in_blocks(rows, work)
    return (out, *(each.sum(axis=0).astype(x.dtype) for each in sums))


# --- moments --------------------------------------------------------------------------------------


def moments(x: Array, axes: tuple[int, ...]) -> Any:
    """Return mean and variance over axes, which stay with length 1."""
    lead = sorted(a % x.ndim for a in axes) == list(range(x.ndim - 1))
    if not (_takes(x) and lead and len(axes)):
        return normalization.MOMENTS.compose(vocabulary(), x, axes=axes)  # type: ignore[misc]
    rows = _rows(x)
    shape = (1,) * (x.ndim - 1) + x.shape[-1:]
    sums = np.zeros((_pieces(rows), rows.shape[1]))

    def add(piece: int, part: slice) -> None:
        sums[piece] += np.add.reduce(rows[part], axis=0)

    _in_blocks(rows, add)
    mean = (sums.sum(axis=0) / len(rows)).astype(x.dtype)
    sums[...] = 0

    def add_squares(piece: int, part: slice) -> None:
        d = np.subtract(rows[part], mean, out=threads.scratch("d", rows[part].shape, x.dtype))
        sums[piece] += np.einsum("ij,ij->j", d, d)

    _in_blocks(rows, add_squares)
    variance = (sums.sum(axis=0) / len(rows)).astype(x.dtype)
    return mean.reshape(shape), variance.reshape(shape)


KERNELS: dict[str, Callable[..., Any]] = {
    "label_cross_entropy_vjp": label_cross_entropy_vjp,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "layer_norm": partial(_norm, centred=True),
    "rms_norm": partial(_norm, centred=False),
    "layer_norm_vjp": partial(_norm_vjp, centred=True),
    "rms_norm_vjp": partial(_norm_vjp, centred=False),
    "moments": moments,
}

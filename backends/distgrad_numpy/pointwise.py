"""Convolutions of points with a stride: products of matrices, once what is seen lies together."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.windows import Geometry
from distgrad_numpy import threads

Array = np.ndarray[Any, Any]

_FEWEST_ROWS = 64  # of a part of a product
_PARTS = 2  # that a thread takes, where there are several: one may be kept from its processor


def _applies(x: Array, w: Array, y: Array, geometry: Geometry) -> bool:
    return (
        geometry.groups == 1
        and set(w.shape[:-2]) == {1}
        and set(geometry.stride) != {1}
        and not any(map(any, geometry.padding))
        and x.dtype == w.dtype == y.dtype
        and x.dtype.char in "fdFD"
        and 0 not in (x.size, w.size, y.size)
    )


def _seen(x: Array, geometry: Geometry) -> Array:
    """Return a view of the positions that windows see."""
    return x[(slice(None), *(slice(None, None, step) for step in geometry.stride))]


def _rows(array: Array) -> Array:
    """Return an array as a matrix of its positions and channels."""
    return np.ascontiguousarray(array).reshape(-1, array.shape[-1])


def _multiply(a: Array, b: Array, to: Array) -> None:
    """Write a product, each thread some of its rows.

    BLAS' own threads keep a processor busy for some 30 ms after a product, which the threads of the
    next kernels wait for.
    """
    workers = threads.for_kernels()
    most = _PARTS * workers if workers > 1 else 1
    pieces = max(min(most, len(a) // _FEWEST_ROWS), 1)

    def work(piece: int) -> None:
        part = slice(piece * len(a) // pieces, (piece + 1) * len(a) // pieces)
        np.matmul(a[part], b, out=to[part])

    threads.run(work, range(pieces))


def conv(x: Array, w: Array, y: Array, geometry: Geometry) -> bool:
    """Write the convolution of x and w into y, which is contiguous; return whether it is one."""
    if not _applies(x, w, y, geometry):
        return False
    _multiply(_rows(_seen(x, geometry)), _rows(w), y.reshape(-1, y.shape[-1]))
    return True


def conv_transpose(y: Array, w: Array, x: Array, geometry: Geometry) -> bool:
    """Write the adjoint in the input into x; return whether it is one of these."""
    if not _applies(x, w, y, geometry):
        return False
    products = np.empty((*y.shape[:-1], x.shape[-1]), x.dtype)
    _multiply(_rows(y), _rows(w).T, products.reshape(-1, x.shape[-1]))
    for example, seen, product in zip(x, _seen(x, geometry), products, strict=True):
        example[...] = 0  # which stays in the cache until the rest is written
        seen[...] = product
    return True


def conv_kernel_vjp(x: Array, y: Array, w: Array, geometry: Geometry) -> bool:
    """Write the adjoint in the kernel into w, which is contiguous; return whether it is one."""
    if not _applies(x, w, y, geometry):
        return False
    # Few rows of long sums: each part would arrange all of the other side anew.
    np.matmul(_rows(_seen(x, geometry)).T, _rows(y), out=w.reshape(w.shape[-2:]))
    return True

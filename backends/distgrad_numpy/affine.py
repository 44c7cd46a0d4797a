"""Affine maps of rows, with relu or without, and their cotangents in one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from distgrad_numpy.compiled.products import product
from distgrad_numpy.compiled.sums import rectified, sum_over
from distgrad_numpy.products import FEW, matmul

Array = np.ndarray[Any, Any]


def linear(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Return x kernel + bias; the bias is added where the product was written."""
    return _affine(x, kernel, bias, rectified=False)


def linear_relu(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Return what is above 0 of x kernel + bias, in the memory of the sum."""
    return _affine(x, kernel, bias, rectified=True)


def _affine(x: Array, kernel: Array, bias: Array | None, *, rectified: bool) -> Array:
    if x.ndim != 2:
        if not x.ndim or kernel.ndim != 2:
            raise ValueError("x (..., n) and a kernel (n, m) expected")
        rows = x.reshape(prod(x.shape[:-1]), x.shape[-1])
        found = _affine(rows, kernel, bias, rectified=rectified)
        return found.reshape(*x.shape[:-1], kernel.shape[1])
    columns = kernel.shape[-1]
    if bias is not None and bias.shape != (columns,):
        raise ValueError("a bias for each column of the kernel expected")
    if x.size * columns >= FEW and kernel.ndim == 2:
        quick = product(x, kernel, bias, rectified=rectified)
        if quick is not None:
            return quick
    y: Array = matmul(x, kernel)
    if bias is not None:
        if y.dtype == bias.dtype or np.result_type(y, bias) == y.dtype:
            y += bias
        else:
            y = y + bias
    if rectified:
        np.maximum(y, 0, out=y)
    return y


# --- cotangents -----------------------------------------------------------------------------------


def _pullback(
    g: Array, y: Array | None, xs: Any, params: Any, needs: Sequence[Any]
) -> list[Any] | None:
    """Return what the rule of `linear` does, with each question asked once.

    A factor whose values no cotangent reads is a spec, or None.
    """
    if not _takes(g):
        return None
    rows = np.ascontiguousarray(g.reshape(-1, g.shape[-1]))
    return _cotangents(g.shape[:-1], rows, None, xs, needs)


def _pullback_rectified(
    g: Array, y: Array | None, xs: Any, params: Any, needs: Sequence[Any]
) -> list[Any] | None:
    """Return what the rule of `linear_relu` does; the bias' sums are made on the way."""
    if y is None or not _takes(g):
        return None
    shape = -1, g.shape[-1]
    found = rectified(np.ascontiguousarray(g.reshape(shape)), y.reshape(shape))
    return None if found is None else _cotangents(g.shape[:-1], *found, xs, needs)


def _takes(g: Array) -> bool:
    return g.ndim > 1 and g.size > 0 and g.dtype == np.float32


def _cotangents(
    lead: tuple[int, ...], rows: Array, sums: Array | None, xs: Any, needs: Sequence[Any]
) -> list[Any] | None:
    x, kernel = xs[:2]
    to_x = to_kernel = None
    if needs[0]:
        if kernel.dtype != np.float32:
            return None
        to_x = matmul(rows, kernel.T)
        if len(lead) > 1:
            to_x = to_x.reshape(*lead, kernel.shape[0])
    if needs[1]:
        if x.dtype != np.float32:
            return None
        to_kernel = matmul(x.reshape(-1, x.shape[-1]).T, rows)
    terms = [to_x, to_kernel]
    if len(needs) > 2:
        if needs[2] and sums is None:
            sums = sum_over(rows, 0)
            if sums is None:
                sums = np.add.reduce(rows, axis=0)
        terms.append(sums)
    return terms


KERNELS: dict[str, Callable[..., Any]] = {"linear": linear, "linear_relu": linear_relu}
PULLBACKS = {"linear": _pullback, "linear_relu": _pullback_rectified}

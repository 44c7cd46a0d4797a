"""NumPy's products and statistics of several arrays on tensors: dot, einsum, covariance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.core.seam import operands
from distgrad.numpy_functions.arguments import as_parameter, as_tensor, refuse_out
from distgrad.ops.elementwise.arithmetic import divide, maximum, multiply, subtract
from distgrad.ops.elementwise.complex_numbers import conj, real
from distgrad.ops.elementwise.selection import clip
from distgrad.ops.elementwise.transcendental import sqrt
from distgrad.ops.linalg import products
from distgrad.ops.linalg.parts import diagonal
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.products import contractions
from distgrad.ops.products.contractions import matmul, tensordot
from distgrad.ops.products.einsum import einsum
from distgrad.ops.reducing.reductions import mean
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.arrangement import broadcast_arrays, moveaxis
from distgrad.ops.shaping.structure import (
    astype,
    concat,
    expand_dims,
    matrix_transpose,
    reshape,
)


def _dot(a: Any, b: Any, out: Any = None) -> Any:
    refuse_out("dot", out)
    x, y = as_tensor(a), as_tensor(b)
    if x.ndim == 0 or y.ndim == 0:
        return multiply(x, y)
    return tensordot(x, y, axes=((x.ndim - 1,), (max(y.ndim - 2, 0),)))


def _outer(a: Any, b: Any, out: Any = None) -> Any:
    refuse_out("outer", out)
    x, y = (reshape(as_tensor(each), (-1,)) for each in (a, b))
    return multiply(expand_dims(x, axis=-1), y)


def _einsum(*operands: Any, out: Any = None, optimize: Any = False, **ignored: Any) -> Any:
    refuse_out("einsum", out)
    return einsum(*operands)


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    if not isinstance(axes, int):
        first, second = axes
        axes = tuple(
            (int(side),) if np.ndim(side) == 0 else tuple(map(int, side))
            for side in (first, second)
        )
    return tensordot(as_tensor(a), as_tensor(b), axes=axes)


def _cross(
    a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> Any:
    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = moveaxis(as_tensor(a), axisa, -1), moveaxis(as_tensor(b), axisb, -1)
    lengths = (x.shape[-1], y.shape[-1])
    if lengths == (2, 2):
        x0, x1 = getitem(x, (..., 0)), getitem(x, (..., 1))
        return subtract(multiply(x0, getitem(y, (..., 1))), multiply(x1, getitem(y, (..., 0))))
    x, y = (_in_space(each) for each in (x, y))
    x, y = broadcast_arrays(x, y) if x.shape != y.shape else (x, y)
    return moveaxis(products.cross(x, y, axis=-1), -1, axisc)


def _in_space(x: Any) -> Any:
    if x.shape[-1] == 3:
        return x
    if x.shape[-1] != 2:
        raise ValueError(f"cross: vectors of {x.shape[-1]} numbers; expected 2 or 3")
    return concat([x, np.zeros((*x.shape[:-1], 1), x.dtype)], axis=-1)


def _cov(
    m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: int | None = None,
    fweights: Any = None, aweights: Any = None, *, dtype: Any = None,
) -> Any:  # fmt: skip
    x = _observations(m, rowvar)
    if y is not None:
        x = concat([x, _observations(y, rowvar)], axis=0)
    if dtype is not None:
        x = x.astype(dtype)
    off = (0 if bias else 1) if ddof is None else ddof
    weights = _weights(fweights, aweights, np.empty(0, x.dtype).real.dtype)
    factor: Any
    if weights is None:
        deviation = weighted = subtract(x, mean(x, axis=1, keepdims=True))
        factor = float(max(x.shape[1] - off, 0))
    else:
        total = sum_over(weights)
        centre = divide(sum_over(multiply(x, weights), axis=1, keepdims=True), total)
        deviation = subtract(x, centre)
        weighted = multiply(deviation, weights)
        lost: Any = off
        if off and aweights is not None:
            own = astype(as_parameter(aweights), weights.dtype)
            lost = divide(multiply(sum_over(multiply(weights, own)), off), total)
        factor = maximum(subtract(total, lost), 0)
    product = matmul(weighted, matrix_transpose(conj(deviation)))
    scaled = divide(product, factor)
    return reshape(scaled, ()) if scaled.shape == (1, 1) else scaled


def _weights(frequencies: Any, reliabilities: Any, dtype: Any) -> Any:
    """Return how much each observation counts; None where all count alike."""
    given = [astype(as_parameter(w), dtype) for w in (frequencies, reliabilities) if w is not None]
    return None if not given else given[0] if len(given) == 1 else multiply(*given)


def _observations(m: Any, rowvar: bool) -> Any:
    x = as_tensor(m)
    if x.ndim > 2:
        raise ValueError(f"cov: m has {x.ndim} axes; expected 2 or fewer")
    if x.ndim < 2:
        return reshape(x, (1, -1))
    return x if rowvar or x.shape[0] == 1 else matrix_transpose(x)


def _corrcoef(
    x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None, **ignored: Any
) -> Any:
    covariance = _cov(x, y, rowvar, dtype=dtype)
    if covariance.ndim == 0:
        return divide(covariance, covariance)
    spread = sqrt(real(diagonal(covariance)))
    scaled = divide(divide(covariance, expand_dims(spread, axis=-1)), spread)
    if np.dtype(scaled.dtype).kind == "c":
        return scaled
    return clip(scaled, -1.0, 1.0)  # rounding beyond 1 is taken back, as NumPy does


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "dot": _dot,
    "vdot": lambda a, b, /: products.vdot(as_tensor(a), as_tensor(b)),
    "inner": lambda a, b, /: products.inner(as_tensor(a), as_tensor(b)),
    "outer": _outer,
    "kron": lambda a, b: products.kron(as_tensor(a), as_tensor(b)),
    "tensordot": _tensordot,
    "einsum": _einsum,
    "cross": _cross,
    "cov": _cov,
    "corrcoef": _corrcoef,
}


def _matvec(a: Any, b: Any) -> Any:
    a, b = operands(a, b)
    return getitem(matmul(a, expand_dims(b, axis=-1)), (..., 0))


def _vecmat(a: Any, b: Any) -> Any:
    a, b = operands(a, b)
    return getitem(matmul(expand_dims(conj(a), axis=-2), b), (..., 0, slice(None)))


# Ufuncs of NumPy that the vocabulary writes by other operations.
CONTRACTIONS: dict[str, Callable[..., Any]] = {
    "vecdot": contractions.vecdot,
    "matvec": _matvec,
    "vecmat": _vecmat,
}

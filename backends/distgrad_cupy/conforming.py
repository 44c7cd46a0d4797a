"""Calls that CuPy's functions do not take, or answer late, where NumPy's do.

CuPy solves stacks of systems of one shape alone, its libraries refuse arrays without elements, and
its eigenvalues of general matrices want a recent cuSOLVER. CUB, which it leaves reductions to, adds
numbers of half precision up in half precision. To ask an array whether anything in it is so waits
for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distgrad.backend.adapters import ADAPTERS
from distgrad.dtypes import as_dtype
from distgrad_cupy.running import Runner, name_of

Array = Any


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels of operations that go to CuPy with their arguments prepared.

    Parameters
    ----------
    run : Runner
        Of the arrays.
    """
    return {
        "solve": partial(_solved, run, "solve"),
        "solve_triangular": partial(_solved, run, "solve_triangular"),
        "eig": partial(_eigenvalues, run, "eig"),
        "eigvals": partial(_eigenvalues, run, "eigvals"),
        "fft": partial(_transformed, run, "fft"),
        "ifft": partial(_transformed, run, "ifft"),
        "floor_divide": partial(_floor_divide, run),
        "scatter_max": partial(_scatter_extreme, run, "scatter_max"),
        "scatter_min": partial(_scatter_extreme, run, "scatter_min"),
        "sum": partial(_accumulated, run, "sum"),
        "prod": partial(_accumulated, run, "prod"),
    }


def _adapted(run: Runner, name: str, *arrays: Array, **params: Any) -> Any:
    return ADAPTERS[name](run.namespace().backend, *arrays, **params)


# --- linear algebra -------------------------------------------------------------------------------


def _solved(run: Runner, name: str, a: Array, b: Array, **params: Any) -> Array:
    """Return the solutions of systems, the stacks of both operands broadcast."""
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        return _adapted(run, name, a, b, **params)  # which says what is wrong, or takes a vector
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*stack, *b.shape[-2:])
    if not math.prod(shape):
        return run.module.empty(shape, _floating(a, b))
    matrices = run.module.broadcast_to(a, (*stack, *a.shape[-2:]))
    return _adapted(run, name, matrices, run.module.broadcast_to(b, shape), **params)


def _eigenvalues(run: Runner, name: str, a: Array) -> Any:
    """Return eigenvalues and eigenvectors of general matrices, NumPy's where cuSOLVER has none."""
    try:
        return _adapted(run, name, a)
    except RuntimeError as error:
        if "geev" not in str(error):  # cuSOLVER's function, which came with CUDA 12.6
            raise
    backend = run.namespace().backend
    dtype = as_dtype(a.dtype)
    host = backend.to_host(a).astype(_floating(a) if dtype.itemsize > 2 else np.float32)
    found = getattr(np.linalg, name)(host)
    wide = np.result_type(host.dtype, np.complex64)
    if name == "eigvals":
        return backend.asarray(found.astype(wide))
    return tuple(backend.asarray(each.astype(wide)) for each in found)


def _floating(*arrays: Array) -> np.dtype[Any]:
    """Return the dtype of results: of integers float64."""
    joint = np.result_type(*(each.dtype for each in arrays))
    return np.dtype(np.float64) if joint.kind in "biu" else joint


# --- Fourier transforms ---------------------------------------------------------------------------


def _transformed(run: Runner, name: str, x: Array, *, axes: tuple[int, ...], norm: str) -> Array:
    """Return a transform; of an array without elements one without elements."""
    if x.size or not axes:
        return _adapted(run, name, x, axes=axes, norm=norm)
    narrow = x.dtype.kind in "fc" and x.dtype.name not in ("float64", "complex128")
    return run.module.empty(x.shape, np.complex64 if narrow else np.complex128)


# --- quotients ------------------------------------------------------------------------------------


def _floor_divide(run: Runner, a: Any, b: Any) -> Array:
    """Return the floor of a / b, where infinite operands give the quotient's limit.

    Notes
    -----
    Remainders give NaN for inf // 1, and -1 for 1 // -inf. Both are computed for all elements:
    to ask whether there are infinite ones would wait for the device.
    """
    module = run.module
    result = module.floor_divide(a, b)
    if result.dtype.kind != "f":
        return result
    with np.errstate(invalid="ignore", divide="ignore"):  # of the values that are not chosen
        quotient = module.floor(module.true_divide(a, b))
    infinite = _is_infinite(module, a) | _is_infinite(module, b)
    return module.where(infinite, quotient, result).astype(result.dtype, copy=False)


def _is_infinite(module: Any, operand: Any) -> Any:
    return module.isinf(operand) if hasattr(operand, "dtype") else math.isinf(operand)


# --- sums and products ----------------------------------------------------------------------------


def _accumulated(run: Runner, name: str, x: Array, **how: Any) -> Array:
    """Return sums or products, those of half precision formed in single and rounded once.

    Notes
    -----
    CuPy's own kernels do so. But it calls CUB where elements lie side by side, one of whose threads
    adds 4096 ones up to 2048; a dtype other than the elements' keeps it from that.
    """
    reduction = getattr(run.module, name)
    if name_of(x.dtype) != "float16" or how.get("dtype") is not None:
        return reduction(x, **how)
    return reduction(x, **{**how, "dtype": np.float32}).astype(x.dtype)


# --- extremes at places ---------------------------------------------------------------------------


def _scatter_extreme(
    run: Runner, name: str, values: Array, *arrays: Array, index: Any, shape: Any
) -> Array:
    """Return the extremes of values at the places of a subscript, NaN where one of them is.

    Notes
    -----
    CuPy's `maximum.at` rounds double precision to single and passes over NaN. Integers in the
    order of the numbers have neither fault: of a positive number its bits, of a negative one the
    bits but for the sign turned over.
    """
    module, dtype = run.module, as_dtype(values.dtype)
    joined = partial(_adapted, run, name, index=index, shape=shape)
    if dtype.kind in "biu" and dtype.itemsize < 4:
        wide = joined(values.astype(np.int32), *arrays)
        limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        return module.clip(wide, *limits).astype(dtype)  # the identity of places without values
    if dtype.kind in "biu":
        return joined(values, *arrays)
    wide_dtype = np.dtype(np.float32) if dtype.itemsize < 4 else dtype
    whole = np.dtype(f"i{wide_dtype.itemsize}")
    lowest, highest = np.iinfo(whole).min, np.iinfo(whole).max
    undefined, untouched = (highest, lowest) if name == "scatter_max" else (lowest, highest)
    numbers = module.asarray(values, order="C").astype(wide_dtype, copy=False)
    bits = numbers.view(whole)
    ordered = module.where(bits < 0, bits ^ highest, bits)
    found = joined(module.where(module.isnan(numbers), undefined, ordered), *arrays)
    result = module.where(found < 0, found ^ highest, found).view(wide_dtype)
    identity = -np.inf if name == "scatter_max" else np.inf
    return module.where(found == untouched, identity, result).astype(dtype, copy=False)

"""Stacks of small matrices: determinants, inverses, systems and triangles, many at a time.

LAPACK takes one matrix after the other, and a call for each takes longer than what it computes.
Where a matrix has not what it needs, all of the stack is left to LAPACK, which has words for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad_numpy.compiled import crew
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.offers import REALS

Array = np.ndarray[Any, Any]

_SIZES = range(2, 9)  # rows of a matrix
_FEW = 8  # matrices; fewer are no stack
_COLUMNS = 16  # of right sides, at most, as the source has it
_MANY = 1 << 14  # numbers from which on threads share the stack
_GROUP = 16  # matrices side by side in the widest vectors

_COUNT, _ARRAY = ctypes.c_longlong, ctypes.c_void_p
_ARGUMENTS = (*[_COUNT] * 2, *[_ARRAY] * 5)


def _of_matrices(name: str, a: Array) -> Array | None:
    """Return matrices, or determinants, of square ones; None of others."""
    if not _takes(a):
        return None
    shape = a.shape[:-2] if name == "det" else a.shape
    out = np.empty(shape, a.dtype)
    return out if _run(name, a, None, out, None) else None


def slogdet(a: Array) -> tuple[Array, Array] | None:
    """Return signs and logarithms of determinants; None of other matrices, and singular ones."""
    if not _takes(a):
        return None
    sign, logarithm = np.empty(a.shape[:-2], a.dtype), np.empty(a.shape[:-2], a.dtype)
    return (sign, logarithm) if _run("slogdet", a, None, sign, logarithm) else None


def solve(a: Array, b: Array) -> Array | None:
    """Return the solutions of as many systems as there are right sides; None of other ones."""
    if not _takes(a) or not _fits(a, b):
        return None
    out = np.empty(b.shape, b.dtype)
    return out if _run("solve", a, b, out, None) else None


def solve_triangular(a: Array, b: Array, lower: bool, unit_diagonal: bool) -> Array | None:
    """Return the solutions of triangular systems; None of others, and with ones on a diagonal."""
    if unit_diagonal or not _takes(a) or not _fits(a, b):
        return None
    out = np.empty(b.shape, b.dtype)
    return out if _run("solve_lower" if lower else "solve_upper", a, b, out, None) else None


def _takes(a: Any) -> bool:
    """Return whether this is a stack of small square matrices."""
    return (
        isinstance(a, np.ndarray)
        and a.ndim > 2
        and a.shape[-1] == a.shape[-2]
        and a.shape[-1] in _SIZES
        and a.dtype in REALS
        and prod(a.shape[:-2]) >= _FEW
    )


def _fits(a: Array, b: Any) -> bool:
    return (
        isinstance(b, np.ndarray)
        and b.dtype == a.dtype
        and b.shape[:-1] == a.shape[:-1]
        and 0 < b.shape[-1] <= _COLUMNS
    )


def _run(name: str, a: Array, b: Array | None, out: Array, second: Array | None) -> bool:
    """Have the results written; return whether all matrices had what they need."""
    run = crew.shared("small_matrices", name, _ARGUMENTS, REALS[a.dtype])
    if run is None:
        return False
    matrices, size = prod(a.shape[:-2]), a.shape[-1]
    failed = ctypes.c_int(0)
    a = np.ascontiguousarray(a)
    b = None if b is None else np.ascontiguousarray(b)
    columns = 1 if b is None else b.shape[-1]
    places = [None if each is None else address(each) for each in (a, b, out, second)]
    sharing = crew.workers() if a.size >= _MANY else 1
    each = -(-matrices // sharing // _GROUP) * _GROUP
    run(matrices, each, size, columns, *places, ctypes.addressof(failed))
    return not failed.value


OFFERS: dict[str, Callable[..., Any]] = {
    **{name: partial(_of_matrices, name) for name in ("det", "inv", "cofactor", "cholesky")},
    "slogdet": slogdet,
    "solve": solve,
    "solve_triangular": solve_triangular,
}

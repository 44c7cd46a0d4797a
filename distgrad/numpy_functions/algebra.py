"""np.linalg and np.fft on tensors: the vocabulary's functions have NumPy's signatures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from distgrad import fft, linalg
from distgrad.numpy_functions.arguments import as_axis, as_tensor, flag, given, host, refuse_out
from distgrad.ops.elementwise.complex_numbers import real

_ARRAY_NAMES = ("a", "A", "x", "x1", "b", "x2")


def _as_numpy_calls(name: str, function: Callable[..., Any], arrays: int) -> Callable[..., Any]:
    """Return a function whose first arguments may also be given by NumPy's names for them."""

    def called(*arguments: Any, out: Any = None, **options: Any) -> Any:
        refuse_out(name, out)
        operands = list(arguments)
        for argument in _ARRAY_NAMES:
            if argument in options and len(operands) < arrays:
                operands.append(options.pop(argument))
        for place in range(arrays):
            operands[place] = as_tensor(operands[place])
        return function(*operands, **{key: v for key, v in options.items() if given(v)})

    return called


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: Any = False) -> Any:
    return linalg.norm(as_tensor(x), ord, as_axis(axis), flag(keepdims))


def _multi_dot(arrays: Any, *, out: Any = None) -> Any:
    refuse_out("multi_dot", out)
    return linalg.multi_dot([as_tensor(each) for each in arrays])


def _irfftn(a: Any, s: Any = None, axes: Any = None, norm: Any = None, out: Any = None) -> Any:
    refuse_out("irfftn", out)
    return fft.irfftn(as_tensor(a), s, axes, norm)


@cache
def _numpy_looks_for_real_ones() -> bool:
    """Return whether NumPy's eigenvalues are real where all can be, as before NumPy 2.5."""
    return bool(np.linalg.eigvals(np.eye(1)).dtype.kind == "f")


def _all_are_real(values: Any, a: Any) -> bool:
    """Return whether the eigenvalues of a matrix are known to be real.

    In a traced function, where nobody knows, they stay complex.
    """
    return (
        np.dtype(a.dtype).kind != "c"
        and not values.read().kernels.level
        and not np.any(host(values).imag)
    )


def eigvals_real_if_all_are(a: Any) -> Any:
    """Return the eigenvalues of a matrix, as real numbers where that is what they are."""
    values = linalg.eigvals(a)
    return real(values) if _all_are_real(values, a) else values


def _eigvals(a: Any) -> Any:
    matrix = as_tensor(a)
    if _numpy_looks_for_real_ones():
        return eigvals_real_if_all_are(matrix)
    return linalg.eigvals(matrix)


def _eig(a: Any) -> Any:
    matrix = as_tensor(a)
    values, vectors = linalg.eig(matrix)
    if _numpy_looks_for_real_ones() and _all_are_real(values, matrix):
        values, vectors = real(values), real(vectors)
    return linalg.EigResult(values, vectors)


_TWO = frozenset("cross lstsq outer solve tensordot tensorsolve vecdot matmul".split())
_LINALG = (
    "cholesky cond cross det diagonal eigh eigvalsh inv lstsq matmul matrix_norm "
    "matrix_power matrix_rank matrix_transpose outer pinv qr slogdet solve svd svdvals tensordot "
    "tensorinv tensorsolve trace vecdot vector_norm"
).split()
_FFT = (
    "fft ifft rfft irfft hfft ihfft fftn ifftn rfftn fft2 ifft2 rfft2 irfft2 fftshift ifftshift"
).split()

LINALG: dict[str, Callable[..., Any]] = {
    **{
        name: _as_numpy_calls(name, getattr(linalg, name), 2 if name in _TWO else 1)
        for name in _LINALG
    },
    "eig": _eig,
    "eigvals": _eigvals,
    "norm": _norm,
    "multi_dot": _multi_dot,
}
FFT: dict[str, Callable[..., Any]] = {
    **{name: _as_numpy_calls(name, getattr(fft, name), 1) for name in _FFT},
    "irfftn": _irfftn,
}

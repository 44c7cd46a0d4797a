"""tf.linalg: products, norms, diagonals and eigenvalues; factorisations stand beside it."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.clipping import global_norm
from distgrad.compat.tensorflow.conversion import axes, floating, native, together
from distgrad.compat.tensorflow.creation import eye
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.factorisations import (
    cholesky,
    cholesky_solve,
    cross,
    det,
    einsum,
    expm,
    inv,
    logdet,
    lstsq,
    pinv,
    qr,
    slogdet,
    solve,
    svd,
    triangular_solve,
)
from distgrad.compat.tensorflow.missing import refusal
from distgrad.compat.tensorflow.nn import l2_normalize
from distgrad.compat.tensorflow.products import matmul, matvec, tensordot
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor, wrap
from distgrad.dtypes import is_complex
from distgrad.entering import beside
from distgrad.errors import ShapeError

__getattr__ = refusal("linalg")


def matrix_transpose(a: Any, name: str = "matrix_transpose", conjugate: bool = False) -> Tensor:
    """Return a tensor with its last two axes exchanged, on request with the conjugate taken."""
    return compute(
        lambda x: dg.matrix_transpose(dg.conj(x) if conjugate and is_complex(x.dtype) else x),
        convert_to_tensor(a),
    )


def adjoint(matrix: Any, name: str | None = None) -> Tensor:
    """Return the conjugate transpose of matrices in the last two axes."""
    return matrix_transpose(matrix, conjugate=True)


def trace(x: Any, name: str | None = None) -> Tensor:
    """Return the sums of the main diagonals of matrices in the last two axes."""
    return compute(lambda d: dg.astype(dg.sum(d, axis=-1), d.dtype), diag_part(x))


def diag_part(input: Any, name: str = "diag_part", k: int = 0) -> Tensor:
    """Return the k-th diagonals of matrices in the last two axes (above the main one for k > 0)."""
    x = _matrices("diag_part", input)
    rows, columns = x.shape[-2:]
    length = builtins.max(builtins.min(rows + builtins.min(k, 0), columns - builtins.max(k, 0)), 0)
    steps = np.arange(length)
    picked = (steps - builtins.min(k, 0), steps + builtins.max(k, 0))
    return x[(..., *(beside(each, native(x)) for each in picked))]


def diag(diagonal: Any, name: str = "diag", k: int = 0) -> Tensor:
    """Return square matrices with values on their k-th diagonal, else zeros."""

    def of(values: dg.Tensor) -> Any:
        size = values.shape[-1] + abs(k)
        on = beside(np.eye(size, k=k, dtype=bool), values)
        # The value that belongs in each row of the k-th diagonal.
        source = np.clip(np.arange(size) + builtins.min(k, 0), 0, values.shape[-1] - 1)
        column = dg.expand_dims(dg.take(values, beside(source, values), axis=-1), axis=-1)
        return dg.where(on, column, dg.zeros_like(column))

    return compute(of, convert_to_tensor(diagonal))


def set_diag(input: Any, diagonal: Any, name: str = "set_diag", k: int = 0) -> Tensor:
    """Return matrices with their k-th diagonals replaced (above the main one for k > 0).

    Raises
    ------
    InvalidArgumentError
        If there is no such diagonal, or the values are not as many as it has.
    """
    x, line = together("MatrixSetDiag", _matrices("set_diag", input), diagonal)
    rows, columns = x.shape[-2:]
    if k and not -rows < k < columns:
        raise InvalidArgumentError(
            f"set_diag: k is {k}; expected a diagonal of the {rows} x {columns} matrices"
        )
    length = builtins.min(rows + builtins.min(k, 0), columns - builtins.max(k, 0))
    if line.shape != (*x.shape[:-2], length):
        raise InvalidArgumentError(
            f"set_diag: diagonal has shape {line.shape}; expected {(*x.shape[:-2], length)}"
        )

    def of(matrix: dg.Tensor, line: Any) -> Any:
        on = beside(np.eye(rows, columns, k=k, dtype=bool), matrix)
        source = np.clip(np.arange(rows) + builtins.min(k, 0), 0, builtins.max(length - 1, 0))
        column = dg.expand_dims(dg.take(line, beside(source, line), axis=-1), axis=-1)
        return dg.where(on, column, matrix)

    return compute(of, x, line) if length else wrap(x)


def _matrices(name: str, value: Any) -> Tensor:
    """Return an operand of two axes or more.

    Raises
    ------
    InvalidArgumentError
        If it has fewer.
    """
    tensor = convert_to_tensor(value)
    if len(tensor.shape) < 2:
        raise InvalidArgumentError(
            f"{name}: input must be at least 2-dim, received shape: {list(tensor.shape)}"
        )
    return tensor


def band_part(input: Any, num_lower: Any, num_upper: Any, name: str | None = None) -> Tensor:
    """Return matrices with only a band kept: so many diagonals below and above; -1 means all."""
    x = _matrices("band_part", input)
    rows, columns = x.shape[-2:]
    offset = np.arange(columns) - np.arange(rows)[:, None]
    lower, upper = int(num_lower), int(num_upper)
    kept = ((lower < 0) | (-offset <= lower)) & ((upper < 0) | (offset <= upper))
    return compute(lambda m: dg.where(beside(kept, m), m, dg.zeros_like(m)), x)


# --- norms --------------------------------------------------------------------------------------


def norm(
    tensor: Any,
    ord: Any = "euclidean",
    axis: Any = None,
    keepdims: bool | None = None,
    name: str | None = None,
) -> Tensor:
    """Return a norm of a vector, or of all elements.

    Parameters
    ----------
    tensor : Tensor, Variable or array
        Floating or complex.
    ord : {"euclidean", "fro", 1, 2, inf} or a positive number
        Which norm. Over two axes "euclidean" and "fro" are Frobenius' norm, 1 and inf the largest
        column and row sum, 2 the largest singular value.
    axis : int or pair of ints, optional
        The axis of the vectors, or the axes of the matrices; all elements by default.
    keepdims : bool
        Whether these axes stay, with length 1.

    Raises
    ------
    ValueError
        If `ord` is no norm.

    Notes
    -----
    The gradient at zeros is 0, where TensorFlow's is NaN.
    """
    along, keep = axes(axis), bool(keepdims)
    of_matrices = isinstance(along, tuple) and len(along) == 2
    if isinstance(along, tuple) and len(along) not in (1, 2):
        raise ValueError(f"'axis' must be None, an integer, or a tuple of 2 integers, got {axis}")
    if ord not in ("euclidean", "fro") and (isinstance(ord, str) or ord <= 0):
        raise ValueError(f"'ord' must be 'euclidean', 'fro', inf or a positive number, got {ord}")
    if ord == "fro" and not of_matrices:
        raise ValueError("'ord' is 'fro', which needs an axis of two integers")
    if of_matrices and ord not in ("euclidean", "fro", 1, 2, math.inf):
        raise ValueError(
            f"'ord' must be a supported matrix norm in ['euclidean', 'fro', 1, 2, inf], got {ord}"
        )

    def of(x: dg.Tensor) -> Any:
        if of_matrices and ord in (1, 2, math.inf):
            return dg.linalg.norm(x, ord=ord, axis=along, keepdims=keep)
        if ord in ("euclidean", "fro", 2):
            length = dg.linalg.vector_norm(x, axis=along, keepdims=keep)
            # As in TensorFlow the Euclidean norm of complex numbers is complex too.
            return dg.astype(length, x.dtype) if is_complex(x.dtype) else length
        return dg.linalg.vector_norm(x, axis=along, keepdims=keep, ord=ord)

    return compute(of, floating("norm", tensor))


def normalize(
    tensor: Any, ord: Any = "euclidean", axis: Any = None, name: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return a tensor divided by its norm, and the norm with its axes kept."""
    x = convert_to_tensor(tensor)
    length = norm(x, ord, axis, keepdims=True)
    return x / Tensor(dg.astype(length.read(), x.dtype.dtype)), length


# --- eigenvalues --------------------------------------------------------------------------------


def eigh(tensor: Any, name: str | None = None) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues, ascending, and the eigenvectors of Hermitian matrices.

    Only the lower triangles are read. Where eigenvalues are equal, their vectors' gradients do not
    mix them: the gradient is finite.
    """
    x = floating("eigh", tensor)
    try:
        values, vectors = dg.linalg.eigh(x)
    except ShapeError as error:
        raise InvalidArgumentError(str(error)) from error
    return wrap(dg.astype(values, vectors.dtype)), wrap(vectors)


def eigvalsh(tensor: Any, name: str | None = None) -> Tensor:
    """Return the eigenvalues of Hermitian matrices, ascending; the lower triangles are read."""
    x = floating("eigvalsh", tensor)
    return compute(lambda x: dg.astype(dg.linalg.eigvalsh(x), x.dtype), x)


__all__ = [
    "adjoint",
    "band_part",
    "cholesky",
    "cholesky_solve",
    "cross",
    "det",
    "diag",
    "diag_part",
    "eigh",
    "eigvalsh",
    "einsum",
    "expm",
    "eye",
    "global_norm",
    "inv",
    "l2_normalize",
    "logdet",
    "lstsq",
    "matmul",
    "matrix_transpose",
    "matvec",
    "norm",
    "normalize",
    "pinv",
    "qr",
    "set_diag",
    "slogdet",
    "solve",
    "svd",
    "tensordot",
    "trace",
    "triangular_solve",
]

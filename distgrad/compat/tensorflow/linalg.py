"""tf.linalg: products, norms, diagonals and eigenvalues; factorisations stand beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.clipping import global_norm
from distgrad.compat.tensorflow.conversion import axes, floating
from distgrad.compat.tensorflow.creation import eye
from distgrad.compat.tensorflow.diagonals import diag, diag_part, matrices, set_diag
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


def band_part(input: Any, num_lower: Any, num_upper: Any, name: str | None = None) -> Tensor:
    """Return matrices with only a band kept: so many diagonals below and above; -1 means all."""
    x = matrices("band_part", input)
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

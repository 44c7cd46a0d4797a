"""tf.linalg: products, norms and diagonals; factorisations are not offered yet."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import axes, floating, operands
from distgrad.compat.tensorflow.creation import eye
from distgrad.compat.tensorflow.missing import refusal, refuse_argument
from distgrad.compat.tensorflow.nn import l2_normalize
from distgrad.compat.tensorflow.products import matmul, matvec, tensordot
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor
from distgrad.dtypes import is_complex

__getattr__ = refusal("linalg")


def matrix_transpose(a: Any, name: str = "matrix_transpose", conjugate: bool = False) -> Tensor:
    """Return a tensor with its last two axes exchanged, on request with the conjugate taken."""
    return compute(
        lambda x: dg.matrix_transpose(dg.conj(x) if conjugate else x), convert_to_tensor(a)
    )


def adjoint(matrix: Any, name: str | None = None) -> Tensor:
    """Return the conjugate transpose of matrices in the last two axes."""
    return matrix_transpose(matrix, conjugate=True)


def trace(x: Any, name: str | None = None) -> Tensor:
    """Return the sums of the main diagonals of matrices in the last two axes."""
    return compute(lambda d: dg.astype(dg.sum(d, axis=-1), d.dtype), diag_part(x))


def diag_part(input: Any, name: str = "diag_part", k: int = 0) -> Tensor:
    """Return the k-th diagonals of matrices in the last two axes (above the main one for k > 0)."""
    x = convert_to_tensor(input)
    rows, columns = x.shape[-2:]
    length = builtins.max(builtins.min(rows + builtins.min(k, 0), columns - builtins.max(k, 0)), 0)
    steps = np.arange(length)
    return x[..., steps - builtins.min(k, 0), steps + builtins.max(k, 0)]


def diag(diagonal: Any, name: str = "diag", k: int = 0) -> Tensor:
    """Return square matrices with values on their k-th diagonal, else zeros."""

    def of(values: dg.Tensor) -> Any:
        size = values.shape[-1] + abs(k)
        on = np.eye(size, k=k, dtype=bool)
        # The value that belongs in each row of the k-th diagonal.
        source = np.clip(np.arange(size) + builtins.min(k, 0), 0, values.shape[-1] - 1)
        column = dg.expand_dims(dg.take(values, source, axis=-1), axis=-1)
        return dg.where(on, column, dg.zeros_like(column))

    return compute(of, convert_to_tensor(diagonal))


def set_diag(input: Any, diagonal: Any, name: str = "set_diag", k: int = 0) -> Tensor:
    """Return matrices with their main diagonals replaced."""
    if k:
        refuse_argument("set_diag", "k", k, "0")
    x, values = operands("MatrixSetDiag", convert_to_tensor(input), diagonal)

    def of(matrix: dg.Tensor, new: Any) -> Any:
        rows, columns = matrix.shape[-2:]
        on = np.eye(rows, columns, dtype=bool)
        line = new if isinstance(new, dg.Tensor) else dg.asarray(new)
        source = np.clip(np.arange(rows), 0, line.shape[-1] - 1)
        column = dg.expand_dims(dg.take(line, source, axis=-1), axis=-1)
        return dg.where(on, column, matrix)

    return compute(of, x, values)


def band_part(input: Any, num_lower: Any, num_upper: Any, name: str | None = None) -> Tensor:
    """Return matrices with only a band kept: so many diagonals below and above; -1 means all."""
    x = convert_to_tensor(input)
    rows, columns = x.shape[-2:]
    offset = np.arange(columns) - np.arange(rows)[:, None]
    lower, upper = int(num_lower), int(num_upper)
    kept = ((lower < 0) | (-offset <= lower)) & ((upper < 0) | (offset <= upper))
    return compute(lambda m: dg.where(kept, m, dg.zeros_like(m)), x)


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
        Which norm. Over two axes only the Euclidean one ("fro") is offered yet: the others of
        matrices need singular values.
    axis : int or pair of ints, optional
        The axis of the vectors, or the axes of the matrices; all elements by default.
    keepdims : bool
        Whether these axes stay, with length 1.

    Raises
    ------
    ValueError
        If `ord` is no norm.
    """
    along, keep = axes(axis), bool(keepdims)
    of_matrices = isinstance(along, tuple) and len(along) == 2
    if isinstance(along, tuple) and len(along) not in (1, 2):
        raise ValueError(f"'axis' must be None, an integer, or a tuple of 2 integers, got {axis}")
    if ord not in ("euclidean", "fro") and (isinstance(ord, str) or ord <= 0):
        raise ValueError(f"'ord' must be 'euclidean', 'fro', inf or a positive number, got {ord}")
    if ord == "fro" and not of_matrices:
        raise ValueError("'ord' is 'fro', which needs an axis of two integers")
    if of_matrices and ord not in ("euclidean", "fro"):
        refuse_argument("norm", "ord", ord, "'euclidean' or 'fro' over two axes")

    def of(x: dg.Tensor) -> Any:
        if ord in ("euclidean", "fro", 2):
            # As in TensorFlow the Euclidean norm of complex numbers is complex too.
            squares = x * dg.conj(x) if is_complex(x.dtype) else x * x
            return dg.sqrt(dg.sum(squares, axis=along, keepdims=keep))
        lengths = dg.abs(x)
        if ord == 1:
            return dg.sum(lengths, axis=along, keepdims=keep)
        if ord == math.inf:
            return dg.max(lengths, axis=along, keepdims=keep)
        return dg.sum(lengths**ord, axis=along, keepdims=keep) ** (1.0 / ord)

    return compute(of, floating("norm", tensor))


def normalize(
    tensor: Any, ord: Any = "euclidean", axis: Any = None, name: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return a tensor divided by its norm, and the norm with its axes kept."""
    x = convert_to_tensor(tensor)
    length = norm(x, ord, axis, keepdims=True)
    return x / Tensor(dg.astype(length.read(), x.dtype.dtype)), length


def global_norm(t_list: Any, name: str | None = None) -> Tensor:
    """Return the Euclidean norm of all elements of a list of tensors; None counts as nothing.

    Raises
    ------
    TypeError
        If it is no list.
    """
    if isinstance(t_list, Tensor) or not isinstance(t_list, (list, tuple)):
        raise TypeError(f"`t_list` should be a sequence of tensors. Received {type(t_list)}.")
    given = [floating("global_norm", t) for t in t_list if t is not None]
    if not given:
        raise ValueError("global_norm: t_list has no tensor; expected one or more")
    squares = [dg.sum(dg.square(dg.abs(x))) for x in given]
    tensors = operands("global_norm", *(Tensor(x) for x in squares))
    return compute(lambda parts: dg.sqrt(dg.sum(dg.stack(parts))), tensors)


__all__ = [
    "adjoint",
    "band_part",
    "diag",
    "diag_part",
    "eye",
    "global_norm",
    "l2_normalize",
    "matmul",
    "matrix_transpose",
    "matvec",
    "norm",
    "normalize",
    "set_diag",
    "tensordot",
    "trace",
]

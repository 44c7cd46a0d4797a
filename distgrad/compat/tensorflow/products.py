"""Products of matrices and tensors, by TensorFlow's signatures."""

from __future__ import annotations

from typing import Any

import distgrad as dg
from distgrad.compat.tensorflow.conversion import together
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.missing import refuse_argument
from distgrad.compat.tensorflow.values import Tensor, compute


def matmul(
    a: Any,
    b: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    adjoint_a: bool = False,
    adjoint_b: bool = False,
    a_is_sparse: bool = False,
    b_is_sparse: bool = False,
    output_type: Any = None,
    grad_a: bool = False,
    grad_b: bool = False,
    name: str | None = None,
) -> Tensor:
    """Return the product of matrices in the last two axes.

    Parameters
    ----------
    a, b : Tensor, Variable or array
        Of one dtype and two axes or more.
    transpose_a, transpose_b : bool
        Whether to exchange the last two axes first.
    adjoint_a, adjoint_b : bool
        Whether to take the complex conjugate too.
    a_is_sparse, b_is_sparse, grad_a, grad_b : bool
        TensorFlow's hints; they change nothing.
    output_type : dtype, optional
        Must be left out.

    Raises
    ------
    ValueError
        If a factor is to be both transposed and adjoint.
    InvalidArgumentError
        If shapes or dtypes do not fit.
    """
    if output_type is not None:
        refuse_argument("matmul", "output_type", output_type, "None; tf.cast the factors")
    for letter, transposed, adjoint in (
        ("a", transpose_a, adjoint_a),
        ("b", transpose_b, adjoint_b),
    ):
        if transposed and adjoint:
            raise ValueError(
                f"Only one of `transpose_{letter}` and `adjoint_{letter}` can be True."
            )
    left, right = together("MatMul", a, b)
    if left.ndim < 2 or right.ndim < 2:
        raise InvalidArgumentError(
            f"In[0] and In[1] has different ndims: {list(left.shape)} vs. {list(right.shape)}; "
            "expected two axes or more: use tf.linalg.matvec for a vector"
        )

    def turned(x: Any, transposed: bool, adjoint: bool) -> Any:
        if adjoint:
            x = dg.conj(x)
        return dg.matrix_transpose(x) if transposed or adjoint else x

    left, right = turned(left, transpose_a, adjoint_a), turned(right, transpose_b, adjoint_b)
    if left.shape[-1] != right.shape[-2]:
        raise InvalidArgumentError(
            f"Matrix size-incompatible: In[0]: {list(left.shape)}, In[1]: {list(right.shape)}; "
            "the last length of the first and the last but one of the second must be equal"
        )
    return compute(dg.matmul, left, right)


def matvec(
    a: Any,
    b: Any,
    transpose_a: bool = False,
    adjoint_a: bool = False,
    a_is_sparse: bool = False,
    b_is_sparse: bool = False,
    name: str | None = None,
) -> Tensor:
    """Return the product of matrices and vectors in the last axes; arguments as for `matmul`."""
    matrices, vectors = together("MatMul", a, b)
    column = compute(dg.expand_dims, vectors, axis=-1)
    product = matmul(matrices, column, transpose_a=transpose_a, adjoint_a=adjoint_a)
    return compute(dg.squeeze, product, axis=-1)


def tensordot(a: Any, b: Any, axes: Any, name: str | None = None) -> Tensor:
    """Return the sum of products over pairs of axes.

    Parameters
    ----------
    a, b : Tensor, Variable or array
        The factors.
    axes : int, or pair of ints or of sequences of int
        The axes of `a` and of `b` to sum over; an int n means the last n of `a` with the first n of
        `b`.
    """
    left, right = together("Tensordot", a, b)
    if isinstance(axes, int):
        return compute(dg.tensordot, left, right, axes=axes)
    of_left, of_right = axes
    pairs = tuple(
        (n,) if isinstance(n, int) else tuple(int(i) for i in n) for n in (of_left, of_right)
    )
    return compute(dg.tensordot, left, right, axes=pairs)

"""Tensors as matrices: their inverses, and linear systems of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from distgrad.core.seam import operands
from distgrad.errors import ShapeError
from distgrad.ops.linalg.solving import inv, solve
from distgrad.ops.shaping.structure import permute_dims, reshape
from distgrad.shapes import normalize_axes, shape_given


def tensorinv(a: Any, /, ind: int = 2) -> Any:
    """Return the inverse of a tensor with respect to `tensordot` over `ind` axes.

    Parameters
    ----------
    a : Tensor, Variable or array
        Whose first `ind` lengths have the same product as the others.
    ind : int
        How many axes are those of rows; 1 or more.

    Raises
    ------
    ShapeError
        If the products differ.
    LinAlgError
        If the tensor is singular.
    """
    shape = shape_given(a)
    if ind <= 0:
        raise ValueError(f"tensorinv: ind is {ind}; expected 1 or more")
    rows, columns = shape[:ind], shape[ind:]
    if prod(rows) != prod(columns):
        raise ShapeError(
            f"tensorinv: axes {rows} and {columns} have {prod(rows)} and {prod(columns)} elements; "
            "expected equal numbers"
        )
    return reshape(inv(reshape(a, (prod(rows), prod(columns)))), (*columns, *rows))


def tensorsolve(a: Any, b: Any, /, axes: Sequence[int] | None = None) -> Any:
    """Return the x of ``tensordot(a, x, axes=x.ndim) == b``.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of the shape of `b`, followed by that of x.
    b : Tensor, Variable or array
        The right-hand side.
    axes : sequence of int, optional
        Axes of `a` to put behind all others first.

    Raises
    ------
    ShapeError
        If the numbers of elements do not fit.
    LinAlgError
        If the tensor is singular.
    """
    a, b = operands(a, b)
    shape = shape_given(a)
    if axes is not None:
        last = normalize_axes("tensorsolve", tuple(axes), len(shape))
        order = (*(i for i in range(len(shape)) if i not in last), *last)
        a, shape = permute_dims(a, order), tuple(shape[i] for i in order)
    right = shape_given(b)
    unknown = shape[len(right) :]
    size = prod(unknown)
    if shape[: len(right)] != right or prod(right) != size:
        raise ShapeError(
            f"tensorsolve: a of the shape of b and then of x expected, with equal numbers of "
            f"elements, got {shape} for b of {right}"
        )
    return reshape(solve(reshape(a, (size, size)), reshape(b, (size,))), unknown)

"""Products of matrices and tensors: sums over shared axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from distgrad.core.op import Array, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply, operands
from distgrad.dtypes import is_complex
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.complex_numbers import conj
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import conjugate, fit, joint, shape_of, sum_of
from distgrad.ops.shaping.structure import expand_dims, permute_dims, reshape, squeeze
from distgrad.shapes import Shape, broadcast, normalize_axes, normalize_axis


def _matmul_spec(a: Spec, b: Spec) -> Spec:
    left, right = shape_of(a), shape_of(b)
    if not left or not right:
        raise ShapeError(
            f"matmul: operands of one axis or more expected, got shapes {left} and {right}; "
            "use multiply for scalars"
        )
    inner = right[-2] if len(right) > 1 else right[0]
    if left[-1] != inner:
        raise ShapeError(
            f"matmul: (..., n, k) @ (..., k, m) expected, got {left} @ {right}: "
            f"{left[-1]} is not {inner}; transpose one of them?"
        )
    batch = broadcast("matmul", left[:-2], right[:-2])
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else ()
    return Spec(batch + rows + columns, joint(a, b))


def _matmul_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Sequence[int]
) -> Any:
    a, b = xs
    # A factor whose values no cotangent reads is a Spec, or None where it has the output's shape.
    a_vector = len((g if a is None else a).shape) == 1
    b_vector = len((g if b is None else b).shape) == 1
    to_a = to_b = None
    if needs[0]:
        other = conjugate(xp, b)
        if b_vector:
            to_a = g * other if a_vector else xp.expand_dims(g, axis=-1) * other
        else:
            row = xp.expand_dims(g, axis=-2) if a_vector else g
            to_a = xp.matmul(row, xp.matrix_transpose(other))
            if a_vector:
                to_a = xp.reshape(to_a, shape=(*to_a.shape[:-2], to_a.shape[-1]))
        to_a = fit(xp, to_a, a)
    if needs[1]:
        other = conjugate(xp, a)
        if a_vector:
            to_b = (
                g * other
                if b_vector
                else xp.expand_dims(other, axis=-1) * (xp.expand_dims(g, axis=-2))
            )
        elif len(g.shape) == len(other.shape) > 2 == len(getattr(b, "shape", ())):
            # One matrix for a whole stack: the stack's rows are those of one product.
            rows = xp.reshape(other, shape=(prod(other.shape[:-1]), other.shape[-1]))
            column = xp.reshape(g, shape=(prod(g.shape[:-1]), g.shape[-1]))
            to_b = xp.matmul(xp.matrix_transpose(rows), column)
        else:
            column = xp.expand_dims(g, axis=-1) if b_vector else g
            to_b = xp.matmul(xp.matrix_transpose(other), column)
            if b_vector:
                to_b = xp.reshape(to_b, shape=tuple(to_b.shape[:-1]))
        to_b = fit(xp, to_b, b)
    return to_a, to_b


def _matmul_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    a, b = xs
    terms = []
    if tangents[0] is not None:
        terms.append(xp.matmul(tangents[0], b))
    if tangents[1] is not None:
        terms.append(xp.matmul(a, tangents[1]))
    return sum_of(terms)


MATMUL = Op(
    "matmul",
    Kind.CONTRACTION,
    _matmul_spec,
    _matmul_vjp,
    _matmul_jvp,
    keep=((1,), (0,)),
    batch=batching.matmul,
)


def matmul(x1: Any, x2: Any, /) -> Any:
    """Return the matrix product.

    Parameters
    ----------
    x1 : Tensor, Variable or array
        Of shape (..., n, k), or (k,).
    x2 : Tensor, Variable or array
        Of shape (..., k, m), or (k,); leading axes broadcast.

    Raises
    ------
    ShapeError
        If the inner lengths differ, or an operand is a scalar.
    """
    return apply(MATMUL, x1, x2)


def tensordot(x1: Any, x2: Any, /, axes: int | Sequence[int] | Sequence[Sequence[int]] = 2) -> Any:
    """Return the sum of products over pairs of axes.

    Parameters
    ----------
    x1, x2 : Tensor, Variable or array
        The factors.
    axes : int or pair of ints or of sequences of int
        The axes of `x1` and of `x2` to sum over, in pairs; an integer n means the last n axes of
        `x1` with the first n of `x2`.

    Raises
    ------
    ShapeError
        If paired axes differ in length or there is no such axis.
    """
    x1, x2 = operands(x1, x2)
    left, right = tuple(x1.shape), tuple(x2.shape)
    if isinstance(axes, int):
        if not 0 <= axes <= min(len(left), len(right)):
            raise ShapeError(
                f"tensordot: axes is {axes} for arrays of shapes {left} and {right}; expected a "
                "number of axes that both have"
            )
        pairs = (tuple(range(len(left) - axes, len(left))), tuple(range(axes)))
    else:
        of_left, of_right = axes
        pairs = (_as_axes(of_left), _as_axes(of_right))
    over_left = normalize_axes("tensordot", pairs[0], len(left))
    over_right = normalize_axes("tensordot", pairs[1], len(right))
    lengths = tuple(left[a] for a in over_left)
    if lengths != tuple(right[a] for a in over_right):
        raise ShapeError(
            f"tensordot: axes {over_left} of {left} and {over_right} of {right} are paired, but "
            f"their lengths are {lengths} and {tuple(right[a] for a in over_right)}"
        )
    free_left = tuple(a for a in range(len(left)) if a not in over_left)
    free_right = tuple(a for a in range(len(right)) if a not in over_right)
    rows = reshape(
        permute_dims(x1, axes=free_left + over_left), _matrix_shape(left, free_left, over_left)
    )
    columns = reshape(
        permute_dims(x2, axes=over_right + free_right), _matrix_shape(right, over_right, free_right)
    )
    free = tuple(left[a] for a in free_left) + tuple(right[a] for a in free_right)
    return reshape(matmul(rows, columns), free)


def _as_axes(axes: int | Sequence[int]) -> Shape:
    return (axes,) if isinstance(axes, int) else tuple(axes)


def _matrix_shape(shape: Shape, first: Shape, second: Shape) -> Shape:
    return prod(shape[a] for a in first), prod(shape[a] for a in second)


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Return the sum of conj(x1) * x2 along an axis, with broadcasting of the others.

    Parameters
    ----------
    x1, x2 : Tensor, Variable or array
        The vectors.
    axis : int
        Along which axis they lie, counted in each array; best from the back.

    Raises
    ------
    ShapeError
        If that axis differs in length, or the others do not broadcast.
    """
    x1, x2 = operands(x1, x2)
    x1 = conj(x1) if is_complex(x1.dtype) else x1
    rows = expand_dims(_axis_to_back("vecdot", x1, axis), axis=-2)
    columns = expand_dims(_axis_to_back("vecdot", x2, axis), axis=-1)
    return squeeze(matmul(rows, columns), axis=(-2, -1))


def _axis_to_back(operation: str, x: Any, axis: int) -> Any:
    rank = len(x.shape)
    place = normalize_axis(operation, axis, rank)
    if place == rank - 1:
        return x
    return permute_dims(x, (*(a for a in range(rank) if a != place), place))


OPS = (MATMUL,)

"""Products beside `matmul`: outer, cross and Kronecker's, chains and powers of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.seam import operands
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import multiply, subtract
from distgrad.ops.elementwise.complex_numbers import conj
from distgrad.ops.linalg.matrices import check_square
from distgrad.ops.linalg.parts import identity_like
from distgrad.ops.linalg.solving import inv
from distgrad.ops.picking.indexing import take
from distgrad.ops.products.contractions import matmul, tensordot
from distgrad.ops.shaping.structure import expand_dims, reshape
from distgrad.shapes import normalize_axis, shape_given


def outer(x1: Any, x2: Any, /) -> Any:
    """Return all products of an element of one vector and one of another.

    Parameters
    ----------
    x1, x2 : Tensor, Variable or array
        Vectors of shape (n,) and (m,); of more axes, they are flattened, as by NumPy.

    Returns
    -------
    Tensor
        Of shape (n, m).
    """
    x1, x2 = operands(x1, x2)
    return multiply(expand_dims(reshape(x1, -1), axis=-1), reshape(x2, -1))


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Return the cross products of vectors of three elements.

    Parameters
    ----------
    x1, x2 : Tensor, Variable or array
        Broadcast against each other in all other axes.
    axis : int
        The axis of the three elements, in both.

    Raises
    ------
    ShapeError
        If that axis has another length.
    """
    x1, x2 = operands(x1, x2)
    shapes = shape_given(x1), shape_given(x2)
    for shape in shapes:
        if shape[normalize_axis("cross", axis, len(shape))] != 3:
            raise ShapeError(f"cross: length 3 expected along axis {axis}, got {shape}")
    left, right = (1, 2, 0), (2, 0, 1)
    first = multiply(take(x1, left, axis=axis), take(x2, right, axis=axis))
    return subtract(first, multiply(take(x1, right, axis=axis), take(x2, left, axis=axis)))


def inner(x1: Any, x2: Any, /) -> Any:
    """Return the sum of products over the last axis of both, without a conjugate.

    Raises
    ------
    ShapeError
        If these differ in length.
    """
    if not shape_given(x1) or not shape_given(x2):
        return multiply(x1, x2)
    return tensordot(x1, x2, axes=((-1,), (-1,)))


def vdot(x1: Any, x2: Any, /) -> Any:
    """Return the sum of conj(x1) * x2 over all elements of two arrays of one size.

    Raises
    ------
    ShapeError
        If the sizes differ.
    """
    x1, x2 = operands(x1, x2)
    return matmul(conj(reshape(x1, -1)), reshape(x2, -1))


def kron(x1: Any, x2: Any, /) -> Any:
    """Return Kronecker's product: blocks of `x2`, each multiplied by an element of `x1`.

    Parameters
    ----------
    x1, x2 : Tensor, Variable or array
        Of any shapes; the one with fewer axes gets axes of length 1 in front.

    Returns
    -------
    Tensor
        Each length is the product of the two.
    """
    x1, x2 = operands(x1, x2)
    first, second = shape_given(x1), shape_given(x2)
    rank = max(len(first), len(second))
    first = (1,) * (rank - len(first)) + first
    second = (1,) * (rank - len(second)) + second
    spread = tuple(n for length in first for n in (length, 1))
    blocks = tuple(n for length in second for n in (1, length))
    product = multiply(reshape(x1, spread), reshape(x2, blocks))
    return reshape(product, tuple(n * m for n, m in zip(first, second, strict=True)))


def matrix_power(a: Any, n: int, /) -> Any:
    """Return square matrices multiplied by themselves; by repeated squaring.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., m, m).
    n : int
        The power: 0 gives unit matrices, a negative one powers of the inverse.

    Raises
    ------
    MatrixShapeError
        If the matrices are not square.
    LinAlgError
        If one has to be inverted and is singular.
    """
    if not hasattr(a, "shape"):
        a = reshape(a, shape_given(a))
    check_square("matrix_power", a)
    power = int(n)
    if power != n:
        raise ValueError(f"matrix_power: n is {n!r}; expected an integer")
    if power == 0:
        return identity_like(a)
    if power < 0:
        a, power = inv(a), -power
    result = None
    while power:
        if power % 2:
            result = a if result is None else matmul(result, a)
        power //= 2
        if power:
            a = matmul(a, a)
    return result


def multi_dot(arrays: Sequence[Any], /) -> Any:
    """Return the product of a chain of matrices, in the order that takes the fewest operations.

    Parameters
    ----------
    arrays : sequence of Tensor, Variable or array
        Two or more matrices whose lengths fit; the first and the last may be vectors.

    Raises
    ------
    ValueError
        If there are less than two.
    ShapeError
        If lengths do not fit, or one of those in the middle is no matrix.
    """
    factors = list(operands(*arrays))
    if len(factors) < 2:
        raise ValueError(f"multi_dot: two arrays or more expected, got {len(factors)}")
    starts, ends = len(shape_given(factors[0])) == 1, len(shape_given(factors[-1])) == 1
    if starts:
        factors[0] = expand_dims(factors[0], axis=0)
    if ends:
        factors[-1] = expand_dims(factors[-1], axis=-1)
    shapes = [shape_given(each) for each in factors]
    for position, shape in enumerate(shapes):
        if len(shape) != 2 or (position and shapes[position - 1][1] != shape[0]):
            raise ShapeError(
                f"multi_dot: array {position} of shape {shape} does not follow "
                f"{shapes[position - 1] if position else 'nothing'}; expected matrices (n, k), "
                "(k, m), ..., and at the ends perhaps vectors"
            )
    splits = _best_splits([shapes[0][0], *(shape[1] for shape in shapes)])

    def product(first: int, last: int) -> Any:
        if first == last:
            return factors[first]
        middle = splits[first, last]
        return matmul(product(first, middle), product(middle + 1, last))

    result = product(0, len(factors) - 1)
    if starts or ends:
        rows, columns = result.shape
        result = reshape(result, (*(() if starts else (rows,)), *(() if ends else (columns,))))
    return result


def _best_splits(lengths: Sequence[int]) -> dict[tuple[int, int], int]:
    """Return after which factor to split each part of a chain, by dynamic programming."""
    count = len(lengths) - 1
    costs = {(i, i): 0 for i in range(count)}
    splits = {}
    for span in range(1, count):
        for first in range(count - span):
            last = first + span
            costs[first, last], splits[first, last] = min(
                (
                    costs[first, k]
                    + costs[k + 1, last]
                    + lengths[first] * lengths[k + 1] * lengths[last + 1],
                    k,
                )
                for k in range(first, last)
            )
    return splits

"""Python's operators, each an operation of the vocabulary, on whatever can be read as a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.core.op import Op
from distgrad.core.seam import apply
from distgrad.errors import DTypeError
from distgrad.ops.elementwise import arithmetic, bitwise, comparison
from distgrad.ops.picking import indexing
from distgrad.ops.picking.updates import Updates
from distgrad.ops.products import contractions


def _binary(op: Op) -> Callable[[Any, Any], Any]:
    def operator(self: Any, other: Any, /) -> Any:
        return apply(op, self, other)

    return operator


def _equality(op: Op, without: bool) -> Callable[[Any, Any], Any]:
    def operator(self: Any, other: Any, /) -> Any:
        # `x == None` is asked of values that may be a tensor or None: an answer, and no error.
        return without if other is None else apply(op, self, other)

    return operator


def _reflected(op: Op) -> Callable[[Any, Any], Any]:
    def operator(self: Any, other: Any, /) -> Any:
        return apply(op, other, self)

    return operator


def _unary(op: Op) -> Callable[[Any], Any]:
    def operator(self: Any, /) -> Any:
        return apply(op, self)

    return operator


def _times(self: Any, other: Any, /) -> Any:
    if other.__class__ is _MATRIX:
        raise _no_matrix("t @ m")
    return apply(arithmetic.MULTIPLY, self, other)


def _reflected_times(self: Any, other: Any, /) -> Any:
    if other.__class__ is _MATRIX:
        raise _no_matrix("m @ t")
    return apply(arithmetic.MULTIPLY, other, self)


_MATRIX = getattr(np, "matrix", None)  # NumPy advises against it


def _no_matrix(product: str) -> DTypeError:
    return DTypeError(
        "multiply: an operand of * is a np.matrix, whose * is the matrix product; expected a "
        f"tensor, an array or a number: {product} is that product, np.asarray(m) multiplies by "
        "element"
    )


class PythonOperators:
    """Operators and subscripts; ``t += x`` has none of its own, so it binds the name anew."""

    __slots__ = ()

    # np.add(array, tensor) and array + tensor come to __array_ufunc__ of `Operators`.
    __add__, __radd__ = _binary(arithmetic.ADD), _reflected(arithmetic.ADD)
    __sub__, __rsub__ = _binary(arithmetic.SUBTRACT), _reflected(arithmetic.SUBTRACT)
    __mul__, __rmul__ = _times, _reflected_times
    __truediv__, __rtruediv__ = _binary(arithmetic.DIVIDE), _reflected(arithmetic.DIVIDE)
    __floordiv__ = _binary(arithmetic.FLOOR_DIVIDE)
    __rfloordiv__ = _reflected(arithmetic.FLOOR_DIVIDE)
    __mod__, __rmod__ = _binary(arithmetic.REMAINDER), _reflected(arithmetic.REMAINDER)
    __pow__, __rpow__ = _binary(arithmetic.POW), _reflected(arithmetic.POW)
    __matmul__, __rmatmul__ = _binary(contractions.MATMUL), _reflected(contractions.MATMUL)

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Any, Any]:
        return other // self, other % self

    __neg__, __pos__ = _unary(arithmetic.NEGATIVE), _unary(arithmetic.POSITIVE)
    __abs__ = _unary(arithmetic.ABS)
    __and__, __rand__ = _binary(bitwise.BITWISE_AND), _reflected(bitwise.BITWISE_AND)
    __or__, __ror__ = _binary(bitwise.BITWISE_OR), _reflected(bitwise.BITWISE_OR)
    __xor__, __rxor__ = _binary(bitwise.BITWISE_XOR), _reflected(bitwise.BITWISE_XOR)
    __lshift__ = _binary(bitwise.BITWISE_LEFT_SHIFT)
    __rlshift__ = _reflected(bitwise.BITWISE_LEFT_SHIFT)
    __rshift__ = _binary(bitwise.BITWISE_RIGHT_SHIFT)
    __rrshift__ = _reflected(bitwise.BITWISE_RIGHT_SHIFT)
    __invert__ = _unary(bitwise.BITWISE_INVERT)
    __lt__, __le__ = _binary(comparison.LESS), _binary(comparison.LESS_EQUAL)
    __gt__, __ge__ = _binary(comparison.GREATER), _binary(comparison.GREATER_EQUAL)
    __eq__ = _equality(comparison.EQUAL, False)  # elementwise, as NumPy's
    __ne__ = _equality(comparison.NOT_EQUAL, True)

    def __hash__(self) -> int:
        raise TypeError(
            f"{type(self).__name__} is unhashable, because == compares element by element; use "
            "id(...) of it as the key, or a name of yours"
        )

    def __getitem__(self, key: Any, /) -> Any:
        return indexing.getitem(self, key)

    @property
    def at(self) -> Updates:
        """Updated copies by subscript: ``t.at[i].set(x)``, ``.add(x)``, see `Places`."""
        return Updates(self)

"""Bitwise operations on integers, and on bool, where they are logic; no derivative flows."""

from __future__ import annotations

from typing import Any

from distgrad.core.op import Kind, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import DType
from distgrad.errors import DTypeError
from distgrad.ops.rules.families import joint, shape_of
from distgrad.shapes import broadcast


def _bitwise(name: str, *, takes_bool: bool = True) -> Op:
    """Return an operation on the bits of its operands."""

    def dtype_of(*operands: Any) -> DType:
        dtype = joint(*operands)
        if dtype.kind not in ("iub" if takes_bool else "iu"):
            kinds = "integers or bool" if takes_bool else "integers"
            raise DTypeError(f"{name}: the operands are {dtype}; expected {kinds}")
        return dtype

    def spec(*operands: Any) -> Spec:
        return Spec(broadcast(name, *(shape_of(o) for o in operands)), dtype_of(*operands))

    return Op(name, Kind.ELEMENTWISE, spec)


BITWISE_AND = _bitwise("bitwise_and")
BITWISE_OR = _bitwise("bitwise_or")
BITWISE_XOR = _bitwise("bitwise_xor")
BITWISE_INVERT = _bitwise("bitwise_invert")
BITWISE_LEFT_SHIFT = _bitwise("bitwise_left_shift", takes_bool=False)
BITWISE_RIGHT_SHIFT = _bitwise("bitwise_right_shift", takes_bool=False)


def bitwise_and(x1: Any, x2: Any, /) -> Any:
    """Return x1 & x2, bit by bit.

    Parameters
    ----------
    x1, x2 : Tensor, Variable, array or scalar
        Integers or bool; their shapes broadcast.

    Raises
    ------
    DTypeError
        If an operand is floating.
    """
    return apply(BITWISE_AND, x1, x2)


def bitwise_or(x1: Any, x2: Any, /) -> Any:
    """Return x1 | x2, bit by bit; parameters and errors as for `bitwise_and`."""
    return apply(BITWISE_OR, x1, x2)


def bitwise_xor(x1: Any, x2: Any, /) -> Any:
    """Return x1 ^ x2, bit by bit; parameters and errors as for `bitwise_and`."""
    return apply(BITWISE_XOR, x1, x2)


def bitwise_invert(x: Any, /) -> Any:
    """Return ~x, bit by bit: -x - 1 for signed integers, the opposite for bool."""
    return apply(BITWISE_INVERT, x)


def bitwise_left_shift(x1: Any, x2: Any, /) -> Any:
    """Return the bits of x1 moved up by x2 places, filled up with zeros; both are integers."""
    return apply(BITWISE_LEFT_SHIFT, x1, x2)


def bitwise_right_shift(x1: Any, x2: Any, /) -> Any:
    """Return the bits of x1 moved down by x2 places, the sign kept; both are integers."""
    return apply(BITWISE_RIGHT_SHIFT, x1, x2)


OPS = (BITWISE_AND, BITWISE_OR, BITWISE_XOR, BITWISE_INVERT) + (
    BITWISE_LEFT_SHIFT,
    BITWISE_RIGHT_SHIFT,
)

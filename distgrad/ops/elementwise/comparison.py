"""Comparisons and logic: their results are bool, and no derivative flows through them."""

from __future__ import annotations

from typing import Any

from distgrad.core.seam import apply
from distgrad.ops.rules.families import binary, boolean, unary

EQUAL = binary("equal", None, None, dtype=boolean)
NOT_EQUAL = binary("not_equal", None, None, dtype=boolean)
LESS = binary("less", None, None, dtype=boolean)
LESS_EQUAL = binary("less_equal", None, None, dtype=boolean)
GREATER = binary("greater", None, None, dtype=boolean)
GREATER_EQUAL = binary("greater_equal", None, None, dtype=boolean)
LOGICAL_AND = binary("logical_and", None, None, dtype=boolean)
LOGICAL_OR = binary("logical_or", None, None, dtype=boolean)
LOGICAL_XOR = binary("logical_xor", None, None, dtype=boolean)
LOGICAL_NOT = unary("logical_not", None, dtype=boolean)
ISNAN = unary("isnan", None, dtype=boolean)
ISINF = unary("isinf", None, dtype=boolean)
ISFINITE = unary("isfinite", None, dtype=boolean)


def equal(x1: Any, x2: Any, /) -> Any:
    """Return x1 == x2, element by element, as bool."""
    return apply(EQUAL, x1, x2)


def not_equal(x1: Any, x2: Any, /) -> Any:
    """Return x1 != x2, element by element, as bool."""
    return apply(NOT_EQUAL, x1, x2)


def less(x1: Any, x2: Any, /) -> Any:
    """Return x1 < x2, element by element, as bool."""
    return apply(LESS, x1, x2)


def less_equal(x1: Any, x2: Any, /) -> Any:
    """Return x1 <= x2, element by element, as bool."""
    return apply(LESS_EQUAL, x1, x2)


def greater(x1: Any, x2: Any, /) -> Any:
    """Return x1 > x2, element by element, as bool."""
    return apply(GREATER, x1, x2)


def greater_equal(x1: Any, x2: Any, /) -> Any:
    """Return x1 >= x2, element by element, as bool."""
    return apply(GREATER_EQUAL, x1, x2)


def logical_and(x1: Any, x2: Any, /) -> Any:
    """Return whether both are true, element by element."""
    return apply(LOGICAL_AND, x1, x2)


def logical_or(x1: Any, x2: Any, /) -> Any:
    """Return whether one of both is true, element by element."""
    return apply(LOGICAL_OR, x1, x2)


def logical_xor(x1: Any, x2: Any, /) -> Any:
    """Return whether exactly one of both is true, element by element."""
    return apply(LOGICAL_XOR, x1, x2)


def logical_not(x: Any, /) -> Any:
    """Return whether x is false, element by element."""
    return apply(LOGICAL_NOT, x)


def isnan(x: Any, /) -> Any:
    """Return whether x is not a number, element by element."""
    return apply(ISNAN, x)


def isinf(x: Any, /) -> Any:
    """Return whether x is infinite, element by element."""
    return apply(ISINF, x)


def isfinite(x: Any, /) -> Any:
    """Return whether x is a finite number, element by element."""
    return apply(ISFINITE, x)


OPS = (
    (EQUAL, NOT_EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL)
    + (LOGICAL_AND, LOGICAL_OR, LOGICAL_XOR, LOGICAL_NOT)
    + (ISNAN, ISINF, ISFINITE)
)

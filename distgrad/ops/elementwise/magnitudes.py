"""Magnitudes and signs of floating numbers: joined, compared, and stepped from one to the next."""

from __future__ import annotations

import math
from typing import Any

from distgrad.core.op import Array, Keep, Namespace
from distgrad.core.seam import apply
from distgrad.ops.rules.families import binary, boolean, floating, unary


def _unit(xp: Namespace, x: Any) -> Any:
    """Return 1 with the sign of x, which may be that of a zero."""
    if isinstance(x, (int, float)):
        return math.copysign(1.0, x)
    return xp.copysign(xp.ones_like(x), x)


COPYSIGN = binary(
    "copysign",
    lambda xp, y, a, b: _unit(xp, a) * _unit(xp, b),
    lambda xp, y, a, b: xp.zeros_like(b),
    dtype=floating,
)


def copysign(x1: Any, x2: Any, /) -> Any:
    """Return x1 with the sign of x2, element by element.

    Notes
    -----
    The derivative in `x1` is 1 where it keeps its sign (of a zero too) and -1 where that changes;
    in `x2` it is 0.
    """
    return apply(COPYSIGN, x1, x2)


def _share(xp: Namespace, y: Array, leg: Any) -> Array:
    """Return leg / y; 0 where both are 0, which is the kink of a cone."""
    return leg / xp.where(xp.equal(y, 0), 1, y)


HYPOT = binary(
    "hypot",
    lambda xp, y, a, b: _share(xp, y, a),
    lambda xp, y, a, b: _share(xp, y, b),
    keep=Keep.BOTH,
    dtype=floating,
)


def hypot(x1: Any, x2: Any, /) -> Any:
    """Return sqrt(x1**2 + x2**2) without overflow, element by element.

    Notes
    -----
    The derivatives are x1 / y and x2 / y, and 0 where y is 0 (where PyTorch and JAX give NaN).
    """
    return apply(HYPOT, x1, x2)


SIGNBIT = unary("signbit", None, dtype=boolean)
NEXTAFTER = binary("nextafter", None, None, dtype=floating)


def signbit(x: Any, /) -> Any:
    """Return whether the sign of x is negative, that of -0.0 too, element by element."""
    return apply(SIGNBIT, x)


def nextafter(x1: Any, x2: Any, /) -> Any:
    """Return the floating number next to x1 towards x2; no derivative flows through it."""
    return apply(NEXTAFTER, x1, x2)


OPS = (COPYSIGN, HYPOT, SIGNBIT, NEXTAFTER)

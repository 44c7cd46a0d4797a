"""Elementwise functions where NumPy's values are not those of the standard, or lose precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def positive(backend: Any, x: Any) -> Any:
    """Return a copy of x, of bool too."""
    return x.copy() if backend.speaks_numpy else backend.module.asarray(x, copy=True)


def floor_divide(backend: Any, a: Any, b: Any) -> Any:
    """Return the floor of a / b, where infinite operands give the quotient's limit.

    NumPy's, which goes by remainders, gives NaN for inf // 1, and -1 for 1 // -inf.
    """
    module = backend.module
    if not backend.speaks_numpy or not any(_is_floating(each) for each in (a, b)):
        return module.floor_divide(a, b)
    infinite = module.isinf(a) | module.isinf(b)
    if not infinite.any():
        return module.floor_divide(a, b)
    with np.errstate(invalid="ignore"):  # of the values that are replaced
        result = module.floor_divide(a, b)
        quotient = module.floor(module.true_divide(a, b))
    return module.where(infinite, quotient, result).astype(result.dtype, copy=False)


def _is_floating(operand: Any) -> bool:
    return isinstance(operand, float) or getattr(operand, "dtype", _INTEGER).kind == "f"


_INTEGER = np.dtype("int64")


def expm1(backend: Any, x: Any) -> Any:
    """Return exp(x) - 1; of complex numbers with the precision of real ones.

    With x = a + ib it is expm1(a) cos(b) - 2 sin(b / 2)**2 + i exp(a) sin(b), where the factors of
    an infinite or vanishing exp(a) do not matter. NumPy subtracts 1 from exp(a) cos(b).
    """
    module = backend.module
    if not backend.speaks_numpy or x.dtype.kind != "c":
        return module.expm1(x)
    a, b = x.real, x.imag
    half = module.sin(b / 2)
    real = module.expm1(a) * module.cos(b) - 2 * half * half
    imaginary = module.exp(a) * module.sin(b)
    wild = ~module.isfinite(b)
    # The standard has +0 also for -0 + 0j.
    real = module.where((b == 0) | (module.isinf(a) & wild), module.expm1(a) + 0.0, real)
    imaginary = module.where(b == 0, b, imaginary)
    imaginary = module.where((a == -module.inf) & wild, 0, imaginary)
    result = module.empty_like(x)
    result.real, result.imag = real, imaginary
    return result


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "positive": positive,
    "floor_divide": floor_divide,
    "expm1": expm1,
}

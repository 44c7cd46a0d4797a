"""Special functions on the device: CuPy's counterpart of scipy.special, imported at first use.

What it lacks (Bessel functions of any order, Dawson's and Fresnel's integrals, the dilogarithm and
so on) is in CUDA of this package, `distgrad_cupy.own_special`; `betaincc` is SciPy's, on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any

import cupy

from distgrad.backend.adapters.special import computing_dtype

# The vocabulary's operations that cupyx.scipy.special has under the same name.
NAMES = (
    "gamma gammaln digamma zeta beta betaln binom poch "
    "gammainc gammaincc gammaincinv gammainccinv betainc betaincinv "
    "erf erfc erfcx erfinv erfcinv ndtr log_ndtr ndtri logit "
    "j0 j1 y0 y1 i0 i0e i1 i1e k0 k0e k1 k1e "
    "xlogy xlog1py entr exp1 expi expn ellipk exp10 cosm1"
).split()


@cache
def function(name: str) -> Callable[..., Any]:
    """Return one of CuPy's special functions."""
    found: Callable[..., Any] = getattr(import_module("cupyx.scipy.special"), name)
    return found


def _by_cupy(name: str, *operands: Any) -> Any:
    result, wide = computing_dtype(name, operands)
    value = function(name)(*(_brought(each, wide) for each in operands))
    return value if value.dtype == result else value.astype(result)


def _brought(operand: Any, wide: Any) -> Any:
    """Return an operand as an array; a number is filled in by the device, not copied there."""
    if isinstance(operand, cupy.ndarray):
        return operand.astype(wide, copy=False)
    return cupy.full((), operand, wide)


KERNELS: dict[str, Callable[..., Any]] = {name: partial(_by_cupy, name) for name in NAMES}

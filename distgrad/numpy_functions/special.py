"""SciPy's special functions, which are ufuncs of NumPy: what computes each on tensors.

SciPy is not imported here. Whoever hands over one of its ufuncs has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.ops.elementwise import error_function, transcendental
from distgrad.ops.special import (
    bessel,
    elementary,
    gamma,
    incomplete,
    information,
    integrals,
    normal,
)

# Where SciPy keeps them; the second also has those behind its functions written in Python.
_MODULES = ("scipy.special", "scipy.special._ufuncs")

# The functions whose name in SciPy is that here.
_SAME: dict[Any, str] = {
    elementary: "cbrt cosm1 exp2 exp10 expit huber log_expit pseudo_huber",
    error_function: "erf erfc",
    gamma: "beta betaln binom gamma gammaln loggamma poch psi",
    incomplete: "betainc betaincc betaincinv gammainc gammaincc gammainccinv gammaincinv",
    normal: "dawsn erfcinv erfcx erfi erfinv log_ndtr logit ndtr ndtri ndtri_exp",
    bessel: "i0 i0e i1 i1e iv ive j0 j1 jv k0 k0e k1 k1e kn kv kve y0 y1 yn yv",
    information: "entr kl_div rel_entr xlog1py xlogy",
    integrals: "ellipe ellipk exp1 expi expn fresnel spence wrightomega",
    transcendental: "expm1 log1p",
}

FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(module, name) for module, names in _SAME.items() for name in names.split()
}
FUNCTIONS |= {"_zeta": gamma.zeta, "_riemann_zeta": gamma.zeta}

# Those that are differentiated at complex numbers too; SciPy knows more of them on arrays.
_OF_COMPLEX = frozenset("expit expm1 log1p".split())


def function_of(ufunc: np.ufunc) -> tuple[Callable[..., Any] | None, bool]:
    """Return what computes one of SciPy's ufuncs on tensors, and whether of real ones alone.

    None for a ufunc that is not SciPy's, or whose derivative is not known.
    """
    if not is_scipys(ufunc):
        return None, False
    return FUNCTIONS.get(ufunc.__name__), ufunc.__name__ not in _OF_COMPLEX


def is_scipys(ufunc: np.ufunc) -> bool:
    """Return whether a ufunc is one of SciPy's special functions."""
    modules = (sys.modules.get(module) for module in _MODULES)
    return any(getattr(module, ufunc.__name__, None) is ufunc for module in modules)

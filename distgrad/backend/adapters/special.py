"""Special functions: SciPy's, on the host for modules that have none of their own.

SciPy is imported at the first use of a kernel. It computes in float32 or float64: narrower numbers
are widened for it, and the result is brought back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np

from distgrad.backend import incomplete_gamma
from distgrad.dtypes import DType, as_dtype, float32, float64, is_differentiable, result_type
from distgrad.errors import DTypeError, MissingKernelError

_SCALARS = (bool, int, float, complex)
_ITS_OWN = (float64, float32)  # the dtypes that SciPy computes in

# The vocabulary's operations that SciPy's module `special` has under the same name.
_BY_NAME = (
    "gamma gammaln digamma zeta beta betaln binom poch "
    "gammainc gammaincc gammaincinv gammainccinv betainc betaincc betaincinv "
    "erfcx erfi erfinv erfcinv ndtr log_ndtr ndtri ndtri_exp dawsn wrightomega "
    "j0 j1 y0 y1 i0 i0e i1 i1e k0 k0e k1 k1e jv yv iv ive kv kve "
    "exp1 expi expn spence ellipk ellipe"
).split()


@cache
def _scipy(name: str) -> Callable[..., Any]:
    """Return one of SciPy's special functions; of those with two results, the one wanted."""
    try:
        module = import_module("scipy.special")
    except ImportError as error:
        raise MissingKernelError(
            f"{name}: this function is SciPy's, which is not installed here; "
            "pip install 'distgrad[special]'"
        ) from error
    if name in ("fresnel_sin", "fresnel_cos"):
        place = ("fresnel_sin", "fresnel_cos").index(name)
        return lambda x: module.fresnel(x)[place]
    function: Callable[..., Any] = getattr(module, name)
    return function


def computing_dtype(name: str, operands: tuple[Any, ...]) -> tuple[DType, DType]:
    """Return the dtype of a special function's result, and the one to compute it in.

    Raises
    ------
    DTypeError
        If an operand is complex.
    """
    joint = result_type(*(o if type(o) in _SCALARS else as_dtype(o.dtype) for o in operands))
    if joint.kind == "c":
        raise DTypeError(
            f"{name}: an operand is complex; expected real numbers, of which alone it has a "
            "derivative here"
        )
    result = joint if is_differentiable(joint) else float64
    return result, (float32 if result.itemsize < 4 else result)


def _by_scipy(name: str, backend: Any, *operands: Any) -> Any:
    function = _scipy(name)
    last = operands[-1]
    if type(last) is np.ndarray and last.dtype in _ITS_OWN:  # six times as quick for a few numbers
        dtype = last.dtype
        if all(type(each) is np.ndarray and each.dtype == dtype for each in operands):
            return function(*operands)
    result, wide = computing_dtype(name, operands)
    hosted = [backend.to_host(each) if backend.owns(each) else each for each in operands]
    value = function(*(np.asarray(each, dtype=wide) for each in hosted))
    value = value if value.dtype == result else value.astype(result)
    return value if backend.owns(value) else backend.asarray(value)


def _gammainc_ratio(backend: Any, a: Any, x: Any, *, order: int) -> Any:
    """Integrate numerically: SciPy knows no derivative in the parameter."""
    result, _ = computing_dtype("gammainc_ratio", (a, x))
    hosted = (backend.to_host(each) if backend.owns(each) else each for each in (a, x))
    pair = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in hosted))
    return backend.asarray(incomplete_gamma.ratio(order, *pair).astype(result))


def _gamma_carried(backend: Any, number: Any, before: Any, a: Any) -> Any:
    """Return a copy of the number itself where the shape is what it was: no SciPy, no rounding."""
    operands = (number, before, a)
    result, _ = computing_dtype("gamma_carried", operands)
    hosted = [np.asarray(backend.to_host(x) if backend.owns(x) else x) for x in operands]
    shape = np.broadcast_shapes(*(each.shape for each in hosted))
    _, before, after = hosted
    if before is after or bool(np.all((before == after) | (np.isnan(before) & np.isnan(after)))):
        return backend.asarray(np.array(np.broadcast_to(hosted[0], shape), dtype=result))
    wide = [each.astype(np.float64) for each in hosted]
    quantile = _scipy("gammainc")(wide[1], wide[0])
    return backend.asarray(np.asarray(_scipy("gammaincinv")(wide[2], quantile)).astype(result))


SPECIAL: dict[str, Callable[..., Any]] = {
    **{name: partial(_by_scipy, name) for name in (*_BY_NAME, "fresnel_sin", "fresnel_cos")},
    "gammainc_ratio": _gammainc_ratio,
    "gamma_carried": _gamma_carried,
}

"""NumPy's functions of numbers in a row, rounding and angles, on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.numpy_functions.arguments import as_parameter, as_tensor, given, known_values
from distgrad.ops.elementwise.arithmetic import abs as absolute
from distgrad.ops.elementwise.arithmetic import (
    add,
    divide,
    multiply,
    pow,
    sign,
    square,
    subtract,
    trunc,
)
from distgrad.ops.elementwise.arithmetic import round as rounded
from distgrad.ops.elementwise.comparison import less
from distgrad.ops.elementwise.complex_numbers import imag, real
from distgrad.ops.elementwise.selection import where as choose
from distgrad.ops.elementwise.transcendental import atan2, exp, log, sin
from distgrad.ops.shaping.structure import astype, stack
from distgrad.ops.special.bessel import i0

# sin(z) / z in powers of z^2; up to 1/2 the next term of its second derivative is below 5e-17.
_SINC_SERIES = tuple((-1) ** n / math.factorial(2 * n + 1) for n in range(8))


def _sinc(x: Any) -> Any:
    z = multiply(as_tensor(x), np.pi)
    near = less(absolute(z), 0.5)
    # The quotient's slopes are differences of large numbers near 0, where only the series is right.
    squares = square(choose(near, z, 0))
    series: Any = _SINC_SERIES[-1]
    for coefficient in _SINC_SERIES[-2::-1]:
        series = add(multiply(squares, series), coefficient)
    away = choose(near, 1, z)
    return choose(near, series, divide(sin(away), away))


def _angle(z: Any, deg: bool = False) -> Any:
    x = as_tensor(z)
    turned = atan2(imag(x), real(x))
    return multiply(turned, 180 / np.pi) if deg else turned


def _linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False,
    dtype: Any = None, axis: int = 0, *, device: Any = None,
) -> Any:  # fmt: skip
    first, last = as_tensor(start), as_tensor(stop)
    gaps = num - 1 if endpoint else num
    share = np.arange(num, dtype=np.float64) / gaps if gaps > 0 else np.zeros(num)
    rows = [add(multiply(first, 1 - float(s)), multiply(last, float(s))) for s in share]
    result = stack(rows, axis=axis) if rows else as_parameter(np.zeros((0, *first.shape)))
    result = result if dtype is None else astype(result, dtype)
    return (result, divide(subtract(last, first), gaps or np.nan)) if retstep else result


def _logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0,
    dtype: Any = None, axis: int = 0,
) -> Any:  # fmt: skip
    result = pow(base, _linspace(start, stop, num, endpoint, axis=axis))
    return result if dtype is None else astype(result, dtype)


def _geomspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0
) -> Any:
    first, last = as_tensor(start), as_tensor(stop)
    turned = sign(first)
    logs = _linspace(
        log(multiply(first, turned)), log(multiply(last, turned)), num, endpoint, axis=axis
    )
    result = multiply(exp(logs), turned)
    return result if dtype is None else astype(result, dtype)


def _real_if_close(a: Any, tol: float = 100) -> Any:
    x = as_tensor(a)
    if np.dtype(x.dtype).kind != "c":
        return x
    values = known_values("real_if_close", x, decided="whether the result is real depends")
    return x if np.real_if_close(values, tol).dtype.kind == "c" else real(x)


def _fix(x: Any, out: Any = None) -> Any:
    if given(out):
        raise TypeError("fix: out= is not taken for tensors, which do not change")
    return trunc(as_tensor(x))


def _around(a: Any, decimals: int = 0, out: Any = None) -> Any:
    if given(out):
        raise TypeError("round: out= is not taken for tensors, which do not change")
    x = as_tensor(a)
    if not decimals:
        return rounded(x)
    scale = 10.0**decimals
    return divide(rounded(multiply(x, scale)), scale)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "i0": lambda x: i0(as_tensor(x)),
    "sinc": _sinc,
    "angle": _angle,
    "linspace": _linspace,
    "logspace": _logspace,
    "geomspace": _geomspace,
    "real_if_close": _real_if_close,
    "fix": _fix,
    "round": _around,
    "around": _around,
}

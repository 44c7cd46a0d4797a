"""NumPy's functions of polynomials by their coefficients, the highest power first, on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad import linalg
from distgrad.dtypes import is_differentiable
from distgrad.numpy_functions import algebra, signals
from distgrad.numpy_functions.arguments import (
    as_parameter,
    as_tensor,
    known_values,
    outside,
)
from distgrad.ops.elementwise.arithmetic import add, divide, multiply, pow, square, subtract
from distgrad.ops.elementwise.complex_numbers import real
from distgrad.ops.elementwise.transcendental import sqrt
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.products.contractions import matmul
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.structure import (
    astype,
    concat,
    expand_dims,
    matrix_transpose,
    reshape,
)
from distgrad.promotion import finfo


def _line(p: Any) -> Any:
    """Return coefficients, or a single one, as a tensor of one axis."""
    line = as_parameter(np.asarray(p)) if isinstance(p, np.poly1d) else as_tensor(p)
    return reshape(line, (1,)) if line.ndim == 0 else line


def _zeros(count: int, like: Any) -> Any:
    return as_parameter(np.zeros(count, like.dtype))


def _without_leading_zeros(function: str, p: Any) -> Any:
    """Return the coefficients from the first that is not 0 on; a single 0 where all are."""
    remedy = "take np.convolve, which keeps the zeros in front"
    found = np.flatnonzero(known_values(function, p, remedy=remedy))
    start = int(found[0]) if found.size else max(p.shape[0] - 1, 0)
    return getitem(p, slice(start, None)) if start else p


# --- values ---------------------------------------------------------------------------------------


def _polyval(p: Any, x: Any) -> Any:
    coefficients, at = _line(p), as_tensor(x)
    result: Any = multiply(at, 0)
    for place in range(coefficients.shape[0]):
        result = add(multiply(result, at), getitem(coefficients, place))
    return result


def _vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    z = as_tensor(x)
    count = z.shape[0] if N is None else N
    powers = np.arange(count) if increasing else np.arange(count)[::-1]
    return pow(expand_dims(z, axis=-1), powers)


# --- arithmetic -----------------------------------------------------------------------------------


def _sum_with(combine: Callable[..., Any]) -> Callable[..., Any]:
    def function(a1: Any, a2: Any) -> Any:
        first, second = _line(a1), _line(a2)
        missing = second.shape[0] - first.shape[0]
        if missing > 0:
            first = concat([_zeros(missing, first), first], axis=0)
        elif missing < 0:
            second = concat([_zeros(-missing, second), second], axis=0)
        return combine(first, second)

    return function


def _polymul(a1: Any, a2: Any) -> Any:
    # NumPy's result is shorter by the zeros in front: its shape depends on values.
    parts = (_without_leading_zeros("polymul", _line(each)) for each in (a1, a2))
    return signals.FUNCTIONS["convolve"](*parts)


def _polydiv(u: Any, v: Any) -> tuple[Any, Any]:
    rest, divisor = _line(u), _line(v)
    joint = np.result_type(rest.dtype, divisor.dtype)
    if not is_differentiable(joint):
        joint = np.dtype(np.float64)
    rest, divisor = astype(rest, joint), astype(divisor, joint)
    degree, terms = divisor.shape[0] - 1, []
    for place in range(rest.shape[0] - degree):
        factor = divide(getitem(rest, place), getitem(divisor, 0))
        terms.append(reshape(factor, (1,)))
        taken = subtract(getitem(rest, slice(place, place + degree + 1)), multiply(factor, divisor))
        parts = (
            getitem(rest, slice(None, place)), taken,
            getitem(rest, slice(place + degree + 1, None)),
        )  # fmt: skip
        rest = concat([part for part in parts if part.shape[0]], axis=0)
    quotient = concat(terms, axis=0) if terms else _zeros(1, rest)
    values = known_values("polydiv", rest)
    start = 0
    while start < len(values) - 1 and np.allclose(values[start], 0, rtol=1e-14):
        start += 1
    return quotient, getitem(rest, slice(start, None))


def _polyder(p: Any, m: int = 1) -> Any:
    if m < 0:
        raise ValueError(f"polyder: m is {m}; expected 0 or more derivatives")
    line = _line(p)
    for _ in range(int(m)):
        degree = line.shape[0] - 1
        powers = np.arange(degree, 0, -1).astype(line.dtype)
        line = multiply(getitem(line, slice(None, -1)), powers)
    return line


def _polyint(p: Any, m: int = 1, k: Any = None) -> Any:
    if m < 0:
        raise ValueError(f"polyint: m is {m}; expected 0 or more integrals")
    line = _line(p)
    line = line if is_differentiable(line.dtype) else astype(line, np.float64)
    constants = _line(0.0 if k is None else as_parameter(k))
    if constants.shape[0] not in (1, m) and m:
        raise ValueError(f"polyint: k holds {constants.shape[0]} constants; expected 1, or {m}")
    for place in range(int(m)):
        constant = getitem(constants, slice(place, place + 1) if constants.shape[0] > 1 else [0])
        raised = divide(line, np.arange(line.shape[0], 0, -1).astype(line.dtype))
        joint = np.result_type(raised.dtype, constant.dtype)
        line = concat([astype(raised, joint), astype(constant, joint)], axis=0)
    return line


# --- roots ----------------------------------------------------------------------------------------


def _poly(seq_of_zeros: Any) -> Any:
    zeros = as_tensor(seq_of_zeros)
    zeros = reshape(zeros, (1,)) if zeros.ndim == 0 else zeros
    of_real = np.dtype(zeros.dtype).kind != "c"
    if zeros.ndim == 2 and zeros.shape[0] == zeros.shape[1] > 0:
        zeros, known_pairs = linalg.eigvals(zeros), of_real
    elif zeros.ndim == 1:
        known_pairs = False
    else:
        raise ValueError(
            f"poly: seq_of_zeros has shape {zeros.shape}; expected one axis, or a square matrix"
        )
    line = as_parameter(np.ones(1, zeros.dtype))
    for place in range(zeros.shape[0]):
        longer = concat([line, _zeros(1, line)], axis=0)
        shifted = concat([_zeros(1, line), line], axis=0)
        line = subtract(longer, multiply(shifted, getitem(zeros, place)))
    if of_real and not known_pairs:
        return line
    if not known_pairs:  # of complex numbers: real where each has its conjugate
        values = known_values("poly", zeros, decided="whether the result is real depends")
        known_pairs = bool(np.all(np.sort(values) == np.sort(values.conj())))
    return real(line) if known_pairs else line


def _roots(p: Any) -> Any:
    line = _line(p)
    if line.ndim != 1:
        raise ValueError(f"roots: p has shape {line.shape}; expected one axis")
    found = np.flatnonzero(known_values("roots", line))
    if not found.size:
        return as_parameter(np.array([]))
    first, last = int(found[0]), int(found[-1])
    behind = line.shape[0] - last - 1  # as many roots at 0
    line = getitem(line, slice(first, last + 1))
    if not is_differentiable(line.dtype):
        line = astype(line, np.float64)
    degree = line.shape[0] - 1
    if not degree:
        return _zeros(behind, line)
    top = reshape(
        multiply(divide(getitem(line, slice(1, None)), getitem(line, 0)), -1), (1, degree)
    )
    below = as_parameter(np.eye(degree - 1, degree, dtype=np.dtype(line.dtype)))
    roots = algebra.eigvals_real_if_all_are(concat([top, below], axis=0) if degree > 1 else top)
    return concat([roots, _zeros(behind, roots)], axis=0) if behind else roots


# --- least squares --------------------------------------------------------------------------------


def _polyfit(
    x: Any, y: Any, deg: Any, rcond: Any = None, full: bool = False, w: Any = None,
    cov: bool | str = False,
) -> Any:  # fmt: skip
    at, values = as_parameter(x), as_tensor(y)
    order = int(deg) + 1
    at = astype(at, np.float64) if not is_differentiable(at.dtype) else at
    values = astype(values, np.float64) if not is_differentiable(values.dtype) else values
    if at.ndim != 1 or values.ndim not in (1, 2) or at.shape[0] != values.shape[0]:
        raise TypeError(
            f"polyfit: x has shape {at.shape} and y has shape {values.shape}; expected one axis, "
            "and one or two of the same length"
        )
    if not at.shape[0] or order < 1:
        raise TypeError(f"polyfit: {at.shape[0]} points, deg {deg}; expected one or more, and 0")
    rcond = at.shape[0] * finfo(at.dtype).eps if rcond is None else rcond
    left, right = _vander(at, order), values
    if w is not None:
        weights = as_parameter(w)
        if weights.shape != at.shape:
            raise TypeError(f"polyfit: w has shape {weights.shape}; expected {at.shape}, as x")
        left = multiply(left, expand_dims(weights, axis=-1))
        right = multiply(right, weights if right.ndim == 1 else expand_dims(weights, axis=-1))
    scale = sqrt(sum_over(square(left), axis=0))
    scaled = divide(left, scale)
    with outside():
        found = linalg.lstsq(scaled, right, rcond)
    solution = found[0]
    shape = (order,) if solution.ndim == 1 else (order, 1)
    coefficients = divide(solution, reshape(scale, shape))
    if full:
        return coefficients, found[1], found[2], found[3], rcond
    if not cov:
        return coefficients
    base = linalg.inv(matmul(matrix_transpose(scaled), scaled))
    base = divide(base, multiply(reshape(scale, (-1, 1)), scale))
    if cov == "unscaled":
        return coefficients, base if values.ndim == 1 else expand_dims(base, axis=-1)
    spare = at.shape[0] - order
    if spare <= 0:
        raise ValueError(
            f"polyfit: {at.shape[0]} points leave nothing to scale the covariance by; expected "
            "more points than coefficients, or cov='unscaled'"
        )
    residuals = subtract(right, matmul(scaled, solution))
    factor = divide(sum_over(square(residuals), axis=0), float(spare))
    if values.ndim == 1:
        return coefficients, multiply(base, factor)
    return coefficients, multiply(expand_dims(base, axis=-1), factor)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "polyval": _polyval,
    "vander": _vander,
    "polyadd": _sum_with(add),
    "polysub": _sum_with(subtract),
    "polymul": _polymul,
    "polydiv": _polydiv,
    "polyder": _polyder,
    "polyint": _polyint,
    "poly": _poly,
    "roots": _roots,
    "polyfit": _polyfit,
}

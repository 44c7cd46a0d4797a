"""Families of special functions, and what their rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op
from distgrad.dtypes import DType, as_dtype, float64, is_differentiable, result_type
from distgrad.errors import UnsupportedOptionError
from distgrad.ops.rules.families import (
    Partial,
    binary,
    elementwise_spec,
    expand_to,
    fit,
    quotient,
    scaled_keeping_zeros,
    unary,
)

_SCALARS = (bool, int, float, complex)


def special(
    name: str,
    slope: Partial,
    *,
    keep: Keep = Keep.INPUTS,
    compose: Callable[..., Array] | None = None,
) -> Op:
    """Return a special function of one argument; parameters as for `unary`."""
    return unary(name, slope, keep=keep, dtype=quotient, compose=compose)


def special_of_two(
    name: str,
    first: Partial,
    second: Partial,
    *,
    keep: Keep = Keep.INPUTS,
    compose: Callable[..., Array] | None = None,
) -> Op:
    """Return a special function of two arguments; parameters as for `binary`.

    The derivatives and the composition find both arguments as floating arrays.
    """

    def of_arrays(partial: Partial) -> Partial:
        return lambda xp, y, a, b: partial(xp, y, *as_floating(xp, a, b))

    composed = None
    if compose is not None:
        inner = compose

        def composed(xp: Namespace, a: Array, b: Array) -> Array:
            return inner(xp, *as_floating(xp, a, b))

    return binary(
        name, of_arrays(first), of_arrays(second), keep=keep, dtype=quotient, compose=composed
    )


def special_of_parameters(
    name: str,
    parameters: tuple[str, ...],
    slope: Partial,
    *,
    keep: Keep = Keep.INPUTS,
) -> Op:
    """Return a special function whose derivative is known in its last argument alone.

    Parameters
    ----------
    name : str
        The operation's name.
    parameters : tuple of str
        The names of the arguments before the last, such as orders.
    slope : callable
        ``slope(xp, y, *parameters, x)``: the derivative in the last argument.
    keep : Keep
        ``INPUTS`` or ``BOTH``.
    """

    def refuse(wanted: Sequence[Any]) -> None:
        for parameter, is_wanted in zip(parameters, wanted, strict=True):
            if is_wanted:
                raise UnsupportedOptionError(
                    f"{name}: the derivative in the parameter {parameter} is not known, only that "
                    f"in the last argument; cut it on purpose, dg.stop_gradient({parameter}), or "
                    "ask for no gradient of it"
                )

    def vjp(
        xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> Sequence[Array | None]:
        refuse(needs[:-1])
        factor = slope(xp, y, *as_floating(xp, *xs))
        term = scaled_keeping_zeros(xp, g, factor) if xp.keeps_zeros else g * factor
        return (*(None for _ in parameters), fit(xp, term, xs[-1]))

    def jvp(
        xp: Namespace, tangents: Sequence[Array | None], y: Array, xs: Any, params: dict[str, Any]
    ) -> Array:
        refuse([tangent is not None for tangent in tangents[:-1]])
        return expand_to(xp, tangents[-1] * slope(xp, y, *as_floating(xp, *xs)), y)

    return Op(name, Kind.ELEMENTWISE, elementwise_spec(name, quotient), vjp, jvp, keep)


def as_floating(xp: Namespace, *operands: Any) -> tuple[Array, ...]:
    """Return operands as arrays of their joint floating dtype, in which formulas are computed."""
    dtype = _joint(*operands)
    arrays = [
        each
        if type(each) in _SCALARS or as_dtype(each.dtype) == dtype
        else xp.astype(each, dtype=dtype)
        for each in operands
    ]
    if not any(type(each) in _SCALARS for each in arrays):
        return tuple(arrays)
    zero = next(xp.zeros_like(each) for each in arrays if type(each) not in _SCALARS)
    return tuple(zero + each if type(each) in _SCALARS else each for each in arrays)


def _joint(*operands: Any) -> DType:
    dtype = result_type(*(o if type(o) in _SCALARS else as_dtype(o.dtype) for o in operands))
    return dtype if is_differentiable(dtype) else float64


def by_series_near(
    xp: Namespace,
    x: Array,
    centre: float,
    radius: float,
    coefficients: Sequence[float],
    elsewhere: Callable[[Array], Array],
) -> Array:
    """Return a function with a removable singularity: by its power series near that point.

    The series is differentiated as any other formula is, so derivatives of every order are right
    at the point too, where masking the quotient would leave only the value right.

    Parameters
    ----------
    xp : Namespace
        In which to compute.
    x : array
        The argument.
    centre, radius : float
        Where the singularity is, and up to which distance the series serves.
    coefficients : sequence of float
        Of the powers of ``x - centre``, ascending.
    elsewhere : callable
        The formula for the rest; it is also computed at ``centre + 2 radius``.
    """
    near = xp.abs(x - centre) < radius
    distance = xp.where(near, x - centre, 0)
    total = distance * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        total = total * distance + coefficient
    return xp.where(near, total, elsewhere(xp.where(near, centre + 2 * radius, x)))

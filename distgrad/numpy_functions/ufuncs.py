"""NumPy's ufuncs that the vocabulary has no operation of, and the methods of ufuncs, on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.core.seam import operands
from distgrad.dtypes import is_complex, is_differentiable
from distgrad.errors import DTypeError
from distgrad.numpy_functions import products, reductions
from distgrad.numpy_functions.arguments import (
    as_axis,
    as_condition,
    as_tensor,
    flag,
    given,
    known_values,
    one_axis,
    refuse_out,
)
from distgrad.ops.elementwise import arithmetic, comparison
from distgrad.ops.elementwise.arithmetic import add, divide, multiply, pow, subtract
from distgrad.ops.elementwise.selection import where as choose
from distgrad.ops.elementwise.transcendental import log2, logaddexp
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing.reductions import all as all_of
from distgrad.ops.reducing.reductions import any as any_of
from distgrad.ops.reducing.reductions import logsumexp
from distgrad.ops.shaping.arrangement import unstack
from distgrad.ops.shaping.structure import astype, concat, reshape, stack
from distgrad.ops.special.elementary import exp2
from distgrad.tensor import Operators

_LN2 = math.log(2)


def _ignoring_nan(either: Callable[..., Any]) -> Callable[..., Any]:
    def function(a: Any, b: Any) -> Any:
        a, b = operands(a, b)
        best = either(a, b)
        return choose(comparison.isnan(a), b, choose(comparison.isnan(b), a, best))

    return function


def _fmod(a: Any, b: Any) -> Any:
    # The remainder of the magnitudes is exact; its sign is that of the dividend.
    x, b = operands(as_tensor(a), b)
    below = comparison.less(x, 0)
    rest = arithmetic.remainder(choose(below, arithmetic.negative(x), x), arithmetic.abs(b))
    return choose(below, arithmetic.negative(rest), rest)


def _heaviside(x: Any, at_zero: Any) -> Any:
    x, at_zero = as_tensor(x), as_tensor(at_zero)
    kind = np.result_type(x.dtype, at_zero.dtype, np.float16)
    step = choose(comparison.less(x, 0), 0.0, choose(comparison.equal(x, 0), at_zero, 1.0))
    return astype(choose(comparison.isnan(x), x, step), kind)


def _frexp(x: Any) -> tuple[Any, Any]:
    z = as_tensor(x)
    z = z if is_differentiable(z.dtype) else astype(z, np.float64)
    known = comparison.logical_and(comparison.isfinite(z), comparison.not_equal(z, 0))
    exponent = add(arithmetic.floor(log2(choose(known, arithmetic.abs(z), 0.5))), 1)
    mantissa = _scaled(z, arithmetic.negative(exponent))
    # The logarithm is rounded: near a power of two it may be the one beside.
    size = arithmetic.abs(mantissa)
    above = comparison.logical_and(known, comparison.greater_equal(size, 1))
    below = comparison.logical_and(known, comparison.less(size, 0.5))
    mantissa = choose(above, multiply(mantissa, 0.5), mantissa)
    mantissa = choose(below, multiply(mantissa, 2.0), mantissa)
    shift = choose(above, 1, choose(below, -1, 0))
    return mantissa, add(astype(exponent, np.int32), astype(shift, np.int32))


def _scaled(x: Any, exponent: Any) -> Any:
    """Return x times a power of two, in two steps: that of the least numbers is not finite."""
    half = arithmetic.floor(multiply(exponent, 0.5))
    return multiply(multiply(x, exp2(half)), exp2(subtract(exponent, half)))


def _ldexp(x: Any, exponent: Any) -> Any:
    if isinstance(exponent, Operators):
        power = exp2(astype(exponent, as_tensor(x).dtype))
        return multiply(x, power)
    return multiply(x, np.exp2(exponent).astype(as_tensor(x).dtype))


def _floating(x: Any) -> Any:
    """Return numbers as floating ones, integers in the least dtype that holds them all."""
    z = as_tensor(x)
    return z if is_differentiable(z.dtype) else astype(z, np.result_type(z.dtype, np.float16))


def _modf(x: Any) -> tuple[Any, Any]:
    z = _floating(x)
    whole = arithmetic.trunc(z)
    return subtract(z, whole), whole


def _fabs(x: Any) -> Any:
    z = _floating(x)
    if is_complex(z.dtype):
        raise DTypeError(f"np.fabs: x is {z.dtype}; expected real numbers: take np.abs")
    return arithmetic.abs(z)


def _float_power(a: Any, b: Any) -> Any:
    joint = np.result_type(as_tensor(a).dtype, as_tensor(b).dtype, np.float64)
    return pow(astype(as_tensor(a), joint), b)


def _logaddexp2(a: Any, b: Any) -> Any:
    a, b = operands(a, b)
    return divide(logaddexp(multiply(a, _LN2), multiply(b, _LN2)), _LN2)


# What the vocabulary writes by several operations.
COMPOSED: dict[str, Callable[..., Any]] = {
    **products.CONTRACTIONS,
    "deg2rad": lambda x: multiply(x, math.pi / 180),
    "radians": lambda x: multiply(x, math.pi / 180),
    "rad2deg": lambda x: multiply(x, 180 / math.pi),
    "degrees": lambda x: multiply(x, 180 / math.pi),
    "divmod": lambda a, b: (arithmetic.floor_divide(a, b), arithmetic.remainder(a, b)),
    "float_power": _float_power,
    "fmax": _ignoring_nan(arithmetic.maximum),
    "fmin": _ignoring_nan(arithmetic.minimum),
    "fmod": _fmod,
    "fabs": _fabs,
    "rint": lambda x: arithmetic.round(_floating(x)),
    "modf": _modf,
    "frexp": _frexp,
    "heaviside": _heaviside,
    "ldexp": _ldexp,
    "logaddexp2": _logaddexp2,
}

_REDUCE: dict[str, Callable[..., Any]] = {
    "add": reductions.FUNCTIONS["sum"],
    "multiply": reductions.FUNCTIONS["prod"],
    "maximum": reductions.FUNCTIONS["max"],
    "minimum": reductions.FUNCTIONS["min"],
    "fmax": reductions.FUNCTIONS["nanmax"],
    "fmin": reductions.FUNCTIONS["nanmin"],
}


# Those that know neither a beginning nor a place left out, and the number that changes nothing.
_WHOLE: dict[str, tuple[Callable[..., Any], Any]] = {
    "logical_and": (all_of, True),
    "logical_or": (any_of, False),
    "logaddexp": (logsumexp, -math.inf),
}

# Those of which the order of computing does not matter: by halves, in few operations.
_ASSOCIATIVE = frozenset(
    "add multiply maximum minimum fmax fmin logaddexp logaddexp2 hypot logical_and logical_or "
    "logical_xor bitwise_and bitwise_or bitwise_xor".split()
)


def reduce(
    ufunc: np.ufunc, call: Callable[..., Any], a: Any, axis: Any = 0, dtype: Any = None,
    out: Any = None, keepdims: Any = False, initial: Any = None, where: Any = True,
) -> Any:  # fmt: skip
    """Return ``ufunc.reduce(a, axis, ...)``."""
    name = ufunc.__name__
    refuse_out(f"{name}.reduce", out)
    whole = _WHOLE.get(name)
    if whole is not None:
        reduction, neutral = whole
        x = as_tensor(a) if dtype is None else astype(as_tensor(a), dtype)
        x = x if where is True else choose(as_condition(where), x, neutral)
        result = reduction(x, axis=as_axis(axis), keepdims=flag(keepdims))
        return call(initial, result) if given(initial) else result
    function = _REDUCE.get(name)
    if function is not None:
        options = {"dtype": dtype, "initial": initial, "where": None if where is True else where}
        options = {key: value for key, value in options.items() if given(value)}
        return function(a, axis=axis, keepdims=keepdims, **options)
    x = as_tensor(a) if dtype is None else astype(as_tensor(a), dtype)
    x = comparison.not_equal(x, 0) if name.startswith("logical_") else x
    if where is not True:
        raise TypeError(
            f"np.{name}.reduce: where= is not taken for tensors; put a neutral number there, "
            "np.where(where, t, number)"
        )
    axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(sorted(one_axis("axis", each, x.ndim) for each in axes))
    if len(axes) > 1 and name not in _ASSOCIATIVE:
        raise ValueError(
            f"np.{name}.reduce: reduction operation is not reorderable, so at most one axis may "
            f"be specified; got {axis}"
        )
    kept = tuple(1 if place in axes else length for place, length in enumerate(x.shape))
    if given(initial) and name not in _ASSOCIATIVE and axes:
        before = (slice(None),) * axes[0]
        first = call(initial, getitem(x, (*before, slice(None, 1))))
        x = concat([first, getitem(x, (*before, slice(1, None)))], axis=axes[0])
        initial = None
    for place in reversed(axes):
        x = _folded(ufunc, call, x, place)
    x = call(initial, x) if given(initial) else x
    return reshape(x, kept) if flag(keepdims) else x


def _folded(ufunc: np.ufunc, call: Callable[..., Any], x: Any, place: int) -> Any:
    length = x.shape[place]
    before = (slice(None),) * place
    if not length:
        raise ValueError(
            f"np.{ufunc.__name__}.reduce: zero-size array to a reduction without identity; "
            "expected one element or more"
        )
    if ufunc.__name__ not in _ASSOCIATIVE:
        parts = unstack(x, axis=place)
        result = parts[0]
        for part in parts[1:]:
            result = call(result, part)
        return result
    while length > 1:
        half = length // 2
        first, second = (getitem(x, (*before, slice(k * half, (k + 1) * half))) for k in (0, 1))
        joined = call(first, second)
        rest = getitem(x, (*before, slice(2 * half, None)))
        x = concat([joined, rest], axis=place) if length % 2 else joined
        length -= half
    return getitem(x, (*before, 0))


def accumulate(
    ufunc: np.ufunc, call: Callable[..., Any], array: Any, axis: int = 0, dtype: Any = None,
    out: Any = None,
) -> Any:  # fmt: skip
    """Return ``ufunc.accumulate(array, axis)``."""
    name = ufunc.__name__
    refuse_out(f"{name}.accumulate", out)
    if name in ("add", "multiply"):
        run = reductions.FUNCTIONS["cumsum" if name == "add" else "cumprod"]
        return run(array, axis=axis, dtype=dtype)
    x = as_tensor(array) if dtype is None else astype(as_tensor(array), dtype)
    x = comparison.not_equal(x, 0) if name.startswith("logical_") else x
    place = one_axis("axis", axis, x.ndim)
    length = x.shape[place]
    if name not in _ASSOCIATIVE:
        parts = list(unstack(x, axis=place))
        for k in range(1, length):
            parts[k] = call(parts[k - 1], parts[k])
        return stack(parts, axis=place) if length > 1 else x
    before, reach = (slice(None),) * place, 1
    while reach < length:  # each has joined as many as it reaches back: 1, 2, 4 ...
        joined = call(
            getitem(x, (*before, slice(None, length - reach))),
            getitem(x, (*before, slice(reach, None))),
        )
        x = concat([getitem(x, (*before, slice(None, reach))), joined], axis=place)
        reach *= 2
    return x


def outer(call: Callable[..., Any], a: Any, b: Any, **options: Any) -> Any:
    """Return the ufunc of every pair of elements of two arrays."""
    x, y = as_tensor(a), as_tensor(b)
    return call(reshape(x, (*x.shape, *(1,) * y.ndim)), y, **options)


def reduceat(
    ufunc: np.ufunc, call: Callable[..., Any], array: Any, indices: Any, axis: int = 0,
    dtype: Any = None, out: Any = None,
) -> Any:  # fmt: skip
    """Return the reductions of slices that begin at positions along an axis."""
    refuse_out(f"{ufunc.__name__}.reduceat", out)
    x = as_tensor(array) if dtype is None else astype(as_tensor(array), dtype)
    place = one_axis("axis", axis, x.ndim)
    starts = np.asarray(known_values(f"{ufunc.__name__}.reduceat", indices)).tolist()
    stops = [*starts[1:], x.shape[place]]
    parts = []
    for start, stop in zip(starts, stops, strict=True):
        if not 0 <= start < x.shape[place]:
            raise IndexError(
                f"{ufunc.__name__}.reduceat: index {start} out-of-bounds in [0, {x.shape[place]})"
            )
        part = getitem(x, (slice(None),) * place + (slice(start, max(stop, start + 1)),))
        parts.append(reduce(ufunc, call, part, place))
    return stack(parts, axis=place)


_METHODS: dict[str, Callable[..., Any]] = {
    "reduce": reduce,
    "accumulate": accumulate,
    "reduceat": reduceat,
}


def method(
    ufunc: np.ufunc, name: str, call: Callable[..., Any], *inputs: Any, **options: Any
) -> Any:
    """Return the result of a method of a ufunc other than the call itself.

    Parameters
    ----------
    ufunc : numpy.ufunc
        Whose method.
    name : str
        The method's name.
    call : callable
        The ufunc on tensors.
    *inputs, **options
        The method's arguments.

    Raises
    ------
    TypeError
        If the method changes its argument, or is not known for this ufunc.
    """
    if name == "outer":
        return outer(call, *inputs, **options)
    if name == "at":
        raise TypeError(
            f"np.{ufunc.__name__}.at: tensors do not change; take t = t.at[indices].add(values) or "
            "another of its methods, which are differentiated"
        )
    return _METHODS[name](ufunc, call, *inputs, **options)

"""NumPy's ufuncs that the vocabulary has no operation of, and the methods of ufuncs, on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.numpy_functions import products, reductions
from distgrad.numpy_functions.arguments import as_tensor, given, host, hosted, one_axis, refuse_out
from distgrad.ops.elementwise import arithmetic, comparison
from distgrad.ops.elementwise.arithmetic import divide, multiply, pow, subtract
from distgrad.ops.elementwise.selection import where as choose
from distgrad.ops.elementwise.transcendental import logaddexp
from distgrad.ops.picking.along import take_along_axis
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing.reductions import logsumexp
from distgrad.ops.shaping.structure import astype, reshape, stack

_LN2 = math.log(2)


def _ignoring_nan(either: Callable[..., Any]) -> Callable[..., Any]:
    def function(a: Any, b: Any) -> Any:
        best = either(a, b)
        return choose(comparison.isnan(a), b, choose(comparison.isnan(b), a, best))

    return function


def _fmod(a: Any, b: Any) -> Any:
    return subtract(a, multiply(np.trunc(hosted(a) / hosted(b)), b))


def _modf(x: Any) -> tuple[Any, Any]:
    whole = arithmetic.trunc(x)
    return subtract(x, whole), whole


def _float_power(a: Any, b: Any) -> Any:
    joint = np.result_type(as_tensor(a).dtype, as_tensor(b).dtype, np.float64)
    return pow(astype(as_tensor(a), joint), b)


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
    "modf": _modf,
    "ldexp": lambda x, i: multiply(x, np.exp2(hosted(i)).astype(as_tensor(x).dtype)),
    "logaddexp2": lambda a, b: divide(logaddexp(multiply(a, _LN2), multiply(b, _LN2)), _LN2),
}

_REDUCE: dict[str, Callable[..., Any]] = {
    "add": reductions.FUNCTIONS["sum"],
    "multiply": reductions.FUNCTIONS["prod"],
    "maximum": reductions.FUNCTIONS["max"],
    "minimum": reductions.FUNCTIONS["min"],
    "logical_and": reductions.FUNCTIONS["all"],
    "logical_or": reductions.FUNCTIONS["any"],
    "fmax": reductions.FUNCTIONS["nanmax"],
    "fmin": reductions.FUNCTIONS["nanmin"],
    "logaddexp": lambda a, axis=None, keepdims=False: logsumexp(
        as_tensor(a), axis=axis, keepdims=bool(keepdims)
    ),
}


def reduce(ufunc: np.ufunc, a: Any, axis: Any = 0, **options: Any) -> Any:
    """Return ``ufunc.reduce(a, axis, ...)``."""
    function = _REDUCE.get(ufunc.__name__)
    if function is None:
        raise TypeError(_UNKNOWN.format(ufunc.__name__, "reduce", ", ".join(sorted(_REDUCE))))
    return function(a, axis=axis, **{name: v for name, v in options.items() if given(v)})


def accumulate(
    ufunc: np.ufunc, array: Any, axis: int = 0, dtype: Any = None, out: Any = None
) -> Any:
    """Return ``ufunc.accumulate(array, axis)``."""
    refuse_out(f"{ufunc.__name__}.accumulate", out)
    name = ufunc.__name__
    if name in ("add", "multiply"):
        run = reductions.FUNCTIONS["cumsum" if name == "add" else "cumprod"]
        return run(array, axis=axis, dtype=dtype)
    if name in ("maximum", "minimum"):
        x = as_tensor(array)
        place = one_axis("axis", axis, x.ndim)
        values = host(x)
        best = ufunc.accumulate(values, place)
        shape = [1] * x.ndim
        shape[place] = -1
        # The running best stands where it was last reached.
        found = np.where(values == best, np.arange(x.shape[place]).reshape(shape), 0)
        return take_along_axis(x, np.maximum.accumulate(found, place), axis=place)
    raise TypeError(_UNKNOWN.format(name, "accumulate", "add, maximum, minimum, multiply"))


def outer(call: Callable[..., Any], a: Any, b: Any, **options: Any) -> Any:
    """Return the ufunc of every pair of elements of two arrays."""
    x, y = as_tensor(a), as_tensor(b)
    return call(reshape(x, (*x.shape, *(1,) * y.ndim)), y, **options)


def reduceat(ufunc: np.ufunc, array: Any, indices: Any, axis: int = 0, **options: Any) -> Any:
    """Return the reductions of slices that begin at positions along an axis."""
    x = as_tensor(array)
    place = one_axis("axis", axis, x.ndim)
    starts = np.asarray(hosted(indices)).tolist()
    stops = [*starts[1:], x.shape[place]]
    parts = []
    for start, stop in zip(starts, stops, strict=True):
        if not 0 <= start < x.shape[place]:
            raise IndexError(
                f"{ufunc.__name__}.reduceat: index {start} out-of-bounds in [0, {x.shape[place]})"
            )
        part = getitem(x, (slice(None),) * place + (slice(start, max(stop, start + 1)),))
        parts.append(reduce(ufunc, part, place))
    return stack(parts, axis=place)


_UNKNOWN = "np.{}.{} is not known for tensors; expected one of {}"
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
    return _METHODS[name](ufunc, *inputs, **options)

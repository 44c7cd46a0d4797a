"""NumPy's protocols: `np.f(tensor)` finds the function that is differentiated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from distgrad.core.op import Kind, Op
from distgrad.core.seam import LISTENERS, apply
from distgrad.eager import emit
from distgrad.errors import DTypeError
from distgrad.numpy_functions import (
    algebra,
    ordering,
    padding,
    products,
    ranges,
    reductions,
    selecting,
    shaping,
    signals,
    ufuncs,
)
from distgrad.numpy_functions.arguments import hosted, refuse_out, tensors_in
from distgrad.ops import VOCABULARY
from distgrad.ops.complex_numbers import imag, real
from distgrad.ops.structure import astype
from distgrad.tensor import Operators, Tensor, bind_numpy

_FAMILIES = (reductions, shaping, ordering, selecting, signals, padding, ranges, products)

# Whose value is a step, an order, a number of things or a text: no derivative, on purpose.
_WITHOUT_DERIVATIVE = frozenset(
    "allclose argpartition argsort argwhere array2string array_equal array_equiv array_repr "
    "array_str bincount can_cast common_type count_nonzero digitize flatnonzero histogram "
    "histogram2d histogram_bin_edges histogramdd in1d intersect1d isclose iscomplex iscomplexobj "
    "isin isneginf isposinf isreal isrealobj lexsort may_share_memory min_scalar_type nanargmax "
    "nanargmin nonzero packbits result_type save savetxt savez savez_compressed searchsorted "
    "setdiff1d setxor1d shares_memory union1d unique unique_all unique_counts unique_inverse "
    "unique_values unpackbits".split()
)


def functions() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Return NumPy's functions that are differentiated, with what computes each on tensors."""
    return _table()


@cache
def _table() -> dict[Callable[..., Any], Callable[..., Any]]:
    places: list[tuple[Any, Mapping[str, Callable[..., Any]]]] = [
        (np, family.FUNCTIONS) for family in _FAMILIES
    ]
    places += [(np, {"real": real, "imag": imag})]
    places += [(np.linalg, algebra.LINALG), (np.fft, algebra.FFT)]
    return {
        getattr(module, name): function
        for module, family in places
        for name, function in family.items()
        if hasattr(module, name)  # younger NumPys have more
    }


def call(function: Callable[..., Any], arguments: Any, options: dict[str, Any]) -> Any:
    """Return one of NumPy's functions of tensors (what ``__array_function__`` calls).

    Raises
    ------
    TypeError
        If a tape watches an argument and the function's derivative is not known.
    """
    implementation = _table().get(function)
    if implementation is not None:
        return implementation(*arguments, **options)
    name = getattr(function, "__name__", str(function))
    found = tensors_in([list(arguments), options])
    if name not in _WITHOUT_DERIVATIVE and _is_followed(found):
        raise TypeError(
            f"np.{name}: a tape watches an argument, but the derivative of this function is not "
            "known; take t.numpy() or dg.stop_gradient(t) to cut on purpose, or write it with "
            "functions that have one"
        )
    refuse_out(name, options.get("out"))
    result = function(*hosted(list(arguments)), **hosted(options))
    return _cut(f"numpy.{name}", found, result)


def call_ufunc(ufunc: np.ufunc, method: str, inputs: Any, options: dict[str, Any]) -> Any:
    """Return a ufunc of tensors, or of its methods (what ``__array_ufunc__`` calls).

    Raises
    ------
    TypeError
        If ``out`` or ``where`` is given, or a tape watches an argument and the derivative of the
        ufunc is not known.
    """
    if method == "__call__":
        return _call(ufunc, *inputs, **options)
    return ufuncs.method(ufunc, method, lambda *a, **o: _call(ufunc, *a, **o), *inputs, **options)


def _call(
    ufunc: np.ufunc, *inputs: Any, out: Any = None, where: Any = True, dtype: Any = None,
    **options: Any,
) -> Any:  # fmt: skip
    name = ufunc.__name__
    refuse_out(name, out)
    if where is not True:
        raise TypeError(f"np.{name}: where= is not taken for tensors; use np.where on the result")
    if dtype is not None:
        inputs = tuple(
            astype(each, dtype) if isinstance(each, Operators) else each for each in inputs
        )
    op = VOCABULARY.get(_NAMES.get(name, name))
    if op is not None:
        result = apply(op, *inputs)
    elif name in ufuncs.COMPOSED:
        result = ufuncs.COMPOSED[name](*inputs)
    else:
        found = tensors_in(list(inputs))
        if _is_followed(found) and name not in _STEPS:
            raise TypeError(
                f"np.{name}: a tape watches an argument, but the derivative of this ufunc is not "
                "known; take t.numpy() or dg.stop_gradient(t) to cut on purpose"
            )
        result = _cut(f"numpy.{name}", found, ufunc(*hosted(list(inputs)), **options))
    if dtype is None or isinstance(result, tuple):
        return result
    if np.dtype(dtype).kind not in "biufc":
        raise DTypeError(f"np.{name}: dtype is {dtype}; expected one of numbers")
    return astype(result, dtype)


# Ufuncs with steps, or of integers.
_STEPS = frozenset("frexp gcd heaviside isnat lcm spacing".split())

# The vocabulary's names where NumPy's ufuncs have others.
_NAMES = {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "arctan2": "atan2",
    "power": "pow",
    "absolute": "abs",
    "fabs": "abs",
    "conjugate": "conj",
    "rint": "round",
    "true_divide": "divide",
    "mod": "remainder",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "right_shift": "bitwise_right_shift",
    "vecdot": "",
}


def _is_followed(tensors: list[Tensor]) -> bool:
    return any(listener.follows(t.key) for listener in LISTENERS.get() for t in tensors)


def _cut(name: str, inputs: list[Tensor], result: Any) -> Any:
    """Return arrays as tensors, and let tapes know what they came from, and that it was cut."""
    if isinstance(result, tuple):
        parts = [_cut(name, inputs, each) for each in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    if not isinstance(result, np.ndarray) or result.dtype.kind not in "biufc":
        return result
    kernels = inputs[0].kernels
    tensor = Tensor(kernels.backend.asarray(result), kernels)
    if _is_followed(inputs):
        emit(Op(name, Kind.OPAQUE, _unforetold), inputs, tensor)
    return tensor


def _unforetold(*specs: Any, **params: Any) -> Any:
    raise TypeError("a function of NumPy is computed on the host; it is never traced")


bind_numpy(call, call_ufunc)

"""NumPy's protocols: `np.f(tensor)` finds the function that is differentiated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from distgrad.core.op import Kind, Op
from distgrad.core.seam import LISTENERS, apply
from distgrad.dtypes import is_complex
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
    special,
    ufuncs,
)
from distgrad.numpy_functions.arguments import hosted, refuse_out, tensors_in
from distgrad.ops import VOCABULARY
from distgrad.ops.elementwise.complex_numbers import imag, real
from distgrad.ops.shaping.structure import astype
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
        raise TypeError(
            f"{_full_name(ufunc)}: where= is not taken for tensors; use np.where on the result"
        )
    if dtype is not None:
        inputs = tuple(
            astype(each, dtype) if isinstance(each, Operators) else each for each in inputs
        )
    function, is_of_reals = _function_of(ufunc)
    if is_of_reals and any(
        isinstance(each, Operators) and is_complex(each.dtype) for each in inputs
    ):
        function = None
    if function is not None:
        result = function(*inputs)
    else:
        found = tensors_in(list(inputs))
        if _is_followed(found) and name not in _STEPS:
            raise TypeError(
                f"{_full_name(ufunc)}: a tape watches an argument, but the derivative of this "
                "ufunc is not known; take t.numpy() or dg.stop_gradient(t) to cut on purpose"
            )
        outcome = ufunc(*hosted(list(inputs)), **options)
        result = _cut(_full_name(ufunc, numpy="numpy"), found, outcome)
    if dtype is None or isinstance(result, tuple):
        return result
    if np.dtype(dtype).kind not in "biufc":
        raise DTypeError(f"{_full_name(ufunc)}: dtype is {dtype}; expected one of numbers")
    return astype(result, dtype)


@lru_cache(maxsize=512)
def _function_of(ufunc: np.ufunc) -> tuple[Callable[..., Any] | None, bool]:
    """Return what computes a ufunc on tensors (None: not known), and whether of reals alone.

    A ufunc is known by its name only in the module that it is the attribute of: somebody else's of
    the same name need not be the same function.
    """
    name = ufunc.__name__
    if getattr(np, name, None) is ufunc:
        op = VOCABULARY.get(_NAMES.get(name, name))
        return ufuncs.COMPOSED.get(name) if op is None else partial(apply, op), False
    return special.function_of(ufunc)


def _full_name(ufunc: np.ufunc, *, numpy: str = "np") -> str:
    name = ufunc.__name__
    if getattr(np, name, None) is ufunc:
        return f"{numpy}.{name}"
    return f"scipy.special.{name}" if special.is_scipys(ufunc) else name


# Ufuncs with steps, or of integers.
_STEPS = frozenset("frexp gammasgn gcd heaviside isnat lcm spacing".split())

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

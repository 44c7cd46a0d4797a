"""NumPy's protocols: `np.f(tensor)` finds the function that is differentiated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from distgrad.core.seam import apply
from distgrad.dtypes import is_complex, is_numeric
from distgrad.entering import HOME
from distgrad.errors import DistgradError, DTypeError
from distgrad.numpy_functions import (
    algebra,
    applying,
    inventory,
    ordering,
    padding,
    polynomials,
    products,
    quantiles,
    ranges,
    reductions,
    searching,
    selecting,
    sets,
    shaping,
    signals,
    special,
    ufuncs,
)
from distgrad.numpy_functions.arguments import (
    arrays_entered,
    as_operand,
    as_parameter,
    cut,
    home_of,
    hosted,
    is_followed,
    name_of,
    refuse_out,
    tensors_in,
)
from distgrad.ops import VOCABULARY
from distgrad.ops.elementwise.complex_numbers import imag, real
from distgrad.ops.shaping.structure import astype
from distgrad.tensor import UFUNC_NAMES, Operators, bind_numpy

_FAMILIES = (
    reductions,
    shaping,
    ordering,
    selecting,
    quantiles,
    signals,
    padding,
    ranges,
    products,
    polynomials,
    applying,
    searching,
    sets,
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


def call(
    function: Callable[..., Any], arguments: Any, options: dict[str, Any], asked: Operators
) -> Any:
    """Return one of NumPy's functions of tensors (what ``__array_function__`` calls).

    Parameters
    ----------
    function : callable
        NumPy's function.
    arguments, options : tuple, dict
        What it was called with.
    asked : Tensor or Variable
        The one that NumPy asks: an argument, or that of ``like=``, which NumPy keeps to itself.

    Raises
    ------
    TypeError
        If a tape watches an argument and the function's derivative is not known.
    """
    implementation = _table().get(function)
    if implementation is not None:
        kernels = home_of(arguments, options)
        token = HOME.set((kernels, function) if kernels is not None else HOME.get())
        try:
            arguments, options = arrays_entered(tuple(arguments)), arrays_entered(options)
            return implementation(*arguments, **options)
        finally:
            HOME.reset(token)
    name = name_of(function)
    arguments, options = arrays_entered(tuple(arguments)), arrays_entered(options)
    found = tensors_in([arguments, options])
    if name not in inventory.CUT and is_followed(found):
        reason = inventory.REFUSED.get(name, "the derivative of this function is not known")
        raise TypeError(
            f"np.{name}: a tape watches an argument, but {reason}; take t.numpy() or "
            "dg.stop_gradient(t) to cut on purpose, or write it with functions that have a "
            "derivative"
        )
    refuse_out(name, options.get("out"))
    if not found:  # np.zeros(3, like=tensor): made where that tensor is
        kernels = home_of((asked,), {})
        token = HOME.set(None if kernels is None else (kernels, function))
        try:
            return as_parameter(function(*arguments, **options))
        finally:
            HOME.reset(token)
    return cut(f"numpy.{name}", found, _on_host(f"np.{name}", function, arguments, options))


def _on_host(
    name: str, function: Callable[..., Any], arguments: Any, options: dict[str, Any]
) -> Any:
    """Return what NumPy computes of the values.

    Raises
    ------
    TraceError, BatchedValueError
        If a transformation stands for them, and there are none yet.
    """
    try:
        numbers, named = hosted(list(arguments)), hosted(options)
    except DistgradError as error:
        raise type(error)(f"{name} is computed on the host, from values: {error}") from error
    return function(*numbers, **named)


def call_ufunc(ufunc: np.ufunc, method: str, inputs: Any, options: dict[str, Any]) -> Any:
    """Return a ufunc of tensors, or of its methods (what ``__array_ufunc__`` calls).

    Raises
    ------
    TypeError
        If ``out`` or ``where`` is given, or a tape watches an argument and the derivative of the
        ufunc is not known.
    """
    kernels = home_of(inputs, options)
    token = HOME.set((kernels, ufunc) if kernels is not None else HOME.get())
    try:
        inputs, options = arrays_entered(tuple(inputs)), arrays_entered(options)
        if method == "__call__":
            return _call(ufunc, *inputs, **options)
        call = partial(_call, ufunc)
        return ufuncs.method(ufunc, method, call, *inputs, **options)
    finally:
        HOME.reset(token)


def _call(
    ufunc: np.ufunc, *inputs: Any, out: Any = None, where: Any = True, dtype: Any = None,
    **options: Any,
) -> Any:  # fmt: skip
    name = ufunc.__name__
    if out is not None and out[0] is inputs[0] and isinstance(out[0], np.ndarray):
        return _in_place(ufunc, *inputs)
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
        if any(isinstance(each, np.ndarray) for each in inputs):
            inputs = tuple(as_operand(each) for each in inputs)  # of one backend, or an error
        result = function(*inputs)
    else:
        found = tensors_in(list(inputs))
        if is_followed(found) and name not in _STEPS:
            raise TypeError(
                f"{_full_name(ufunc)}: a tape watches an argument, but the derivative of this "
                "ufunc is not known; take t.numpy() or dg.stop_gradient(t) to cut on purpose"
            )
        outcome = _on_host(_full_name(ufunc), ufunc, inputs, options)
        result = cut(_full_name(ufunc, numpy="numpy"), found, outcome)
    if dtype is None or isinstance(result, tuple):
        return result
    if not is_numeric(np.dtype(dtype)):
        raise DTypeError(f"{_full_name(ufunc)}: dtype is {dtype}; expected one of numbers")
    return astype(result, dtype)


def _in_place(ufunc: np.ufunc, array: np.ndarray[Any, Any], *others: Any) -> Any:
    """Write into an array of NumPy's, as ``array += tensor`` does.

    Raises
    ------
    TypeError
        If a tape watches a tensor among the others.
    """
    if is_followed(tensors_in(list(others))):
        raise TypeError(
            f"np.{ufunc.__name__}: in place, as a += t does it, a tensor's values would go into a "
            "NumPy array, and their gradient would be lost; write a = a + t, or take t.numpy()"
        )
    np.copyto(array, hosted(_call(ufunc, array, *others)), casting="same_kind")
    return array


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
_STEPS = frozenset("gammasgn gcd isnat lcm spacing".split())

# The vocabulary's names where NumPy's ufuncs have others, with those that tensors do not go by.
_NAMES = {
    **UFUNC_NAMES,
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "right_shift": "bitwise_right_shift",
    "vecdot": "",
}


bind_numpy(call, call_ufunc)

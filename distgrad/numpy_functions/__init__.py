"""NumPy's functions on tensors, one file a subject; they are imported when one is first called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from distgrad.tensor import bind_numpy


def call(function: Callable[..., Any], arguments: Any, options: dict[str, Any], asked: Any) -> Any:
    """Return one of NumPy's functions of tensors; from the next call on `dispatch` is asked."""
    dispatch = import_module("distgrad.numpy_functions.dispatch")
    return dispatch.call(function, arguments, options, asked)


def call_ufunc(ufunc: Any, method: str, inputs: Any, options: dict[str, Any]) -> Any:
    """Return a call of one of NumPy's ufuncs on tensors, likewise."""
    dispatch = import_module("distgrad.numpy_functions.dispatch")
    return dispatch.call_ufunc(ufunc, method, inputs, options)


bind_numpy(call, call_ufunc)

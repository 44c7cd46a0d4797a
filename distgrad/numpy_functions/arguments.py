"""Arguments of NumPy's functions: what they all share, and what a tensor cannot honour."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from distgrad.eager import asarray
from distgrad.ops.shaping.structure import stack
from distgrad.tensor import Operators, Tensor

NoValue = np._NoValue  # NumPy's mark of an argument that was not given


def given(value: Any) -> bool:
    """Return whether an argument was given: neither None nor NumPy's mark of absence."""
    return value is not None and value is not NoValue


def flag(value: Any) -> bool:
    """Return a flag, such as ``keepdims``; False where it was not given."""
    return bool(value) if given(value) else False


def refuse_out(name: str, out: Any) -> None:
    """Raise if a result is to be written into an array, which would cut its gradient."""
    parts = out if isinstance(out, tuple) else (out,)
    if any(given(part) for part in parts):
        raise TypeError(
            f"{name}: out= is not taken for tensors, which do not change; use the result"
        )


def as_tensor(value: Any) -> Any:
    """Return a tensor or variable as it is, else a tensor; of lists in the dtype of NumPy's."""
    if isinstance(value, Operators):
        return value
    if isinstance(value, (list, tuple)):
        parts = tensors_in(value)
        return stack([as_tensor(part) for part in value]) if parts else asarray(np.asarray(value))
    return asarray(value)


def host(value: Any) -> np.ndarray[Any, Any]:
    """Return the values on the host, which no tape follows from here on."""
    return value.numpy() if isinstance(value, Operators) else np.asarray(value)


def hosted(value: Any) -> Any:
    """Return a nest of arguments with every tensor replaced by its values on the host."""
    if isinstance(value, Operators):
        return value.numpy()
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(hosted(each) for each in value)
    if type(value) is dict:
        return {name: hosted(each) for name, each in value.items()}
    return value


def as_axis(axis: Any) -> Any:
    """Return an axis, or a tuple of them, as plain integers."""
    if axis is None or axis is NoValue:
        return None
    if isinstance(axis, (tuple, list)):
        return tuple(operator.index(a) for a in axis)
    return operator.index(axis)


def one_axis(name: str, axis: Any, ndim: int) -> int:
    """Return a single axis as a number that is not negative."""
    place = operator.index(axis)
    if not -ndim <= place < ndim:
        raise np.exceptions.AxisError(place, ndim, name)
    return place % ndim


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a nest of arguments, in their order."""
    if isinstance(value, Operators):
        return [value.read()]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [found for each in value for found in tensors_in(each)]
    return []

"""What a generator is given: seeds, states, shapes and dtypes, brought to one form or refused."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.dtypes import (
    DType,
    DTypeLike,
    as_dtype,
    bool_,
    default_dtype,
    is_differentiable,
    uint64,
)
from distgrad.eager import asarray
from distgrad.errors import DTypeError, ShapeError
from distgrad.shapes import Shape, integers
from distgrad.tensor import Operators


def as_words(state: Any) -> np.ndarray[Any, Any]:
    """Return a state as an array of words."""
    try:
        words = np.asarray(state)
        if words.dtype != uint64:  # NumPy takes a mixture of large and small integers for floats
            words = np.array(state, dtype=np.uint64)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"Generator: the state {state!r} is not one; expected three integers from 0 to 2^64 - 1"
        ) from error
    if not words.ndim or words.shape[-1] != 3:
        raise ShapeError(f"Generator: a state of shape {words.shape}; expected (..., 3)")
    return words


def as_shape(shape: int | Sequence[int]) -> Shape:
    """Return a shape as a tuple; a number is the length of one axis."""
    lengths = integers("random", "shape", shape)
    if any(length < 0 for length in lengths):
        raise ShapeError(f"random: shape is {lengths}; expected lengths of 0 or more")
    return lengths


def as_integer(function: str, name: str, value: Any) -> int:
    """Return an argument that must be an integer."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{function}: {name} is {value!r}, a {type(value).__name__}; expected an integer"
        ) from None


def as_index(index: Any) -> Any:
    """Return the index of a child: an integer, or an array of them."""
    if isinstance(index, (Operators, np.ndarray)):
        return index
    return (
        asarray(index)
        if isinstance(index, (list, tuple, range))
        else as_integer("fold_in", "index", index)
    )


def is_number(value: Any) -> bool:
    """Return whether an argument is a number of Python's or NumPy's."""
    return isinstance(value, (int, float, np.floating, np.integer))


def floating_dtype(function: str, dtype: DTypeLike | None) -> DType:
    """Return a real floating dtype; the default one for None."""
    chosen = default_dtype() if dtype is None else as_dtype(dtype)
    if not is_differentiable(chosen) or chosen.kind == "c" or chosen == bool_:
        raise DTypeError(f"{function}: dtype is {chosen}; expected a real floating one")
    return chosen

"""Shapes: broadcasting and axes, with errors that say which operand does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, TypeAlias

import numpy as np

from distgrad.errors import PositionError, ShapeError

Shape: TypeAlias = tuple[int, ...]
Axis: TypeAlias = int | tuple[int, ...] | None


def shape_given(value: Any) -> Shape:
    """Return the shape of an argument: a tensor, a variable, an array, a spec or nested lists.

    `numpy.shape` asks a tensor through NumPy's protocol, which takes eight microseconds.
    """
    shape = getattr(value, "shape", None)
    return np.shape(value) if shape is None else tuple(shape)


def broadcast(operation: str, *shapes: Shape) -> Shape:
    """Return the shape to which shapes broadcast.

    Raises
    ------
    ShapeError
        If two of them disagree in an axis where neither has length 1.
    """
    result: list[int] = []
    for position in range(-max((len(shape) for shape in shapes), default=0), 0):
        lengths = {shape[position] for shape in shapes if len(shape) >= -position} - {1}
        if len(lengths) > 1:
            given = " and ".join(str(shape) for shape in shapes)
            raise ShapeError(
                f"{operation}: shapes {given} do not broadcast: axis {position} has lengths "
                f"{' and '.join(map(str, sorted(lengths)))}; expected equal lengths, or 1"
            )
        result.append(lengths.pop() if lengths else 1)
    return tuple(result)


def check_targets(
    operation: str, argument: str, given: Shape, predictions: str, expected: Shape
) -> None:
    """Refuse targets that would make a loss larger than its predictions: (n,) beside (n, 1).

    Parameters
    ----------
    operation, argument, predictions : str
        The loss, and what it calls its targets and its predictions.
    given, expected : tuple of int
        The shapes of targets and predictions.

    Raises
    ------
    ShapeError
        If the targets do not broadcast to the predictions' shape.
    """
    if given != expected and broadcast(operation, given, expected) != expected:
        raise ShapeError(
            f"{operation}: {argument} have shape {given}, {predictions} {expected}; expected "
            f"{argument} of the shape of the {predictions}: reshape one of them"
        )


def broadcast_axes(shape: Shape, to: Shape) -> Shape:
    """Return the axes of `to` along which `shape` was repeated when it was broadcast to it."""
    offset = len(to) - len(shape)
    return tuple(range(offset)) + tuple(
        axis + offset for axis, length in enumerate(shape) if length == 1 != to[axis + offset]
    )


def normalize_axis(operation: str, axis: int, ndim: int) -> int:
    """Return an axis counted from the front.

    Raises
    ------
    PositionError
        If the array has no such axis.
    TypeError
        If it is no integer.
    """
    if axis.__class__ is not int:
        axis = integer(operation, "axis", axis)
    if not -ndim <= axis < ndim:
        raise PositionError(
            f"{operation}: axis is {axis}, but the array has {ndim} axes; expected an axis "
            f"from {-ndim} to {ndim - 1}"
            if ndim
            else f"{operation}: axis is {axis}, but a zero-dimensional array has no axes"
        )
    return axis % ndim


def normalize_axes(operation: str, axis: Axis | Sequence[int], ndim: int) -> Shape:
    """Return axes counted from the front, in their given order; None means all of them.

    Raises
    ------
    ShapeError
        If the array has no such axis, or an axis is named twice.
    TypeError
        If one is no integer.
    """
    if axis is None:
        return tuple(range(ndim))
    if axis.__class__ is not tuple and not isinstance(axis, Sequence):
        return (normalize_axis(operation, axis, ndim),)
    axes = tuple(normalize_axis(operation, a, ndim) for a in axis)
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{operation}: axis {tuple(axis)} names an axis twice")
    return axes


def plain_axes(operation: str, axis: Axis | Sequence[int]) -> Axis:
    """Return axes as metadata, hashable: lists become tuples, NumPy's integers Python's.

    Raises
    ------
    TypeError
        If one is no integer.
    """
    if axis is None or axis.__class__ is int:
        return axis
    if isinstance(axis, Sequence):
        return tuple(integer(operation, "axis", each) for each in axis)
    return integer(operation, "axis", axis)


def integer(operation: str, argument: str, value: Any) -> int:
    """Return an argument that is an integer of Python's, of NumPy's or of a tensor as Python's.

    Raises
    ------
    TypeError
        If it is none, or a truth value.
    """
    if value.__class__ is not bool:
        try:
            return index(value)
        except TypeError:
            pass
    given = repr(value)
    given = given if len(given) <= 40 else f"a {type(value).__name__}"
    raise TypeError(f"{operation}: {argument} is {given}; expected an integer")


def integers(operation: str, argument: str, value: Any) -> Shape:
    """Return an argument that is an integer or a sequence of them as a tuple of Python's.

    Raises
    ------
    TypeError
        If one is no integer.
    """
    if isinstance(value, Sequence) or getattr(value, "shape", None):
        return tuple([integer(operation, argument, each) for each in value])
    return (integer(operation, argument, value),)


def reduced(shape: Shape, axes: Shape, keepdims: bool) -> Shape:
    """Return the shape that is left after a reduction over axes (counted from the front)."""
    if keepdims:
        return tuple(1 if axis in axes else length for axis, length in enumerate(shape))
    return tuple(length for axis, length in enumerate(shape) if axis not in axes)

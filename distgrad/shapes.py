"""Shapes: broadcasting and axes, with errors that say which operand does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from distgrad.errors import PositionError, ShapeError

Shape: TypeAlias = tuple[int, ...]
Axis: TypeAlias = int | tuple[int, ...] | None


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
    """
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
    """
    if axis is None:
        return tuple(range(ndim))
    if isinstance(axis, int):
        return (normalize_axis(operation, axis, ndim),)
    axes = tuple(normalize_axis(operation, a, ndim) for a in axis)
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{operation}: axis {tuple(axis)} names an axis twice")
    return axes


def reduced(shape: Shape, axes: Shape, keepdims: bool) -> Shape:
    """Return the shape that is left after a reduction over axes (counted from the front)."""
    if keepdims:
        return tuple(1 if axis in axes else length for axis, length in enumerate(shape))
    return tuple(length for axis, length in enumerate(shape) if axis not in axes)

"""The operands of recurrent networks: sequences, weights and states, checked and in one dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.dtypes import as_dtype, is_real_floating, result_type
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.creation import full_beside
from distgrad.ops.shaping.structure import astype, flip, permute_dims
from distgrad.shapes import Shape, shape_given


def prepared(
    name: str, gates: int, x: Any, weights: Sequence[Any], time_major: bool
) -> tuple[Any, list[Any]]:
    """Return the sequence with time first, and all weights, in one dtype."""
    kernel, recurrent, *biases = weights
    shapes = {
        "x": shape_given(x),
        "kernel": shape_given(kernel),
        "recurrent_kernel": shape_given(recurrent),
    }
    for argument, rank in (("x", 3), ("kernel", 2), ("recurrent_kernel", 2)):
        if len(shapes[argument]) != rank:
            raise ShapeError(
                f"{name}: {argument} has shape {shapes[argument]}; expected {rank} axes"
            )
    units = shapes["recurrent_kernel"][0]
    expected: dict[str, Shape] = {
        "kernel": (shapes["x"][2], gates * units),
        "recurrent_kernel": (units, gates * units),
    }
    for argument, shape in expected.items():
        if shapes[argument] != shape:
            raise ShapeError(
                f"{name}: {argument} has shape {shapes[argument]}; for inputs of width "
                f"{shapes['x'][2]} and {units} units expected {shape}"
            )
    for bias in biases:
        if bias is not None and shape_given(bias) != (gates * units,):
            raise ShapeError(
                f"{name}: a bias has shape {shape_given(bias)}; expected {(gates * units,)}"
            )
    if not shapes["x"][0 if time_major else 1]:
        raise ShapeError(f"{name}: x has shape {shapes['x']}; expected one step or more")
    operands = [x, kernel, recurrent, *(bias for bias in biases if bias is not None)]
    joint = result_type(*(_real_dtype(name, each) for each in operands))
    full = [full_beside(x, (gates * units,), 0, joint) if b is None else b for b in biases]
    sequence, *rest = (_brought_to(each, joint) for each in (x, kernel, recurrent, *full))
    return sequence if time_major else permute_dims(sequence, (1, 0, 2)), rest


def initial_states(
    name: str, names: Sequence[str], given: Sequence[Any] | None, sequence: Any, units: int
) -> list[Any]:
    """Return the states before the first step."""
    shape = (shape_given(sequence)[1], units)
    if given is None:
        return [full_beside(sequence, shape, 0, sequence.dtype) for _ in names]
    if len(given) != len(names):
        raise ShapeError(
            f"{name}: initial_state has {len(given)} parts; expected {len(names)}: "
            f"{' and '.join(names)}"
        )
    for part, state in zip(names, given, strict=True):
        if shape_given(state) != shape:
            raise ShapeError(
                f"{name}: the initial {part} has shape {shape_given(state)}; expected {shape}"
            )
    return [_brought_to(state, sequence.dtype) for state in given]


def arranged(outputs: Any, time_major: bool, reverse: bool) -> Any:
    """Return the outputs at their inputs' steps, on the axes that the caller uses."""
    ordered = flip(outputs, axis=0) if reverse else outputs
    return ordered if time_major else permute_dims(ordered, (1, 0, 2))


def _brought_to(operand: Any, dtype: Any) -> Any:
    return operand if _dtype_of(operand) == dtype else astype(operand, dtype)


def _dtype_of(operand: Any) -> Any:
    return as_dtype(operand.dtype if hasattr(operand, "dtype") else np.asarray(operand).dtype)


def _real_dtype(name: str, operand: Any) -> Any:
    dtype = _dtype_of(operand)
    if not is_real_floating(dtype):
        raise DTypeError(f"{name}: an operand has dtype {dtype}; expected real floating ones")
    return dtype

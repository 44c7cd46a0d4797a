"""Transpose what pulls cotangents back: it is linear in them, and so pushes tangents forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.dtypes import is_differentiable
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tensor import Tensor

Values = list[Any]  # tensors, with None where there is none


def transposed(pull: Callable[[Values], Values], tangents: Values, units: list[Tensor]) -> Values:
    """Return the tangents of the outputs: the derivative of <pull(u), tangents> in u.

    Parameters
    ----------
    pull : callable
        Takes a cotangent for each output, returns one for each input, or None for zero.
    tangents : list of Tensor or None
        Those of the inputs.
    units : list of Tensor
        For each output an array of its shape and dtype: where `pull`, being linear, is
        differentiated does not matter.

    Returns
    -------
    list of Tensor or None
        None for outputs that do not depend on what moves, or hold integers.
    """
    moving = [unit for unit in units if is_differentiable(unit.dtype)]
    with GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(moving)
        pulled = pull(units)
    both = zip(pulled, tangents, strict=True)
    pairs = [(p, t) for p, t in both if p is not None and t is not None]
    if not pairs or not moving:
        return [None for _ in units]
    targets, directions = [p for p, _ in pairs], [t for _, t in pairs]
    found = iter(tape.gradient(targets, moving, directions, unconnected_gradients="zero"))
    return [next(found) if is_differentiable(unit.dtype) else None for unit in units]

"""Transpose what pulls cotangents back: it is linear in them, and so pushes tangents forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.dtypes import float32, is_differentiable
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
        For each output zeros of its shape and dtype.

    Returns
    -------
    list of Tensor or None
        None for outputs that do not depend on what moves, or hold integers.

    Notes
    -----
    Where `pull`, being linear, is differentiated does not matter, but to one that goes on until
    something has converged: given zeros it would stop at once, and what it did until then would be
    transposed. So it is given small numbers that have nothing in common.
    """
    units = [_stirred(unit) if is_differentiable(unit.dtype) else unit for unit in units]
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


def _stirred(zeros: Tensor) -> Tensor:
    """Return numbers between -1/128 and 1/128: rules that clip cotangents rarely clip these."""
    kernels = zeros.kernels
    steps = kernels.arange(start=0, stop=zeros.size, step=1, dtype=float32)
    numbers = kernels.multiply(kernels.reshape(kernels.cos(steps), shape=zeros.shape), 2.0**-7)
    of_dtype = kernels.astype(numbers, dtype=zeros.array.dtype)
    return Tensor(kernels.add(zeros.array, of_dtype), kernels)

"""Steps of optimizers on the device: one kernel for each parameter, in the arrays' own memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cupy

from distgrad.backend.scalar_code import Formula
from distgrad.optimizers.fused import Kernel, Steps
from distgrad.optimizers.in_place import Change
from distgrad_cupy.elementwise import compiled


def steps() -> Steps:
    """Return what the backend has as ``change_in_place``."""
    return Steps(_takes, _compiled)


def _takes(arrays: tuple[Any, ...]) -> bool:
    shape = arrays[0].shape
    return all(isinstance(each, cupy.ndarray) and each.shape == shape for each in arrays)


def _compiled(formula: Formula, count: int) -> Kernel:
    kernel = compiled(formula)
    exact = formula.inputs[-1][1].type if count else None

    def run(changes: Sequence[Change], numbers: Sequence[float]) -> bool:
        values = [exact(number) for number in numbers] if exact else []
        for change in changes:
            arrays = change.arrays
            kernel(*arrays, *values, arrays[0], *arrays[2:])
        return True

    return run

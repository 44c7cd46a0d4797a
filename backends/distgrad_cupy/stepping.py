"""Steps of optimizers on the device: one kernel for each parameter, in the arrays' own memory."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from distgrad.backend.scalar_code import NoScalarCode
from distgrad.optimizers.fused import formula_of, signature_of
from distgrad_cupy.elementwise import compiled


class Steps:
    """What a backend has as ``change_in_place``, see `distgrad.optimizers.vocabulary`."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(
        self,
        rule: Any,
        x: Any,
        gradient: Any,
        slots: tuple[Any, ...],
        master: Any,
        numbers: tuple[Any, ...],
    ) -> bool:
        """Change a parameter and its slots by a rule; return False where no kernel can.

        Parameters
        ----------
        rule, x, gradient, slots, master, numbers
            What `distgrad.optimizers.in_place.change_array` takes.
        """
        arrays = (x, gradient, *slots, *(() if master is None else (master,)))
        if any(not isinstance(each, cupy.ndarray) or each.shape != x.shape for each in arrays):
            return False
        if not all(isinstance(number, (int, float, np.number)) for number in numbers):
            return False
        key = (signature_of(rule), len(numbers), *(each.dtype for each in arrays))
        if key not in self._known:
            self._known[key] = _compiled(rule, x, gradient, slots, master, len(numbers))
        kernel = self._known[key]
        if kernel is None:
            return False
        exact = (x if master is None else master).dtype.type
        ends = (x, *slots, *(() if master is None else (master,)))
        kernel(*arrays, *(exact(number) for number in numbers), *ends)
        return True


def _compiled(
    rule: Any, x: Any, gradient: Any, slots: tuple[Any, ...], master: Any, count: int
) -> Any:
    dtypes = (x.dtype, gradient.dtype, [slot.dtype for slot in slots])
    try:
        formula = formula_of(rule, *dtypes, None if master is None else master.dtype, count)
    except NoScalarCode:
        return None
    return compiled(formula)

"""Steps of optimizers in one pass: arrays are read once, and written once in their own memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.backend.scalar_code import NoScalarCode
from distgrad.optimizers.fused import formula_of, signature_of
from distgrad_numpy.compiled import library
from distgrad_numpy.compiled.elementwise import compiled


class Steps:
    """What a backend has as ``change_in_place``, see `distgrad.optimizers.vocabulary`."""

    def __init__(self) -> None:
        self._known: dict[Any, Callable[..., bool] | None] = {}

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
        if not library.is_on():
            return False
        arrays = (x, gradient, *slots, *(() if master is None else (master,)))
        for each in arrays:
            if each.__class__ is not np.ndarray or each.shape != x.shape:
                return False
            if not each.flags.c_contiguous:
                return False
        for number in numbers:
            if number.__class__ is not float and not isinstance(number, (int, float, np.number)):
                return False
        key = (signature_of(rule), len(numbers), tuple([each.dtype for each in arrays]))
        try:
            kernel = self._known[key]
        except KeyError:
            kernel = self._known[key] = _compiled(rule, x, gradient, slots, master, len(numbers))
        if kernel is None:
            return False
        ends = (x, *slots, *(() if master is None else (master,)))
        return kernel(arrays, numbers, ends)


def _compiled(
    rule: Any, x: Any, gradient: Any, slots: tuple[Any, ...], master: Any, count: int
) -> Callable[..., bool] | None:
    dtypes = (x.dtype, gradient.dtype, [slot.dtype for slot in slots])
    try:
        formula = formula_of(rule, *dtypes, None if master is None else master.dtype, count)
    except NoScalarCode:
        return None
    return compiled(formula, [f"n{place}" for place in range(count)], exact=True)

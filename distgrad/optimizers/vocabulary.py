"""The functions that formulas of optimizers use: of tensors, or of a backend's raw arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from distgrad.backend.protocol import Backend
from distgrad.ops.elementwise.arithmetic import maximum
from distgrad.ops.elementwise.complex_numbers import conj, real
from distgrad.ops.elementwise.selection import where
from distgrad.ops.elementwise.transcendental import sqrt
from distgrad.ops.reducing.reductions import sum as sum_over


@dataclass(frozen=True)
class Vocabulary:
    """The functions that formulas use beside operators: of tensors, or of a backend's arrays.

    A backend may have ``change_in_place(rule, changes, numbers)``, which does a whole step on raw
    arrays, and returns those of the changes (`distgrad.optimizers.in_place.Change`) that it left
    undone; it is `fused` here.
    """

    sqrt: Callable[[Any], Any]
    maximum: Callable[[Any, Any], Any]
    where: Callable[[Any, Any, Any], Any]
    sum: Callable[[Any], Any]
    real: Callable[[Any], Any]
    conj: Callable[[Any], Any]
    fused: Callable[..., Sequence[Any]] | None = None

    def squared(self, x: Any) -> Any:
        """Return |x|², which is real."""
        return self.real(x * self.conj(x)) if np.dtype(x.dtype).kind == "c" else x * x

    def norm(self, x: Any) -> Any:
        """Return the Euclidean norm of all elements."""
        return self.sqrt(self.sum(self.squared(x)))


OF_TENSORS = Vocabulary(sqrt, maximum, where, sum_over, real, conj)


def vocabulary_of(backend: Backend, array: Any) -> Vocabulary | None:
    """Return the functions of a backend's raw arrays, if they are changed in place as NumPy's."""
    module: Any = np if isinstance(array, np.ndarray) else getattr(backend, "module", None)
    if module is None or not (module is np or getattr(backend, "speaks_numpy", False)):
        return None
    return _of_module(module, getattr(backend, "change_in_place", None))


@cache
def _of_module(module: Any, fused: Callable[..., Sequence[Any]] | None) -> Vocabulary:
    return Vocabulary(
        module.sqrt,
        module.maximum,
        module.where,
        module.sum,
        module.real,
        module.conj,
        fused,
    )

"""Calls made to learn shapes alone: variables keep the values that they had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from distgrad.eager import asarray
from distgrad.nn.module_tree import variables_of
from distgrad.variable import Variable

# The variables that a rehearsal has seen, with their arrays; None outside of one.
_SEEN: ContextVar[list[tuple[Variable, Any]] | None] = ContextVar(
    "distgrad_module_rehearsal", default=None
)


@contextmanager
def rehearsing(module: Any) -> Iterator[None]:
    """Undo, in the end, what the block assigned to variables of a module, as running moments are.

    Those that it creates get their first values back. Whoever holds an array keeps assignments from
    changing it in place, so that nothing is copied.
    """
    seen = [(variable, variable.array) for variable in variables_of(module)]
    token = _SEEN.set(seen)
    try:
        yield
    finally:
        _SEEN.reset(token)
        for variable, array in seen:
            if variable.array is not array:
                variable.assign(asarray(array, backend=variable.backend))


def note_created(variable: Variable) -> None:
    """Let a rehearsal under way know the first value of a variable."""
    seen = _SEEN.get()
    if seen is not None:
        seen.append((variable, variable.array))

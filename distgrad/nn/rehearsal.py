"""Calls made to learn shapes alone: variables and generators keep the values that they had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from distgrad.core.seam import LISTENERS
from distgrad.eager import asarray
from distgrad.nn.module_tree import variables_of
from distgrad.variable import Variable

# The rehearsal under way; None outside of one.
_REHEARSAL: ContextVar[_Rehearsal | None] = ContextVar("distgrad_module_rehearsal", default=None)


class _Rehearsal:
    """A listener that notes the first values of variables: a draw reads its generator's."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Variable, Any]] = {}

    def hear_read(self, variable: Variable) -> None:
        """Note what a variable was before it could be assigned."""
        self._seen.setdefault(variable.key, (variable, variable.array))

    def hear(self, *_: Any) -> None:
        """Take no notice of operations."""

    def follows(self, key: int) -> bool:
        """Return False: nothing is differentiated here."""
        return False

    def undo(self) -> None:
        """Assign the first values where others stand now."""
        for variable, array in self._seen.values():
            if variable.array is not array:
                variable.assign(asarray(array, backend=variable.backend))


@contextmanager
def rehearsing(module: Any) -> Iterator[None]:
    """Undo, in the end, what the block assigned to variables, as running moments are, and drew.

    Those that it creates get their first values back. Whoever holds an array keeps assignments from
    changing it in place, so that nothing is copied.
    """
    rehearsal = _Rehearsal()
    for variable in variables_of(module):  # which may be assigned without being read
        rehearsal.hear_read(variable)
    heard = LISTENERS.set((*LISTENERS.get(), rehearsal))
    token = _REHEARSAL.set(rehearsal)
    try:
        yield
    finally:
        _REHEARSAL.reset(token)
        LISTENERS.reset(heard)
        rehearsal.undo()


def note_created(variable: Variable) -> None:
    """Let a rehearsal under way know the first value of a variable."""
    rehearsal = _REHEARSAL.get()
    if rehearsal is not None:
        rehearsal.hear_read(variable)

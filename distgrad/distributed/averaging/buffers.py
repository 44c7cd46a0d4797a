"""Keep flat host buffers from step to step, and give out those that nobody looks at any more.

The gradients that a step returns are views of its buffers, and a program may keep them as long as
it likes. NumPy's views hold a reference to the array that owns the memory, so a buffer is free
exactly if only the pool refers to it: the interpreter's count of references says so.
"""

from __future__ import annotations

import sys
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np

from distgrad.distributed.verbs.communicator import Array, Communicator

_UNUSED_TAKES = 256  # after so many others a buffer is of a model that trains no more


class Buffers:
    """A pool of flat arrays."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, int], list[Array]] = {}
        self._taken: dict[tuple[str, int], int] = {}
        self._takes = 0
        self._noted: dict[int, ref[Array]] = {}  # by identity, of which no two live at once

    def take(self, length: int, dtype: np.dtype[Any]) -> Array:
        """Return a flat array that nobody else uses; what it holds is left over."""
        key = (dtype.str, length)
        self._takes += 1
        self._taken[key] = self._takes
        arrays = self._arrays.setdefault(key, [])
        place = _idle(arrays)
        if place is not None:
            return arrays[place]
        self._forget()
        made = np.empty(length, dtype)
        arrays.append(made)
        return made

    def note(self, array: Array) -> None:
        """Remember an array that is none of the pool's as lent, for as long as somebody has it."""
        key, noted = id(array), self._noted
        noted[key] = ref(array, lambda _: noted.pop(key, None))

    def lent(self, array: Any) -> bool:
        """Return whether an array is a view of one of the pool, or of one that was noted."""
        while isinstance(getattr(array, "base", None), np.ndarray):
            array = array.base
        noted = self._noted.get(id(array))
        if noted is not None and noted() is array:
            return True
        return any(array is own for arrays in self._arrays.values() for own in arrays)

    @property
    def nbytes(self) -> int:
        """How much memory the pool holds."""
        return sum(array.nbytes for arrays in self._arrays.values() for array in arrays)

    def _forget(self) -> None:
        """Let go of sizes that are asked for no more."""
        for key in [k for k, at in self._taken.items() if self._takes - at > _UNUSED_TAKES]:
            del self._arrays[key], self._taken[key]


def _idle(arrays: list[Array]) -> int | None:
    """Return the place of an array to which nothing but the list refers."""
    for place in range(len(arrays)):
        if sys.getrefcount(arrays[place]) <= _REFERENCES:
            return place
    return None


def _references_to_idle() -> int:
    """Return what the interpreter counts for such an array: versions differ by one."""
    arrays = [np.empty(0)]
    for place in range(len(arrays)):
        count = sys.getrefcount(arrays[place])
    return count


_REFERENCES = _references_to_idle()
_pools: WeakKeyDictionary[Communicator, Buffers] = WeakKeyDictionary()


def buffers_of(comm: Communicator) -> Buffers:
    """Return the pool of a communicator's messages."""
    pool = _pools.get(comm)
    if pool is None:
        pool = _pools[comm] = Buffers()
    return pool

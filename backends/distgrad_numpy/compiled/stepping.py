"""Steps of optimizers in one pass: arrays are read once, and written once in their own memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.backend.scalar_code import Formula
from distgrad.optimizers.fused import Kernel, Repeated, Steps
from distgrad.optimizers.in_place import Change
from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled import vector_functions as functions
from distgrad_numpy.compiled.elementwise import PIECE, Source, source_of

_TYPES = [ctypes.c_longlong] * 3 + [ctypes.c_void_p] * 2


def steps() -> Steps:
    """Return what the backend has as ``change_in_place``."""
    return Steps(_takes, _compiled)


def _takes(arrays: tuple[Any, ...]) -> bool:
    shape = arrays[0].shape
    for each in arrays:
        if each.__class__ is not np.ndarray or each.shape != shape or not each.flags.c_contiguous:
            return False
    return library.is_on()


def _compiled(formula: Formula, count: int) -> Kernel | None:
    source = source_of(formula, [f"n{place}" for place in range(count)])
    return None if source is None else _Kernel(source, count)


class _Kernel:
    """The step of a formula on all parameters whose arrays have its dtypes.

    Parameters
    ----------
    source : Source
        For one parameter.
    count : int
        How many numbers a step has.
    """

    def __init__(self, source: Source, count: int) -> None:
        self._source, self._count = source, count
        self._text = source.text + _steps(source, count)
        self._ready: list[Any] = []

    def __call__(self, changes: Sequence[Change], numbers: Sequence[float]) -> bool:
        """Change parameters and their slots; return False where there is no compiler."""
        arrays: list[Any] = []
        for change in changes:
            arrays += change.arrays
        return self._run(arrays, _sizes(changes), numbers)

    def repeated(self, changes: Sequence[Change]) -> Repeated:
        """Return what does the same again, see `distgrad.optimizers.fused.Repeated`."""
        sizes, dtype, width = _sizes(changes), changes[0].gradient.dtype, len(changes[0].arrays)
        arrays: list[Any] = [None] * (width * len(changes))

        def again(own: list[Any], gradients: list[Any], numbers: Sequence[float]) -> bool:
            if not library.is_on() or {*map(type, numbers)} != {float}:
                return False
            for each in gradients:
                if each.dtype != dtype or not each.flags.c_contiguous:
                    return False
            together = arrays.copy()
            together[0::width] = own[0 :: width - 1]
            together[1::width] = gradients
            for place in range(2, width):
                together[place::width] = own[place - 1 :: width - 1]
            return self._run(together, sizes, numbers)

        return again

    def _run(self, arrays: list[Any], sizes: Any, numbers: Sequence[float]) -> bool:
        if not self._ready and not self._load():
            return False
        table, head = library.table_of(arrays)
        total, (run, run_shared) = sum(sizes), self._ready
        if total <= PIECE:
            run(0, total, head, sizes, table, *numbers)
        else:
            run_shared(total, PIECE, head, sizes, table, *numbers)
        return True

    def _load(self) -> bool:
        found = library.from_source(
            self._source.name, self._text, exact=True, further=functions.options()
        )
        if found is None:
            return False
        found.steps.argtypes = _TYPES + [self._source.scalar] * self._count
        found.steps.restype = None
        # At once: other threads may be here, too.
        self._ready[:] = (found.steps, crew.shared_of(found, "steps", found.steps.argtypes[2:]))
        return True


def _sizes(changes: Sequence[Change]) -> Any:
    return (ctypes.c_longlong * len(changes))(*[change.x.size for change in changes])


def _steps(source: Source, count: int) -> str:
    """Return the C++ of a function over a range of the elements of all parameters, end to end.

    Of each parameter the table has those arrays that are read. What is written is the first of
    them, and those behind the second: all but the gradient.
    """
    numbers = "".join(f", {source.scalar.__name__[2:]} n{place}" for place in range(count))
    own = "".join(f"n{place}, " for place in range(count))
    read = (len(source.pointers) + 1) // 2
    places = [*range(read), 0, *range(2, read)]
    arrays = ", ".join(
        f"({kind})memory({place})" for kind, place in zip(source.pointers, places, strict=True)
    )
    return f"""
KERNEL void steps(
    index_t begin, index_t end, index_t head, const index_t* sizes, char* const* table{numbers}
) {{
    const auto memory = [&](int place) {{
        return head ? *(void**)(table[place] + head) : (void*)table[place];
    }};
    for (index_t start = 0; start < end; table += {read}) {{
        const index_t size = *sizes++;
        const index_t low = begin > start ? begin - start : 0;
        const index_t high = end - start < size ? end - start : size;
        if (low < high) run(low, high, {own}{arrays});
        start += size;
    }}
}}
SHARED(steps)
"""

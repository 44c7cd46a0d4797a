"""Steps of optimizers in one pass: arrays are read once, and written once in their own memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.backend.scalar_code import Formula
from distgrad.optimizers.fused import Kernel, Steps
from distgrad.optimizers.in_place import Change
from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.elementwise import PIECE, Source, source_of

_TYPES = [ctypes.c_longlong] * 2 + [ctypes.c_void_p] * 2


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
    if source is None:
        return None
    text = source.text + _steps(source, count)
    ready: list[Any] = []

    def kernel(changes: Sequence[Change], numbers: Sequence[float]) -> bool:
        if not ready:
            found = library.from_source(source.name, text, exact=True)
            if found is None:
                return False
            found.steps.argtypes = _TYPES + [source.scalar] * count
            found.steps.restype = None
            # At once: other threads may be here, too.
            ready[:] = (found.steps, crew.shared_of(found, "steps", found.steps.argtypes[2:]))
        sizes: list[int] = []
        places: list[int] = []
        for change in changes:
            own = [library.address(each) for each in change.arrays]
            sizes.append(change.x.size)
            places += own
            places.append(own[0])
            places += own[2:]
        table = (ctypes.c_void_p * len(places))(*places)
        lengths = (ctypes.c_longlong * len(sizes))(*sizes)
        total, (run, run_shared) = sum(sizes), ready
        if total <= PIECE:
            run(0, total, lengths, table, *numbers)
        else:
            run_shared(total, PIECE, lengths, table, *numbers)
        return True

    return kernel


def _steps(source: Source, count: int) -> str:
    """Return the C++ of a function over a range of the elements of all parameters, end to end."""
    numbers = "".join(f", {source.scalar.__name__[2:]} n{place}" for place in range(count))
    own = "".join(f"n{place}, " for place in range(count))
    arrays = ", ".join(f"({each})table[{place}]" for place, each in enumerate(source.pointers))
    return f"""
KERNEL void steps(
    index_t begin, index_t end, const index_t* sizes, void* const* table{numbers}
) {{
    for (index_t start = 0; start < end; table += {len(source.pointers)}) {{
        const index_t size = *sizes++;
        const index_t low = begin > start ? begin - start : 0;
        const index_t high = end - start < size ? end - start : size;
        if (low < high) run(low, high, {own}{arrays});
        start += size;
    }}
}}
SHARED(steps)
"""

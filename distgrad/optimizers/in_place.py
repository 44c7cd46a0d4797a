"""Change parameters and slots in their own memory, block by block, by the formula of a rule.

A formula makes temporaries. Of a block of a few thousand elements they fit into the cache and are
handed out again and again by the allocator, where those of whole arrays would be new pages at every
step; and the passes over memory are the fewest that there can be: each array is read once, and each
one that changes written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from distgrad.optimizers.vocabulary import Vocabulary
from distgrad.tensor import Tensor

# Elements of a block. On a host eight float32 arrays of it (512 KiB) fit into a second-level cache,
# and far below 8k Python's time for each call shows (scripts/bench optimizers). On a device a block
# is as large as its temporaries should be.
_HOST_BLOCK = 16_384
_DEVICE_BLOCK = 4_194_304


class Formula(Protocol):
    """What this module asks of a rule."""

    elementwise: bool

    def change(
        self, f: Vocabulary, x: Any, g: Any, slots: tuple[Any, ...], numbers: tuple[Any, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return what is added to a parameter, and its next slots."""
        ...


def change_array(
    rule: Formula,
    f: Vocabulary,
    x: Any,
    gradient: Any,
    slots: tuple[Any, ...],
    master: Any,
    numbers: tuple[Any, ...],
) -> None:
    """Change one parameter and its slots in place.

    Parameters
    ----------
    rule : Formula
        Whose formula it is.
    f : Vocabulary
        The functions of the arrays.
    x : array
        The parameter; changed.
    gradient : array of the same shape
        Its gradient; read only.
    slots : tuple of arrays
        Changed.
    master : array or None
        The copy that counts where `x` is in half precision; changed.
    numbers : tuple
        Those of the step.
    """
    if f.fused is not None and f.fused(rule, x, gradient, slots, master, numbers):
        return
    arrays = (x, gradient, *slots, *(() if master is None else (master,)))
    for block in _blocks(arrays) if rule.elementwise else [arrays]:
        own, g = block[:2]
        values = block[2 : 2 + len(slots)]
        exact = own if master is None else block[-1]
        if g.dtype != exact.dtype:
            g = g.astype(exact.dtype)
        update, after = rule.change(f, exact, g, values, numbers)
        exact += update
        if master is not None:
            own[...] = exact
        for value, new in zip(values, after, strict=True):
            value[...] = new


def change_rows(
    rule: Formula,
    f: Vocabulary,
    x: Any,
    slices: Any,
    slots: tuple[Any, ...],
    master: Any,
    numbers: tuple[Any, ...],
) -> None:
    """Change the rows of one parameter that slices name, each once, and those of its slots."""
    once = slices.coalesce()
    rows = once.indices.array
    parts = tuple(slot[rows] for slot in slots)
    exact = None if master is None else master[rows]
    part = x[rows]
    change_array(rule, f, part, once.values.array, parts, exact, numbers)
    for whole, new in zip((x, *slots), (part, *parts), strict=True):
        whole[rows] = new
    if master is not None:
        master[rows] = exact


def own_array(variable: Any) -> Any:
    """Return the array of a variable to be changed in place, a copy where somebody else sees it.

    Tensors that were read, records of tapes and NumPy's views keep the value that they have.
    """
    array = variable.array
    writable = getattr(getattr(array, "flags", None), "writeable", True)
    del array
    if writable and variable._is_alone():
        return variable.array
    kernels = variable.kernels
    array = kernels.backend.asarray(variable.array, copy=True)
    variable._value = Tensor(array, kernels, variable.key)
    return array


def _blocks(arrays: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield views of the same elements of arrays of one shape, a block at a time."""
    size = _HOST_BLOCK if isinstance(arrays[0], np.ndarray) else _DEVICE_BLOCK
    if arrays[0].size <= size:
        yield arrays
        return
    if all(array.flags.c_contiguous for array in arrays):
        flat = [array.reshape(-1) for array in arrays]
        for start in range(0, flat[0].shape[0], size):
            yield tuple(array[start : start + size] for array in flat)
        return
    # Not one line in memory each (a transposed gradient): along the first axis, then within it.
    length = arrays[0].shape[0]
    rows = max(1, size * length // arrays[0].size)
    for start in range(0, length, rows):
        part = tuple(array[start : start + rows] for array in arrays)
        if rows > 1 or part[0].ndim == 1:
            yield part
        else:
            yield from _blocks(tuple(array[0] for array in part))

"""Change parameters and slots in their own memory, block by block, by the formula of a rule.

A formula makes temporaries. Of a block of a few thousand elements they fit into the cache and are
handed out again and again by the allocator, where those of whole arrays would be new pages at every
step; and the passes over memory are the fewest that there can be: each array is read once, and each
one that changes written once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol
from weakref import ReferenceType, ref

import numpy as np

from distgrad.optimizers.vocabulary import Vocabulary
from distgrad.tensor import Tensor
from distgrad.variable import InPlace

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


class Change(NamedTuple):
    """The arrays of one parameter in a step; all of one shape.

    Attributes
    ----------
    x : array
        The parameter; changed.
    gradient : array
        Its gradient; read only.
    slots : tuple of arrays
        Changed.
    master : array or None
        The copy that counts where `x` is in half precision; changed.
    """

    x: Any
    gradient: Any
    slots: tuple[Any, ...]
    master: Any

    @property
    def arrays(self) -> tuple[Any, ...]:
        """All of them: parameter, gradient, slots, and the copy where there is one."""
        own = (self.x, self.gradient, *self.slots)
        return own if self.master is None else (*own, self.master)


def change_arrays(
    rule: Formula, f: Vocabulary, changes: Sequence[Change], numbers: tuple[Any, ...]
) -> None:
    """Change parameters and their slots in place.

    Parameters
    ----------
    rule : Formula
        Whose formula it is.
    f : Vocabulary
        The functions of the arrays; what it has `fused` is asked first.
    changes : sequence of Change
        The arrays, those of one parameter after the other.
    numbers : tuple
        Those of the step.
    """
    left = changes if f.fused is None else f.fused(rule, changes, numbers)
    for change in left:
        _change(rule, f, change, numbers)


def _change(rule: Formula, f: Vocabulary, change: Change, numbers: tuple[Any, ...]) -> None:
    arrays, has_master = change.arrays, change.master is not None
    for block in _blocks(arrays) if rule.elementwise else [arrays]:
        own, g = block[:2]
        values = block[2 : 2 + len(change.slots)]
        exact = block[-1] if has_master else own
        if g.dtype != exact.dtype:
            g = g.astype(exact.dtype)
        update, after = rule.change(f, exact, g, values, numbers)
        exact += update
        if has_master:
            own[...] = exact
        for value, new in zip(values, after, strict=True):
            value[...] = new


def change_rows(
    rule: Formula, f: Vocabulary, whole: Change, slices: Any, numbers: tuple[Any, ...]
) -> None:
    """Change the rows of one parameter that slices name, each once, and those of its slots.

    The gradient of `whole` is not read.
    """
    once = slices.coalesce()
    rows = once.indices.array
    x, _, slots, master = whole
    part = Change(
        x[rows],
        once.values.array,
        tuple(slot[rows] for slot in slots),
        None if master is None else master[rows],
    )
    change_arrays(rule, f, [part], numbers)
    x[rows] = part.x
    for slot, new in zip(slots, part.slots, strict=True):
        slot[rows] = new
    if master is not None:
        master[rows] = part.master


def own_array(variable: Any) -> Any:
    """Return the array of a variable to be changed in place, a copy where somebody else sees it.

    Tensors that were read, records of tapes and NumPy's views keep the value that they have.
    """
    InPlace.changes += 1
    if variable._is_alone():
        array = variable._value.array
        flags = array.flags if array.__class__ is np.ndarray else getattr(array, "flags", None)
        if getattr(flags, "writeable", True):
            return array
    kernels = variable.kernels
    array = kernels.backend.asarray(variable.array, copy=True)
    variable._value = Tensor(array, kernels, variable.key)
    return array


# Counts on devices, by the identity of the array that holds them: to read one there, the host would
# have to wait for all work before. Whatever assigns a count puts another array in its place.
_counts: dict[int, tuple[ReferenceType[Any], int]] = {}


def count_of(variable: Any) -> int:
    """Return the count of steps in a variable."""
    array = variable.array
    if array.__class__ is np.ndarray:
        return int(array.item())
    reference, count = _counts.get(id(array), (None, 0))
    return count if reference is not None and reference() is array else int(array)


def count_up(variable: Any) -> None:
    """Add one to the count of steps in a variable."""
    count = count_of(variable) + 1
    array = own_array(variable)
    if array.__class__ is np.ndarray:
        array.fill(count)
        return
    array += 1
    place = id(array)
    _counts[place] = ref(array, lambda _: _counts.pop(place, None)), count


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

"""Records: what a tape writes down of one operation, and how little that may be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from distgrad.core.op import Keep, Op, Spec

# Members of the enumeration under names of this module: in CPython 3.11 to look one up at the class
# is a call of Python's, which cost a sixth of what it takes to write down a record.
INPUTS, OUTPUT, BOTH, SPECS = Keep.INPUTS, Keep.OUTPUT, Keep.BOTH, Keep.SPECS
_SHAPES, _REST, _SUMMARIES, _POSITIONS = Keep.SHAPES, Keep.REST, Keep.SUMMARIES, Keep.POSITIONS


class Record(NamedTuple):
    """One operation that a tape heard; a tape stores plain tuples in this order, which are cheaper.

    Attributes
    ----------
    op : Op
        The operation.
    sources : sequence of int
        The identity of each input that the tape follows; 0 for the others.
    output : int or tuple of int
        The identity of the output, or of each of several.
    keys : sequence of int
        The identity of every input, also of those that only another tape follows.
    xs : tuple or None
        What is kept of the inputs, see `Keep`.
    y : array or None
        The output's array, if it is kept; the outputs' specs if there are several.
    params : dict
        The metadata.
    kernels : Kernels
        The vocabulary on the arrays' backend.
    """

    op: Op
    sources: Sequence[int]
    output: Any
    keys: Sequence[int]
    xs: Any
    y: Any
    params: dict[str, Any]
    kernels: Any


def kept(op: Op, sources: Sequence[int], arrays: tuple[Any, ...], output: Any) -> tuple[Any, Any]:
    """Return what a record keeps of the inputs and of the output.

    Parameters
    ----------
    op : Op
        The operation.
    sources : sequence of int
        As in `Record`: true where a cotangent will be needed.
    arrays : tuple
        The inputs' raw arrays.
    output : array
        The output's raw array.
    """
    keep = op.keep
    if keep.__class__ is tuple:
        return _read_by_needed(keep, sources, arrays, output), None
    if keep is _SHAPES:
        return _shapes(arrays, output), None
    if keep is OUTPUT:
        return None, output
    if keep is INPUTS:
        return arrays, None
    if keep is BOTH:
        return arrays, output
    if keep is _REST:
        return (spec_of(arrays[0]), *arrays[1:]), None
    if keep is _SUMMARIES:
        return arrays, (spec_of(output[0]), *output[1:])
    if keep is _POSITIONS:
        return (spec_of(arrays[0]), spec_of(arrays[1]), *arrays[2:]), None
    return tuple(spec_of(array) for array in arrays), None


def _shapes(arrays: tuple[Any, ...], output: Any) -> tuple[Any, ...] | None:
    """Return the shapes of the inputs; None where all are the output's.

    A Python scalar never needs a cotangent: it may count as having the output's shape.
    """
    if len(arrays) == 1:
        return (arrays[0].shape,)
    shape = output.shape
    if len(arrays) == 2:
        first = getattr(arrays[0], "shape", shape)
        second = getattr(arrays[1], "shape", shape)
        return None if first == shape == second else (first, second)
    shapes = tuple([getattr(array, "shape", shape) for array in arrays])
    return None if shapes.count(shape) == len(shapes) else shapes


def _read_by_needed(
    reads: Any, sources: Sequence[int], arrays: tuple[Any, ...], output: Any
) -> tuple[Any, ...]:
    """Return the arrays that needed cotangents are computed from; a spec or None for the others."""
    shape = output.shape
    if len(arrays) == 2:  # most operations; spelled out because it is on the way of each of them
        if sources[0] and sources[1]:
            return arrays
        first, second = arrays
        read = reads[0] if sources[0] else reads[1]
        if 0 not in read:
            own = getattr(first, "shape", shape)
            first = None if own == shape else Spec(own, first.dtype)
        if 1 not in read:
            own = getattr(second, "shape", shape)
            second = None if own == shape else Spec(own, second.dtype)
        return first, second
    needed = _read_for(reads, tuple(map(bool, sources)))
    return tuple(
        [
            array
            if position in needed
            else (None if getattr(array, "shape", shape) == shape else spec_of(array))
            for position, array in enumerate(arrays)
        ]
    )


@cache
def _read_for(reads: Any, wanted: tuple[bool, ...]) -> frozenset[int]:
    """Return the positions of the inputs that the wanted cotangents are computed from."""
    pairs = zip(wanted, reads, strict=True)
    return frozenset(position for want, positions in pairs if want for position in positions)


def spec_of(array: Any) -> Any:
    """Return the spec of an array; a Python scalar stays what it is."""
    return Spec(array.shape, array.dtype) if hasattr(array, "shape") else array

"""Where windows lie that slide over an array: how many fit, and what they need of padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import gcd
from operator import index
from typing import NamedTuple, TypeAlias

from distgrad.errors import ShapeError
from distgrad.shapes import Shape

Pairs: TypeAlias = tuple[tuple[int, int], ...]  # of padding: before and behind, for each axis
Padding: TypeAlias = str | int | Sequence[int | Sequence[int]]


class Geometry(NamedTuple):
    """How a window slides: what the arrays' shapes do not say."""

    stride: Shape
    padding: Pairs
    dilation: Shape
    groups: int = 1


class Phase(NamedTuple):
    """One residue of positions in the adjoint of a strided window, along one axis.

    The adjoint writes to the positions ``start, start + stride, ...``; to these only the taps
    ``first, first + step, ...`` contribute, and they do so as a window of stride 1.
    """

    start: int
    length: int
    first: int
    step: int
    taps: int
    dilation: int
    padding: tuple[int, int]


def extent(window: int, dilation: int) -> int:
    """Return how many positions a window spans, from its first tap to its last."""
    return (window - 1) * dilation + 1


def count(
    length: int, window: int, stride: int, padding: tuple[int, int], dilation: int = 1
) -> int:
    """Return how many windows fit along an axis; never less than 0."""
    return max((length + sum(padding) - extent(window, dilation)) // stride + 1, 0)


def counts(
    lengths: Shape, window: Shape, stride: Shape, padding: Pairs, dilation: Shape
) -> tuple[int, ...]:
    """Return how many windows fit along each axis."""
    return tuple(map(count, lengths, window, stride, padding, dilation))


def per_axis(name: str, argument: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Return an argument that is one positive integer for all axes, or one for each.

    Raises
    ------
    ShapeError
        If there is another number of them, or one is less than 1.
    """
    given = _integers(value, rank)
    if given is None or len(given) != rank or min(given, default=1) < 1:
        raise ShapeError(
            f"{name}: {argument} is {value!r}; expected a positive integer, or {rank} of them, one "
            "for each spatial axis"
        )
    return given


def _integers(value: int | Sequence[int], count: int) -> tuple[int, ...] | None:
    """Return an integer so many times, or the integers of a sequence; None of anything else."""
    if value.__class__ is int:
        return (value,) * count
    try:
        return tuple(map(index, value if hasattr(value, "__iter__") else (value,) * count))
    except TypeError:
        return None


def paddings(
    name: str,
    padding: Padding,
    lengths: Shape,
    window: Shape,
    stride: Shape,
    dilation: Shape,
) -> Pairs:
    """Return how much to pad before and behind along each axis.

    Parameters
    ----------
    name : str
        The operation, for messages.
    padding : str, int or sequence
        ``"valid"``: none; ``"same"``: as much as gives ``ceil(length / stride)`` windows, the odd
        one behind; an integer for all sides; or for each axis an integer or a pair.
    lengths, window, stride, dilation : tuple of int
        For each spatial axis.

    Raises
    ------
    ShapeError
        If `padding` is none of these, or negative.
    """
    if isinstance(padding, str):
        word = padding.lower()
        if word == "valid":
            return ((0, 0),) * len(lengths)
        if word == "same":
            return tuple(map(_same, lengths, window, stride, dilation))
    else:
        sides = tuple(padding) if hasattr(padding, "__iter__") else (padding,) * len(lengths)
        pairs = tuple(_integers(side, 2) or () for side in sides)
        if len(pairs) == len(lengths) and all(len(pair) == 2 and min(pair) >= 0 for pair in pairs):
            return tuple((pair[0], pair[1]) for pair in pairs)
    raise ShapeError(
        f"{name}: padding is {padding!r}; expected 'same', 'valid', a number from 0 up, or for "
        f"each of the {len(lengths)} spatial axes a number or a pair (before, behind)"
    )


def _same(length: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    fitting = -(-length // stride)
    missing = max((fitting - 1) * stride + extent(window, dilation) - length, 0)
    return missing // 2, missing - missing // 2


def adjoint_phases(
    lengths: Shape, windows: Shape, window: Shape, geometry: Geometry
) -> Iterator[tuple[Phase, ...]]:
    """Yield what makes up the adjoint over all axes: a phase for each, in every combination.

    Parameters
    ----------
    lengths, windows, window : tuple of int
        For each spatial axis, see `phases`.
    geometry : Geometry
        How the window slides.
    """
    before = (ahead for ahead, _ in geometry.padding)
    along = map(phases, lengths, windows, window, geometry.stride, before, geometry.dilation)
    yield from product(*along)


def phases(
    length: int, windows: int, window: int, stride: int, before: int, dilation: int
) -> list[Phase]:
    """Return the windows of stride 1 that make up the adjoint of a strided one, along an axis.

    Parameters
    ----------
    length : int
        How long the axis is over which the window slides; the adjoint's result has this length.
    windows : int
        How many windows there are, the length of the adjoint's operand.
    window, stride, before, dilation : int
        Taps of the window, its stride, the padding in front, and the distance of two taps.

    Notes
    -----
    Window j has its tap t at position ``i = j stride + t dilation - before``. So position i meets
    the taps with ``t dilation = i + before (mod stride)``, every ``stride / gcd(stride, dilation)``
    th one; the first of these at window ``j``, the next at ``j - dilation / gcd``. The taps of a
    phase are to be taken in reverse, last first. A phase may have no taps, or negative padding.
    """
    common = gcd(stride, dilation)
    step, near = stride // common, dilation // common
    result = []
    for residue in range(stride):
        start = (residue - before) % stride
        if start >= length:
            continue
        number = -(-(length - start) // stride)
        hits = (t for t in range(min(window, step)) if t * dilation % stride == residue)
        first = next(hits, None)
        if first is None:
            result.append(Phase(start, number, 0, step, 0, near, (0, 0)))
            continue
        taps = -(-(window - first) // step)
        reach = (taps - 1) * near
        ahead = reach - (start + before - first * dilation) // stride
        behind = number - windows - ahead + reach
        result.append(Phase(start, number, first, step, taps, near, (ahead, behind)))
    return result

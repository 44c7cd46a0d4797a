"""Carry many arrays in few messages: flat buffers in the order of the sources, never of arrival."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from numbers import Real
from typing import Any

import numpy as np

from distgrad.core.spans import COMPUTE, spanned
from distgrad.distributed.verbs.communicator import Array, wire_dtype

BUCKET_BYTES = 25 * 2**20  # as PyTorch's DistributedDataParallel has
_SMALL_BYTES = 2**20
# An array of a MiB, or of a sixteenth of a long bucket, does not share a message where it need not:
# to copy it there and back takes longer than one message more. 16 is a compromise: where messages
# take long to set off, longer buckets bring large arrays together again.
_ALONE_BYTES, _ALONE_PART = 2**20, 16


def checked_bucket_bytes(function: str, given: Any, otherwise: str = "") -> int:
    """Return the length of a message; raise a `ValueError` unless it is 1 byte or more."""
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    if not (is_number and given >= 1):
        raise ValueError(
            f"{function}: bucket_bytes is {given!r}; expected a number of bytes, 1 or more"
            f"{otherwise}"
        )
    length: int = given
    return length


@dataclass(frozen=True)
class Bucket:
    """The layout of one message: arrays end to end, as a rule after a weight.

    Attributes
    ----------
    dtype : numpy.dtype
        In which the message travels and is added up.
    positions : tuple of int
        Which arrays it carries, in order.
    shapes : tuple of tuple of int
        Their shapes.
    has_weight : bool
        Whether the message begins with the weight: where the ranks know each other's, it need not.
    """

    dtype: np.dtype[Any]
    positions: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    has_weight: bool = True

    @spanned("pack", COMPUTE)
    def pack(
        self, arrays: Sequence[Array | None], weight: float, out: Array | None = None
    ) -> Array:
        """Return the message: the weight if it has one, and the arrays times the weight.

        Parameters
        ----------
        arrays : sequence of numpy.ndarray or None
            One for each of `positions`; None stands for zeros.
        weight : float
            Zero makes all zeros, whatever the arrays hold: the mean over no examples is NaN.
        out : numpy.ndarray, optional
            Where to put the message; a new array by default.
        """
        message = np.empty(self.length, self.dtype) if out is None else out
        if self.has_weight:
            message[0] = weight
        for array, piece in zip(arrays, self._views(message), strict=True):
            if array is None or not weight:
                piece[...] = 0
            else:
                # Widened first: half precision overflows where it is multiplied.
                np.multiply(array.astype(self.dtype, copy=False), weight, out=piece)
        return message

    def unpack(self, message: Array) -> list[Array]:
        """Return the arrays of a message, as views of it."""
        return self._views(message)

    @property
    def length(self) -> int:
        """How many elements a message has."""
        return self.has_weight + sum(math.prod(shape) for shape in self.shapes)

    def _views(self, message: Array) -> list[Array]:
        views, start = [], int(self.has_weight)
        for shape in self.shapes:
            stop = start + math.prod(shape)
            views.append(message[start:stop].reshape(shape))
            start = stop
        return views


@lru_cache(maxsize=64)  # a training loop asks for the same at every step
def plan_buckets(
    dtypes: tuple[np.dtype[Any], ...],
    shapes: tuple[tuple[int, ...], ...],
    positions: tuple[int, ...],
    bucket_bytes: int | None = None,
    *,
    has_weight: bool = True,
) -> tuple[Bucket, ...]:
    """Return the buckets for the arrays at some positions, in the order in which they leave.

    Parameters
    ----------
    dtypes, shapes : tuple
        Of all arrays.
    positions : tuple of int
        Which arrays to carry, in ascending order.
    bucket_bytes : int, optional
        How long a message may get, unless one array alone is longer; None for one for each dtype
        on the wire.
    has_weight : bool
        Whether messages begin with a weight. Where not, an array of 1 MiB and a sixteenth of a
        bucket or more travels by itself: then it can be added up where it lies.

    Notes
    -----
    The last arrays leave first, since a walk back comes to them first. The first message and the
    last one are of 1 MiB at most: the one so that sending begins early, the other because nothing
    is left to compute while it travels.
    """
    by_dtype: dict[np.dtype[Any], list[int]] = {}
    for position in positions:
        by_dtype.setdefault(wire_dtype(dtypes[position], "sum"), []).append(position)
    if bucket_bytes is None:
        runs = list(by_dtype.items())
    else:
        runs = [
            (wire, run)
            for wire, carried in by_dtype.items()
            for run in _runs(carried, wire.itemsize, shapes, bucket_bytes, has_weight=has_weight)
        ]
        if len(runs) > len(by_dtype):
            runs.sort(key=lambda each: -each[1][0])  # full when its first array has come
    return tuple(
        Bucket(wire, tuple(run), tuple(shapes[position] for position in run), has_weight)
        for wire, run in runs
    )


def _runs(
    positions: list[int],
    itemsize: int,
    shapes: tuple[tuple[int, ...], ...],
    bucket_bytes: int,
    *,
    has_weight: bool,
) -> list[list[int]]:
    """Return positions in runs of so many bytes at most, the last ones first."""
    sizes = {p: itemsize * math.prod(shapes[p]) for p in positions}
    small = min(_SMALL_BYTES, bucket_bytes)
    if sum(sizes.values()) <= small:
        return [positions]
    head = [p for p, end in zip(positions, accumulate(sizes.values()), strict=True) if end <= small]
    alone: float = min(max(_ALONE_BYTES, bucket_bytes // _ALONE_PART), bucket_bytes)
    if has_weight:
        alone = math.inf
    runs: list[list[int]] = []
    shared: list[int] = []  # the run that goes on past arrays that travel alone
    limit = filled = 0
    for position in reversed(positions[len(head) :]):
        if sizes[position] >= alone:
            runs.append([position])
            continue
        if not shared or filled + sizes[position] > limit:
            limit, filled, shared = bucket_bytes if runs else small, 0, []
            runs.append(shared)
        shared.insert(0, position)
        filled += sizes[position]
    return [*runs, head] if head else runs

"""Carry many arrays in few messages: flat buffers in the order of the sources, never of arrival."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from distgrad.distributed.communicator import Array, wire_dtype


@dataclass(frozen=True)
class Bucket:
    """The layout of one message: a weight, then arrays end to end.

    Attributes
    ----------
    dtype : numpy.dtype
        In which the message travels and is added up.
    positions : tuple of int
        Which arrays it carries, in order.
    shapes : tuple of tuple of int
        Their shapes.
    """

    dtype: np.dtype[Any]
    positions: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    def pack(
        self, arrays: Sequence[Array | None], weight: float, out: Array | None = None
    ) -> Array:
        """Return the message: the weight, and the arrays times the weight.

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
        return 1 + sum(math.prod(shape) for shape in self.shapes)

    def _views(self, message: Array) -> list[Array]:
        views, start = [], 1
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
) -> tuple[Bucket, ...]:
    """Return one bucket for each dtype on the wire, for the arrays at some positions."""
    by_dtype: dict[np.dtype[Any], list[int]] = {}
    for position in positions:
        by_dtype.setdefault(wire_dtype(dtypes[position], "sum"), []).append(position)
    return tuple(
        Bucket(wire, tuple(carried), tuple(shapes[position] for position in carried))
        for wire, carried in by_dtype.items()
    )

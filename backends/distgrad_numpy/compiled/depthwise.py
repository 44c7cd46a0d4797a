"""Depthwise convolution, each channel by itself, and its adjoints in the input and in the kernel.

Which taps lie inside the input, and which windows see a place of it, are small tables for each
axis, that are made here.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from distgrad.windows import Geometry
from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.offers import REALS, real_of

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

_FEW = 1 << 12  # elements; below, the call costs more than it saves
_PIECE = 1 << 16  # elements that a thread takes at once
_PIECES = 64  # of a kernel's cotangent: each has sums of its own
_RANK = 3

_COUNT, _ARRAY = ctypes.c_longlong, ctypes.c_void_p
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "convolve_lines": (_ARRAY,) * 7,
    "spread_lines": (_ARRAY,) * 10,
    "correlate_lines": (*[_ARRAY] * 4, _COUNT, *[_ARRAY] * 3),
}


class _Axes:
    """A convolution of three spatial axes: fewer have leading axes of length 1."""

    def __init__(self, x: Shape, w: Shape, y: Shape, geometry: Geometry) -> None:
        lead = _RANK - len(w[:-2])
        ones = (1,) * lead
        self.lengths = (*ones, *x[1:-1])
        self.windows = (*ones, *y[1:-1])
        self.taps = (*ones, *w[:-2])
        self.strides = (*ones, *geometry.stride)
        self.dilations = (*ones, *geometry.dilation)
        self.before = (*(0,) * lead, *(low for low, _ in geometry.padding))
        self.numbers = np.array(
            (*self.lengths, *self.windows, *self.taps, *self.dilations, x[-1]), np.int64
        )

    def turned(self) -> _Axes:
        """Return the convolution of the output by which the input follows, of stride 1."""
        other = object.__new__(_Axes)
        other.lengths, other.windows, other.taps = self.windows, self.lengths, self.taps
        other.strides, other.dilations = self.strides, self.dilations
        other.before = tuple(
            d * (k - 1) - low
            for d, k, low in zip(self.dilations, self.taps, self.before, strict=True)
        )
        other.numbers = np.array(
            (*other.lengths, *other.windows, *other.taps, *other.dilations, self.numbers[-1]),
            np.int64,
        )
        return other

    def inside(self, axis: int) -> Array:
        """Return for each window where its tap 0 lies, its first tap inside and that behind."""
        begin = np.arange(self.windows[axis]) * self.strides[axis] - self.before[axis]
        return _range(begin, self.lengths[axis], self.dilations[axis], self.taps[axis])

    def through(self, axis: int) -> Array:
        """Return for each tap where it lies in window 0, and the windows that see through it."""
        begin = np.arange(self.taps[axis]) * self.dilations[axis] - self.before[axis]
        return _range(begin, self.lengths[axis], self.strides[axis], self.windows[axis])

    def seers(self, axis: int) -> tuple[Array, Array]:
        """Return for each place where its windows begin, and all windows with their taps."""
        tap, window = np.divmod(np.arange(self.taps[axis] * self.windows[axis]), self.windows[axis])
        place = window * self.strides[axis] + tap * self.dilations[axis] - self.before[axis]
        inside = (place >= 0) & (place < self.lengths[axis])
        place, window, tap = place[inside], window[inside], tap[inside]
        order = np.lexsort((window, place))
        starts = np.searchsorted(place[order], np.arange(self.lengths[axis] + 1))
        pairs = np.stack([window[order], tap[order]], axis=1)
        return np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(pairs, np.int64)


def _range(begin: Array, length: int, step: int, count: int) -> Array:
    """Return begin, and the range of n < count with 0 <= begin + n step < length."""
    first = np.clip(-(begin // step), 0, count)
    last = np.clip((length - 1 - begin) // step + 1, first, count)
    return np.ascontiguousarray(np.stack([begin, first, last], axis=1), np.int64)


def _fits(x: Shape, w: Shape, y: Shape, geometry: Geometry) -> bool:
    return (
        library.is_on()
        and x[-1] == y[-1] == w[-1] == geometry.groups
        and w[-2] == 1
        and geometry.groups > 1
        and len(w) - 2 <= _RANK
        and min(prod(x), prod(w), prod(y)) > 0
        and max(prod(x), prod(y)) >= _FEW
    )


@lru_cache(maxsize=256)
def _tables(kind: str, x: Shape, w: Shape, y: Shape, geometry: Geometry) -> tuple[Array, ...]:
    """Return the numbers of a convolution, and the tables of its axes of a kind."""
    axes = _Axes(x, w, y, geometry)
    if kind == "turned":
        axes = axes.turned()
    if kind == "seers":
        return axes.numbers, *(table for axis in range(_RANK) for table in axes.seers(axis))
    last = axes.through(2) if kind == "through" else axes.inside(2)
    return axes.numbers, axes.inside(0), axes.inside(1), last


def _is_real(x: Array, w: Array, y: Array) -> bool:
    """Return whether a kernel reads these; that of the convolution may have gaps."""
    return real_of(x, y) is not None and w.dtype == x.dtype


def conv(x: Array, w: Array, y: Array, geometry: Geometry) -> bool:
    """Write the convolution of x and w into y; return whether it is a depthwise one."""
    if not (_fits(x.shape, w.shape, y.shape, geometry) and _is_real(x, w, y)):
        return False
    tables = _tables("inside", x.shape, w.shape, y.shape, geometry)
    return _in_lines("convolve_lines", tables, x, w, y)


def _in_lines(name: str, tables: tuple[Array, ...], x: Array, w: Array, y: Array) -> bool:
    run = crew.shared("depthwise", name, _ARGUMENTS[name], REALS[x.dtype])
    if run is None:
        return False
    arrays = (*tables, x, np.ascontiguousarray(w), y)
    line = prod(y.shape[-2:])
    run(y.size // line, max(_PIECE // line, 1), *map(address, arrays))
    return True


def conv_transpose(y: Array, w: Array, x: Array, geometry: Geometry) -> bool:
    """Write the adjoint in the input into x; return whether it is a depthwise one."""
    if not (_fits(x.shape, w.shape, y.shape, geometry) and _is_real(x, w, y)):
        return False
    shapes = (x.shape, w.shape, y.shape)
    if set(geometry.stride) == {1}:
        reverse = w[(slice(None, None, -1),) * (w.ndim - 2)]
        return _in_lines("convolve_lines", _tables("turned", *shapes, geometry), y, reverse, x)
    return _in_lines("spread_lines", _tables("seers", *shapes, geometry), y, w, x)


def conv_kernel_vjp(x: Array, y: Array, w: Array, geometry: Geometry) -> bool:
    """Write the adjoint in the kernel into w; return whether it is a depthwise one."""
    if not (_fits(x.shape, w.shape, y.shape, geometry) and real_of(x, y, w) is not None):
        return False
    run = crew.shared("depthwise", "correlate_lines", _ARGUMENTS["correlate_lines"], REALS[x.dtype])
    if run is None:
        return False
    tables = [address(each) for each in _tables("through", x.shape, w.shape, y.shape, geometry)]
    line = prod(y.shape[-2:])
    lines = y.size // line
    each = max(_PIECE // line, -(-lines // _PIECES), 1)
    sums = np.zeros((-(-lines // each), *w.shape), w.dtype)
    run(lines, each, *tables, geometry.stride[-1], address(x), address(y), address(sums))
    w[...] = sums.sum(axis=0, dtype=np.float64)
    return True

"""Compiled convolutions of float32, each open in one of input, kernel and output.

All three are products of matrices whose rows lie in memory as windows of a padded input, see
sources/convolution.cpp. Left to the own kernels are large products of points, which BLAS computes
as quickly, and groups of few channels.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

from distgrad.windows import Geometry, adjoint_phases
from distgrad_numpy import few_channels
from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.panels import aligned
from distgrad_numpy.compiled.sweeps import Plan, Target, places_of, plan

Array = np.ndarray[Any, Any]

_FEW = 1 << 16  # products; below, NumPy takes no longer
_FEWEST_CHANNELS = 4  # of a group, on both sides, where there are several
# Convolutions of points are one product of matrices. BLAS took 1.0 to 1.2 times as long as these
# kernels for 64 to 256 channels, 0.5 to 0.9 times for more, and 0.6 times for 2^21 products.
_MOST_CHANNELS, _FEW_OF_POINTS = 256, 1 << 23
_PACKED = 1 << 14  # weights that a thread packs at a time, at least
_PASSED = 1 << 15  # floats that a thread passes over at a time
_LINE = 16  # floats of a line of the cache
_TILE = 128  # windows whose cotangents are copied at a time, as in the source
_PIECES = 4  # that a thread takes, at least: they are not equally long
# Parts of the cotangent of a kernel, to be added up: no more, and no more bytes than that share of
# what they are made of.
_CHUNKS, _SHARE = 8, 4

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_longlong


class _Calls:
    """The functions of the library."""

    def __init__(self, found: ctypes.CDLL) -> None:
        pack = (_POINTER, _POINTER, *(_NUMBER,) * 3, _POINTER)
        convolve = (*(_POINTER,) * 5, _NUMBER)
        correlate = (_POINTER, _POINTER, _NUMBER, *(_POINTER,) * 4, _NUMBER)
        # To many channels, and to few.
        self.pack = [crew.shared_of(found, name, pack) for name in ("pack", "pack_few")]
        self.convolve = [
            crew.shared_of(found, name, convolve) for name in ("convolve", "convolve_few")
        ]
        self.clear = crew.shared_of(found, "clear", (_POINTER,))
        self.add_up = crew.shared_of(found, "add_up", (_NUMBER, _NUMBER, _POINTER, _POINTER))
        self.correlate = crew.shared_of(found, "correlate", correlate)
        for call in (found.width, found.widest):
            call.restype = _NUMBER
        self.registers = int(found.width()), int(found.widest())


_ready: list[_Calls] = []


def _calls(
    x: Array, w: Array, y: Array, geometry: Geometry, strided_too: bool = False
) -> _Calls | None:
    """Return the library's functions, if they are there and good for these arrays.

    Points with a stride are left to BLAS as well where that is wanted, see `pointwise`.
    """
    if not library.is_on() or not (x.dtype == w.dtype == y.dtype == np.float32):
        return None
    products = y.size * prod(w.shape[:-1])
    if products < max(_FEW, 1) or 0 in x.shape:
        return None
    inner, each = w.shape[-2], w.shape[-1] // geometry.groups
    if geometry.groups > 1 and min(inner, each) < _FEWEST_CHANNELS:
        return None
    for_blas = products < _FEW_OF_POINTS or max(w.shape[-2:]) > _MOST_CHANNELS
    if for_blas and _is_product(w, geometry) and (strided_too or set(geometry.stride) == {1}):
        return None
    if not _ready:
        found = library.from_file("convolution")
        if found is None:
            return None
        _ready.append(_Calls(found))
    return _ready[0]


def conv(x: Array, w: Array, y: Array, geometry: Geometry) -> bool:
    """Write the convolution of x and w into y, which is contiguous; return whether it was done."""
    calls = _calls(x, w, y, geometry)
    if calls is None:
        return False
    each = w.shape[-1] // geometry.groups
    found = plan(x.shape, w.shape[:-2], y.shape[1:-1], geometry, _target(y), each, calls.registers)
    rows = places_of((prod(w.shape[:-1]), w.shape[-1]))
    weights = _packed(calls, found, np.ascontiguousarray(w), rows, (each, 1))
    _convolve(calls, found, np.ascontiguousarray(x), weights, address(y))
    return True


def conv_transpose(y: Array, w: Array, x: Array, geometry: Geometry) -> bool:
    """Write the adjoint in the input into x, which is contiguous; return whether it was done.

    As the own kernel, it is a convolution of stride 1 for each residue of positions.
    """
    calls = _calls(x, w, y, geometry)
    if calls is None:
        return False
    window, (inner, outputs) = w.shape[:-2], w.shape[-2:]
    stride, groups = geometry.stride, geometry.groups
    rank, each = len(window), outputs // groups
    y, w = np.ascontiguousarray(y), np.ascontiguousarray(w)
    positions, taps = _target(x), _target(w[None]).steps[:rank]
    steps = tuple(n * s for n, s in zip(positions.steps, stride, strict=True))
    along = list(adjoint_phases(x.shape[1:-1], y.shape[1:-1], window, geometry))
    seen_ones = [phase for phase in along if all(p.taps for p in phase)]
    if len(seen_ones) < len(along):  # no window sees the others
        calls.clear(x.size, _PASSED, address(x))
    for phase in seen_ones:
        unit = Geometry(
            (1,) * rank, tuple(p.padding for p in phase), tuple(p.dilation for p in phase), groups
        )
        seen, number = tuple(p.taps for p in phase), tuple(p.length for p in phase)
        target = Target(positions.example, steps)
        found = plan(y.shape, seen, number, unit, target, inner, calls.registers)
        if not found.few and inner * 2 <= calls.registers[0] and few_channels.applies(w, geometry):
            return False
        # The taps of a phase, the last one first.
        last = sum((p.first + (p.taps - 1) * p.step) * n for p, n in zip(phase, taps, strict=True))
        down = ((p.taps, -p.step * n) for p, n in zip(phase, taps, strict=True))
        rows = last + places_of(*down, (each, 1))
        weights = _packed(calls, found, w, rows, (each, outputs))
        first = sum(p.start * n for p, n in zip(phase, positions.steps, strict=True))
        _convolve(calls, found, y, weights, address(x) + first * x.itemsize)
    return True


def conv_kernel_vjp(x: Array, y: Array, w: Array, geometry: Geometry) -> bool:
    """Write the adjoint in the kernel into w, which is contiguous; return whether it was done."""
    calls = _calls(x, w, y, geometry, strided_too=True)  # long sums of numbers far apart
    if calls is None:
        return False
    groups, each = geometry.groups, w.shape[-1] // geometry.groups
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    found = plan(
        x.shape, w.shape[:-2], y.shape[1:-1], geometry, _target(y), each, calls.registers, True
    )
    # The same parts and the same order on any number of threads: the sums are the same to the bit.
    fitting = (x.nbytes + y.nbytes) // (_SHARE * w.nbytes)
    chunks = max(min(_CHUNKS, found.blocks, fitting), 1)
    vectors = -(-each // calls.registers[0])
    parts = groups * -(-vectors // calls.registers[1])
    # Where there is one thread, a block is copied once for all channels.
    workers = crew.workers()
    cuts = 1 if workers == 1 else min(parts, -(-_PIECES * workers // chunks))
    sums = w if chunks == 1 else np.empty((chunks, *w.shape), np.float32)
    room = _lines(found.scratch) + _TILE * calls.registers[0] * calls.registers[1]
    memory = aligned("windows", workers * room)
    cut = np.array((found.blocks, chunks, parts, cuts), np.int64)
    calls.correlate(
        *(chunks * cuts, 1, ctypes.addressof(found.sweep), address(cut), w.size),
        *(address(x), address(y), address(sums), address(memory), room),
    )
    if chunks > 1:
        calls.add_up(w.size, _PASSED // chunks, chunks, w.size, address(sums), address(w))
    return True


def _is_product(w: Array, geometry: Geometry) -> bool:
    """Return whether a convolution is one product of matrices: of points, with a stride or not."""
    return geometry.groups == 1 and set(w.shape[:-2]) == {1} and not any(map(any, geometry.padding))


def _target(array: Array) -> Target:
    """Return where the channels of each position of a contiguous array lie."""
    steps = tuple(prod(array.shape[axis + 1 :]) for axis in range(array.ndim - 1))
    return Target(steps[0], steps[1:])


def _packed(calls: _Calls, found: Plan, w: Array, rows: Array, steps: tuple[int, int]) -> Array:
    """Return weights in the order in which they are read, in scratch memory.

    Parameters
    ----------
    calls : _Calls
        The library.
    found : Plan
        What reads them.
    w : numpy.ndarray
        The kernel, contiguous.
    rows : numpy.ndarray of int64
        Where the row of each number that a window sees begins, in the first group.
    steps : pair of int
        The distance of two groups, and that of two columns.
    """
    groups, channels = found.sweep.groups, found.sweep.outputs
    wide = channels if found.few else -(-channels // calls.registers[0]) * calls.registers[0]
    size = len(rows) * wide
    weights = aligned("weights", groups * size)
    for group in range(groups):
        calls.pack[found.few](
            *(len(rows), max(_PACKED // wide, 16)),
            *(address(w) + group * steps[0] * w.itemsize, address(rows), len(rows)),
            *(steps[1], channels, address(weights) + group * size * w.itemsize),
        )
    return weights


def _convolve(calls: _Calls, found: Plan, x: Array, weights: Array, target: int) -> None:
    """Write the sums of all windows of a sweep, on as many threads as there are."""
    room = _lines(found.scratch)
    memory = aligned("windows", crew.workers() * room)
    calls.convolve[found.few](
        *(found.blocks, 1, ctypes.addressof(found.sweep), address(x), address(weights)),
        *(target, address(memory), room),
    )


def _lines(floats: int) -> int:
    """Return as many floats or more, in whole lines of the cache."""
    return -(-floats // _LINE) * _LINE

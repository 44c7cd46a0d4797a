"""Compiled convolutions of float32, each open in one of input, kernel and output.

All three are products of matrices whose rows lie in memory as windows of a padded input, see
sources/convolution.cpp. Left to the own kernels are large products of points, which BLAS computes
as quickly, and groups of few channels.
"""

from __future__ import annotations

import ctypes
from itertools import product
from math import prod
from typing import Any

import numpy as np

from distgrad.windows import phases
from distgrad_numpy import few_channels, threads
from distgrad_numpy.blocks import Geometry
from distgrad_numpy.compiled import library
from distgrad_numpy.compiled.panels import aligned
from distgrad_numpy.compiled.sweeps import Plan, Target, places_of, plan

Array = np.ndarray[Any, Any]

_FEW = 1 << 16  # products; below, NumPy takes no longer
_FEWEST_CHANNELS = 4  # of a group, on both sides, where there are several
# Convolutions of points are one product of matrices. BLAS took 1.0 to 1.2 times as long as these
# kernels for 64 to 256 channels, 0.5 to 0.9 times for more, and 0.6 times for 2^21 products.
_MOST_CHANNELS, _FEW_OF_POINTS = 256, 1 << 23
_TILE = 128  # windows whose cotangents are copied at a time, as in the source
_PIECES = 4  # that a thread takes, at least: they are not equally long
# Parts of the cotangent of a kernel, to be added up: no more, and no more bytes than that share of
# what they are made of.
_CHUNKS, _SHARE = 8, 4

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_longlong


class _Calls:
    """The functions of the library."""

    def __init__(self, found: ctypes.CDLL) -> None:
        self.add_products = found.add_products
        self.add_products.argtypes = (_POINTER, *(_NUMBER,) * 4, *(_POINTER,) * 5)
        self.add_products.restype = None
        # To many channels, and to few.
        self.pack = (found.pack, found.pack_few)
        self.convolve = (found.convolve, found.convolve_few)
        for call in self.pack:
            call.argtypes, call.restype = (_POINTER, _POINTER, *(_NUMBER,) * 3, _POINTER), None
        for call in self.convolve:
            call.argtypes, call.restype = (_POINTER, *(_NUMBER,) * 2, *(_POINTER,) * 4), None
        for call in (found.width, found.widest):
            call.restype = _NUMBER
        self.registers = int(found.width()), int(found.widest())


_ready: list[_Calls] = []


def _calls(x: Array, w: Array, y: Array, geometry: Geometry) -> _Calls | None:
    """Return the library's functions, if they are there and good for these arrays."""
    if not library.is_on() or not (x.dtype == w.dtype == y.dtype == np.float32):
        return None
    products = y.size * prod(w.shape[:-1])
    if products < max(_FEW, 1) or 0 in x.shape:
        return None
    inner, each = w.shape[-2], w.shape[-1] // geometry.groups
    if geometry.groups > 1 and min(inner, each) < _FEWEST_CHANNELS:
        return None
    for_blas = products < _FEW_OF_POINTS or max(w.shape[-2:]) > _MOST_CHANNELS
    if for_blas and _is_product(w, geometry):
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
    _convolve(calls, found, np.ascontiguousarray(x), weights, y.ctypes.data)
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
    before = [low for low, _ in geometry.padding]
    along = map(phases, x.shape[1:-1], y.shape[1:-1], window, stride, before, geometry.dilation)
    for phase in product(*along):
        if any(p.taps == 0 for p in phase):
            places = (slice(p.start, None, s) for p, s in zip(phase, stride, strict=True))
            x[(slice(None), *places)] = 0
            continue
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
        _convolve(calls, found, y, weights, x.ctypes.data + first * x.itemsize)
    return True


def conv_kernel_vjp(x: Array, y: Array, w: Array, geometry: Geometry) -> bool:
    """Write the adjoint in the kernel into w, which is contiguous; return whether it was done."""
    calls = _calls(x, w, y, geometry)
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
    workers = threads.available()
    cuts = 1 if workers == 1 else min(parts, -(-_PIECES * workers // chunks))
    sums = w[None] if chunks == 1 else np.empty((chunks, *w.shape), np.float32)
    tile = _TILE * calls.registers[0] * calls.registers[1]

    def work(item: tuple[int, int]) -> None:
        chunk, cut = item
        seen, copied = aligned("windows", found.scratch), aligned("cotangents", tile)
        calls.add_products(
            ctypes.addressof(found.sweep),
            *(chunk * found.blocks // chunks, (chunk + 1) * found.blocks // chunks),
            *(cut * parts // cuts, (cut + 1) * parts // cuts),
            *(x.ctypes.data, y.ctypes.data, sums[chunk].ctypes.data),
            *(seen.ctypes.data, copied.ctypes.data),
        )

    threads.run(work, list(product(range(chunks), range(cuts))))
    if chunks > 1:
        np.add.reduce(sums, axis=0, out=w)
    return True


def _is_product(w: Array, geometry: Geometry) -> bool:
    """Return whether a convolution is one product of matrices as they lie in memory."""
    return (
        geometry.groups == 1
        and set(w.shape[:-2]) == {1}
        and set(geometry.stride) == {1}
        and not any(map(any, geometry.padding))
    )


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
            *(w.ctypes.data + group * steps[0] * w.itemsize, rows.ctypes.data, len(rows)),
            *(steps[1], channels, weights.ctypes.data + group * size * w.itemsize),
        )
    return weights


def _convolve(calls: _Calls, found: Plan, x: Array, weights: Array, target: int) -> None:
    """Write the sums of all windows of a sweep, on as many threads as there are."""
    workers = threads.available()
    pieces = 1 if workers == 1 else min(_PIECES * workers, found.blocks)

    def work(piece: int) -> None:
        scratch = aligned("windows", found.scratch)
        calls.convolve[found.few](
            ctypes.addressof(found.sweep),
            *(piece * found.blocks // pieces, (piece + 1) * found.blocks // pieces),
            *(x.ctypes.data, weights.ctypes.data, target, scratch.ctypes.data),
        )

    threads.run(work, range(pieces))

"""Compiled convolutions of points: products of matrices whose rows lie apart, as with a stride.

What is not seen is not read, nothing is gathered in memory, and the zeros of an input's cotangent
are written together with what stands between them, see sources/points.cpp. The kernel is laid out
once for all rows. So these products take about the time of bare BLAS for the same ones.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad.windows import Geometry
from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.panels import aligned
from distgrad_numpy.compiled.sweeps import places_of

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

_FEW = 1 << 18  # products; with fewer, calls and tables cost what is saved
# Rows of a block: its results stay in the second cache beside a kernel; more of them where the
# kernel is read from the third one for each block.
_ROWS, _LARGE = 96, 1 << 20

# Without a stride, cotangents of kernels with more channels on a side are taken, too, as sums over
# so many positions: oneDNN needed 1.0 to 1.5 times as long for them, BLAS 1.0 to 1.1 times.
_MANY_CHANNELS, _MANY_POSITIONS = 256, 256

_POINTER, _NUMBER, _FLAG = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int
_FLOAT32 = np.dtype(np.float32)


class _Calls:
    """The functions of the library, and how it cuts the work."""

    def __init__(self, found: ctypes.CDLL) -> None:
        rows = (_NUMBER, _NUMBER, *(_POINTER,) * 5)
        panels = (_NUMBER, _NUMBER, _FLAG, _POINTER, _POINTER)
        kernel = (_NUMBER, _NUMBER, _NUMBER, *(_POINTER,) * 5)
        self.panels = crew.shared_of(found, "points_panels", panels)
        self.conv = crew.shared_of(found, "points", rows)
        self.adjoint = crew.shared_of(found, "points_adjoint", rows)
        self.kernel = crew.shared_of(found, "points_kernel", kernel)
        names = ("panel", "block", "group", "abreast")
        for name in names:
            getattr(found, f"points_{name}").restype = _NUMBER
        self.panel, self.block, self.group, self.abreast = (
            int(getattr(found, f"points_{name}")()) for name in names
        )
        self.room = found.points_room
        self.room.argtypes, self.room.restype = (_FLAG, _NUMBER), _NUMBER
        self.fits = found.points_fit
        self.fits.argtypes, self.fits.restype = (_NUMBER,), _FLAG


class _Plan(NamedTuple):
    """What follows from shapes: where positions lie, and how many of everything there are."""

    places: Array
    rows: int
    inputs: int
    outputs: int
    fits: tuple[bool, bool, bool]  # for y, x and w
    rooms: tuple[int, int, int]  # floats of scratch for a worker


_ready: list[_Calls] = []


def conv(x: Array, w: Array, y: Array, geometry: Geometry) -> bool:
    """Write the convolution of x and w into y, which is contiguous; return whether it was done."""
    plan = _plan_for(x, w, y, geometry)
    if plan is None or not plan.fits[0]:
        return False
    _multiply(0, plan, np.ascontiguousarray(x), w, y, plan.inputs, plan.outputs)
    return True


def conv_transpose(y: Array, w: Array, x: Array, geometry: Geometry) -> bool:
    """Write the adjoint in the input into x, which is contiguous; return whether it was done."""
    plan = _plan_for(x, w, y, geometry)
    if plan is None or not plan.fits[1]:
        return False
    _multiply(1, plan, np.ascontiguousarray(y), w, x, plan.outputs, plan.inputs)
    return True


def conv_kernel_vjp(x: Array, y: Array, w: Array, geometry: Geometry) -> bool:
    """Write the adjoint in the kernel into w, which is contiguous; return whether it was done."""
    many = max(w.shape[-2:]) > _MANY_CHANNELS and y.size >= _MANY_POSITIONS * w.shape[-1]
    plan = _plan_for(x, w, y, geometry, many)
    if plan is None or not plan.fits[2]:
        return False
    calls, workers = _ready[0], crew.workers()
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    scratch = aligned("windows", workers * plan.rooms[2])
    parts = -(-plan.inputs // calls.abreast) * -(-plan.outputs // calls.panel)
    calls.kernel(
        # One piece for each worker: what is on the left is gathered anew for every piece.
        *(parts, -(-parts // workers), plan.rows, plan.inputs, plan.outputs, address(x)),
        *(address(plan.places), address(y), address(scratch), address(w)),
    )
    return True


def _plan_for(
    x: Array, w: Array, y: Array, geometry: Geometry, without_stride_too: bool = False
) -> _Plan | None:
    """Return the plan for a convolution that is one of these, the library being there."""
    if geometry.groups != 1 or y.size * w.shape[-2] < _FEW or not library.is_on():
        return None
    if not (x.dtype == w.dtype == y.dtype == _FLOAT32):
        return None
    if (max(geometry.stride) == 1 and not without_stride_too) or prod(w.shape[:-2]) > 1:
        return None
    if not _ready and not _is_made_ready():
        return None
    return _plan(x.shape, w.shape, y.shape, geometry)


def _is_made_ready() -> bool:
    """Load the library, if it can be; return whether it is there."""
    found = library.from_file("points")
    if found is not None:
        _ready.append(_Calls(found))
    return found is not None


@lru_cache(maxsize=64)
def _plan(x: Shape, w: Shape, y: Shape, geometry: Geometry) -> _Plan | None:
    """Return where positions lie that are seen; None where there are none, or padding.

    Notes
    -----
    Behind the last place stands where the input ends: between the channels of a position and the
    next place nothing is seen.
    """
    if any(map(any, geometry.padding)) or 0 in x + y:
        return None
    steps = enumerate(geometry.stride)
    distances = (prod(x[1:]), *(step * prod(x[axis + 2 :]) for axis, step in steps))
    places = np.append(places_of(*zip(y[:-1], distances, strict=True)), prod(x))
    inputs, outputs = w[-2:]
    calls = _ready[0]
    into, out = bool(calls.fits(inputs)), bool(calls.fits(outputs))
    rooms = calls.room(0, outputs), calls.room(1, inputs), calls.room(2, outputs)
    return _Plan(places, len(places) - 1, inputs, outputs, (out, into, out), rooms)


def _multiply(
    number: int, plan: _Plan, source: Array, w: Array, to: Array, depth: int, columns: int
) -> None:
    """Write the outputs, number 0, or the adjoint in the input, number 1."""
    calls, workers = _ready[0], crew.workers()
    w = np.ascontiguousarray(w)
    # Whole lines of the cache: the channels that fit are.
    memory = address(aligned("windows", w.size + workers * plan.rooms[number]))
    scratch = memory + w.nbytes
    count = -(-columns // calls.panel)
    calls.panels(count, -(-count // workers), depth, columns, number, address(w), memory)
    # Equal shares for all workers, of whole groups but for the last; a number is computed alike in
    # any of them.
    most = _ROWS if w.size <= _LARGE else calls.block
    pieces = -(-plan.rows // (most * workers)) * workers
    each = min(-(-plan.rows // pieces // calls.group) * calls.group, calls.block)
    (calls.adjoint if number else calls.conv)(
        *(plan.rows, each, depth, columns, address(source), address(plan.places)),
        *(memory, scratch, address(to)),
    )

"""Products of two matrices in float32, and a bias: quicker than BLAS where they are not large.

BLAS arranges both sides for a processor's registers before it multiplies. Here one is read where it
lies, unless it is given by columns that are long and far apart; a bias is added while its rows are
in the cache. Of matrices of a hundred rows and columns or more that saves a fifth of the time, as
`scripts/bench kernels` has it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from distgrad.core.destinations import destination
from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address
from distgrad_numpy.threads import blas_core

Array = np.ndarray[Any, Any]

# Products of terms: with fewer, the call costs what it saves (the second number is for a right side
# that is turned, or a BLAS with narrower registers); with more, another BLAS is as quick.
_FEW, _FEW_BUT_DEAR = 1 << 20, 1 << 19
_MANY = 1 << 26
_AS_WIDE = ("SkylakeX", "Cooperlake", "SapphireRapids")
_SHARED = 1 << 22  # from here on threads share the rows, or the columns
_LEAST_ROWS = 8  # fewer are not worth arranging the other side for
_STEP = 6  # rows that threads get are multiples of this: as many as registers hold
_NARROWEST = 24  # columns
_IN_USE = 0.85  # of the columns that are computed, those of the result

_COUNT, _ARRAY, _FLAG = ctypes.c_longlong, ctypes.c_void_p, ctypes.c_int
_ARGUMENTS = (_FLAG, *[_COUNT] * 3, *[_FLAG] * 3, *[_ARRAY] * 5)
_LINE = 64  # bytes of the cache

_FLOAT32 = np.dtype(np.float32)


class _Scratch(threading.local):
    """Memory of each thread's own, where a line of the cache begins."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)
        self.begin = 0

    def place(self, numbers: int) -> int:
        """Return where the memory begins, which is enough for so many numbers at least."""
        wanted = 4 * numbers + _LINE
        if self.memory.size < wanted:
            self.memory = np.empty(wanted, np.uint8)
            start: int = self.memory.ctypes.data
            self.begin = start + -start % _LINE
        return self.begin


_scratch = _Scratch()


class _Compiled:
    """The function, once it is loaded, and how much scratch it takes, for left sides turned too."""

    run: Callable[..., None] | None = None
    rooms = (0, 0)
    panels: Callable[[int], int]


def _function() -> Callable[..., None] | None:
    if _Compiled.run is None:
        found = library.from_file("products")
        if found is None:
            return None
        found.product_room.argtypes, found.product_room.restype = (_FLAG,), _COUNT
        _Compiled.rooms = found.product_room(False), found.product_room(True)
        found.product_panels.argtypes, found.product_panels.restype = (_COUNT,), _COUNT
        _Compiled.panels = found.product_panels
        _Compiled.run = crew.shared_of(found, "matrix_product", _ARGUMENTS)
    return _Compiled.run


@cache
def _blas_is_narrow() -> bool:
    """Return whether BLAS is known to use half of the width of the processor's registers.

    OpenBLAS has no kernels for some processors with AVX-512, takes those of older ones, and needs
    twice the time.
    """
    return blas_core() not in ("", *_AS_WIDE)


@cache
def _fills(columns: int) -> bool:
    """Return whether nearly all of the columns are of use that are computed for some."""
    count: Any = library.from_file("products").product_columns  # type: ignore[union-attr]
    count.argtypes, count.restype = (_COUNT,), _COUNT
    computed: int = count(columns)
    return computed > 0 and columns >= _IN_USE * computed


def product(
    a: Array, b: Array, bias: Array | None = None, *, rectified: bool = False
) -> Array | None:
    """Return a b + bias, where it is waited for if that is known; None where BLAS is to multiply.

    Parameters
    ----------
    a, b : numpy.ndarray of shapes (n, k) and (k, m)
        Of any dtype and strides; taken in float32 where rows or columns have no gaps.
    bias : numpy.ndarray of shape (m,), optional
        Likewise.
    rectified : bool
        Whether what is less than 0 becomes 0; NaN stays.
    """
    rows, depth = a.shape
    inner, columns = b.shape
    terms = rows * depth * columns
    turned, right_turned = not a.flags.c_contiguous, not b.flags.c_contiguous
    narrow = _blas_is_narrow()
    if terms < (_FEW_BUT_DEAR if right_turned or narrow else _FEW) or inner != depth:
        return None
    if terms > _MANY and not narrow:
        return None
    if a.dtype != _FLOAT32 or b.dtype != _FLOAT32 or rows < _LEAST_ROWS or columns < _NARROWEST:
        return None
    if turned and (not a.flags.f_contiguous or depth < _LEAST_ROWS):
        return None
    if right_turned and not b.flags.f_contiguous:
        return None
    if bias is not None and (bias.dtype != _FLOAT32 or not bias.flags.c_contiguous):
        return None
    run = _function() if library.is_on() else None
    if run is None or not _fills(columns):
        return None
    left, right = address(a.T if turned else a), address(b.T if right_turned else b)
    own = None if bias is None else address(bias)
    c = destination((rows, columns), _FLOAT32)
    if c is None:
        c = np.empty((rows, columns), _FLOAT32)
    sharing = crew.workers() if terms >= _SHARED else 1
    # A number does not depend on what else a thread computes.
    count, each, by_columns = rows, rows, False
    if sharing > 1:
        # Who has some rows arranges the whole right side, which is to read and to write it; who has
        # some columns reads the whole left side, and arranges it if it is turned.
        panels = _Compiled.panels(columns)
        wide = 2 * rows < columns if turned else rows < 2 * columns
        by_columns = wide and panels >= 2 * sharing
        if by_columns:
            count, each = panels, -(-panels // sharing)
        else:
            each = -(-rows // sharing // _STEP) * _STEP
    room = _scratch.place(sharing * _Compiled.rooms[turned])
    shape = rows, depth, columns, turned, right_turned, rectified
    run(count, each, by_columns, *shape, left, right, own, room, address(c))
    return c

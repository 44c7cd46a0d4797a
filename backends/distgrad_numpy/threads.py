"""Several threads for kernels that are not one BLAS call: as many as BLAS itself may use.

NumPy and BLAS let go of the interpreter's lock while they copy and multiply, so blocks of a kernel
run at once on Python threads. While they do, BLAS is held to one thread: threads times threads
would wait for each other.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item")

# How OpenBLAS is called inside NumPy's wheels, and where it is a library of the system.
_SPELLINGS = (
    "scipy_openblas_{}64_",
    "scipy_openblas_{}",
    "openblas_{}64_",
    "openblas_{}",
)


def _functions(*names: str) -> list[Any] | None:
    """Return functions of OpenBLAS by its own names for them; None for another BLAS."""
    try:
        core = import_module("numpy._core._multiarray_umath")
        # The search includes the libraries that this one was linked with.
        library = ctypes.CDLL(core.__file__)
    except (ImportError, OSError):
        return None
    for spelling in _SPELLINGS:
        found = [getattr(library, spelling.format(name), None) for name in names]
        if None not in found:
            return found
    return None


@cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Return how to read and to set OpenBLAS' number of threads; None for another BLAS."""
    found = _functions("get_num_threads", "set_num_threads")
    if found is None:
        return None
    read, write = found
    # It only looks at a number: not worth letting go of the interpreter's lock for.
    quick = ctypes.PYFUNCTYPE(ctypes.c_int)(ctypes.cast(read, ctypes.c_void_p).value or 0)
    write.argtypes, write.restype = (ctypes.c_int,), None
    return quick, write


@cache
def blas_core() -> str:
    """Return for which processor OpenBLAS' kernels are that it uses; "" for another BLAS."""
    found = _functions("get_corename")
    if found is None:
        return ""
    found[0].restype = ctypes.c_char_p
    name: bytes = found[0]()
    return name.decode()


def available() -> int:
    """Return how many threads kernels may use: those of BLAS, or 1 where they are not known."""
    held = _region.held
    if held is not None:
        return held
    blas = _openblas()
    if blas is None:
        return 1
    threads = blas[0]()
    # Another thread may have begun to hold BLAS meanwhile.
    return threads if threads > 1 else _region.held or threads


def for_kernels() -> int:
    """Return how many threads a kernel may use that is called here: one inside a piece of work."""
    return 1 if getattr(_inside, "working", False) else available()


class _Region:
    """The time during which blocks run at once; BLAS has one thread meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entered = 0
        self.held: int | None = None

    def __enter__(self) -> None:
        with self.lock:
            blas = _openblas()
            if self.entered == 0 and blas is not None:
                self.held = blas[0]()
                blas[1](1)
            self.entered += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.entered -= 1
            blas = _openblas()
            if self.entered == 0 and blas is not None and self.held is not None:
                blas[1](self.held)
                self.held = None


_region = _Region()


def one_each() -> _Region:
    """Return a context in which BLAS has one thread, so that it adds in one order always."""
    return _region


_pools: dict[int, ThreadPoolExecutor] = {}
_inside = threading.local()


def run(work: Callable[[Item], Any], items: Sequence[Item]) -> None:
    """Do independent pieces of work, each on any thread, and return when all are done.

    Raises
    ------
    Exception
        The first that a piece raised.
    """
    workers = 1 if getattr(_inside, "working", False) else min(available(), len(items))
    if workers <= 1:
        for item in items:
            work(item)
        return
    rest = iter(items)
    lock = threading.Lock()

    def take() -> None:
        _inside.working = True
        try:
            while True:
                with lock:
                    item = next(rest, None)
                if item is None:
                    return
                work(item)
        finally:
            _inside.working = False

    with _region:
        # In the caller's context, where np.errstate says what to do about overflows.
        pool = _pool(workers - 1)
        others = [pool.submit(copy_context().run, take) for _ in range(workers - 1)]
        try:
            take()
        finally:
            errors = [each.exception() for each in others]
    for error in errors:
        if error is not None:
            raise error


def _pool(workers: int) -> ThreadPoolExecutor:
    pool = _pools.get(workers)
    if pool is None:
        pool = _pools.setdefault(workers, ThreadPoolExecutor(workers, "distgrad-kernel"))
    return pool


def _forget() -> None:
    """Start anew in a forked child, where the threads and their locks were left behind."""
    held = _region.held
    _region.__init__()  # type: ignore[misc]  # the one region of the process, as it was at first
    _pools.clear()
    blas = _openblas()
    if held is not None and blas is not None:
        blas[1](held)


os.register_at_fork(after_in_child=_forget)


# --- scratch memory -------------------------------------------------------------------------------

_local = threading.local()
_KEPT = 1 << 24  # bytes: what a thread keeps for the next call, for each purpose


def scratch(purpose: str, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
    """Return memory of this thread's own, with anything in it, until asked for that purpose again.

    Parameters
    ----------
    purpose : str
        What for; memory for two purposes does not overlap.
    shape : sequence of int
        The shape of the array.
    dtype : dtype
        Its dtype.
    """
    kind = np.dtype(dtype)
    elements = 1
    for length in shape:
        elements *= length
    wanted = elements * kind.itemsize
    if wanted > _KEPT:
        return np.empty(shape, kind)
    buffers: dict[str, np.ndarray[Any, Any]] = _local.__dict__
    buffer = buffers.get(purpose)
    if buffer is None or buffer.nbytes < wanted:
        buffer = buffers[purpose] = np.empty(wanted, np.uint8)
    array: np.ndarray[Any, Any] = buffer[:wanted].view(kind).reshape(shape)
    return array

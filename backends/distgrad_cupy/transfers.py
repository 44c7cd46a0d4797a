"""Refuse copies from the host while a graph is captured, by the allocator of pinned memory.

A graph would read host memory again at each launch, long after it served another purpose. All of
CuPy's transfers take such memory from one allocator, which is replaced while a graph is captured,
and put back. CuPy does not tell which one is in place, but memory tells which pool it is of; a
user's own function cannot be told, so it stays in place, and nothing is captured.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Allocator = Callable[[int], Any]

# The collector of garbage may run Python meanwhile, or a pool ask its source, but not twice.
_TRIES = 2


class UncapturableError(RuntimeError):
    """What a plan does cannot be part of a CUDA graph."""


class Transfers:
    """Refuses copies between host and device, on threads that capture a graph.

    Parameters
    ----------
    module : module
        CuPy.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._local = threading.local()
        self._lock = threading.Lock()
        self._refusing = 0  # threads
        self._before: Allocator | None = None  # None: CuPy's without a pool

    @property
    def are_refused(self) -> bool:
        """Whether this thread may not copy now."""
        return getattr(self._local, "refused", False)

    @contextmanager
    def refused(self) -> Iterator[None]:
        """Refuse this thread's copies, and leave the allocator as it was.

        Raises
        ------
        UncapturableError
            If pinned memory comes from a function of the user's, at first or in the end.
        """
        with self._lock:
            if not self._refusing:
                self._before = _allocator_in_place(self._module)
                self._module.cuda.set_pinned_memory_allocator(self._allocate)
            self._refusing += 1
        self._local.refused = True
        stayed = True
        try:
            yield
        finally:
            self._local.refused = False
            with self._lock:
                self._refusing -= 1
                stayed = self._is_in_place()
                if stayed and not self._refusing:
                    self._module.cuda.set_pinned_memory_allocator(self._before)
        if not stayed:
            raise UncapturableError("the allocator of pinned memory was replaced meanwhile")

    def refuse(self) -> None:
        """Raise if this thread may not copy now.

        Raises
        ------
        UncapturableError
            Then.
        """
        if self.are_refused:
            raise UncapturableError("an operation copies between the host and the device")

    def _allocate(self, nbytes: int) -> Any:
        self.refuse()
        self._local.asked = True
        if self._before is not None:
            return self._before(nbytes)
        cuda = self._module.cuda
        memory = cuda.PinnedMemory(nbytes, cuda.runtime.hostAllocPortable)
        return cuda.PinnedMemoryPointer(memory, 0)

    def _is_in_place(self) -> bool:
        """Return whether this thread's pinned memory still comes from here."""
        self._local.asked = False
        self._module.cuda.alloc_pinned_memory(1)
        return bool(self._local.asked)


def _allocator_in_place(module: Any) -> Allocator | None:
    """Return CuPy's allocator of pinned memory that is in place; None for the one without a pool.

    Raises
    ------
    UncapturableError
        If it is a function of the user's.
    """
    for _ in range(_TRIES):
        pool, is_python = _pool_of_a_byte(module.cuda.alloc_pinned_memory)
        if not is_python:
            allocate: Allocator | None = None if pool is None else pool.malloc
            return allocate
    raise UncapturableError(
        "pinned memory comes from a function of your own, behind which copies from the host are "
        "not seen; expected a pool: cupy.cuda.set_pinned_memory_allocator(pool.malloc)"
    )


def _pool_of_a_byte(allocate: Allocator) -> tuple[Any, bool]:
    """Return the pool of pinned memory, and whether Python code took part, which CuPy's is not."""
    called: list[str] = []

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    profiler = sys.getprofile()
    if profiler is None:  # under a profiler the memory alone has to tell
        sys.setprofile(note)
    try:
        pointer = allocate(1)
    finally:
        if profiler is None:
            sys.setprofile(None)
    reference = getattr(pointer.mem, "pool", None)  # weak
    return None if reference is None else reference(), bool(called)

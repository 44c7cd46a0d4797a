"""Memory for one CUDA graph, which knows its addresses, and not who allocates meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distgrad_cupy.transfers import UncapturableError


class Pool:
    """Memory of a graph, which is not to be given back while the graph is captured.

    Where there is no more, CuPy's pools give back what is free and ask again. What kernels that
    were captured have worked in is free by then, but the graph has its addresses.

    Parameters
    ----------
    cuda : module
        `cupy.cuda`.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._device = cuda.Device().id
        self._taken: list[int] = []  # bytes

        def take(nbytes: int, taken: list[int] = self._taken) -> Any:
            memory = cuda.Memory(nbytes)
            taken.append(nbytes)
            return cuda.MemoryPointer(memory, 0)

        self._pool = cuda.MemoryPool(take)
        self.malloc = self._pool.malloc

    def release(self) -> None:
        """Give back what is free, which a pool of CuPy's that goes away does not do by itself."""
        with self._cuda.Device(self._device):
            self._pool.free_all_blocks()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Raise in the end if memory was given back meanwhile.

        Raises
        ------
        UncapturableError
            Then.
        """
        given_back = sum(self._taken) - self._pool.total_bytes()
        yield
        if sum(self._taken) - self._pool.total_bytes() != given_back:
            raise UncapturableError("the device has not the memory for a graph of its own")

"""Add up long messages of two ranks of one machine in memory that they share.

Each rank puts its message there, times its factor, in chunks that stay in the processor's caches,
and adds up both ranks' chunks, in the order of the ranks: MPI copies more often, and a factor would
be one more pass over the message. Beside that pass and MPI or the slices of
`distgrad.distributed.verbs.slices`, 2 ranks on 2 cores take for 64 KiB 0.05 ms in place of 0.08
(MPICH 5.0; 0.04 and 0.06 in Open MPI 5.0), for 1 MiB 0.38 in place of 0.49 (0.36 and 0.40), for
7.5 MiB 3.0 in place of 3.8 (2.2 and 2.8), for 100 MiB 36 in place of 45 (31 and 40): see
`scripts/bench comm averaging`.

Three ranks of one machine would each read twice as much; on two cores, where this was measured,
they also wait for each other at every chunk, and slices are quicker.
"""

from __future__ import annotations

import mmap
import os
import platform
import secrets
import stat
import sys
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from distgrad.distributed.verbs.communicator import Array

SWITCH = "DISTGRAD_SHARED_MEMORY"  # 0 switches it off

_RANKS = 2
_SHORTEST = 2**14  # bytes, from which it is quicker by more than a fifth
_CHUNK = 2**18  # bytes: of 64 KiB to 1 MiB the quickest, half of the least second-level cache known
_SLOTS = 2  # chunks that a rank has there, see `SharedMemory.add_up`
HEADER = 4096  # bytes, with the counters, far from each other, and the token
_COUNTERS, _TOKEN, _TOLD = (0, 16), 32, (48, 64)  # places of 8 bytes in the header
_BYTES = HEADER + _RANKS * _SLOTS * _CHUNK
_QUICK_LOOKS = 100  # at the other's counter, before whoever completes requests listens to others

# A rank sees the other's counter go up after what was written before it: so it is where processors
# make writes visible in their order, and read in order. Elsewhere MPI knows what to do.
_IN_ORDER = ("x86_64", "AMD64", "i686")


def is_worth_it(ranks: int, nbytes: int) -> bool:
    """Return whether to add up here if that is possible, the same on all ranks."""
    return ranks == _RANKS and nbytes >= _SHORTEST


def join(mpi: Any, communicator: Any, ranks_here: int) -> Generator[Any, None, SharedMemory | None]:
    """Yield requests, each to be completed before the next, and return the memory.

    Parameters and the reasons for None are those of `share`.
    """
    memory = yield from share(mpi, communicator, ranks_here, _BYTES)
    return None if memory is None else SharedMemory(memory, communicator.rank)


def share(
    mpi: Any, communicator: Any, ranks_here: int, nbytes: int
) -> Generator[Any, None, mmap.mmap | None]:
    """Yield requests, each to be completed before the next, and return memory of both ranks.

    Parameters
    ----------
    mpi : module
        `mpi4py.MPI`.
    communicator : mpi4py.MPI.Comm
        Of two ranks, both of which do this.
    ranks_here : int
        How many ranks of the job this machine has.
    nbytes : int
        How much, the same on both; the first `HEADER` bytes are this module's.

    Returns
    -------
    mmap.mmap or None
        None on both, if they are on different machines, or have no core each, or may not see each
        other's memory, or there is none left, or ``DISTGRAD_SHARED_MEMORY=0`` says so.

    Notes
    -----
    The memory has no name in any file system, nor a limit like that of /dev/shm: the other rank
    opens it as a file of this process. The system frees it with the last process that has it,
    however that ends.
    """
    rank = communicator.rank
    memory, descriptor, token = None, -1, secrets.randbits(62)
    cores = os.sched_getaffinity(0) if _is_possible(ranks_here) else set()
    told = np.zeros(5, np.int64)
    if rank == 0 and cores:
        descriptor, memory = _make(token, nbytes)
        told[:] = os.getpid(), descriptor, token, min(cores), len(cores)
    yield communicator.Ibcast(told, 0)
    if rank == 1 and cores:
        process, opened, token, core, count = told.tolist()
        if count > 1 or len(cores) > 1 or cores != {core}:
            memory = _open(process, opened, token, nbytes)
    is_common = np.array(memory is not None, np.int64)
    yield communicator.Iallreduce(mpi.IN_PLACE, is_common, mpi.MIN)
    if descriptor >= 0:
        os.close(descriptor)
    return memory if is_common else None


class SharedMemory:
    """Memory of two ranks, in which they add up.

    Parameters
    ----------
    memory : mmap.mmap
        Of both.
    rank : int
        0 or 1.
    """

    def __init__(self, memory: mmap.mmap, rank: int) -> None:
        self._counters = memoryview(memory).cast("q")
        self._factors = memoryview(memory).cast("d")
        self._told, self._others_told = _TOLD[rank], _TOLD[1 - rank]
        self._own, self._others = _COUNTERS[rank], _COUNTERS[1 - rank]
        chunks = np.frombuffer(memory, np.uint8, offset=HEADER).reshape(_SLOTS, _RANKS, _CHUNK)
        self._mine = [chunks[slot, rank] for slot in range(_SLOTS)]
        self._both = [tuple(chunks[slot]) for slot in range(_SLOTS)]
        self._done = 0

    def add_up(self, flat: Array, factor: float = 1.0) -> Iterator[Any]:
        """Yield requests, each to be completed before the next; after the last the sum is there.

        Parameters
        ----------
        flat : numpy.ndarray
            Of one axis, contiguous, of the same length and dtype on both ranks; overwritten by the
            same bits on both.
        factor : float
            By which this rank's message is multiplied.

        Notes
        -----
        A counter for each rank says how many chunks it has written, in all messages so far. Chunk
        k goes where chunk k - 2 was: this rank has seen the other write chunk k - 1 by then, which
        it does after it has read chunk k - 2.
        """
        step, dtype = _CHUNK // flat.itemsize, flat.dtype
        for start in range(0, flat.size, step):
            piece = flat[start : start + step]
            slot, nbytes = self._done % _SLOTS, piece.nbytes
            mine = self._mine[slot][:nbytes].view(dtype)
            if factor == 1:
                mine[...] = piece
            else:
                np.multiply(piece, factor, out=mine)
            yield from self.meet()
            first, second = self._both[slot]
            np.add(first[:nbytes].view(dtype), second[:nbytes].view(dtype), out=piece)

    def meet(self) -> Iterator[Any]:
        """Yield a request if the other rank has not called this as often; then it has."""
        counters, others = self._counters, self._others
        self._done = done = self._done + 1
        counters[self._own] = done
        for _ in range(_QUICK_LOOKS):
            if counters[others] >= done:
                return
        yield _Written(counters, others, done)

    def exchange(self, number: int, factor: float) -> Generator[Any, None, tuple[int, float]]:
        """Yield requests like `meet`, and return what the other rank gave.

        What it gives next is not written before this rank meets it again: in between both have to
        `meet`, as all that adds up here does.
        """
        mine, others = self._told, self._others_told
        self._counters[mine] = number
        self._factors[mine + 1] = factor
        yield from self.meet()
        return self._counters[others], self._factors[others + 1]


class _Written:
    """The other rank's writing of a chunk, as a request like MPI's."""

    def __init__(self, counters: memoryview, place: int, count: int) -> None:
        self._counters = counters
        self._place = place
        self._count = count

    def Test(self) -> bool:
        """Return whether it has been written."""
        return bool(self._counters[self._place] >= self._count)


def _is_possible(ranks_here: int) -> bool:
    """Return whether this rank can share memory at all, with a core for itself."""
    return (
        sys.platform == "linux"
        and platform.machine() in _IN_ORDER
        and ranks_here <= (os.cpu_count() or 1)
        and os.environ.get(SWITCH) != "0"
    )


def _make(token: int, nbytes: int = _BYTES) -> tuple[int, mmap.mmap | None]:
    """Return a descriptor and memory that bears a token; -1 and None where there is none."""
    try:
        descriptor = os.memfd_create("distgrad", os.MFD_CLOEXEC)
    except OSError:
        return -1, None
    try:
        os.posix_fallocate(descriptor, 0, nbytes)  # now: a page too few later is a signal
        memory = mmap.mmap(descriptor, nbytes)
    except OSError:
        os.close(descriptor)
        return -1, None
    memoryview(memory).cast("q")[_TOKEN] = token
    return descriptor, memory


def _open(process: int, descriptor: int, token: int, nbytes: int = _BYTES) -> mmap.mmap | None:
    """Return the memory of another process; None if this one may not, or that is none of ours."""
    if not process:
        return None
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        opened = os.open(f"/proc/{process}/fd/{descriptor}", flags)
    except OSError:  # another machine or container, or a system that allows none of it
        return None
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or found.st_size != nbytes:
            return None
        memory = mmap.mmap(opened, nbytes)
    except OSError:
        return None
    finally:
        os.close(opened)
    return memory if memoryview(memory).cast("q")[_TOKEN] == token else None

"""Measure what talking to other ranks costs: seconds and bytes of every verb of a communicator."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from distgrad.distributed import Communicator

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Cost:
    """What communication took since the meter was last read.

    Attributes
    ----------
    seconds : float
        Time spent in verbs, waiting for late ranks included.
    exposed_seconds : float
        The part of it in which the rank could not compute: all of it where verbs block, and what
        it waited for where a thread calls them.
    bytes_sent : int
        Bytes of the arrays that this rank gave to the others, each counted once: what a verb's
        algorithm sends on the wire is up to twice as much, and MPI does not tell.
    """

    seconds: float = 0.0
    exposed_seconds: float = 0.0
    bytes_sent: int = 0


class MeteredCommunicator:
    """A communicator that passes every verb on to another and adds up what it costs.

    Parameters
    ----------
    inner : Communicator
        Does the work.

    Examples
    --------
    >>> import distgrad.distributed as dist
    >>> ranks = MeteredCommunicator(dist.RecordedCommunicator(size=2))
    >>> ranks.allreduce(np.arange(3.0))
    array([0., 2., 4.])
    >>> ranks.read().bytes_sent
    24
    >>> ranks.read().bytes_sent
    0
    """

    def __init__(self, inner: Communicator) -> None:
        self._inner = inner
        self.rank = inner.rank
        self.size = inner.size
        self.local_rank = inner.local_rank
        self._seconds = self._exposed = 0.0
        self._bytes = 0
        if hasattr(inner, "duplicate"):
            self.duplicate = self._duplicate
        if hasattr(inner, "swap"):
            self.swap = inner.swap
        if hasattr(inner, "add_up_weighed"):
            self.add_up_weighed = self._add_up_weighed
        if hasattr(inner, "want_places"):
            shared: Any = inner
            self.want_places, self.places = shared.want_places, shared.places
        if hasattr(inner, "split"):
            self.split = self._split
        if hasattr(inner, "machine"):
            whole: Any = inner
            self.machine, self.count = whole.machine, whole.count
        if hasattr(inner, "name_next"):
            self.name_next = inner.name_next
        if hasattr(inner, "wait_for"):
            self.wait_for = self._wait_for
        if hasattr(inner, "allreduce_on_device"):
            self.allreduce_on_device = self._allreduce_on_device
        self._more: Any = inner  # for verbs beyond the protocol, of which it may lack any

    @property
    def started(self) -> int:
        """How many collective operations this rank has begun."""
        return self._inner.started

    @started.setter
    def started(self, value: int) -> None:
        self._inner.started = value

    @property
    def blocked_nanoseconds(self) -> int:
        """How long this rank has been in verbs so far."""
        return int(getattr(self._inner, "blocked_nanoseconds", 0))

    def read(self) -> Cost:
        """Return the cost since the last reading, and start again from zero."""
        cost = Cost(self._seconds, self._exposed, self._bytes)
        self._seconds, self._exposed, self._bytes = 0.0, 0.0, 0
        return cost

    def allreduce(self, array: Array, op: str = "sum", *, out: Array | None = None) -> Array:
        """Reduce as the inner communicator does."""
        started = time.perf_counter()
        result = self._inner.allreduce(array, op, out=out)
        self._add(started, array.nbytes)
        return result

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """Broadcast as the inner communicator does; only the root sends."""
        started = time.perf_counter()
        result = self._inner.broadcast(array, root)
        self._add(started, array.nbytes if self.rank == root else 0)
        return result

    def allgather(self, array: Array) -> Array:
        """Gather as the inner communicator does."""
        started = time.perf_counter()
        result = self._inner.allgather(array)
        self._add(started, array.nbytes)
        return result

    def allgatherv(self, array: Array, counts: Sequence[int], *, out: Array | None = None) -> Array:
        """Gather as the inner communicator does."""
        started = time.perf_counter()
        result = self._inner.allgatherv(array, counts, out=out)
        self._add(started, array.nbytes)
        return result

    def alltoall(self, array: Array) -> Array:
        """Exchange as the inner communicator does; its own row does not travel."""
        started = time.perf_counter()
        result = self._inner.alltoall(array)
        self._add(started, array.nbytes - array[self.rank].nbytes)
        return result

    def alltoallv(self, array: Array, counts: Array) -> Array:
        """Exchange as the inner communicator does; what stays here does not travel."""
        started = time.perf_counter()
        result = self._inner.alltoallv(array, counts)
        self._add(started, array.nbytes - int(counts[self.rank][self.rank]) * array.itemsize)
        return result

    def reduce_scatter(self, array: Array, op: str = "sum") -> Array:
        """Reduce as the inner communicator does."""
        started = time.perf_counter()
        result = self._inner.reduce_scatter(array, op)
        self._add(started, array.nbytes)
        return result

    def barrier(self) -> None:
        """Wait as the inner communicator does."""
        started = time.perf_counter()
        self._inner.barrier()
        self._add(started, 0)

    def abort(self, code: int = 1) -> NoReturn:
        """End all ranks at once."""
        self._inner.abort(code)

    def _add(self, started: float, sent: int) -> None:
        if self.size > 1:  # a single process talks to nobody
            seconds = time.perf_counter() - started
            self._seconds += seconds
            self._exposed += seconds
            self._bytes += sent

    def _add_up_weighed(self, message: Array, factor: float) -> None:
        started = time.perf_counter()
        self._more.add_up_weighed(message, factor)
        self._add(started, message.nbytes)

    def _wait_for(self, done: threading.Event) -> None:
        started = time.perf_counter()
        self._more.wait_for(done)
        self._add(started, 0)

    def _allreduce_on_device(self, array: Any, module: Any, op: str = "sum") -> None:
        started = time.perf_counter()
        self._more.allreduce_on_device(array, module, op)
        self._add(started, array.nbytes)

    def _duplicate(self) -> "_MeteredLane":
        return _MeteredLane(self._more.duplicate(), self)

    def _split(self, colour: int) -> "_MeteredPart":
        return _MeteredPart(self._more.split(colour), self)


class _MeteredPart(MeteredCommunicator):
    """The communicator of some of the ranks: what it costs, it costs the whole."""

    def __init__(self, inner: Any, whole: MeteredCommunicator) -> None:
        super().__init__(inner)
        self._whole = whole

    def _add(self, started: float, sent: int) -> None:
        if self.size > 1:
            self._whole._add(started, sent)


class _MeteredLane(MeteredCommunicator):
    """The communicator of a thread: its verbs cost time, but only who waits for them is exposed."""

    def __init__(self, inner: Any, account: MeteredCommunicator) -> None:
        super().__init__(inner)
        self._account = account

    def _wait_for(self, done: threading.Event) -> None:
        started = time.perf_counter()
        self._more.wait_for(done)
        self._account._exposed += time.perf_counter() - started

    def _add(self, started: float, sent: int) -> None:
        self._account._seconds += time.perf_counter() - started
        self._account._bytes += sent

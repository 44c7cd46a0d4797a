"""Say what the averaging of a step cost: bytes, seconds, and in how many nobody computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from distgrad.distributed.launching.launch import world
from distgrad.distributed.verbs.communicator import Communicator

Result = TypeVar("Result")


@dataclass(frozen=True)
class CommReport:
    """What one averaging of gradients cost this rank.

    Attributes
    ----------
    bytes : int
        Of the messages that this rank gave to the others, each counted once.
    seconds : float
        During which one was under way, waiting for late ranks included.
    exposed_seconds : float
        The part of it in which this rank waited and computed nothing.
    waited_seconds : float
        Spent in the first message, the comparison of plans: how much later the last rank came.
    buckets : int
        How many messages carried gradients.
    algorithm : str
        ``"allreduce"`` or ``"ordered"``; with ``"overlapped "`` before it where they travelled
        during the walk back.
    """

    bytes: int = 0
    seconds: float = 0.0
    exposed_seconds: float = 0.0
    waited_seconds: float = 0.0
    buckets: int = 0
    algorithm: str = ""

    @property
    def overlap(self) -> float:
        """The share of the seconds during which this rank computed, from 0 to 1."""
        return 1 - min(self.exposed_seconds / self.seconds, 1.0) if self.seconds else 0.0

    def slowest_rank(self, comm: Communicator | None = None) -> tuple[int, float]:
        """Return which rank came last, and by how many seconds; all ranks call this.

        Parameters
        ----------
        comm : Communicator, optional
            The ranks that averaged; `world()` by default.

        Notes
        -----
        Who comes last waits least. Clocks of different machines are not compared. With overlap
        the first message leaves before the walk back, so that only the forward pass counts.
        """
        waited = (world() if comm is None else comm).allgather(np.array(self.waited_seconds))
        return int(np.argmin(waited)), float(waited.max() - waited.min())


class Tally:
    """Adds up what a step's messages cost."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.bytes = self.buckets = 0
        self.seconds = self.exposed = self.waited = 0.0

    @contextmanager
    def exposed_time(self) -> Iterator[None]:
        """Count the time of a block as exposed."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.exposed += time.perf_counter() - started

    def carry(self, nbytes: int, send: Callable[[], Result]) -> Result:
        """Send a bucket and count its bytes and its time."""
        started = time.perf_counter()
        result = send()
        self.seconds += time.perf_counter() - started
        self.bytes += nbytes
        self.buckets += 1
        return result

    def agree(self, compare: Callable[[], Result]) -> Result:
        """Compare plans and count the time as spent waiting for others."""
        started = time.perf_counter()
        result = compare()
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.waited = self.waited or seconds
        return result

    def close(self, comm: Communicator) -> CommReport:
        """Return the report, and keep it as the communicator's last."""
        report = CommReport(
            self.bytes, self.seconds, self.exposed, self.waited, self.buckets, self.algorithm
        )
        _last[comm] = report
        return report


_last: WeakKeyDictionary[Communicator, CommReport] = WeakKeyDictionary()


def last_report(comm: Communicator | None = None) -> CommReport:
    """Return what the last averaging of gradients cost this rank.

    Parameters
    ----------
    comm : Communicator, optional
        The ranks that averaged; `world()` by default.

    Returns
    -------
    CommReport
        All zeros where nothing was averaged yet, or on one rank alone.

    Examples
    --------
    >>> import distgrad as dg
    >>> import distgrad.distributed as dist
    >>> ranks, x = dist.RecordedCommunicator(size=2), dg.Variable(3.0)
    >>> with dist.DistributedGradientTape(dg.GradientTape(), ranks) as tape:
    ...     y = x**2
    >>> gradient = tape.gradient(y, x)
    >>> report = dist.last_report(ranks)
    >>> report.buckets, report.bytes, report.algorithm
    (1, 8, 'allreduce')
    """
    return _last.get(world() if comm is None else comm, CommReport())

"""Say what averaging cost a step: bytes, seconds, how many of them idle, and who was late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from distgrad.core.spans import COMMUNICATION, WAITING, span
from distgrad.distributed.averaging.weights import seconds_in, slots_with
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.verbs.communicator import Array, Communicator

Result = TypeVar("Result")


@dataclass(frozen=True)
class CommReport:
    """What one averaging of gradients cost this rank, and how long each rank computed before.

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
        ``"allreduce"``, ``"hierarchical"``, ``"adasum"``, ``"ordered"`` or the name of a
        compression; with ``"overlapped "`` before it where they travelled during the walk back, and
        ``"deferred "`` where they were waited for at the next read of variables.
    rank_seconds : tuple of float
        For each rank, how long it computed between the last averaging and this one, waiting for
        others not included. Empty on one rank, before the second averaging, and beyond 2048 ranks.
    uncompressed_bytes : int
        Of the same messages without compression: what one plain allreduce of each would send.
    """

    bytes: int = 0
    seconds: float = 0.0
    exposed_seconds: float = 0.0
    waited_seconds: float = 0.0
    buckets: int = 0
    algorithm: str = ""
    rank_seconds: tuple[float, ...] = ()
    uncompressed_bytes: int = 0

    @property
    def compression(self) -> float:
        """How many times fewer bytes were sent than without compression; 1 where nothing was."""
        return self.uncompressed_bytes / self.bytes if self.bytes else 1.0

    @property
    def overlap(self) -> float:
        """The share of the seconds during which this rank computed, from 0 to 1."""
        return 1 - min(self.exposed_seconds / self.seconds, 1.0) if self.seconds else 0.0

    @property
    def straggler(self) -> int | None:
        """The rank that computed longest; None where that is not known."""
        return int(np.argmax(self.rank_seconds)) if self.rank_seconds else None

    @property
    def imbalance(self) -> float:
        """The longest time that a rank computed, over the mean of all: 1 where all are equal.

        In a step all wait for the slowest, so this is by how much a step would be shorter, were
        the work spread evenly.
        """
        mean = float(np.mean(self.rank_seconds)) if self.rank_seconds else 0.0
        return max(self.rank_seconds) / mean if mean else 1.0

    def slowest_rank(self) -> tuple[int, float]:
        """Return which rank computed longest, and by how many seconds longer than the quickest.

        Nothing is communicated: the seconds of all ranks came with the comparison of plans, which
        every step makes anyway. Clocks of different machines are not compared.

        Returns
        -------
        rank : int
            -1 where it is not known.
        seconds : float
        """
        if not self.rank_seconds:
            return -1, 0.0
        return int(np.argmax(self.rank_seconds)), max(self.rank_seconds) - min(self.rank_seconds)


class Tally:
    """Adds up what a step's messages cost."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.bytes = self.buckets = self.uncompressed = 0
        self.seconds = self.exposed = self.waited = 0.0
        self.rank_seconds: tuple[float, ...] = ()
        # Asks a device, which may still be at it, what of these it knows by its own clock.
        self.on_device: Callable[[], tuple[float, float]] | None = None

    @contextmanager
    def exposed_time(self) -> Iterator[None]:
        """Count the time of a block as exposed."""
        started = time.perf_counter()
        try:
            with span("exposed", WAITING):
                yield
        finally:
            self.exposed += time.perf_counter() - started

    def add_up(self, message: Array, add: Callable[[], int]) -> Array:
        """Add up a bucket, and count as sent the bytes that `add` returns; return the message."""
        sent = self.carry(message.nbytes, add)
        self.bytes += sent - message.nbytes
        return message

    def carry(self, nbytes: int, send: Callable[[], Result]) -> Result:
        """Send a bucket and count its bytes and its time."""
        started = time.perf_counter()
        with span("bucket", COMMUNICATION, bytes=nbytes, number=self.buckets):
            result = send()
        self.seconds += time.perf_counter() - started
        self.bytes += nbytes
        self.uncompressed += nbytes
        self.buckets += 1
        return result

    def agree(self, compare: Callable[[], Result], slots: Array | None = None) -> Result:
        """Compare plans and count the time as spent waiting for others.

        Parameters
        ----------
        compare : callable
            Calls `agree`, with these slots if there are any.
        slots : numpy.ndarray, optional
            What `computed` returned.
        """
        started = time.perf_counter()
        with span("compare plans", COMMUNICATION):
            result = compare()
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.waited = self.waited or seconds
        # Nothing is known where a rank averages for the first time.
        self.rank_seconds = seconds_in(slots) or self.rank_seconds
        return result

    def computed(self, comm: Communicator, weight: float = 0.0) -> Array | None:
        """Return the `slots` of `agree`: how long this rank has computed, and its weight."""
        since = _averaged_at.get(comm)
        busy = 0 if since is None else max(_busy_nanoseconds(comm) - since, 1)
        return slots_with(comm, weight, busy)

    def close(self, comm: Communicator) -> CommReport:
        """Return the report, and keep it as the communicator's last."""
        _averaged_at[comm] = _busy_nanoseconds(comm)
        report = CommReport(
            self.bytes,
            self.seconds,
            self.exposed,
            self.waited,
            self.buckets,
            self.algorithm,
            self.rank_seconds,
            self.uncompressed,
        )
        asked = self.on_device
        _last[comm] = report if asked is None else partial(_with_device, report, asked)
        return report


def _with_device(report: CommReport, asked: Callable[[], tuple[float, float]]) -> CommReport:
    """Return a report with the time on the device, once that is through."""
    seconds, exposed = asked()
    return replace(
        report,
        seconds=report.seconds + seconds,
        exposed_seconds=report.exposed_seconds + exposed,
    )


# Where a device knows part of it, what asks the device.
_last: WeakKeyDictionary[Communicator, CommReport | Callable[[], CommReport]] = WeakKeyDictionary()

# When a communicator's last averaging ended, in nanoseconds of computing.
_averaged_at: WeakKeyDictionary[Communicator, int] = WeakKeyDictionary()


def _busy_nanoseconds(comm: Communicator) -> int:
    """Return this process's time less what it spent in the communicator's verbs."""
    return time.perf_counter_ns() - int(getattr(comm, "blocked_nanoseconds", 0))


def last_report(comm: Communicator | None = None) -> CommReport:
    """Return what the last averaging of gradients cost this rank.

    Where messages travel between devices behind the host's back, this waits for them.

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
    (1, 4, 'allreduce')
    """
    comm = ranks_of(comm)
    found = _last.get(comm, CommReport())
    if not isinstance(found, CommReport):
        found = _last[comm] = found()
    return found

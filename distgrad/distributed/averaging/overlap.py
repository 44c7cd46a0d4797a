"""Let buckets travel during the walk back: by a thread of its own, on a communicator of its own.

Plans are compared before the walk, on the communicator that everybody uses: also with a rank that
does something else there. Then each bucket leaves as soon as it is full and those before it have
left, so that their order is that of the plan on every rank; at last the ranks compare who had which
gradient. Which sources have dense gradients is taken from the step before; what came otherwise is
averaged afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from distgrad.distributed.averaging.adding import Adder
from distgrad.distributed.averaging.buckets import Bucket
from distgrad.distributed.averaging.buffers import buffers_of
from distgrad.distributed.averaging.by_host import passage_of
from distgrad.distributed.averaging.exchange import on_host, take_out
from distgrad.distributed.averaging.lanes import Job, Lane
from distgrad.distributed.averaging.layouts import Layout
from distgrad.distributed.averaging.report import Tally
from distgrad.distributed.averaging.weights import slots_with, weights_in
from distgrad.distributed.safety.fingerprint import Plan, agree
from distgrad.distributed.safety.undivided import Undivided
from distgrad.distributed.verbs.communicator import Communicator


class WalkedAverage(ABC):
    """One averaging whose buckets leave while gradients are still being computed.

    Parameters
    ----------
    comm : Communicator
        The ranks, whose buffers are used.
    plan : Plan
        What travels; compared here, before anything else.
    layout : Layout
        The buckets, the same on every rank.
    weight : float
        By which this rank's gradients are multiplied.
    adder : Adder
        How messages are added up.
    apart : Communicator, optional
        Where they are, if not on `comm`.
    """

    def __init__(
        self,
        comm: Communicator,
        plan: Plan,
        layout: Layout,
        weight: float,
        adder: Adder,
        apart: Communicator | None = None,
    ) -> None:
        self.weight = weight
        self._comm = comm
        self._buckets = layout.buckets
        self._adder = adder
        self._gradients: dict[int, Any] = {}
        self._missing = [len(bucket.positions) for bucket in self._buckets]
        self._bucket_of = {
            position: place
            for place, bucket in enumerate(self._buckets)
            for position in bucket.positions
        }
        self._sent = 0
        self.tally = Tally(f"overlapped {adder.algorithm}")
        operation = f"{plan.operation}; overlapped in {len(self._buckets)} buckets {layout.dense}"
        self._plan = Plan(operation, plan.entries)
        with Undivided(comm, plan.operation), self.tally.exposed_time():
            slots = slots_with(comm, weight)
            self.tally.agree(lambda: agree(comm, self._plan, slots=slots))
            adder.prepare(comm)
            if apart is not None:
                adder.prepare(apart)
            self.factor = adder.weigh(comm, weight, weights_in(comm, slots, weight))

    def ready(self, position: int, gradient: Any) -> None:
        """Take the final gradient of a source; what the tape's ``on_ready`` calls."""
        place = self._bucket_of.get(position)
        if place is None:
            return
        self._gradients[position] = gradient
        self._missing[place] -= 1
        while self._sent < len(self._buckets) and not self._missing[self._sent]:
            self._send(self._buckets[self._sent])
            self._sent += 1

    @abstractmethod
    def _send(self, bucket: Bucket) -> None:
        """Have a bucket leave, all of whose gradients are there."""

    @abstractmethod
    def finish(self, sources: list[Any], present: list[bool]) -> tuple[list[Any], list[bool]]:
        """Return the averages of what was in the buckets, and what any rank has.

        Parameters
        ----------
        sources : list of Tensor or Variable
            The sources.
        present : list of bool
            Which gradients this rank has, and which of them are dense; see `agree`.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Note that the walk failed: what the other ranks wait for will not come."""


class OverlappedAverage(WalkedAverage):
    """One whose buckets a thread carries.

    Parameters
    ----------
    lane : Lane
        The thread's.
    comm, plan, layout, weight, adder :
        As for `WalkedAverage`.
    """

    def __init__(
        self,
        lane: Lane,
        comm: Communicator,
        plan: Plan,
        layout: Layout,
        weight: float,
        adder: Adder,
    ) -> None:
        self._lane = lane
        self._jobs: list[Job] = []
        self._passages: list[Any] = []  # of messages from a device, None for others
        super().__init__(comm, plan, layout, weight, adder, lane.comm)

    def _send(self, bucket: Bucket) -> None:
        gradients = [self._gradients.pop(position) for position in bucket.positions]
        passage = passage_of(bucket, gradients, self.factor)
        if passage is None:
            out = buffers_of(self._comm).take(bucket.length, bucket.dtype)
            message = bucket.pack([on_host(each) for each in gradients], self.factor, out)
        else:
            message = passage.host
        add = partial(self._adder.add_up, self._lane.comm, bucket, message)
        work = partial(self.tally.add_up, message, add)
        self._passages.append(passage)
        self._jobs.append(self._submit(work if passage is None else partial(_once, passage, work)))

    def _submit(self, work: Callable[[], Any]) -> Job:
        """Have the thread add up the next bucket."""
        return self._lane.submit(work)

    def finish(self, sources: list[Any], present: list[bool]) -> tuple[list[Any], list[bool]]:
        """Return the averages of what was in the buckets, and what any rank has.

        Parameters
        ----------
        sources : list of Tensor or Variable
            The sources.
        present : list of bool
            Which gradients this rank has, and which of them are dense; see `agree`.
        """
        lane, tally = self._lane, self.tally
        slots = tally.computed(self._comm)
        compare = partial(agree, lane.comm, self._plan, present, slots=slots)
        last = lane.submit(partial(tally.agree, compare, slots))
        results: list[Any] = [None] * len(sources)
        for bucket, job, passage in zip(self._buckets, self._jobs, self._passages, strict=True):
            with self.tally.exposed_time():
                message = lane.wait(job)
            if passage is not None:
                message = passage.back()
            take_out(bucket, message, sources, results)
        with self.tally.exposed_time():
            union = lane.wait(last)
        return results, union

    def interrupt(self) -> None:
        """Note that the walk failed: what the other ranks wait for will not come."""
        self._lane.interrupted = True


def _once(passage: Any, work: Callable[[], Any]) -> Any:
    """Do something once a message has come from its device."""
    passage.arrived()
    return work()

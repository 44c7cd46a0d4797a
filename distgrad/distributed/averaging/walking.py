"""How buckets leave during the walk back: by a thread of the host, or by a stream of the device."""

from __future__ import annotations

from functools import partial
from typing import Any

from distgrad.distributed.averaging.adding import Adder
from distgrad.distributed.averaging.buckets import Bucket
from distgrad.distributed.averaging.exchange import take_out
from distgrad.distributed.averaging.lanes import lane_of
from distgrad.distributed.averaging.layouts import Layout
from distgrad.distributed.averaging.on_device import packed
from distgrad.distributed.averaging.overlap import OverlappedAverage, WalkedAverage
from distgrad.distributed.safety.fingerprint import Plan, agree
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.distributed.verbs.device_line import Line
from distgrad.distributed.verbs.streamed_sums import StreamedSums


def check_overlap(function: str, overlap: Any) -> None:
    """Raise a `ValueError` unless an option says whether to overlap, or leaves it open."""
    if overlap is not None and not isinstance(overlap, bool):
        raise ValueError(
            f"{function}: overlap is {overlap!r}; expected True, False, or None for the default"
        )


def walked_average(
    comm: Communicator,
    plan: Plan,
    leaves: list[Any],
    line: Line | None,
    layout: Layout | None,
    weight: float,
    adder: Adder,
    overlap: bool | None,
) -> WalkedAverage | None:
    """Return an average whose buckets leave during the walk back; None where they leave after it.

    Parameters
    ----------
    comm, plan, weight, adder :
        As for `WalkedAverage`.
    leaves : list of Tensor or Variable
        The sources.
    line : Line, optional
        The way of gradients that stay on devices.
    layout : Layout, optional
        What was sent in the step before; nothing is known at the first one.
    overlap : bool, optional
        What the program asks for. By default a stream is taken wherever there is one, since it
        costs nobody a core; for a thread see `lane_of`.
    """
    if layout is None or overlap is False:
        return None
    if line is not None:
        sums = line.sums() if layout.buckets else None
        if sums is None:
            return None
        sums.check()
        return StreamedAverage(sums, line, leaves, comm, plan, layout, weight, adder)
    lane = lane_of(comm, overlap) if len(layout.buckets) > 1 else None
    if lane is None:
        return None
    return OverlappedAverage(lane, comm, plan, layout, weight, adder)


class StreamedAverage(WalkedAverage):
    """One whose buckets travel on a stream of the device, behind the gradients in them.

    Parameters
    ----------
    sums : StreamedSums
        The stream's.
    line : Line
        The way of the messages, which counts them.
    leaves : list of Tensor or Variable
        The sources.
    comm, plan, layout, weight, adder :
        As for `WalkedAverage`.
    """

    def __init__(
        self,
        sums: StreamedSums,
        line: Line,
        leaves: list[Any],
        comm: Communicator,
        plan: Plan,
        layout: Layout,
        weight: float,
        adder: Adder,
    ) -> None:
        self._sums, self._line, self._leaves = sums, line, leaves
        self._messages: list[Any] = []
        super().__init__(comm, plan, layout, weight, adder)
        with self.tally.exposed_time():
            sums.begin()
        self.tally.on_device = sums.seconds

    def _send(self, bucket: Bucket) -> None:
        message = packed(bucket, self._leaves, self._gradients, self.factor)
        for position in bucket.positions:
            del self._gradients[position]
        self.tally.carry(message.nbytes, partial(self._sums.start, message))
        self._messages.append(message)

    def finish(self, sources: list[Any], present: list[bool]) -> tuple[list[Any], list[bool]]:
        """Return the averages, which the device waits for and the host does not; see the base."""
        comm, tally = self._comm, self.tally
        slots = tally.computed(comm)
        compare = partial(agree, comm, self._plan, present, slots=slots)
        with tally.exposed_time():
            union = tally.agree(compare, slots)
        self._sums.join()
        self._line.counts[self._line.way] += len(self._messages)
        results: list[Any] = [None] * len(sources)
        for bucket, message in zip(self._buckets, self._messages, strict=True):
            take_out(bucket, message, sources, results)
        return results, union

    def interrupt(self) -> None:
        """Leave the sums open: what the other ranks wait for will not come, and no more begin."""

"""Carry buckets in an order that all ranks share, and that turns once everybody has walked back.

Gradients are ready in the order of the walk back, those of the last layers first; they are needed
in that of the next forward pass, those of the first layers first. So what has not left when the
last rank has walked back leaves the other way round. That has to happen at the same bucket on all
ranks: before each, the threads compare in a small allreduce whether all ranks are through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.distributed.averaging.lanes import Job, Lane
from distgrad.errors import CommunicationError


def _not_given() -> None:
    raise CommunicationError("a bucket was to leave that this rank had not given yet")


class Carriage:
    """The buckets of one step on their way.

    Parameters
    ----------
    lane : Lane
        The thread that carries them.
    number : int
        How many there are, the same on all ranks.
    """

    def __init__(self, lane: Lane, number: int) -> None:
        self.jobs = [Job(_not_given) for _ in range(number)]
        self._lane = lane
        self._left = list(range(number))
        self._given = 0
        self._is_through = self._turned = False

    def give(self, work: Callable[[], Any]) -> Job:
        """Have the next bucket added up by `work`, in the order of the plan unless turned."""
        job = self.jobs[self._given]
        job.work = work
        self._given += 1
        self._lane.submit(self._carry)
        return job

    def give_all(self, works: list[Callable[[], Any]]) -> None:
        """Have all buckets added up, the last one of the plan first; all ranks do so."""
        for job, work in zip(self.jobs, works, strict=True):
            job.work = work
        self._turned = True
        for _ in works:
            self._lane.submit(self._carry)

    def through(self) -> None:
        """Say that this rank has given all."""
        self._is_through = True

    def _carry(self) -> None:
        try:
            if not self._turned and len(self._left) > 1:
                through = np.array(self._is_through, np.int64)
                self._turned = bool(self._lane.comm.allreduce(through, "min"))
            job = self.jobs[self._left.pop() if self._turned else self._left.pop(0)]
            job.result = job.work()
        except BaseException as error:
            for each in self.jobs:  # none of them will come
                if not each.done.is_set():
                    each.error = error
                    each.done.set()
            return
        job.done.set()

"""Threads that carry messages while others compute, each on a communicator of its own.

Collective operations that do not block make no progress by themselves, in none of the common MPIs;
a thread that waits inside MPI does.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary, finalize

import numpy as np

from distgrad.distributed.launching.threads import threads_per_rank
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.errors import CommunicationError


class Job:
    """Something that the thread does, and what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class Lane:
    """A thread that works off jobs in their order, on a communicator that nobody else uses.

    Parameters
    ----------
    comm : Communicator
        With a method `duplicate`; all ranks make their lanes together.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm.duplicate()
        self.interrupted = False
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # The thread holds the jobs alone, so that it ends with the ranks that it works for.
        threading.Thread(
            target=_work_off, args=(self._jobs,), daemon=True, name="distgrad-communication"
        ).start()
        finalize(self, self._jobs.put, None).atexit = False

    def submit(self, work: Callable[[], Any]) -> Job:
        """Have something done once all that was submitted before is done."""
        job = Job(work)
        self._jobs.put(job)
        return job

    def wait(self, job: Job) -> Any:
        """Return a job's result once it is there, or raise its error.

        Raises
        ------
        RemoteRankError, StallError
            If the thread waits for a rank that failed, left or does not come.
        """
        self.comm.wait_for(job.done)
        if job.error is not None:
            raise job.error
        return job.result


def _work_off(jobs: SimpleQueue[Job | None]) -> None:
    """Do one job after the other, until None comes in place of one."""
    while job := jobs.get():
        try:
            job.result = job.work()
        except BaseException as error:
            job.error = error
        job.done.set()
        del job


_lanes: WeakKeyDictionary[Communicator, dict[str, Lane | None]] = WeakKeyDictionary()


def lane_of(comm: Any, overlap: bool | None, what: str = "gradients") -> Lane | None:
    """Return a communicator's lane, made at the first call; all ranks call this together.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    overlap : bool, optional
        Whether there is to be one; by default, if every rank has two cores to itself: where the
        thread takes the core that computes, nothing is gained.
    what : str, optional
        What travels by it. Lanes for two things have no order between them, and a communicator
        each.
    """
    if overlap is False or not hasattr(comm, "duplicate"):
        return None
    known = _lanes.setdefault(comm, {})
    lane = known.get(what)
    if lane is None and (what not in known or overlap):
        if overlap is None:
            ranks_here = int(comm.allreduce(np.array(comm.local_rank), "max")) + 1
            cores = np.array(threads_per_rank(ranks_here))
            overlap = int(comm.allreduce(cores, "min")) > 1
        lane = known[what] = Lane(comm) if overlap else None
    if lane is not None and lane.interrupted:
        raise CommunicationError(
            "gradient: an earlier gradient was interrupted by an exception after it had begun to "
            "send, and the other ranks wait for the rest of it; let the exception end the job, or "
            "pass overlap=False"
        )
    return lane


# --- at the end of the program --------------------------------------------------------------------


def finish_at_exit(lane: Lane) -> None:
    """Have what is under way when the program ends come to its end: other ranks wait for it."""
    if not _used_lanes:
        atexit.register(_finish)  # after the job's own, and so called before it
    _used_lanes.add(lane)


_used_lanes: set[Lane] = set()


def _finish() -> None:
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if error is not None:
        return  # the ranks have been told, and the job ends
    for lane in _used_lanes:
        with suppress(CommunicationError):  # of a job that ends otherwise anyway
            lane.wait(lane.submit(nothing))


def nothing() -> None:
    """Do what a job does that is only waited for."""

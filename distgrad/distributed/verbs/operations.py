"""One MPI operation after the other: begun, waited for, and told of where it waits.

An operation is a series of non-blocking requests. Each is polled until it is complete, so that a
rank that fails or leaves is heard of (`distgrad.distributed.safety.guard`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from distgrad.distributed.safety.guard import Guard
from distgrad.distributed.safety.waiting import Waiting
from distgrad.errors import CommunicationError

_EVENT_SECONDS = 0.0005  # of sleep between two looks at what another thread does
_QUICK_TESTS = 10  # polls before the core is given up between two of them

# What an exception interrupts may still be read and written by MPI: it stays where it is.
_interrupted: list[Any] = []


class Operations:
    """The operations of one communicator; as a `Place`, where the thread that runs them waits.

    Parameters
    ----------
    guard : Guard
        The process's guard.
    communicator : int
        Which one, as `Guard.enroll` numbers them.
    members : tuple of int
        Its ranks, as those of the world.
    background : bool
        Whether the calling thread may wait inside MPI.

    Attributes
    ----------
    started : int
        How many were begun.
    blocked_nanoseconds : int
        How long whoever ran them was in them.
    """

    def __init__(
        self, guard: Guard, communicator: int, members: tuple[int, ...], *, background: bool
    ) -> None:
        self.communicator = communicator
        self.members = members
        self.started = 0
        self.blocked_nanoseconds = 0
        self._guard = guard
        self._background = background
        self._what: Callable[[], str] = lambda: "no operation"
        self._next_name: Callable[[], str] | None = None
        self._broken_off = ""  # in which words, once the other ranks were left in the middle

    @property
    def number(self) -> int:
        """The number of the present operation."""
        return self.started

    def what(self) -> str:
        """Return the present operation in words."""
        return self._what()

    def name_next(self, what: Callable[[], str]) -> None:
        """Call the next operation by another name than its own, such as what it prepares."""
        self._next_name = what

    def begin(self, what: Callable[[], str]) -> Callable[[], str]:
        """Count an operation, and return how it is called."""
        self.started += 1
        self._what, self._next_name = self._next_name or what, None
        return self._what

    def run(self, requests: Callable[[], Iterator[Any]], what: Callable[[], str]) -> None:
        """Complete the requests of one operation, one after the other.

        Raises
        ------
        RemoteRankError, StallError
            If a rank failed, left or has not come before the deadline.
        CommunicationError
            If MPI reports an error, or an operation before was broken off.
        """
        guard = self._guard
        begun = time.perf_counter_ns()
        what = self.begin(what)
        waiting = Waiting(self.communicator, self.started, self.members, what)
        if guard.alarmed:
            guard.check(waiting)
        if self._broken_off:
            raise CommunicationError(
                f"rank {guard.rank}: {self._broken_off}, and the other ranks would take anything "
                "else for the rest of that; let such an exception end the job"
            )
        # Not in a `finally`: what an exception interrupts stays open, for ever.
        guard.opened(1)
        series = requests()
        request = None
        try:
            for request in series:
                if self._background:
                    request.Wait()  # in C and without the interpreter's lock: others compute
                else:
                    self._complete(request.Test, waiting)
        except BaseException as error:
            _interrupted.append((series, request))
            self._note_interruption(what(), error)
            if not isinstance(error, guard.mpi.Exception):
                raise
            if guard.losses.heard(error):
                guard.alarmed = True
                raise guard.losses.error(guard.rank, f"in {what()}") from error
            raise CommunicationError(
                f"rank {guard.rank}: MPI failed in {what()}: {error.Get_error_string()}; "
                "do all ranks send the same shapes and dtypes?"
            ) from error
        guard.opened(-1)
        self.blocked_nanoseconds += time.perf_counter_ns() - begun

    def break_off(self, what: str, error: BaseException) -> None:
        """Begin nothing any more: an exception came between the operations of one exchange.

        Parameters
        ----------
        what : str
            The exchange in words.
        error : BaseException
            The exception.
        """
        if not self._broken_off:
            self._guard.opened(1)  # for ever: the other ranks wait for the rest
            self._note_interruption(what, error)

    def _note_interruption(self, what: str, error: BaseException) -> None:
        self._broken_off = self._broken_off or f"{type(error).__name__} interrupted {what}"

    def _complete(self, completed: Callable[[], bool], waiting: Waiting) -> None:
        for _ in range(_QUICK_TESTS):
            if completed():
                return
        self._guard.wait(completed, waiting)

    def wait_for(self, done: threading.Event) -> None:
        """Return once another thread, which runs these operations, has set the event."""
        if not done.is_set():
            self._guard.wait(lambda: done.wait(_EVENT_SECONDS), self)

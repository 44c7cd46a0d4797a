"""Sums of device arrays that travel on a stream of their own, while the current one computes on.

The stream waits for an event behind what computed a message, NCCL puts the sum into it, and at the
end the current stream waits for an event behind all of them: the host waits for nothing. Sums have
a group of NCCL's of their own, so that their order is theirs alone: between the collectives of a
walk back they may come elsewhere on each rank.

Whoever reads numbers of the device afterwards, and the next sums, wait on the host with open ears
(`distgrad.core.under_way`): behind a lost rank the device would wait for ever.
"""

from __future__ import annotations

import atexit
import sys
import threading
from contextlib import suppress
from functools import cache
from typing import Any

from distgrad.core.under_way import forget_wait, note_wait, settle
from distgrad.distributed.verbs.nccl import NCCLGroup
from distgrad.errors import CommunicationError

_INTERRUPTED = (
    "gradient: an earlier gradient was interrupted by an exception after it had begun to send, and "
    "the other ranks wait for the rest of it; let the exception end the job"
)


class StreamedSums:
    """The sums of one communicator; all ranks begin the same ones in the same order.

    Parameters
    ----------
    group : NCCLGroup
        The ranks, of which nobody else makes use.
    module : module
        CuPy, whose current device is the rank's.

    Attributes
    ----------
    nbytes : int
        Of the sums that were started since `begin`.
    """

    def __init__(self, group: NCCLGroup, module: Any) -> None:
        self._group = group
        self._cuda = module.cuda
        # Not a blocking one: that and the default stream wait for each other.
        self._stream = module.cuda.Stream(non_blocking=True)
        self._origins: dict[int, Any] = {}  # streams on which messages were computed
        self._held: list[Any] = []  # messages that their own streams do not wait for yet
        self._spans: list[tuple[Any, Any]] = []
        self._is_open = False
        self._error: CommunicationError | None = None
        self._last: tuple[Any, str] | None = None
        self._computed: Any = None
        self._lock = threading.RLock()
        self.nbytes = 0
        _settle_in_the_end()

    def check(self) -> None:
        """Raise unless sums can be begun.

        Raises
        ------
        CommunicationError
            If an earlier one was interrupted, or a rank was lost.
        """
        if self._is_open:
            raise CommunicationError(_INTERRUPTED)
        if self._error is not None:
            raise CommunicationError(
                "gradient: the sums of an earlier one never came, and NCCL was given up; let the "
                "exception end the job"
            ) from self._error

    def begin(self) -> None:
        """Begin a series of sums, which `join` ends; those before are complete.

        Raises
        ------
        CommunicationError
            As `check`.
        RemoteRankError, StallError
            If another rank is lost, whom the sums before wait for.
        """
        self.check()
        self.settle()
        self._spans = []
        self.nbytes = 0
        self._is_open = True

    def start(self, message: Any) -> None:
        """Have all ranks' messages added up, in place, once this one is computed.

        Parameters
        ----------
        message : array
            Contiguous, the result of what was given to the current stream, whose memory it is of.
        """
        current = self._cuda.get_current_stream()
        computed = self._cuda.Event(disable_timing=True)
        begun, done = self._cuda.Event(), self._cuda.Event()
        computed.record(current)
        self._stream.wait_event(computed)
        # From here on: until its own stream waits, its memory could be given to other results.
        self._origins[current.ptr] = current
        self._held.append(message)
        begun.record(self._stream)
        self._group.begin_sum(message, self._stream)
        done.record(self._stream)
        self._spans.append((begun, done))
        self.nbytes += message.nbytes

    def join(self) -> None:
        """Have the current stream wait for the sums; the host does not."""
        current = self._cuda.get_current_stream()
        what = f"{len(self._spans)} sums by NCCL of {self.nbytes} bytes of gradients"
        self._group.count(what)
        self._computed = self._cuda.Event()
        self._computed.record(current)
        done = self._cuda.Event(disable_timing=True)
        done.record(self._stream)
        for stream in {**self._origins, current.ptr: current}.values():
            stream.wait_event(done)
        self._held, self._origins = [], {}
        self._last = (done, what)
        self._is_open = False
        note_wait(self.settle)

    def settle(self) -> None:
        """Return once the sums that were joined are complete; one that failed fails every time.

        Raises
        ------
        RemoteRankError, StallError
            If another rank failed or left, or has not come before the deadline.
        CommunicationError
            If NCCL or the device fails.
        """
        with self._lock:
            if self._error is not None:  # whoever reads on would read what was never computed
                raise self._error
            if self._last is None:
                return
            try:
                self._group.wait(*self._last)
            except BaseException as error:
                self._error = (
                    error
                    if isinstance(error, CommunicationError)
                    else CommunicationError(f"{self._last[1]}: interrupted, and given up")
                )
                raise
            self._last = None
            forget_wait(self.settle)

    def seconds(self) -> tuple[float, float]:
        """Return how long the last sums were under way, and how long the device waited for them."""
        with suppress(CommunicationError):
            self.settle()
        if self._error is not None or not self._spans:
            return 0.0, 0.0
        elapsed = self._cuda.get_elapsed_time
        under_way = sum(elapsed(*span) for span in self._spans)
        try:
            waited = elapsed(self._computed, self._spans[-1][1])
        except self._cuda.runtime.CUDARuntimeError:  # it still computes what came before
            waited = 0.0
        return under_way / 1e3, max(waited, 0.0) / 1e3


@cache  # once
def _settle_in_the_end() -> None:
    """Have what is under way when the program ends come to its end: other ranks wait for it."""
    atexit.register(_settle_at_exit)  # after the job's own, and so called before it


def _settle_at_exit() -> None:
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if error is not None:
        return  # the ranks have been told, and the job ends
    with suppress(CommunicationError):  # of a job that ends otherwise anyway
        settle()

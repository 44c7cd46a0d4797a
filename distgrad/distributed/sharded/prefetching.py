"""Gather variables before they are asked for: a step asks for them in the order of the one before.

While one block runs, a thread gathers the next one's variables on a communicator of its own. Ranks
foresee the same, since they have compared what they ask for; what was foreseen wrongly is let go.
"""

from __future__ import annotations

from functools import partial

from distgrad.distributed.averaging.lanes import Job, Lane, finish_at_exit, lane_of
from distgrad.distributed.sharded.carrying import HostCarrier
from distgrad.distributed.sharded.layout import Unit
from distgrad.distributed.verbs.communicator import Array, Communicator


class Prefetch:
    """The unit that is gathered ahead of its use, one at a time.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    overlap : bool, optional
        Whether there is to be one, see `lane_of`.
    """

    def __init__(self, comm: Communicator, overlap: bool | None) -> None:
        self._comm, self._overlap = comm, overlap
        self._before: list[Unit] = []  # what the step before asked for, in its order
        self._now: list[Unit] = []
        self._is_alike = True
        self._lane: Lane | None = None
        self._coming: tuple[Unit, Job] | None = None

    @property
    def bytes(self) -> int:
        """How many bytes are gathered, or being so, of which nobody has asked for yet."""
        if self._coming is None:
            return 0
        unit = self._coming[0]
        return unit.length * unit.dtype.itemsize

    def after(self, unit: Unit) -> Unit | None:
        """Note that a unit was asked for; return the one that is foreseen to be the next."""
        place = len(self._now)
        self._now.append(unit)
        self._is_alike = self._is_alike and self._before[place : place + 1] == [unit]
        if not self._is_alike or place + 1 == len(self._before):
            return None
        return self._before[place + 1]

    def begin(self, unit: Unit, row: Array) -> None:
        """Have a unit gathered, of which this rank has a row; all ranks call this."""
        self.forget()
        self._lane = lane_of(self._comm, self._overlap, "parameters")
        if self._lane is None:
            self._overlap = False
            return
        finish_at_exit(self._lane)
        gather = partial(HostCarrier(self._lane.comm).allgatherv, row, unit.counts)
        self._coming = unit, self._lane.submit(gather)

    @property
    def is_on(self) -> bool:
        """Whether anything is gathered ahead, as far as is known."""
        return self._overlap is not False

    def take(self, unit: Unit) -> Array | None:
        """Return all elements of a unit once they are there; None if another was foreseen."""
        if self._coming is None or self._coming[0] is not unit or self._lane is None:
            return None
        job = self._coming[1]
        self._coming = None
        found: Array = self._lane.wait(job)
        return found

    def forget(self, unit: Unit | None = None) -> None:
        """Let go of what is coming, or of this unit, whose elements have changed since."""
        if self._coming is not None and unit in (None, self._coming[0]):
            self._coming = None

    def end_step(self) -> None:
        """Begin anew: parameters have changed, and the next step is to ask in the same order."""
        self.forget()
        self._before, self._now, self._is_alike = self._now, [], True

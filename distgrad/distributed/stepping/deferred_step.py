"""One step that is under way: each part of it is taken where one of its variables is read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any

from distgrad import tree
from distgrad.core.seam import LISTENERS
from distgrad.distributed.averaging.buckets import Bucket
from distgrad.distributed.averaging.exchange import take_out
from distgrad.distributed.averaging.lanes import Job, Lane, nothing
from distgrad.distributed.averaging.report import Tally
from distgrad.distributed.stepping.awaiting import await_value, can_wait, release
from distgrad.distributed.verbs.communicator import Array, Communicator
from distgrad.optimizers.naming import owner_of
from distgrad.optimizers.stateful import Optimizer
from distgrad.optimizers.transforms import Chain
from distgrad.variable import Variable


class DeferredStep:
    """One step under way: its buckets, and the variables that wait for them.

    Parameters
    ----------
    optimizer : Optimizer
        Who takes it; one that treats each variable by itself.
    comm, lane, tally
        The ranks, the thread that adds up, and what it costs.
    leaves : list of Variable
        The variables of the step.
    union : list of bool
        Which of them any rank has a gradient of.
    buckets : sequence of Bucket
        What is on its way.
    jobs : list of Job
        For each of them.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        comm: Communicator,
        lane: Lane,
        tally: Tally,
        leaves: list[Variable],
        union: list[bool],
        buckets: Sequence[Bucket],
        jobs: list[Job],
    ) -> None:
        self._optimizer, self.comm, self._lane, self._tally = optimizer, comm, lane, tally
        self._leaves, self._union = leaves, union
        self._buckets, self._jobs = buckets, jobs
        self._open = dict.fromkeys(reversed(range(len(buckets))))  # the first layers first
        self._place = {
            leaves[position].key: place
            for place, bucket in enumerate(buckets)
            for position in bucket.positions
        }
        self._lock = threading.RLock()
        self._context = copy_context()
        self.failed: Exception | None = None
        # All parts of a step count from the same numbers: those before it.
        self._shared = _shared_state(optimizer)
        self._before = [owner.value() for owner in self._shared]
        chosen = {optimizer._names[leaf.key]: leaf for leaf in leaves}
        fits = getattr(_last_part(optimizer), "fits_in_place", None)
        self._in_place = fits is not None and fits(chosen)  # of all: as the plain optimizer asks

    def begin(self, known: Sequence[Any]) -> None:
        """Take the part of the step whose averages are known, and have all else wait."""
        optimizer = self._optimizer
        assert optimizer._iterations is not None  # noqa: S101  for the type checker: it is built
        optimizer._iterations.assign(int(optimizer._iterations) + 1)
        here = {p: known[p] for p in range(len(self._leaves)) if known[p] is not None}
        if here:
            self._take(here)
        at_once: list[Variable] = []
        for bucket in self._buckets:
            for position in bucket.positions:
                leaf = self._leaves[position]
                if can_wait(leaf):
                    await_value(leaf, self)
                else:
                    at_once.append(leaf)
        for leaf in at_once:
            self.complete(leaf)

    # --- parts ------------------------------------------------------------------------------------

    def complete(self, variable: Variable) -> None:
        """Wait for a variable's bucket, and take the part of the step that it is."""
        self._complete(self._place[variable.key])

    def wait(self) -> None:
        """Take all of the step that is left."""
        for place in list(self._open):
            self._complete(place)

    def _complete(self, place: int) -> None:
        with self._lock:
            if place not in self._open:
                return
            try:
                with self._tally.exposed_time():
                    message = self._lane.wait(self._jobs[place])
                # As where the step was begun: without autocasting, say, that a reader is in.
                self._context.copy().run(self._receive, place, message)
            except Exception as error:
                self._give_up(error)
                raise
            if not self._open:
                self._tally.close(self.comm)

    def _receive(self, place: int, message: Array) -> None:
        del self._open[place]
        bucket = self._buckets[place]
        for position in bucket.positions:
            release(self._leaves[position])
        self._jobs[place] = Job(nothing)  # which held the message
        results: list[Any] = [None] * len(self._leaves)
        take_out(bucket, message, self._leaves, results)
        del message
        found = {p: results[p] for p in bucket.positions if self._union[p]}
        if found:
            self._take(found)

    def _take(self, averages: dict[int, Any]) -> None:
        """Take the step of some variables."""
        optimizer = self._optimizer
        given: dict[str, Any] = dict.fromkeys(optimizer._names.values())
        chosen: dict[str, Variable] = {}
        for position, average in averages.items():
            leaf = self._leaves[position]
            name = optimizer._names[leaf.key]
            given[name], chosen[name] = average, leaf
        silent = LISTENERS.set(())
        try:
            for owner, before in zip(self._shared, self._before, strict=True):
                owner.assign(before)
            if self._in_place:
                optimizer._change(given, chosen)
            else:
                optimizer._assign(given)
        finally:
            LISTENERS.reset(silent)

    def _give_up(self, error: Exception) -> None:
        """Leave what is not done undone: those who look later get what they had."""
        self.failed = error
        self._open.clear()
        for leaf in self._leaves:
            release(leaf)


def _last_part(optimizer: Optimizer) -> Any:
    transform = optimizer.transform
    return transform.parts[-1] if isinstance(transform, Chain) else transform


def _shared_state(optimizer: Optimizer) -> list[Variable]:
    """Return the state that belongs to no variable: counts of steps."""
    names = set(optimizer._names.values())
    return [
        state
        for path, state in zip(
            tree.paths(optimizer._state), tree.flatten(optimizer._state)[0], strict=True
        )
        if owner_of(path, names) is None
    ]

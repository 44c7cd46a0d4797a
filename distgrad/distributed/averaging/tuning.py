"""Find the quickest way to average by trying: bucket lengths, and reductions where that is asked.

The first steps of a training take turns among the candidates; then the ranks agree, by one small
message, on the one whose slowest rank was quickest, and go on with it. No step is lost: each is a
whole step of the training. What was found is kept for the next job of the same kind.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from distgrad.distributed.averaging.buckets import BUCKET_BYTES
from distgrad.distributed.averaging.remembered import Remembered
from distgrad.distributed.averaging.report import last_report
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.distributed.verbs.communicator import Communicator

AUTO = "auto"
LENGTHS = tuple(n * 2**20 for n in (1, 4, 10, 25, 100))
_ROUNDS = 3  # of measurement, after one in which buckets are laid out
_CLEARLY = 0.97  # of the default's time, for another candidate to be worth it
_FILE = "averaging.json"


@dataclass(frozen=True)
class Choice:
    """A way to average.

    Attributes
    ----------
    bucket_bytes : int
        How long a message may get.
    reduction : str
        How it is added up, see `DistributedGradientTape`.
    """

    bucket_bytes: int = BUCKET_BYTES
    reduction: str = "native"


class Search:
    """Tries candidates in turn, and settles on one together with the other ranks.

    Parameters
    ----------
    comm : Communicator
        The ranks; all make the search together.
    choices : sequence of Choice
        The candidates, the default first; the same on every rank.
    key : str, optional
        Under which rank 0 looks for, and keeps, what was found; nothing is kept without.
    rounds : int
        How often each is measured.
    """

    def __init__(
        self,
        comm: Communicator,
        choices: Sequence[Choice],
        key: str = "",
        rounds: int = _ROUNDS,
    ) -> None:
        self._choices = list(dict.fromkeys(choices))
        self._key = key
        self._steps = (rounds + 1) * len(self._choices)
        self._step = 0
        self._least = np.full(len(self._choices), np.inf)
        self.settled: Choice | None = self._choices[0] if len(self._choices) == 1 else None
        if self.settled is None and key:
            self._recall(comm)

    @property
    def choice(self) -> Choice:
        """What the next step is to use."""
        return self.settled or self._choices[self._step % len(self._choices)]

    def observe(self, comm: Communicator, seconds: float) -> None:
        """Take in what the step with `choice` cost this rank; after the last one, settle.

        The communicator is not kept here: searches are kept for as long as there is one.
        """
        if self.settled is not None:
            return
        place = self._step % len(self._choices)
        if self._step >= len(self._choices):
            # The least: whatever disturbs a step makes it longer.
            self._least[place] = min(self._least[place], seconds)
        self._step += 1
        if self._step == self._steps:
            self._settle(comm)

    def _settle(self, comm: Communicator) -> None:
        slowest = comm.allreduce(self._least, "max")
        best = int(np.argmin(slowest))
        if slowest[best] > _CLEARLY * slowest[0]:
            best = 0
        self.settled = self._choices[best]
        if self._key and comm.rank == 0:
            entry = {
                "bucket_bytes": self.settled.bucket_bytes,
                "reduction": self.settled.reduction,
                "seconds": [
                    [each.bucket_bytes, each.reduction, float(seconds)]
                    for each, seconds in zip(self._choices, slowest, strict=True)
                ],
            }
            Remembered(_FILE).write(self._key, entry)

    def _recall(self, comm: Communicator) -> None:
        """Settle on what an earlier job found, if rank 0 knows of one."""
        place = -1
        if comm.rank == 0:
            entry = Remembered(_FILE).read(self._key)
            if isinstance(entry, dict):
                known = entry.get("bucket_bytes"), entry.get("reduction")
                places = [(each.bucket_bytes, each.reduction) for each in self._choices]
                place = places.index(known) if known in places else -1
        place = int(comm.broadcast(np.array(place, np.int64)))
        if place >= 0:
            self.settled = self._choices[place]


def candidates(
    nbytes: int, lengths: Sequence[int] = LENGTHS, reductions: Sequence[str] = ("native",)
) -> list[Choice]:
    """Return the candidates for gradients of so many bytes, the default first.

    Lengths beyond all gradients are the same as one bucket for all; only the shortest of them is
    tried.
    """
    useful = [length for length in sorted(lengths) if length < nbytes]
    longer = [length for length in sorted(lengths) if length >= nbytes]
    useful += longer[:1]
    default = BUCKET_BYTES if BUCKET_BYTES in useful else useful[-1]
    ordered = [default] + [length for length in useful if length != default]
    return [Choice(length, reduction) for reduction in reductions for length in ordered]


def search_key(comm: Communicator, *facts: Any) -> str:
    """Return the key of what is found on these ranks, this machine and MPI, for these facts."""
    mpi = getattr(getattr(comm, "guard", None), "mpi", None)
    library = mpi.Get_library_version()[:80] if mpi is not None else ""
    cores = len(os.sched_getaffinity(0))
    words = [platform.machine(), platform.node(), str(cores), library, str(comm.size), repr(facts)]
    return blake2b("\0".join(words).encode(), digest_size=16).hexdigest()


# The searches of training loops, by what travels.
_searches: WeakKeyDictionary[Communicator, dict[Any, Search]] = WeakKeyDictionary()
_SEARCHES = 16


def search_of(comm: Communicator, entries: tuple[Entry, ...], nbytes: int, *facts: Any) -> Search:
    """Return the search for these sources, made at the first step; all ranks call this together."""
    known = _searches.setdefault(comm, {})
    found = known.get((entries, facts))
    if found is None:
        agree(comm, Plan(f"search for bucket_bytes='auto' {facts}", entries))
        key = search_key(comm, entries, facts)
        found = known[entries, facts] = Search(comm, candidates(nbytes), key)
        if len(known) > _SEARCHES:
            del known[next(iter(known))]
    return found


def autotune(
    step: Callable[[Choice], Any],
    comm: Communicator | None = None,
    *,
    bucket_bytes: Sequence[int] = LENGTHS,
    reductions: Sequence[str] = ("native",),
    rounds: int = _ROUNDS,
    key: str = "",
) -> Choice:
    """Return the bucket length and reduction with which a training step is quickest.

    Each candidate's steps are real: `step` trains. Shorter, and without a loop of one's own:
    ``DistributedGradientTape(bucket_bytes="auto")``.

    Parameters
    ----------
    step : callable
        ``step(choice)`` makes one training step, with ``choice.bucket_bytes`` and
        ``choice.reduction`` passed to `DistributedGradientTape`.
    comm : Communicator, optional
        The ranks; `world()` by default. All call this together.
    bucket_bytes : sequence of int
        The lengths to try, the first one being preferred where the difference is small.
    reductions : sequence of {"native", "hierarchical"}
        The reductions to try.
    rounds : int
        How often each candidate is measured, after one step that is not.
    key : str
        A name for this training, such as that of its model, under which the result is kept in the
        user's cache and found by the next job on as many ranks of this machine; nothing is kept
        without.

    Returns
    -------
    Choice
        The same on every rank.

    Raises
    ------
    ValueError
        If there is nothing to try.
    DesyncError
        If the ranks try different things.

    Examples
    --------
    >>> import distgrad.distributed as dist
    >>> found = dist.autotune(lambda choice: None, dist.SerialCommunicator(), rounds=1)
    >>> found.bucket_bytes in (2**20, 4 * 2**20, 10 * 2**20, 25 * 2**20, 100 * 2**20)
    True
    """
    comm = ranks_of(comm)
    choices = [Choice(length, each) for each in reductions for length in bucket_bytes]
    if not choices or rounds < 1 or min(bucket_bytes) < 1:
        raise ValueError(
            f"autotune: bucket_bytes is {bucket_bytes!r}, reductions {reductions!r}, rounds "
            f"{rounds}; expected lengths of 1 or more, a reduction and a round at least"
        )
    agree(comm, Plan(f"autotune {choices} {rounds} {key!r}"))
    search = Search(comm, choices, search_key(comm, key, choices) if key else "", rounds)
    while search.settled is None:
        begun = time.perf_counter()
        step(search.choice)
        search.observe(comm, time.perf_counter() - begun - last_report(comm).waited_seconds)
    return search.settled


def observed(search: Search, begun: float, comm: Communicator) -> None:
    """Tell a search what a step's gradient cost, since a moment, less the wait for late ranks."""
    if search.settled is None:
        seconds = time.perf_counter() - begun - last_report(comm).waited_seconds
        search.observe(comm, max(seconds, 0.0) if math.isfinite(seconds) else math.inf)

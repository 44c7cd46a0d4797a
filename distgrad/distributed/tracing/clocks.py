"""Compare the clocks of ranks: by how much each one differs from rank 0's.

Ranks meet in pairs along a binary tree, so that p ranks need log2(p) rounds, all pairs of a round
at once. In a pair, both send and receive at the same time, again and again; of the samples the one
with the shortest round trip counts, since whatever delays a message makes the round trip longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

SAMPLES = 24  # a round; more gains nothing where a trip takes microseconds


class Reading(NamedTuple):
    """How a clock differs from rank 0's.

    Attributes
    ----------
    at : int
        When it was compared: this clock's time, in nanoseconds.
    offset : int
        This clock's time less that of rank 0, in nanoseconds.
    error : int
        By how many nanoseconds the offset may be wrong at most: half of the round trips.
    """

    at: int
    offset: int
    error: int


def compare_clocks(comm: Any, now: Callable[[], int] = time.perf_counter_ns) -> Reading:
    """Return by how much this rank's clock differs from rank 0's; all ranks call this.

    Parameters
    ----------
    comm : Communicator
        With a method ``swap(array, partner)``. Without it, as where the other ranks are pretended,
        the offset is zero.
    now : callable
        Returns this rank's time in nanoseconds.

    Notes
    -----
    A message that leaves the lower rank at s and reaches the upper one at e' by its clock took
    e' - s = θ + d, the one in the other direction e - s' = -θ + d'. If both took as long,
    θ = ((e' - s) - (e - s')) / 2; and as neither took less than nothing, θ is wrong by no more than
    (d + d') / 2 [1]_, [2]_.

    References
    ----------
    .. [1] Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989.
    .. [2] Mills, "Internet time synchronization: the Network Time Protocol", IEEE Transactions on
       Communications 39(10), 1991, section IV.
    """
    offset = error = 0
    if comm.size == 1 or not hasattr(comm, "swap"):
        return Reading(now(), 0, 0)
    distance = 1
    while distance < comm.size:
        is_lower = comm.rank < distance
        partner = comm.rank + (distance if is_lower else -distance)
        if not 0 <= partner < comm.size or comm.rank >= 2 * distance:
            partner = comm.rank
        mine = np.zeros((SAMPLES + 1, 2), np.int64)
        token = np.zeros(1, np.int64)
        for sample in range(SAMPLES):
            sent = now()
            comm.swap(token, partner)
            mine[sample] = sent, now()
        mine[-1] = offset, error
        theirs = comm.swap(mine, partner)
        if partner < comm.rank:
            there = mine[:-1, 1] - theirs[:-1, 0]
            back = theirs[:-1, 1] - mine[:-1, 0]
            best = int(np.argmin(there + back))
            offset = int(theirs[-1, 0]) + int(there[best] - back[best]) // 2
            error = int(theirs[-1, 1]) + int(there[best] + back[best] + 1) // 2
        distance *= 2
    return Reading(now(), offset, error)


def offset_at(readings: list[Reading], at: int) -> float:
    """Return a clock's offset at one of its times, by the readings before and after it.

    Between two readings the offset changes at a constant rate, as that of two quartzes does;
    outside of them it is that of the nearest one.
    """
    if not readings:
        return 0.0
    times = [reading.at for reading in readings]
    return float(np.interp(at, times, [float(reading.offset) for reading in readings]))

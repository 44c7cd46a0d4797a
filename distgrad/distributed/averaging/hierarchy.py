"""Add up in two levels, within each machine first, so that less travels between machines.

The ranks of a machine add up slices among themselves, one for each of as many *lanes* as the
machine with the fewest ranks has ranks; those of a lane, one on each machine, add up their slice;
and the slices are gathered within each machine. Between machines, every byte travels as often as if
each machine were one rank.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from distgrad.distributed.verbs.communicator import Array, Communicator, exchange_json
from distgrad.errors import LaunchError, UnsupportedOptionError

NODE_SIZES = "DISTGRAD_NODE_SIZES"


class Hierarchy:
    """The machines of a communicator's ranks, and its parts within them and between them.

    Parameters
    ----------
    comm : Communicator
        With methods `split` and `machine`, see `Communicator`; all ranks make this together.

    Attributes
    ----------
    nodes : tuple of tuple of int
        The ranks of each machine.

    Raises
    ------
    UnsupportedOptionError
        If the communicator cannot be split.
    LaunchError
        On every rank, if ``DISTGRAD_NODE_SIZES`` does not fit the ranks.
    """

    def __init__(self, comm: Any) -> None:
        if not hasattr(comm, "split") or not hasattr(comm, "machine"):
            raise UnsupportedOptionError(
                f"gradient: reduction='hierarchical' needs a communicator with split() and "
                f"machine(), {comm!r} has none; take reduction='native'"
            )
        self.nodes = nodes = _nodes(comm)
        own = next(place for place, ranks in enumerate(nodes) if comm.rank in ranks)
        self._lanes = min(len(ranks) for ranks in nodes)
        self._place = nodes[own].index(comm.rank)
        self._within: Communicator = comm.split(own)
        # Whoever is in no lane is in a group that nobody uses.
        between = comm.split(min(self._place, self._lanes))
        self._between: Communicator | None = between if self._place < self._lanes else None

    def add_up(self, comm: Communicator, message: Array) -> int:
        """Put the sum of all ranks' messages in the place of this rank's.

        Parameters
        ----------
        comm : Communicator
            Of which this is the hierarchy.
        message : numpy.ndarray
            Flat, of the same length and dtype on every rank; overwritten by the same bits.

        Returns
        -------
        int
            The bytes that this rank gave to the others, each counted once on each level.
        """
        if hasattr(comm, "count"):
            comm.count("allreduce by machines")  # who left before it is found out
        lanes, within = self._lanes, self._within
        bounds = [lane * message.size // lanes for lane in range(lanes + 1)]
        lengths = [stop - start for start, stop in pairwise(bounds)]
        lengths += [0] * (within.size - lanes)
        sent = 0
        piece = message
        if within.size > 1:
            received = within.alltoallv(message, np.tile(np.array(lengths), (within.size, 1)))
            rows = received.reshape(within.size, lengths[self._place])
            piece = rows[0]
            for row in rows[1:]:
                piece += row
            sent += message.nbytes
        if self._between is not None and self._between.size > 1:
            piece = self._between.allreduce(piece, "sum", out=piece)
            sent += piece.nbytes
        if within.size > 1:
            within.allgatherv(piece, lengths, out=message)
        return sent


def _nodes(comm: Any) -> tuple[tuple[int, ...], ...]:
    """Return the ranks of each machine, as MPI or the environment says."""
    sizes = os.environ.get(NODE_SIZES, "")
    lowest = comm.rank if sizes else comm.machine()
    found = exchange_json(comm, [sizes, int(lowest)])
    told = sorted({each for each, _ in found})
    if len(told) > 1:
        raise LaunchError(
            f"{NODE_SIZES} is {' on some ranks, '.join(map(repr, told))} on others; expected the "
            "same everywhere"
        )
    if not sizes:
        machines = list(dict.fromkeys(lowest for _, lowest in found))
        return tuple(
            tuple(rank for rank, (_, lowest) in enumerate(found) if lowest == machine)
            for machine in machines
        )
    parts = [part.strip() for part in sizes.split(",")]
    numbers = [int(part) if part.isdigit() else 0 for part in parts]
    if min(numbers) < 1 or sum(numbers) != comm.size:
        raise LaunchError(
            f"{NODE_SIZES}={sizes!r} does not share {comm.size} ranks; expected a number for each "
            f"machine, such as {max(comm.size - 1, 1)},1, that add up to it"
        )
    stops = np.cumsum(numbers).tolist()
    return tuple(
        tuple(range(stop - number, stop)) for number, stop in zip(numbers, stops, strict=True)
    )


_hierarchies: WeakKeyDictionary[Communicator, Hierarchy] = WeakKeyDictionary()


def hierarchy_of(comm: Communicator) -> Hierarchy:
    """Return a communicator's hierarchy, made at the first call; all ranks call this together."""
    found = _hierarchies.get(comm)
    if found is None:
        found = _hierarchies[comm] = Hierarchy(comm)
    return found

"""Add up logical shards in one fixed order, whatever the number of ranks: the same bits always.

Additions of floats do not associate, so what MPI's reductions return depends on the number of
ranks, on the MPI and on the length of the message. Here the order is that of a binary tree over the
logical shards, fixed by their number alone. A rank owns a run of neighbours and adds up the
subtrees that lie within the run; what is left, few rows, is exchanged in slices (alltoallv), each
slice is finished by one rank, and everybody gathers the slices (allgatherv). With one subtree a
rank, as with 24 shards on 1, 2, 4, 8 or 24 ranks, that is 2n(p-1)/p numbers a rank, the least that
any algorithm sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from distgrad.distributed.verbs.communicator import Array, Communicator

Node = tuple[int, int]  # the shards from a first one up to, but without, a last one


def own_range(count: int, size: int, rank: int) -> range:
    """Return which of `count` logical shards a rank owns: neighbours, as evenly as it goes."""
    return range(rank * count // size, (rank + 1) * count // size)


@lru_cache(maxsize=16)
def _parents(count: int) -> dict[tuple[Node, Node], Node]:
    """Return the node that two neighbours add up to: each node is halved, the larger half first."""
    parents: dict[tuple[Node, Node], Node] = {}
    waiting = [(0, count)]
    while waiting:
        start, stop = waiting.pop()
        if stop - start > 1:
            middle = start + (stop - start + 1) // 2
            halves = (start, middle), (middle, stop)
            parents[halves] = (start, stop)
            waiting += halves
    return parents


@lru_cache(maxsize=256)
def subtrees(count: int, start: int, stop: int) -> tuple[Node, ...]:
    """Return the largest nodes of the tree that make up a run of logical shards, in order."""
    nodes = ((shard, shard + 1) for shard in range(start, stop))
    return tuple(node for node, _ in _merged(count, ((node, None) for node in nodes), _nothing))


def _nothing(left: None, right: None) -> None:
    return None


def _merged(
    count: int, rows: Iterable[tuple[Node, Any]], add: Callable[[Any, Any], Any]
) -> list[tuple[Node, Any]]:
    """Return what rows of neighbouring nodes, in order, come to when siblings are added up."""
    summed: list[tuple[Node, Any]] = []
    for node, row in rows:
        summed.append((node, row))
        _climb(count, summed, add)
    return summed


def _climb(count: int, summed: list[tuple[Node, Any]], add: Callable[[Any, Any], Any]) -> None:
    """Add up siblings at the end of a list for as long as there are any."""
    parents = _parents(count)
    while len(summed) > 1:
        (left, left_row), (right, right_row) = summed[-2:]
        parent = parents.get((left, right))
        if parent is None:
            return
        summed[-2:] = [(parent, add(left_row, right_row))]


class Exchange(Protocol):
    """What carries slices of rows between ranks: a communicator, or the way of device arrays."""

    def alltoallv(self, array: Any, counts: Any) -> Any:
        """Return what the others have for this rank; see `Communicator`."""
        ...

    def allgatherv(self, array: Any, counts: Sequence[int], *, out: Any = None) -> Any:
        """Return all ranks' elements end to end; see `Communicator`."""
        ...


class OrderedSum:
    """Takes this rank's logical shards in order, one row each, and adds them up along the tree.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    count : int
        How many logical shards there are over all ranks.
    module : module
        Whose arrays the rows are: NumPy, or CuPy.

    Notes
    -----
    At most 2 log₂(count) rows are held at a time.
    """

    def __init__(self, comm: Communicator, count: int, module: Any = np) -> None:
        self._comm = comm
        self._count = count
        self._module = module
        self._own = own_range(count, comm.size, comm.rank)
        self._next = self._own.start
        self._summed: list[tuple[Node, Any]] = []

    @property
    def missing(self) -> int:
        """How many logical shards of this rank have not been added yet."""
        return self._own.stop - self._next

    @property
    def rows(self) -> list[Array]:
        """What this rank has added up so far: a row for each subtree."""
        return [row for _, row in self._summed]

    def on_host(self, rows: Iterable[Array]) -> OrderedSum:
        """Return the same sum with its rows on the host, where they are given."""
        moved = OrderedSum(self._comm, self._count)
        moved._next = self._next
        nodes = (node for node, _ in self._summed)
        moved._summed = list(zip(nodes, rows, strict=True))
        return moved

    def add(self, row: Array) -> None:
        """Add the flat row of this rank's next logical shard; it may be added into."""
        self._summed.append(((self._next, self._next + 1), row))
        self._next += 1
        _climb(self._count, self._summed, _add_in_place)

    def total(
        self,
        length: int,
        dtype: np.dtype[Any],
        out: Array | None = None,
        via: Exchange | None = None,
    ) -> Array:
        """Return the sum over all logical shards, the same bits on every rank; all ranks call this.

        Parameters
        ----------
        length : int
            Of each row.
        dtype : numpy.dtype
            Of each row.
        out : numpy.ndarray, optional
            Where to put the sum; with one rank it stays where it was added up.
        via : Exchange, optional
            What carries rows of a device; the ranks' own verbs unless given.
        """
        rows = self.rows
        comm = self._comm
        if comm.size == 1:
            total: Array = rows[0]
            return total
        bounds = [rank * length // comm.size for rank in range(comm.size + 1)]
        own = self.part(bounds, dtype, via)
        return (via or comm).allgatherv(own, np.diff(bounds).tolist(), out=out)

    def part(
        self, bounds: Sequence[int], dtype: np.dtype[Any], via: Exchange | None = None
    ) -> Array:
        """Return this rank's slice of the sum, of the bits of `total`; all ranks call this.

        Parameters
        ----------
        bounds : sequence of int
            Rank r gets the elements from ``bounds[r]`` to ``bounds[r + 1]``.
        dtype : numpy.dtype
            Of each row.
        via : Exchange, optional
            As for `total`.
        """
        rows, comm = self.rows, self._comm
        if comm.size == 1:
            whole: Array = rows[0]
            return whole
        runs = [own_range(self._count, comm.size, rank) for rank in range(comm.size)]
        nodes = [subtrees(self._count, run.start, run.stop) for run in runs]
        lengths = np.diff(bounds)
        counts = np.outer([len(each) for each in nodes], lengths)
        received = (via or comm).alltoallv(self._sliced(rows, bounds, dtype), counts)
        finished = _merged(
            self._count, _rows(received, nodes, int(lengths[comm.rank])), _add_in_place
        )
        part: Array = finished[0][1]
        return part

    def _sliced(self, rows: list[Array], bounds: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return the slices of all rows, those for rank 0 first."""
        if len(rows) == 1:
            return rows[0]
        pieces = [row[a:b] for a, b in pairwise(bounds) for row in rows]
        sliced: Array = self._module.concatenate(pieces) if pieces else self._module.empty(0, dtype)
        return sliced


def _rows(
    received: Array, nodes: list[tuple[Node, ...]], length: int
) -> Iterator[tuple[Node, Array]]:
    start = 0
    for node in (node for each in nodes for node in each):
        yield node, received[start : start + length]
        start += length


def _add_in_place(left: Array, right: Array) -> Array:
    left += right
    return left

"""Say with what weight a gradient counts: its examples, its rank, or its logical shard's."""

from __future__ import annotations

from distgrad.distributed.batches.logical import Cut, check_number, last_cut
from distgrad.distributed.batches.sharding import checked_examples, examples_here
from distgrad.distributed.verbs.communicator import Communicator

_WHO = "ShardedOptimizer"


class Weights:
    """The weights of the gradients that are added for one step.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    average : {"examples", "ranks", "sum"} or None
        What counts.
    count : int, optional
        How many logical shards there are over all ranks, if each gradient is of one.
    """

    def __init__(self, comm: Communicator, average: str | None, count: int | None) -> None:
        self._comm = comm
        self._average = average
        self._count = count
        self._cut: Cut | None = None
        self._place = self._added = 0

    def next(self, examples: float | None) -> tuple[int, float]:
        """Return how many empty logical shards come before a gradient, and its weight."""
        if self._count is None:
            return 0, self._counted(examples_here(_WHO, examples, self._comm))
        cut = self._known(self._count)
        self._added += 1
        empty = self._skip(cut)
        if self._place == len(cut.sizes):
            check_number(_WHO, "gradients", self._added, cut)
        weight = float(cut.sizes[self._place])
        self._place += 1
        if examples is not None:
            weight = checked_examples(_WHO, examples, self._comm)
        return empty, self._counted(weight)

    def finish(self) -> int:
        """Return how many empty logical shards are left, and begin anew.

        Raises
        ------
        BatchError
            If there was not one gradient for each logical shard with examples.
        """
        if self._count is None:
            return 0
        cut = self._known(self._count)
        check_number(_WHO, "gradients", self._added, cut)
        empty = self._skip(cut)
        self._cut, self._place, self._added = None, 0, 0
        return empty

    def _known(self, count: int) -> Cut:
        if self._cut is None:
            self._cut = last_cut(_WHO, self._comm, count)
        return self._cut

    def _skip(self, cut: Cut) -> int:
        first = self._place
        while self._place < len(cut.sizes) and not cut.sizes[self._place]:
            self._place += 1
        return self._place - first

    def _counted(self, weight: float) -> float:
        return float(weight) if self._average == "examples" else float(weight > 0)

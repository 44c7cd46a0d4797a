"""Add gradients up over ranks so that each rank gets its part of the sum, and holds no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from distgrad.distributed.averaging.lanes import Job, Lane
from distgrad.distributed.averaging.ordered import OrderedSum
from distgrad.distributed.averaging.report import Tally
from distgrad.distributed.sharded.carrying import HostCarrier
from distgrad.distributed.sharded.holdings import Holdings
from distgrad.distributed.sharded.layout import Unit
from distgrad.distributed.verbs.communicator import Array
from distgrad.errors import BatchError

_AHEAD = 1  # messages that travel while the next one fills: each is memory


class Collector:
    """Takes gradients of whole variables, and keeps this rank's part of what they add up to.

    Parameters
    ----------
    holdings : Holdings
        The units, and what carries their messages.
    count : int, optional
        How many logical shards there are over all ranks, if they are to be added up in one order.

    Attributes
    ----------
    tally : Tally
        What the messages cost.
    bytes, peak_bytes : int
        Of what it holds now, messages included, and the most since the last `finish`.
    """

    def __init__(self, holdings: Holdings, count: int | None) -> None:
        self._comm = holdings.comm
        self._holdings = holdings
        self._count = count
        self._algorithm = "reduce_scatter" if count is None else "ordered"
        self.tally = Tally(self._algorithm)
        self.bytes = self.peak_bytes = 0
        self._sums: dict[Unit, Array] = {}
        self._ordered: dict[Unit, OrderedSum] = {}
        self._weight = 0.0
        self._weighed: set[Unit] = set()
        self._queue: list[Unit] = []
        self._open: dict[Unit, Array] = {}
        self._missing: dict[Unit, int] = {}
        self._lane: Lane | None = None
        self._under_way: deque[tuple[Unit, int, Job]] = deque()
        # What one walk has brought so far, where each counts as one logical shard.
        self._walked: dict[Unit, Array] | None = None

    @property
    def is_ordered(self) -> bool:
        """Whether gradients are those of logical shards, of which ranks may have unlike many."""
        return self._count is not None

    def begin(self, weight: float) -> None:
        """Begin with the gradients of one target, which has this weight."""
        self._weight = weight
        self._weighed.clear()
        self._walked = None  # that of a walk that failed

    # --- gradients that come one by one, while a tape walks back ----------------------------------

    def expect(self, units: Sequence[Unit], lane: Lane | None = None) -> None:
        """Say of which units gradients come now; they are reduced in this order on all ranks.

        Those on the host travel by a lane, if there is one, while others are being computed.
        """
        self._queue, self._lane = list(units), lane
        self._open, self._missing = {}, {unit: len(unit.positions) for unit in units}
        self._walked = {} if self.is_ordered else None

    def put(self, unit: Unit, position: int, gradient: Any) -> None:
        """Take the gradient of one variable of a unit that is expected, or None.

        As soon as a unit is complete, and those before it are reduced, it is reduced and let go.
        """
        if gradient is not None:
            rows = self._open.get(unit)
            if rows is None:
                rows = self._open[unit] = self._message(unit)
            self._pack(unit, rows, position, gradient)
        self._missing[unit] -= 1
        while self._queue and not self._missing[self._queue[0]]:
            first = self._queue.pop(0)
            rows = self._open.pop(first, None)
            self._reduce(first, self._message(first) if rows is None else rows)

    def complete(self, units: Sequence[Unit]) -> None:
        """End a walk: wait for what travels.

        Of logical shards, take what it has brought to these units as one; none is zeros.
        """
        while self._under_way:
            self._take_in()
        self._lane = None
        walked, self._walked = self._walked, None
        if walked is None:
            return
        for unit in units:
            rows = walked.pop(unit, None)
            self._reduce(unit, self._message(unit) if rows is None else rows)

    def drop(self) -> None:
        """Let go of what was reduced since the last step: part of it is of a walk that failed.

        Gradients of logical shards stay: those of the walk that failed are not among them.
        """
        held = [*self._sums.values(), *self._open.values()]
        self._grow(-sum(rows.nbytes for rows in held))
        self._grow(-sum(nbytes for _, nbytes, _ in self._under_way))
        self._sums, self._open, self._queue = {}, {}, []
        self._under_way.clear()
        if self._lane is not None:
            self._lane.interrupted = True  # the other ranks wait for the rest
        self._lane = None

    # --- gradients of a whole unit ----------------------------------------------------------------

    def add(self, unit: Unit, gradients: Sequence[Any]) -> None:
        """Take the gradients of all variables of a unit, None among them, and reduce them."""
        rows = self._message(unit)
        for position, gradient in zip(unit.positions, gradients, strict=True):
            if gradient is not None:
                self._pack(unit, rows, position, gradient)
        self._reduce(unit, rows)

    def _message(self, unit: Unit) -> Array:
        # A unit may be used several times in one target; its weight counts once.
        weight = 0.0 if unit in self._weighed else self._weight
        self._weighed.add(unit)
        rows = unit.message(weight, self._holdings.carrier(unit).module)
        self._grow(rows.nbytes)
        return rows

    def _pack(self, unit: Unit, rows: Array, position: int, gradient: Any) -> None:
        array = self._holdings.carrier(unit).array_of(gradient)
        if array is not None:
            unit.put(rows, unit.places[position], array, self._weight)

    def _reduce(self, unit: Unit, rows: Array) -> None:
        if self._walked is not None:
            held = self._walked.setdefault(unit, rows)
            if held is not rows:  # of a block that is called twice
                held += rows
                self._grow(-rows.nbytes)
            return
        if self._count is not None:
            if unit not in self._ordered:
                self._ordered[unit] = self._none_of(unit, self._count)
            total = self._ordered[unit]
            before = sum(row.nbytes for row in total.rows)
            total.add(rows.reshape(-1))
            # The message is one of its rows now, or was added to one.
            self._grow(sum(row.nbytes for row in total.rows) - before - rows.nbytes)
            return
        carrier = self._holdings.carrier(unit)
        if self._lane is not None and isinstance(carrier, HostCarrier):
            self.tally.algorithm = f"overlapped {self._algorithm}"
            send = partial(HostCarrier(self._lane.comm).reduce_scatter, rows)
            job = self._lane.submit(partial(self.tally.carry, rows.nbytes, send))
            self._under_way.append((unit, rows.nbytes, job))
            while len(self._under_way) > _AHEAD:
                self._take_in()
            return
        with self.tally.exposed_time():
            own = self.tally.carry(rows.nbytes, partial(carrier.reduce_scatter, rows))
        self._keep(unit, own, rows.nbytes)

    def _take_in(self) -> None:
        """Wait for the first message that travels, and keep this rank's row of the sum."""
        unit, nbytes, job = self._under_way.popleft()
        assert self._lane is not None  # noqa: S101  it carries them
        with self.tally.exposed_time():
            own = self._lane.wait(job)
        self._keep(unit, own, nbytes)

    def _keep(self, unit: Unit, own: Array, nbytes: int) -> None:
        """Add this rank's row to the sum, and let go of the message that it came of."""
        if unit in self._sums:
            self._sums[unit] += own
        else:
            self._sums[unit] = own
            self._grow(own.nbytes)
        self._grow(-nbytes)

    def _grow(self, nbytes: int) -> None:
        self.bytes += nbytes
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _none_of(self, unit: Unit, count: int) -> OrderedSum:
        return OrderedSum(self._comm, count, self._holdings.carrier(unit).module)

    # --- the end ----------------------------------------------------------------------------------

    def finish(self, unit: Unit, *, as_sum: bool) -> Array | None:
        """Return this rank's row of a unit's average; None if nothing was added to it.

        All ranks call it for all units, in one order.

        Raises
        ------
        BatchError
            If the weights add up to zero.
        """
        carrier = self._holdings.carrier(unit)
        if self._count is not None:
            # A rank without a logical shard takes part all the same.
            found = self._ordered.pop(unit, None) or self._none_of(unit, self._count)
            stops = accumulate([1 + unit.row] * self._comm.size, initial=0)
            held = sum(row.nbytes for row in found.rows)
            with self.tally.exposed_time():
                own = self.tally.carry(held, partial(carrier.part, found, list(stops), unit.wire))
                if self._comm.size > 1:
                    own = own.copy()  # a view would keep what came from all ranks
            self._grow(-held)
        else:
            taken = self._sums.pop(unit, None)
            if taken is None:
                return None
            own = taken
            self._grow(-own.nbytes)
        total = carrier.number(own[:1]).real
        if total == 0:
            raise BatchError(
                f"ShardedOptimizer: no rank of {self._comm.size} has an example; expected at least "
                "one in the global batch"
            )
        if not as_sum:
            own /= total
        part: Array = own[1:]
        return part

    def close(self) -> int:
        """Keep what the messages cost as the ranks' last report; return the most bytes held."""
        self.tally.close(self._comm)
        self.tally = Tally(self._algorithm)
        peak, self.peak_bytes = self.peak_bytes, self.bytes
        return peak

    @property
    def nothing(self) -> bool:
        """Whether nothing was added since the last step."""
        return not self._sums and not self._ordered

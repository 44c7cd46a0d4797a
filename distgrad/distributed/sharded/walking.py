"""Walk a tape back and let go of each gradient as soon as it is reduced."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

from distgrad.distributed.averaging.lanes import Lane, lane_of
from distgrad.distributed.safety.fingerprint import agree
from distgrad.distributed.safety.undivided import Undivided
from distgrad.distributed.sharded.holdings import Holdings
from distgrad.distributed.sharded.layout import Unit
from distgrad.distributed.sharded.reducing import Collector
from distgrad.distributed.sharded.resting import RestingHoldings
from distgrad.tape.gradient_tape import GradientTape
from distgrad.variable import Variable


class Walk:
    """The way of gradients from a tape to the sums, past blocks.

    Parameters
    ----------
    holdings : Holdings
        The variables, and how they are cut.
    sums : Collector
        Where gradients go.
    overlap : bool, optional
        Whether they travel while others are being computed, see `lane_of`.

    Attributes
    ----------
    anchor : Variable
        What each block depends on, so that tapes record its call whatever its arguments are.
    present : list of bool
        Which variables had a gradient on this rank in the last walk.
    own_bytes : int
        Of the gradients of this rank that were there at once, at most since it was set to 0.
    is_on : bool
        Whether a walk is under way.
    """

    def __init__(self, holdings: Holdings, sums: Collector, overlap: bool | None) -> None:
        self.anchor = Variable(0.0, name="sharded/anchor", backend="numpy")
        self.present: list[bool] = []
        self.own_bytes = 0
        self.is_on = False
        self._holdings = holdings
        self._sums = sums
        self._overlap = overlap

    def back(self, tape: GradientTape, target: Any, leaves: Collection[Variable]) -> None:
        """Walk back from a target, and add up the gradients of variables over ranks."""
        if self._sums.is_ordered:  # nothing is sent before the step
            self._back(tape, target, leaves)
            return
        comm, operation = self._holdings.comm, "ShardedOptimizer.backward"
        with Undivided(comm, operation):
            agree(comm, self._holdings.plan(operation))
            several = len(self._holdings.units) > 1  # of a single one nothing is left to compute
            self._back(tape, target, leaves, lane_of(comm, self._overlap) if several else None)

    def _back(
        self,
        tape: GradientTape,
        target: Any,
        leaves: Collection[Variable],
        lane: Lane | None = None,
    ) -> None:
        holdings, sums = self._holdings, self._sums
        given = {leaf.key for leaf in leaves}
        units, anchors = holdings.units, []
        if isinstance(holdings, RestingHoldings):
            # Those that were read outside of blocks; a block's come by `collect`.
            units, anchors = holdings.in_use(), [self.anchor]
        sources = [holdings.leaves[position] for unit in units for position in unit.positions]
        self.present = [False] * len(holdings.leaves)
        sums.expect(units, lane)

        def ready(place: int, gradient: Any) -> bool:
            if place < len(anchors):
                return True
            source = sources[place - len(anchors)]
            position = holdings.position(source)
            own = gradient if source.key in given else None
            if own is not None:
                self.present[position] = True
                self.own_bytes = max(self.own_bytes, own.nbytes)
            sums.put(holdings.unit_of(source), position, own)
            return gradient is not None

        self.is_on = True
        try:
            tape.gradient(target, [*anchors, *sources], on_ready=ready)
            sums.complete(holdings.units)
        except BaseException:
            sums.drop()
            raise
        finally:
            self.is_on = False

    # --- what blocks ask for ----------------------------------------------------------------------

    def collect(self, variables: Sequence[Variable], gradients: Sequence[Any]) -> None:
        """Add up the gradients of a block's variables over ranks."""
        holdings = self._holdings
        found = {holdings.position(v): g for v, g in zip(variables, gradients, strict=True)}
        nbytes = sum(each.nbytes for each in gradients if each is not None)
        self.own_bytes = max(self.own_bytes, nbytes)
        for unit in self._units(variables):
            if not self._sums.is_ordered:
                agree(holdings.comm, holdings.plan("gradients of a block", unit))
            self._sums.add(unit, [found.get(position) for position in unit.positions])
        for position, gradient in found.items():
            self.present[position] = self.present[position] or gradient is not None

    def whole(self, variables: Sequence[Variable], why: str) -> AbstractContextManager[None]:
        """Have variables whole within a ``with`` block."""
        holdings: Any = self._holdings
        context: AbstractContextManager[None] = holdings.whole(self._units(variables), why)
        return context

    def _units(self, variables: Sequence[Variable]) -> list[Unit]:
        return list(dict.fromkeys(self._holdings.unit_of(variable) for variable in variables))

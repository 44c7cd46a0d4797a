"""Say what a sharded optimizer holds on this rank: for checkpoints, and in bytes."""

from __future__ import annotations

from distgrad.distributed.sharded.holdings import Holdings
from distgrad.distributed.sharded.report import ShardReport, formulas_of
from distgrad.distributed.sharded.resting import RestingHoldings
from distgrad.optimizers.stateful import Optimizer
from distgrad.variable import Variable

# By name a variable, the place of its first element, and of how many; None of what is not cut.
CutVariables = dict[str, tuple[Variable, int, int | None]]


def slots_of(optimizer: Optimizer, holdings: Holdings) -> CutVariables:
    """Return the state of an optimizer for parts: flat slots, and what all ranks hold alike."""
    found: CutVariables = {}
    longest_first = sorted(enumerate(holdings.names), key=lambda each: -len(each[1]))
    for variable in optimizer.variables:
        of = (place for place, name in longest_first if variable.name.startswith(f"{name}/"))
        position = next(of, None)
        if position is None or variable.ndim != 1:
            found[variable.name] = (variable, 0, None)
        else:
            start, rows = holdings.piece(position).start, holdings.size(position)
            found[variable.name] = (variable, start, rows)
    return found


def parameters_of(holdings: Holdings) -> CutVariables:
    """Return the flat parts of parameters, under ``parameters/<name>``."""
    return {
        f"parameters/{name}": (part, holdings.piece(position).start, holdings.size(position))
        for position, (name, part) in enumerate(zip(holdings.names, holdings.parts, strict=True))
    }


def report_of(
    stage: int, optimizer: Optimizer, holdings: Holdings, gradient_bytes: int
) -> ShardReport:
    """Return how many bytes this rank holds, beside the formula."""
    state = whole = 0
    for variable, _, rows in slots_of(optimizer, holdings).values():
        state += variable.array.nbytes
        whole += 0 if rows is None else rows * variable.array.dtype.itemsize
    parameters, gathered = holdings.held_bytes, 0
    if isinstance(holdings, RestingHoldings):
        parameters -= holdings.gathered_bytes
        gathered = max(holdings.last_peak_bytes, holdings.peak_gathered_bytes)
    elements = sum(unit.length for unit in holdings.units)
    wire = sum(unit.length * unit.wire.itemsize for unit in holdings.units)
    ranks = holdings.comm.size
    return ShardReport(
        *(stage, ranks, elements, parameters, gathered, gradient_bytes, state),
        formulas=formulas_of(stage, ranks, elements, holdings.whole_bytes, wire, whole),
    )

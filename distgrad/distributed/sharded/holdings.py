"""Hold this rank's parts of variables: taken from them, changed by an optimizer, gathered again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.distributed.sharded.carrying import Carrier, carrier_of
from distgrad.distributed.sharded.layout import Piece, Unit, plan_units
from distgrad.distributed.verbs.communicator import Array, Communicator
from distgrad.dtypes import as_dtype
from distgrad.tensor import Tensor
from distgrad.variable import Variable


class Holdings:
    """The variables of a sharded optimizer, how they are cut, and a flat part of each.

    Parts are variables themselves, of one axis, so that any optimizer changes them and remembers
    for them. Here they are empty between two steps: the variables hold what they would.

    Parameters
    ----------
    comm : Communicator
        The ranks that share the variables.

    Attributes
    ----------
    leaves : list of Variable
        The variables in the order in which they were taken.
    names : list of str
        Theirs, each once.
    parts : list of Variable
        What this rank has of each.
    units : list of Unit
        How they are cut.
    """

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm
        self.leaves: list[Variable] = []
        self.names: list[str] = []
        self.parts: list[Variable] = []
        self.units: list[Unit] = []
        self._unit_of: dict[int, Unit] = {}  # by a variable's identity
        self._pieces: dict[int, Piece] = {}
        self._plans: dict[tuple[str, Unit | None], Plan] = {}
        self._positions: dict[int, int] = {}
        self._carriers: dict[Unit, Carrier] = {}

    def take(self, variables: Sequence[Variable], unit_bytes: int) -> list[Unit]:
        """Cut variables that are not cut yet, and return their units; all ranks call this."""
        first = len(self.leaves)
        for variable in variables:
            self._positions[variable.key] = len(self.leaves)
            self.leaves.append(variable)
            self.names.append(self._free_name(variable.name))
        units = plan_units(
            [as_dtype(leaf.dtype) for leaf in self.leaves],
            [f"{leaf.backend.name} {leaf.device}" for leaf in self.leaves],
            [leaf.shape for leaf in self.leaves],
            range(first, len(self.leaves)),
            self.comm.size,
            unit_bytes,
        )
        self._plans.clear()
        for unit in units:
            self._carriers[unit] = carrier_of(self.comm, self.leaves[unit.positions[0]])
            self._pieces |= {piece.position: piece for piece in unit.pieces[self.comm.rank]}
            for position in unit.positions:
                self._unit_of[self.leaves[position].key] = unit
        for position in range(first, len(self.leaves)):
            leaf = self.leaves[position]
            self.parts.append(
                Variable(
                    Tensor(self._own(leaf.array, self._pieces[position]), leaf.kernels),
                    trainable=False,
                    name=self.names[position],
                )
            )
        self.units += units
        return list(units)

    def _free_name(self, name: str) -> str:
        found, again = name, 1
        while found in self.names:  # variables without a name of their own
            found, again = f"{name}_{again}", again + 1
        return found

    def knows(self, variable: Variable) -> bool:
        """Return whether a variable was cut."""
        return variable.key in self._positions

    def position(self, variable: Variable) -> int:
        """Return the place of a variable among all."""
        return self._positions[variable.key]

    def unit_of(self, variable: Variable) -> Unit:
        """Return the unit in which a variable lies."""
        return self._unit_of[variable.key]

    def carrier(self, unit: Unit) -> Carrier:
        """Return what carries a unit's messages."""
        return self._carriers[unit]

    def piece(self, position: int) -> Piece:
        """Return what this rank has of a variable."""
        return self._pieces[position]

    def size(self, position: int) -> int:
        """Return how many elements a variable has on all ranks together."""
        return math.prod(self.leaves[position].shape)

    def plan(self, operation: str, unit: Unit | None = None) -> Plan:
        """Return what is about to be exchanged: of a unit's variables, or of all."""
        plan = self._plans.get((operation, unit))
        if plan is None:
            positions = range(len(self.leaves)) if unit is None else unit.positions
            entries = (
                Entry(self.names[p], as_dtype(self.leaves[p].dtype).name, self.leaves[p].shape)
                for p in positions
            )
            plan = self._plans[operation, unit] = Plan(operation, tuple(entries))
        return plan

    # --- between variables and parts --------------------------------------------------------------

    def fill(self) -> None:
        """Put into the parts what the variables hold now: before a step."""
        for position, leaf in enumerate(self.leaves):
            self.set_part(position, self._own(leaf.array, self.piece(position)))

    def set_part(self, position: int, array: Any) -> None:
        """Let a part hold an array, which becomes its own."""
        part = self.parts[position]
        part._value = Tensor(array, part.kernels, part.key)

    def empty(self) -> None:
        """Let go of what the parts hold."""
        for position, part in enumerate(self.parts):
            self.set_part(position, part.array[:0].copy())

    def spread(self) -> None:
        """Give every variable the parts of all ranks: after a step. All ranks call this."""
        agree(self.comm, self.plan("parameters after a step"))
        for unit in self.units:
            for position, array in zip(unit.positions, self.gather(unit), strict=True):
                self.set_part(position, self.parts[position].array[:0].copy())
                leaf = self.leaves[position]
                leaf.assign(Tensor(leaf.backend.asarray(array), leaf.kernels))
        self.empty()

    def gather(self, unit: Unit) -> list[Array]:
        """Return the whole variables of a unit, where its messages are; all ranks call this."""
        row = self.row(unit)
        return self.cut(
            unit, self.carrier(unit).allgatherv(row, unit.counts) if unit.length else row
        )

    def row(self, unit: Unit) -> Array:
        """Return a copy of what this rank has of a unit, end to end."""
        carrier = self.carrier(unit)
        row: Array = carrier.module.empty(unit.counts[self.comm.rank], unit.dtype)
        for piece in unit.pieces[self.comm.rank]:
            part = self.parts[piece.position]
            length = piece.stop - piece.start
            row[piece.at : piece.at + length] = carrier.array_of(part._value)
        return row

    def cut(self, unit: Unit, flat: Array) -> list[Array]:
        """Return the whole variables of a unit, whose elements are all there."""
        arrays, offset = [], 0
        for position, size in zip(unit.positions, unit.sizes, strict=True):
            arrays.append(flat[offset : offset + size].reshape(self.leaves[position].shape))
            offset += size
        return self.carrier(unit).placed(arrays)

    @staticmethod
    def _own(array: Any, piece: Piece) -> Any:
        """Return a copy of what this rank has of a variable's array."""
        return array.reshape(-1)[piece.start : piece.stop].copy()

    # --- bytes ------------------------------------------------------------------------------------

    @property
    def held_bytes(self) -> int:
        """How many bytes of parameters this rank holds now."""
        return sum(leaf.array.nbytes for leaf in self.leaves)

    @property
    def whole_bytes(self) -> int:
        """How many bytes all parameters have together."""
        return sum(unit.length * unit.dtype.itemsize for unit in self.units)

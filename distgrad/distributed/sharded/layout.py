"""Cut variables over ranks: units of neighbouring ones end to end, each cut evenly into rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from distgrad.distributed.verbs.communicator import Array, wire_dtype


class Piece(NamedTuple):
    """What a rank has of one variable of a unit.

    Attributes
    ----------
    position : int
        Which variable.
    start, stop : int
        Its elements from the one up to, but without, the other, counted in C order.
    at : int
        Where in the rank's row they stand.
    """

    position: int
    start: int
    stop: int
    at: int


@dataclass(frozen=True, eq=False)  # made once, and found by what it is
class Unit:
    """Variables of one dtype that are cut, reduced and gathered together.

    They lie end to end in one flat buffer; rank r has its elements from ``r * row`` to
    ``(r + 1) * row``, and of the last ranks' there may be fewer, or none. A cut may go through a
    variable.

    Attributes
    ----------
    dtype : numpy.dtype
        Of the variables.
    positions : tuple of int
        Which variables, in order.
    sizes : tuple of int
        How many elements each has.
    ranks : int
        How many ranks share them.
    """

    dtype: np.dtype[Any]
    positions: tuple[int, ...]
    sizes: tuple[int, ...]
    ranks: int

    @cached_property
    def length(self) -> int:
        """How many elements there are."""
        return sum(self.sizes)

    @cached_property
    def row(self) -> int:
        """How many elements a rank has at most."""
        return -(-self.length // self.ranks)

    @cached_property
    def wire(self) -> np.dtype[Any]:
        """The dtype in which gradients travel and are added up."""
        return wire_dtype(self.dtype, "sum")

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many elements each rank has."""
        return tuple(
            min(max(self.length - rank * self.row, 0), self.row) for rank in range(self.ranks)
        )

    @cached_property
    def pieces(self) -> tuple[tuple[Piece, ...], ...]:
        """What each rank has of each variable; nothing is a piece, too."""
        return tuple(self._pieces(rank) for rank in range(self.ranks))

    def _pieces(self, rank: int) -> tuple[Piece, ...]:
        first, last = rank * self.row, (rank + 1) * self.row
        pieces, offset = [], 0
        for position, size in zip(self.positions, self.sizes, strict=True):
            start = min(max(first - offset, 0), size)
            stop = min(max(last - offset, 0), size)
            pieces.append(Piece(position, start, stop, max(offset - first, 0)))
            offset += size
        return tuple(pieces)

    @cached_property
    def places(self) -> dict[int, int]:
        """Where in the unit a variable stands, by its position among all."""
        return {position: place for place, position in enumerate(self.positions)}

    @cached_property
    def _owners(self) -> tuple[tuple[tuple[int, Piece], ...], ...]:
        """For each variable of the unit the ranks that have some of it, and what."""
        return tuple(
            tuple(
                (rank, pieces[place])
                for rank, pieces in enumerate(self.pieces)
                if pieces[place].start < pieces[place].stop
            )
            for place in range(len(self.positions))
        )

    # --- messages of gradients: for each rank a row that begins with the weight -------------------

    def message(self, weight: float, module: Any = np) -> Array:
        """Return a message of zeros under a weight, a row for each rank, as a module's array."""
        rows: Array = module.zeros((self.ranks, 1 + self.row), self.wire)
        rows[:, 0] = weight
        return rows

    def put(self, rows: Array, place: int, gradient: Array, weight: float) -> None:
        """Put the gradient of one variable, times the weight, into a message.

        Parameters
        ----------
        rows : array of shape (ranks, 1 + row)
            The message.
        place : int
            Which of the unit's variables.
        gradient : array
            Of the variable's shape, where the message is.
        weight : float
            Zero leaves zeros, whatever the gradient holds: the mean over no examples is NaN.
        """
        if not weight:
            return
        flat = gradient.reshape(-1)
        for rank, piece in self._owners[place]:
            # Widened first: half precision overflows where it is multiplied.
            part = flat[piece.start : piece.stop].astype(self.wire, copy=False)
            np.multiply(part, weight, out=rows[rank, 1 + piece.at : 1 + piece.at + len(part)])


def plan_units(
    dtypes: Sequence[np.dtype[Any]],
    kinds: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    positions: Sequence[int],
    ranks: int,
    unit_bytes: int,
) -> tuple[Unit, ...]:
    """Return the units of variables, those first which a walk back comes to first: the last.

    Parameters
    ----------
    dtypes, kinds, shapes : sequence
        Of all variables; those of different kinds (backends) are not put into one unit.
    positions : sequence of int
        Which variables to cut, in ascending order.
    ranks : int
        How many ranks share them.
    unit_bytes : int
        How many bytes of variables a unit may have, unless one alone has more.
    """
    runs: dict[tuple[Any, str], list[list[int]]] = {}
    filled: dict[tuple[Any, str], int] = {}
    for position in reversed(positions):
        kind = (dtypes[position], kinds[position])
        size = math.prod(shapes[position]) * dtypes[position].itemsize
        if kind not in runs or filled[kind] + size > unit_bytes:
            runs.setdefault(kind, []).append([])
            filled[kind] = 0
        runs[kind][-1].insert(0, position)
        filled[kind] += size
    units = [
        Unit(dtype, tuple(run), tuple(math.prod(shapes[p]) for p in run), ranks)
        for (dtype, _), several in runs.items()
        for run in several
    ]
    return tuple(sorted(units, key=lambda unit: -unit.positions[-1]))

"""What a training measured in all its steps, and how it ended."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class History:
    """The records of steps, a column a figure; where a step lacks a figure stands NaN.

    Columns of doubles: a training of 10^6 steps takes some 100 MB.
    """

    def __init__(self) -> None:
        self._columns: dict[str, array[float]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def names(self) -> list[str]:
        """The figures, in the order in which they first came."""
        return list(self._columns)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the record of a step; what is no number in it is left out."""
        for name, value in record.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = array("d", [math.nan] * self._length)
            column.append(value)
        self._length += 1
        for column in self._columns.values():
            if len(column) < self._length:
                column.append(math.nan)

    def column(self, name: str) -> list[float]:
        """Return a figure of all steps; an empty list if there is none of that name."""
        return list(self._columns.get(name, ()))

    def total(self, name: str) -> float:
        """Return the sum of a figure over the steps that have it."""
        return math.fsum(each for each in self._columns.get(name, ()) if not math.isnan(each))


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Attributes
    ----------
    steps : int
        The last step, which is less than ``--steps`` after early stopping.
    final : dict of str to float
        What the evaluation found.
    variables_sha256 : str
        Over the bytes of the variables in the order of their names.
    history : History
        What the steps measured; those before a resume are in it if the metrics file has them.
    seconds : float
        Of this run.
    """

    steps: int
    final: dict[str, float]
    variables_sha256: str
    history: History
    seconds: float

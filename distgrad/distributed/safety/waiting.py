"""Where a rank waits for others: in which operation, and in which words it is told of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Waiting:
    """Where a rank waits: in which operation of which communicator, and for whom."""

    communicator: int
    number: int
    members: tuple[int, ...]  # ranks of the world
    what: Callable[[], str]  # the operation in words, only needed when something is wrong


class Place(Protocol):
    """What is read of a `Waiting`: for another thread, of which it changes."""

    @property
    def communicator(self) -> int:
        """Which one, as `Guard.enroll` numbers them."""
        ...

    @property
    def number(self) -> int:
        """How many operations were begun on it."""
        ...

    @property
    def members(self) -> tuple[int, ...]:
        """Its ranks, as those of the world."""
        ...

    @property
    def what(self) -> Callable[[], str]:
        """The operation in words."""
        ...


def in_words(place: Place, size: int) -> str:
    """Return the operation with its number and, unless these are all of the world, its ranks."""
    ranks = sorted(place.members)
    among = f" among ranks {', '.join(map(str, ranks))}" if len(ranks) < size else ""
    return f"{place.what()} (operation {place.number}{among})"

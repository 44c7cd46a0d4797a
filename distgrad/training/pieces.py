"""Draw random numbers by the piece of a batch: the same ones, whichever rank computes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from distgrad.random import Generator

Piece = TypeVar("Piece")


def drawn_apart(
    pieces: Iterable[Piece], numbers: Iterable[int], generators: Sequence[Generator]
) -> Iterator[Piece]:
    """Yield pieces, and have generators draw numbers of its own for each while it is computed.

    Parameters
    ----------
    pieces : iterable
        A rank's part of the batch; there may be none.
    numbers : iterable of int
        The place of each piece among those of all ranks.
    generators : sequence of Generator
        After the last piece each of them has counted one draw, on every rank alike, however many
        pieces that had and whatever was drawn in them.
    """
    roots = [each.split(1)[0] for each in generators]
    with kept_states(generators):
        for number, piece in zip(numbers, pieces, strict=True):
            for each, root in zip(generators, roots, strict=True):
                each.state = root.fold_in(number).state
            yield piece


@contextmanager
def kept_states(generators: Sequence[Generator]) -> Iterator[None]:
    """Give generators at the end the states that they have now."""
    before = [each.state for each in generators]
    try:
        yield
    finally:
        for each, state in zip(generators, before, strict=True):
            each.state = state

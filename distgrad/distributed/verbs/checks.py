"""What the verbs refuse before anything is sent: roots, rows, counts and colours that are none."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.errors import CommunicationError

Array = np.ndarray[Any, Any]

_COLOURS = 2**31  # a C int, not negative


def check_root(root: int, size: int) -> None:
    """Raise a `CommunicationError` unless `root` is a rank."""
    if not isinstance(root, (int, np.integer)) or not 0 <= root < size:
        raise CommunicationError(
            f"broadcast: root {root!r} is not a rank; expected 0 to {size - 1} on {size} ranks"
        )


def check_rows(verb: str, array: Array, size: int) -> None:
    """Raise a `CommunicationError` unless an array has a row for each rank."""
    if np.ndim(array) == 0 or len(array) != size:
        raise CommunicationError(
            f"{verb}: the array has shape {np.shape(array)}; expected a row for each of {size} "
            "ranks along the first axis"
        )


def check_counts(verb: str, array: Array, count: int) -> None:
    """Raise a `CommunicationError` unless an array is as long as its rank's counts say."""
    if np.shape(array) != (count,):
        raise CommunicationError(
            f"{verb}: the array has shape {np.shape(array)}; expected ({count},), as the counts say"
        )


def check_colour(colour: int) -> None:
    """Raise a `CommunicationError` unless ranks can be told apart by this number."""
    if not isinstance(colour, (int, np.integer)) or not 0 <= colour < _COLOURS:
        raise CommunicationError(
            f"split: colour is {colour!r}; expected a number from 0 to {_COLOURS - 1}, the same on "
            "the ranks that belong together"
        )

"""Memory that is offered for large results: where others wait for them, they need not be copied.

Who offers knows which shapes the results will have, not which kernel computes them. A kernel that
takes an offer writes its result there, and one that does not know of offers makes memory as usual:
the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Offers = dict[tuple[tuple[int, ...], str], list[Any]]


class _Offered:
    """What is offered in this process; nothing most of the time."""

    places: Offers | None = None


@contextmanager
def offering(places: Offers) -> Iterator[None]:
    """Offer memory for the results that are computed in a block.

    Parameters
    ----------
    places : dict of list of numpy.ndarray
        By shape and character of the dtype; contiguous arrays, which are taken off the lists.
    """
    before, _Offered.places = _Offered.places, places
    try:
        yield
    finally:
        _Offered.places = before


def destination(shape: tuple[int, ...], dtype: Any) -> Any | None:
    """Return memory for a result, which nobody else is given; None where none is offered.

    Parameters
    ----------
    shape : tuple of int
        Of the result.
    dtype : numpy.dtype
        Likewise.
    """
    places = _Offered.places
    if not places:
        return None
    found = places.get((shape, dtype.char))
    try:
        return found.pop() if found else None
    except IndexError:  # another thread was quicker
        return None

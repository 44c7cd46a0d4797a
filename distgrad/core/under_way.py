"""What a device waits for that takes other ranks: whoever waits for the device waits for it first.

A wait inside a device's library hears of no lost rank. So who has a device wait for others says how
to do so with open ears, and a backend asks here before it waits for its device.
"""

from __future__ import annotations

from collections.abc import Callable

_WAITS: dict[Callable[[], None], None] = {}  # in their order


def note_wait(wait: Callable[[], None]) -> None:
    """Have a function called before the host waits for a device; once more changes nothing."""
    _WAITS[wait] = None


def forget_wait(wait: Callable[[], None]) -> None:
    """Have it called no more."""
    _WAITS.pop(wait, None)


def settle() -> None:
    """Return once nothing that devices were given waits for other ranks.

    Raises
    ------
    RemoteRankError, StallError
        If another rank failed or left, or has not come before the deadline.
    """
    for wait in tuple(_WAITS):
        wait()


def abandon() -> None:
    """Have nobody wait for what other ranks were lost in: its numbers will be set anew."""
    _WAITS.clear()

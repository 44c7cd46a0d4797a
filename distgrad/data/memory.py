"""How much memory there is, to refuse what can never fit before hours are spent on it."""

from __future__ import annotations

import os
from pathlib import Path

# The limit of a container, as control groups of version 2 and 1 tell it there.
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def machine_memory() -> int:
    """Return how many bytes of memory this machine, or the container on it, has at all."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _LIMITS:
        try:
            found.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return min(found)


def refuse_larger(what: str, nbytes: float) -> None:
    """Raise a `MemoryError` for what takes more bytes than there are at all."""
    there = machine_memory()
    if nbytes > there:
        raise MemoryError(
            f"{what} takes {nbytes / 2**30:,.0f} GiB at least; this machine has "
            f"{there / 2**30:,.1f} GiB"
        )

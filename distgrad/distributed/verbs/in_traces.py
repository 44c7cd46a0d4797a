"""What ranks say to each other while a function is only being traced, and what they may not."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.core.seam import VALUES
from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.distributed.verbs.communicator import Array, Communicator
from distgrad.errors import TraceError


def refuse_trace(what: str, comm: Communicator) -> None:
    """Raise a `TraceError` within `distgrad.function`, where what is done once stays undone later.

    One rank alone says nothing, and may.
    """
    if comm.size > 1 and VALUES.get() is not None:
        raise TraceError(
            f"{what}: within dg.function, whose Python code runs while it is traced, and not at "
            "each call; call it outside, with what the traced function returns (collectives such "
            "as dist.allreduce may stand within)"
        )


def exchange_lengths(comm: Communicator, what: str, entry: Entry, own: Any) -> tuple[Array, str]:
    """Return the lengths of all ranks along a new first axis, and the name of what then travels.

    Parameters
    ----------
    comm : Communicator
        All its ranks call this together.
    what : str
        The operation.
    entry : Entry
        What ranks have to have in common.
    own : int or sequence of int
        This rank's lengths, as many on every rank.

    Notes
    -----
    A trace keeps the lengths that ranks had when it was made. So its name for the operation has
    them: ranks that come with traces of different lengths, or of which one traces anew while
    another one runs what it has, are told so before anything travels.
    """
    is_traced = VALUES.get() is not None
    agree(comm, Plan(f"{what}, being traced," if is_traced else what, (entry,)))
    lengths = comm.allgather(np.array(own, np.int64))
    return lengths, f"{what}, traced with lengths {lengths.tolist()}," if is_traced else what

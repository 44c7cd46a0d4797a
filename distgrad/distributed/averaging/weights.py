"""Every rank's weight, which travels with the comparison of plans: sums need no division then.

A rank's gradients are multiplied by its share nᵢ / Σ nᵢ when they are put into messages. What the
messages add up to is the average, and nobody has to go through it once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distgrad.distributed.safety.fingerprint import number_of_slots
from distgrad.distributed.verbs.communicator import Array, Communicator
from distgrad.errors import BatchError


def slots_with(comm: Communicator, weight: float, nanoseconds: int = 0) -> Array | None:
    """Return the `slots` of `agree` with this rank's weight, and how long it has computed.

    None where a comparison carries none.
    """
    length = number_of_slots(comm.size)
    if not length:
        return None
    slots = np.zeros(length, np.uint64)
    slots[comm.rank] = nanoseconds
    # Negative: then no weight is all zero bits, as are the slots of a rank that says nothing.
    slots[comm.size + comm.rank] = np.float64(-float(weight)).view(np.uint64)
    return slots


def seconds_in(slots: Array | None) -> tuple[float, ...]:
    """Return how long each rank has computed; nothing unless all ranks have said so."""
    told = None if slots is None else slots[: len(slots) // 2]
    if told is None or not told.all():
        return ()
    return tuple((told / 1e9).tolist())


def weights_in(comm: Communicator, slots: Array | None, weight: float) -> list[float]:
    """Return all ranks' weights; all ranks call this together."""
    if slots is None:
        return [float(each) for each in comm.allgather(np.array(weight, np.float64))]
    # Only ranks that are pretended say nothing: they do exactly as this one does.
    told = slots[comm.size :]
    return [
        -float(each) if bits else weight
        for each, bits in zip(told.view(np.float64), told, strict=True)
    ]


def share(weight: float, weights: Sequence[float], *, as_sum: bool) -> float:
    """Return by what a rank's gradients are multiplied, so that their sum is the average.

    Raises
    ------
    BatchError
        If no rank has an example.
    """
    refuse_none(weights)
    return weight if as_sum else weight / sum(weights)


def refuse_none(weights: Sequence[float]) -> None:
    """Raise a `BatchError` if no rank has an example."""
    if not any(weights):
        raise BatchError(
            f"gradient: no rank of {len(weights)} has an example; expected at least one in the "
            "global batch"
        )

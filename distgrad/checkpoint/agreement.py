"""All ranks succeed, or all raise the same error: the verdict that ends each stage."""

from __future__ import annotations

from typing import Any

from distgrad.distributed.verbs.communicator import Communicator, exchange_json
from distgrad.errors import (
    CheckpointError,
    CheckpointMismatchError,
    CheckpointWriteError,
    DamagedCheckpointError,
    DesyncError,
    DTypeError,
    MissingCheckpointError,
    ShapeError,
)

_CLASSES: dict[str, type[Exception]] = {
    each.__name__: each
    for each in (
        CheckpointError,
        CheckpointMismatchError,
        DTypeError,
        DamagedCheckpointError,
        DesyncError,
        MissingCheckpointError,
        ShapeError,
        TypeError,
        ValueError,
    )
}


def conclude(
    comm: Communicator,
    error: Exception | None,
    value: Any = None,
    otherwise: type[Exception] = CheckpointWriteError,
) -> list[Any]:
    """Return every rank's value, unless a rank failed; then all ranks raise its error.

    Parameters
    ----------
    comm : Communicator
        The ranks, all of which call this.
    error : Exception or None
        What went wrong on this rank.
    value : JSON value
        What this rank has to say.
    otherwise : type
        The class of the error to raise where that of the failed rank is not one of distgrad's.

    Raises
    ------
    Exception
        Of the class of the failed rank's error, the lowest of them, with all their texts.
    """
    said = exchange_json(
        comm,
        {"value": value, "error": None if error is None else [type(error).__name__, str(error)]},
    )
    failed = [(rank, *each["error"]) for rank, each in enumerate(said) if each["error"]]
    if not failed:
        return [each["value"] for each in said]
    if comm.size == 1:
        text = failed[0][2]
    elif len(failed) == comm.size and len({each[2] for each in failed}) == 1:
        text = f"{failed[0][2]} (on all {comm.size} ranks)"
    else:
        text = "; ".join(f"rank {rank}: {what}" for rank, _, what in failed)
    raise _CLASSES.get(failed[0][1], otherwise)(text) from error

"""All ranks succeed, or all raise the same error: the verdict that ends each stage."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from distgrad.checkpoint.leaves import Leaf
from distgrad.distributed.verbs.communicator import Communicator, exchange_json
from distgrad.errors import (
    CheckpointError,
    CheckpointMismatchError,
    CheckpointWarning,
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


def draws_of(leaves: Mapping[str, Leaf]) -> dict[str, str]:
    """Return for each generator what tells its state from another."""
    generators = {path: leaf for path, leaf in leaves.items() if leaf.kind == "generator"}
    return {path: sha256(leaf.host().tobytes()).hexdigest() for path, leaf in generators.items()}


def warn_once(comm: Communicator, text: str, stacklevel: int = 1) -> None:
    """Warn of what all ranks know alike: on rank 0, so that it is said once."""
    if comm.rank == 0:
        warnings.warn(text, CheckpointWarning, stacklevel=stacklevel + 1)


def compare_draws(comm: Communicator, said: Sequence[Mapping[str, str]]) -> None:
    """Warn of generators that do not stand alike on all ranks: one state of each is saved.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    said : sequence of mapping
        Every rank's `draws_of`, with the same paths.
    """
    unlike = [path for path, own in said[0].items() if any(each[path] != own for each in said)]
    if unlike:
        warn_once(
            comm,
            f"save: the ranks' generators {', '.join(unlike)} have drawn differently; rank 0's "
            "states are saved, and all ranks go on from them after a resume: let every rank draw "
            "the same, with rows= or from fold_in(step)",
            stacklevel=4,
        )

"""Go through iterators of uneven length together: who runs out takes part with nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from distgrad import tree
from distgrad.distributed.batches.sharding import examples_of, remember_examples
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.safety.fingerprint import Plan, agree
from distgrad.distributed.verbs.communicator import Communicator, exchange_json
from distgrad.distributed.verbs.in_traces import refuse_trace
from distgrad.errors import BatchError

Nest = TypeVar("Nest")

_PLAN = Plan("join (next batch)")


def join(
    batches: Iterable[Nest], comm: Communicator | None = None, *, like: Nest | None = None
) -> Iterator[Nest]:
    """Yield this rank's batches, and empty ones until every rank has run out.

    For iterators that know nothing of ranks, and may have more batches on one than on another:
    without it the ranks with more would wait for those that have left the loop. Where `shard` cuts
    a global batch there is nothing to join.

    Parameters
    ----------
    batches : iterable of nests of arrays or tensors
        All leaves of a batch have the same length along their first axis.
    comm : Communicator, optional
        The ranks; `world()` by default.
    like : nest of arrays or tensors, optional
        A batch that shows structure, shapes and dtypes; needed where a rank may have no batch at
        all. Its values are not used.

    Yields
    ------
    nest of arrays or tensors
        A batch. Empty ones are like the last one (or `like`), with length 0.

    Raises
    ------
    BatchError
        If a rank has no batch at all and `like` is not given (on every rank), a leaf has no first
        axis, or lengths differ.
    DesyncError
        On every rank, if another rank does something else than to ask for its next batch.

    Notes
    -----
    As for `shard`, the number of examples is remembered for `DistributedGradientTape.gradient` and
    `average`: a rank with an empty batch counts with weight zero, even if its gradient is NaN. All
    ranks run the loop's body equally often, so other collectives may stand in it. Each step takes
    an allreduce of 32 bytes more, a second one while some ranks have run out.

    Examples
    --------
    >>> import numpy as np
    >>> import distgrad.distributed as dist
    >>> ranks = dist.SerialCommunicator()
    >>> [batch.tolist() for batch in dist.join([np.arange(2), np.arange(1)], ranks)]
    [[0, 1], [0]]
    """
    comm = ranks_of(comm)
    refuse_trace("join", comm)
    remaining = iter(batches)
    empty = None if like is None else _emptied(like)
    missing = object()
    while True:
        batch: Any = next(remaining, missing)
        has = batch is not missing
        # Who has a batch, and who could not even show an empty one.
        goes_on, stuck = agree(comm, _PLAN, (has, not has and empty is None))
        if not goes_on:
            return
        if stuck:
            _refuse(comm, has or empty is not None)
        if has:
            examples = examples_of("join", tree.flatten(batch)[0], batch)
            empty = _emptied(batch)
        else:
            examples, batch = 0, empty
        remember_examples(comm, examples)
        yield batch


def _emptied(batch: Any) -> Any:
    leaves, treedef = tree.flatten(batch)
    examples_of("join", leaves, batch)
    return tree.unflatten(treedef, [leaf[:0] for leaf in leaves])


def _refuse(comm: Communicator, can: bool) -> None:
    """Raise, on every rank, the error that names the ranks without any batch."""
    silent = [rank for rank, able in enumerate(exchange_json(comm, can)) if not able]
    raise BatchError(
        f"join: rank{'s' * (len(silent) > 1)} {', '.join(map(str, silent))} had no batch at all "
        "while others did, so nothing shows what an empty one looks like; pass like=, a batch of "
        "the same structure"
    )

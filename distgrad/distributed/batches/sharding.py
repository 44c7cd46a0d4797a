"""Share a batch among the ranks, and remember how many examples each has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from distgrad import tree
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.distributed.verbs.in_traces import refuse_trace
from distgrad.errors import BatchError

Nest = TypeVar("Nest")

# By communicator, not on it: communicators know arrays only, examples are the gradients' business.
_last_shards: WeakKeyDictionary[Communicator, int] = WeakKeyDictionary()


def shard(batch: Nest, comm: Communicator | None = None) -> Nest:
    """Return this rank's part of a batch that every rank holds.

    Parameters
    ----------
    batch : nest of arrays or tensors
        The global batch, the same on every rank; all leaves have the same length along their first
        axis, the number of examples.
    comm : Communicator, optional
        The ranks that share it; `world()` by default.

    Returns
    -------
    nest of arrays or tensors
        The rank's contiguous slice of each leaf. The sizes of the ranks' parts differ by one at
        most; with fewer examples than ranks, some parts are empty.

    Raises
    ------
    BatchError
        If a leaf has no first axis, or the lengths differ.

    Notes
    -----
    Rank r of p has the examples from ⌊rn/p⌋ to ⌊(r+1)n/p⌋. How many they are is remembered until
    the next call: `DistributedGradientTape.gradient` and `average` weigh by it, so that uneven and
    empty parts give the gradient of the global batch.

    Examples
    --------
    >>> import numpy as np
    >>> import distgrad.distributed as dist
    >>> ranks = dist.RecordedCommunicator(size=3, rank=1)
    >>> dist.shard({"x": np.arange(7)}, ranks)
    {'x': array([2, 3])}
    """
    comm = ranks_of(comm)
    leaves, treedef = tree.flatten(batch)
    total = examples_of("shard", leaves, batch)
    start = comm.rank * total // comm.size
    stop = (comm.rank + 1) * total // comm.size
    remember_examples(comm, stop - start)
    part: Nest = tree.unflatten(treedef, [leaf[start:stop] for leaf in leaves])
    return part


def micro_batches(batch: Nest, count: int, comm: Communicator | None = None) -> Iterator[Nest]:
    """Yield this rank's part of a batch in pieces, for gradients that are added up.

    Parameters
    ----------
    batch : nest of arrays or tensors
        The global batch, the same on every rank; see `shard`.
    count : int
        In how many pieces to cut the rank's part; less memory, and one communication for all of
        them with `GradientAccumulator`.
    comm : Communicator, optional
        The ranks that share it; `world()` by default.

    Yields
    ------
    nest of arrays or tensors
        Contiguous slices of each leaf, whose sizes differ by one at most. Those without an example
        are left out. The number of examples of the piece is remembered as `shard`'s is.

    Raises
    ------
    BatchError
        If a leaf has no first axis, or the lengths differ, or `count` is no integer from 1 on.

    Examples
    --------
    >>> import numpy as np
    >>> import distgrad.distributed as dist
    >>> ranks = dist.RecordedCommunicator(size=2, rank=1)
    >>> list(dist.micro_batches(np.arange(10), 2, ranks))
    [array([5, 6]), array([7, 8, 9])]
    """
    comm = ranks_of(comm)
    check_count("micro_batches", count)
    leaves, treedef = tree.flatten(shard(batch, comm))
    examples = int(leaves[0].shape[0])
    most = min(count, max(examples, 1))  # of more pieces the others would be empty

    def pieces() -> Iterator[Nest]:
        for piece in range(most):
            start, stop = piece * examples // most, (piece + 1) * examples // most
            if stop > start:
                remember_examples(comm, stop - start)
                part: Nest = tree.unflatten(treedef, [leaf[start:stop] for leaf in leaves])
                yield part
        remember_examples(comm, examples)

    return pieces()


def check_count(function: str, count: Any) -> None:
    """Raise a `BatchError` unless a batch can be cut into so many pieces."""
    if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < 1:
        raise BatchError(f"{function}: count is {count!r}; expected an integer, 1 or more")


def remember_examples(comm: Communicator, examples: int) -> None:
    """Remember how many examples this rank has of the batch that it took last."""
    _last_shards[comm] = examples


def examples_of(function: str, leaves: list[Any], batch: Any) -> int:
    """Return the common length of the leaves of a batch.

    Raises
    ------
    BatchError
        If a leaf has no first axis, or the lengths differ.
    """
    if not leaves:
        raise BatchError(
            f"{function}: the batch holds no arrays; expected a nest of arrays or tensors"
        )
    for position, leaf in enumerate(leaves):
        if not getattr(leaf, "shape", ()):
            raise BatchError(
                f"{function}: batch{_place(batch, position)} is a {type(leaf).__name__} without a "
                "first axis to share; expected an array of examples (np.asarray(...) makes one)"
            )
    lengths = [int(leaf.shape[0]) for leaf in leaves]
    for position, length in enumerate(lengths):
        if length != lengths[0]:
            raise BatchError(
                f"{function}: batch{_place(batch, 0)} has {lengths[0]} examples, "
                f"batch{_place(batch, position)} has {length}; expected the same first axis in all"
            )
    return lengths[0]


def _place(batch: Any, position: int) -> str:
    path = tree.paths(batch)[position]
    return f"[{path}]" if path else ""


def examples_here(function: str, examples: Any, comm: Communicator) -> float:
    """Return how many examples this rank speaks for: as given, as last sharded, or one.

    Raises
    ------
    BatchError
        If what is given is no number, negative or not finite.
    TraceError
        Within `distgrad.function`, on several ranks: a trace would keep the number.
    """
    refuse_trace(function, comm)
    if examples is None:
        return _last_shards.get(comm, 1)
    return checked_examples(function, examples, comm)


def checked_examples(function: str, examples: Any, comm: Communicator) -> float:
    """Return a number of examples, or raise a `BatchError` if it is none."""
    try:
        count = float(examples)
    except (TypeError, ValueError):
        count = math.nan
    if not math.isfinite(count) or count < 0:
        raise BatchError(
            f"{function}: examples is {examples} on rank {comm.rank}; expected the number of "
            "examples of this rank, zero or more"
        )
    return count

"""Cut the global batch into logical shards, whose number does not depend on that of the ranks.

What is computed for a logical shard depends on nothing else, so that its gradient has the same bits
wherever it is computed; `distgrad.distributed.averaging.ordered` adds them up in one order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from distgrad import tree
from distgrad.distributed.averaging.ordered import OrderedSum, own_range
from distgrad.distributed.batches.sharding import check_count, examples_of, remember_examples
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.launching.threads import use_one_thread
from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.distributed.verbs.in_traces import refuse_trace
from distgrad.errors import BatchError

Nest = TypeVar("Nest")

# Evenly shared by 1, 2, 3, 4, 6, 8, 12 and 24 ranks.
LOGICAL_SHARDS = 24


@dataclass(frozen=True)
class Cut:
    """How a rank's part of a global batch is cut.

    Attributes
    ----------
    count : int
        How many logical shards the global batch has.
    sizes : tuple of int
        The examples in each of this rank's, zeros included.
    """

    count: int
    sizes: tuple[int, ...]


_last_cuts: WeakKeyDictionary[Communicator, Cut] = WeakKeyDictionary()


def logical_shards(
    batch: Nest, comm: Communicator | None = None, *, count: int = LOGICAL_SHARDS
) -> Iterator[Nest]:
    """Yield this rank's logical shards of a batch that every rank holds.

    Parameters
    ----------
    batch : nest of arrays or tensors
        The global batch, the same on every rank; all leaves have the same length along their first
        axis, the number of examples.
    comm : Communicator, optional
        The ranks that share it; `world()` by default.
    count : int
        How many logical shards to make; the bits of what is computed depend on it. With at least
        as many as ranks, each rank has some.

    Yields
    ------
    nest of arrays or tensors
        Contiguous slices of each leaf, whose sizes differ by one at most. Those without an example
        are left out: a rank may get none.

    Raises
    ------
    BatchError
        If a leaf has no first axis, or the lengths differ, or `count` is no integer from 1 on.

    Notes
    -----
    Logical shard v of V has the examples from ⌊vn/V⌋ to ⌊(v+1)n/V⌋ of n, and rank r of p owns the
    shards from ⌊rV/p⌋ to ⌊(r+1)V/p⌋. Bits stay the same as long as each shard is computed alone, by
    the same BLAS on the same kind of processor, and by one thread: BLAS is limited to one unless
    ``OMP_NUM_THREADS`` or the like is set. Random numbers belong to the place in the global batch
    (``generator.uniform(shape, rows=...)``) or to the shard, never to the rank.

    Examples
    --------
    >>> import numpy as np
    >>> import distgrad.distributed as dist
    >>> ranks = dist.RecordedCommunicator(size=2, rank=1)
    >>> list(dist.logical_shards(np.arange(6), ranks, count=4))
    [array([3]), array([4, 5])]
    """
    comm = ranks_of(comm)
    check_count("logical_shards", count)
    use_one_thread()
    leaves, treedef = tree.flatten(batch)
    total = examples_of("logical_shards", leaves, batch)
    own = own_range(count, comm.size, comm.rank)
    bounds = [shard * total // count for shard in range(own.start, own.stop + 1)]
    spans = list(pairwise(bounds))
    _last_cuts[comm] = Cut(count, tuple(stop - start for start, stop in spans))
    remember_examples(comm, bounds[-1] - bounds[0])

    def parts() -> Iterator[Nest]:
        for start, stop in spans:
            if stop > start:
                part: Nest = tree.unflatten(treedef, [leaf[start:stop] for leaf in leaves])
                yield part

    return parts()


def last_cut(function: str, comm: Communicator, count: int) -> Cut:
    """Return how this rank's part was cut last.

    Raises
    ------
    BatchError
        If it was not, or into another number of logical shards.
    TraceError
        As for `examples_here`.
    """
    refuse_trace(function, comm)
    cut = _last_cuts.get(comm)
    if cut is None or cut.count != count:
        found = "no batch was cut" if cut is None else f"the last batch was cut into {cut.count}"
        raise BatchError(
            f"{function}: deterministic over {count} logical shards, but {found} on this "
            f"communicator; take the batch by dist.logical_shards(batch, count={count})"
        )
    return cut


def sum_logical_shards(
    values: Sequence[Any], comm: Communicator | None = None, *, count: int = LOGICAL_SHARDS
) -> Any:
    """Return the sum over all ranks' logical shards, the same bits for any number of ranks.

    Parameters
    ----------
    values : sequence of arrays or numbers
        One for each logical shard that `logical_shards` yielded on this rank, all of one shape:
        losses, or rows of several figures.
    comm : Communicator, optional
        The ranks; `world()` by default.
    count : int
        How many logical shards the last batch was cut into.

    Returns
    -------
    numpy.ndarray of float64
        Of the shape of one value.

    Raises
    ------
    BatchError
        If there is not one value for each logical shard.
    DesyncError
        If the values of a rank have another shape. A rank without a shard takes any.

    Examples
    --------
    >>> import numpy as np
    >>> import distgrad.distributed as dist
    >>> ranks = dist.SerialCommunicator()
    >>> squares = [np.sum(x**2.0) for x in dist.logical_shards(np.arange(6), ranks)]
    >>> float(dist.sum_logical_shards(squares, ranks))
    55.0
    """
    comm = ranks_of(comm)
    cut = last_cut("sum_logical_shards", comm, count)
    rows = [np.asarray(value, np.float64) for value in values]
    check_number("sum_logical_shards", "values", len(rows), cut)
    # A rank without a shard has no value either, and learns the shape from the others.
    shape = _shape_of_all(comm, rows)
    agree(comm, Plan(f"sum_logical_shards (count={count})", (Entry("values", "float64", shape),)))
    total = OrderedSum(comm, cut.count)
    waiting = iter(rows)
    length = int(np.prod(shape, dtype=np.int64))
    for size in cut.sizes:
        row = next(waiting) if size else np.zeros(shape)
        total.add(row.reshape(-1).copy())
    return total.total(length, np.dtype(np.float64)).reshape(shape)


def _shape_of_all(comm: Communicator, rows: list[Any]) -> tuple[int, ...]:
    if comm.size == 1:
        return tuple(rows[0].shape) if rows else ()
    own = rows[0].shape if rows else ()
    axes = np.full(9, -1, np.int64)  # more than eight axes of figures nobody sums
    if rows:
        axes[0] = len(own)
        axes[1 : 1 + len(own)] = own
    found = comm.allreduce(axes, "max")
    known = tuple(own) if rows else tuple(int(n) for n in found[1 : 1 + max(int(found[0]), 0)])
    return known


def check_number(function: str, what: str, found: int, cut: Cut) -> None:
    """Raise a `BatchError` unless there is one thing for each logical shard with examples."""
    expected = sum(size > 0 for size in cut.sizes)
    if found != expected:
        raise BatchError(
            f"{function}: {found} {what} for {expected} logical shards of this rank; expected one "
            "for each that dist.logical_shards yields, in order"
        )

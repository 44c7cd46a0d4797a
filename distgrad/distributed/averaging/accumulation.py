"""Collect gradients over several tapes, and average them over ranks once.

Two ways to add up: in the order in which they come, with one allreduce at the end; or one row for
each logical shard, in an order that does not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.distributed.averaging.adding import Manner, manner
from distgrad.distributed.averaging.buckets import BUCKET_BYTES, Bucket, plan_buckets
from distgrad.distributed.averaging.buffers import buffers_of
from distgrad.distributed.averaging.exchange import (
    average_gradients,
    connect,
    describe_sources,
    on_host,
    take_out,
)
from distgrad.distributed.averaging.finiteness import Finiteness, each_alone
from distgrad.distributed.averaging.layouts import layout_of
from distgrad.distributed.averaging.ordered import OrderedSum
from distgrad.distributed.averaging.report import Tally
from distgrad.distributed.batches.logical import LOGICAL_SHARDS, Cut, check_number, last_cut
from distgrad.distributed.batches.sharding import checked_examples, examples_here
from distgrad.distributed.compression.protocol import Compression
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.safety.fingerprint import Plan, agree
from distgrad.distributed.verbs.communicator import Array, Communicator, wire_dtype
from distgrad.distributed.verbs.device_buffers import is_on_device
from distgrad.dtypes import is_differentiable
from distgrad.errors import BatchError
from distgrad.sparse import IndexedSlices, densified
from distgrad.tape.arguments import UnconnectedGradients, unconnected_policy
from distgrad.tensor import Tensor


def number_of_shards(function: str, deterministic: bool | int | None) -> int | None:
    """Return how many logical shards ``deterministic=`` asks for; None for none.

    Raises
    ------
    ValueError
        If it is no integer, or less than 1.
    """
    if deterministic is None or deterministic is False:
        return None
    count = LOGICAL_SHARDS if deterministic is True else deterministic
    if not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(
            f"{function}: deterministic is {deterministic!r}; expected True or a number of logical "
            "shards, 1 or more"
        )
    return int(count)


class GradientAccumulator:
    """Adds up gradients of several tapes; `gradients` communicates once for all of them.

    Parameters
    ----------
    sources : Variable, Tensor or nest of them
        With respect to what the gradients are; the same on every rank.
    comm : Communicator, optional
        The ranks to average over; `world()` by default.
    deterministic : bool or int
        Whether the result has the same bits for any number of ranks: then each gradient added is
        that of one logical shard, see `logical_shards`. A number says how many there are.
    average : {"examples", "ranks", "sum", "adasum"}
        As for `DistributedGradientTape`. With `deterministic`, ``"ranks"`` means the logical shards
        that have examples. With ``"adasum"``, a rank's gradient is the mean over its examples.
    compression, reduction :
        As for `DistributedGradientTape`.
    nonfinite : {"keep", "raise", "skip"}
        As for `DistributedGradientTape`.

    Raises
    ------
    ValueError
        If there is no such average, number of logical shards, compression or reduction.
    UnsupportedOptionError
        If two of these do not go together.

    Examples
    --------
    A rank's part in pieces that fit into memory:

    >>> import numpy as np
    >>> import distgrad as dg
    >>> import distgrad.distributed as dist
    >>> ranks, x = dist.SerialCommunicator(), dg.Variable(2.0)
    >>> accumulator = dist.GradientAccumulator(x, ranks)
    >>> for batch in dist.micro_batches(np.arange(7.0), 3, ranks):
    ...     with dg.GradientTape() as tape:
    ...         loss = dg.mean(batch * x)
    ...     accumulator.add(tape.gradient(loss, x))
    >>> print(accumulator.gradients())
    dg.Tensor(3.0, shape=(), dtype=float32)
    """

    def __init__(
        self,
        sources: Any,
        comm: Communicator | None = None,
        *,
        deterministic: bool | int = False,
        average: str = "examples",
        nonfinite: str = "keep",
        compression: Compression | str | None = None,
        reduction: str = "native",
    ) -> None:
        self._finiteness = Finiteness("GradientAccumulator", nonfinite)
        self._count = number_of_shards("GradientAccumulator", deterministic)
        self._manner = manner(
            "GradientAccumulator",
            average,
            reduction=reduction,
            compression=compression,
            is_deterministic=self._count is not None,
        )
        self._leaves, self._treedef = tree.flatten(sources)
        self._comm = comm
        self._average = average
        self._sums: RunningMean | OrderedGradients | None = None

    def add(self, gradients: Any, examples: float | None = None) -> None:
        """Add the gradients of one tape.

        Parameters
        ----------
        gradients : nest of Tensor, IndexedSlices or None
            In the structure of the sources: what the tape of this rank returned.
        examples : float, optional
            How many examples they stand for, or their weight; by default those of the piece that
            `micro_batches`, `logical_shards` or `shard` gave last.

        Raises
        ------
        BatchError
            If the number of examples is negative, or there are more gradients than logical shards.
        ValueError
            If the structure is not that of the sources.
        """
        flat = tree.flatten_like(self._treedef, gradients)
        self._started().add(flat, examples)

    def gradients(
        self, unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE
    ) -> Any:
        """Return the average over all that was added on all ranks, and start again from nothing.

        All ranks call it, also one that had no examples and added nothing.

        Parameters
        ----------
        unconnected_gradients : {"none", "zero", "error"} or UnconnectedGradients
            What to return for a source that nothing depends on.

        Returns
        -------
        nest of Tensor, IndexedSlices or None
            In the structure of the sources.

        Raises
        ------
        DesyncError, BatchError, NonFiniteGradientError, RemoteRankError, StallError
            As for `DistributedGradientTape.gradient`.
        """
        policy = unconnected_policy(unconnected_gradients)
        sums, self._sums = self._started(), None
        found = connect(policy, self._leaves, sums.finish(self._treedef))
        found = self._finiteness.judge(sums.comm, self._treedef, self._leaves, found, sums.own)
        return tree.unflatten(self._treedef, found)

    @property
    def skipped(self) -> bool:
        """Whether the last `gradients` returned None alone, because of ``nonfinite="skip"``."""
        return self._finiteness.skipped

    def _started(self) -> RunningMean | OrderedGradients:
        comm = ranks_of(self._comm)
        # What was added for ranks that are no more, of which one was lost, is no part of a sum.
        if self._sums is None or self._sums.comm is not comm:
            if self._count is None:
                self._sums = RunningMean(comm, self._leaves, self._manner)
            else:
                self._sums = OrderedGradients(comm, self._leaves, self._average, self._count)
        return self._sums


class RunningMean:
    """Adds up gradients as they come, each times its weight."""

    def __init__(self, comm: Communicator, leaves: list[Any], manner: Manner) -> None:
        self.comm = self._comm = comm
        self._leaves = leaves
        self._average = manner.average
        self._manner = manner
        self._weight = 0.0
        self._sums: list[Any] = [None] * len(leaves)

    def add(self, gradients: Sequence[Any], examples: float | None) -> None:
        """Add one gradient for each source, or None."""
        weight = examples_here("GradientAccumulator.add", examples, self._comm)
        if weight == 0:
            return  # of no examples the mean is NaN
        self._weight += weight
        factor = 1.0 if self._average == "sum" else weight
        for position, gradient in enumerate(gradients):
            if gradient is not None:
                self._add(position, gradient, factor)

    def _add(self, position: int, gradient: Any, factor: float) -> None:
        so_far = self._sums[position]
        if isinstance(gradient, IndexedSlices) and (
            so_far is None or isinstance(so_far, IndexedSlices)
        ):
            term = gradient * factor
            self._sums[position] = term if so_far is None else so_far + term
            return
        dense = densified(gradient)
        if is_on_device(dense.array):
            # NumPy's function is the device's own on its arrays; nothing waits for it.
            wire = wire_dtype(np.dtype(dense.array.dtype), "sum")
            term = np.multiply(dense.array, factor, dtype=wire)
            if so_far is not None:
                term += densified(so_far).array
            self._sums[position] = Tensor(term, dense.kernels)
            return
        host = np.asarray(on_host(dense))
        # Half precision would overflow, and NumPy makes scalars of arrays of no dimensions.
        term = np.asarray(np.multiply(host, factor, dtype=wire_dtype(host.dtype, "sum")))
        if so_far is not None:
            term += on_host(so_far)
        self._sums[position] = term

    def own(self) -> list[list[Any]]:
        """Return what this rank has added up for each source; see `Finiteness.judge`."""
        return each_alone(self._sums)

    def finish(self, treedef: tree.TreeDef) -> list[Any]:
        """Return the average over ranks, by one communication."""
        as_sum = self._average == "sum"
        divisor = 1.0 if as_sum else self._weight
        means = [None if each is None else _divided(each, divisor) for each in self._sums]
        if self._comm.size == 1:
            if self._weight == 0:
                raise BatchError(
                    "gradients: nothing with an example was added; call add for each piece first"
                )
            return [as_gradient(*each) for each in zip(self._leaves, means, strict=True)]
        entries = describe_sources(treedef, self._leaves)
        adder = self._manner.adder(self._comm, entries)
        plan = Plan(f"accumulated gradients ({self._manner.words})", adder.entries(entries))
        weight = self._weight if self._average == "examples" else float(self._weight > 0)
        return average_gradients(
            self._comm,
            plan,
            self._leaves,
            means,
            weight,
            as_sum=as_sum,
            bucket_bytes=BUCKET_BYTES,
            adder=adder,
            takes=True,
        )


def _divided(total: Any, divisor: float) -> Any:
    if isinstance(total, np.ndarray):
        return np.asarray(total / divisor, total.dtype)
    if isinstance(total, IndexedSlices):
        return total / divisor
    return Tensor(total.array / total.array.dtype.type(divisor), total.kernels)


def as_gradient(source: Any, mean: Any) -> Any:
    """Return a host array, or a device's sum, as a tensor of its source's dtype and backend."""
    if mean is None or isinstance(mean, IndexedSlices):
        return mean
    dtype = layout_of([source])[0][0]
    array = mean if isinstance(mean, np.ndarray) else mean.array
    return Tensor(source.kernels.backend.asarray(array, dtype=dtype), source.kernels)


class OrderedGradients:
    """Adds up the gradients of logical shards along a fixed tree.

    Parameters
    ----------
    comm : Communicator
        The ranks; one is enough.
    leaves : list of Tensor or Variable
        The sources.
    average : {"examples", "ranks", "sum"}
        What to divide by.
    count : int
        How many logical shards there are over all ranks.
    bucket_bytes : int
        How long a message may get; it changes no bit.
    """

    def __init__(
        self,
        comm: Communicator,
        leaves: list[Any],
        average: str,
        count: int,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.comm = self._comm = comm
        self._leaves = leaves
        self._average = average
        self._cut: Cut = last_cut("gradient", comm, count)
        self._pool = buffers_of(comm)
        self._has_gradient = [False] * len(leaves)
        self._added = self._place = 0
        # All that can have a gradient: whether they do, other ranks would have to say first.
        positions = tuple(p for p, leaf in enumerate(leaves) if is_differentiable(leaf.dtype))
        self._buckets: list[tuple[Bucket, OrderedSum]] = [
            (bucket, OrderedSum(comm, count))
            for bucket in plan_buckets(*layout_of(leaves), positions, bucket_bytes)
        ]

    def add(self, gradients: Sequence[Any], examples: float | None = None) -> None:
        """Add one gradient for each source, or None: those of the next logical shard."""
        self._added += 1
        self._skip_empty()
        if self._place == len(self._cut.sizes):
            check_number("gradient", "gradients", self._added, self._cut)
        weight = float(self._cut.sizes[self._place])
        if examples is not None:
            weight = checked_examples("gradient", examples, self._comm)
        self._put(gradients, weight)

    def _skip_empty(self) -> None:
        sizes = self._cut.sizes
        while self._place < len(sizes) and not sizes[self._place]:
            self._put([None] * len(self._leaves), 0.0)

    def _put(self, gradients: Sequence[Any], weight: float) -> None:
        if self._average != "examples":
            weight = float(weight > 0)
        for position, gradient in enumerate(gradients):
            if gradient is not None:
                self._has_gradient[position] = True
        for bucket, total in self._buckets:
            row = self._pool.take(bucket.length, bucket.dtype)
            total.add(bucket.pack([on_host(gradients[p]) for p in bucket.positions], weight, row))
        self._place += 1

    def own(self) -> list[list[Any]]:
        """Return what this rank has added up for each source; see `Finiteness.judge`."""
        found: list[list[Any]] = [[] for _ in self._leaves]
        for bucket, total in self._buckets:
            for row in total.rows:
                for position, array in zip(bucket.positions, bucket.unpack(row), strict=True):
                    found[position].append(array)
        return found

    def finish(self, treedef: tree.TreeDef) -> list[Tensor | None]:
        """Return the average over all logical shards, the same bits on every rank."""
        check_number("gradient", "gradients", self._added, self._cut)
        self._skip_empty()
        comm, count = self._comm, self._cut.count
        operation = f"gradient (average={self._average!r}, deterministic={count})"
        entries = describe_sources(treedef, self._leaves)
        tally = Tally("ordered")
        with tally.exposed_time():
            slots = tally.computed(comm)
            plan = Plan(operation, entries)
            connected = tally.agree(
                lambda: agree(comm, plan, self._has_gradient, slots=slots), slots
            )
        results: list[Tensor | None] = [None] * len(self._leaves)
        as_sum = self._average == "sum"
        for bucket, total in self._buckets:
            summed = partial(total.total, bucket.length, bucket.dtype, self._out(bucket))
            with tally.exposed_time():
                message = tally.carry(bucket.length * bucket.dtype.itemsize, summed)
            _divide_by_weight(message, as_sum=as_sum, ranks=comm.size)
            take_out(bucket, message, self._leaves, results)
        if comm.size > 1:
            tally.close(comm)
        return [each if found else None for each, found in zip(results, connected, strict=True)]

    def _out(self, bucket: Bucket) -> Array | None:
        if self._comm.size == 1:
            return None
        return self._pool.take(bucket.length, bucket.dtype)


def _divide_by_weight(message: Array, *, as_sum: bool, ranks: int) -> None:
    """Divide a message by the weight that leads it, unless only sums are wanted.

    Raises
    ------
    BatchError
        If the weights add up to zero.
    """
    total = message[0].real
    if total == 0:
        raise BatchError(
            f"gradient: no rank of {ranks} has an example; expected at least one in the "
            "global batch"
        )
    if not as_sum and total != 1:
        message /= total

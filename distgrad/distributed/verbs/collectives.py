"""The verbs for users: on tensors, variables, arrays and numbers, checked before data travel.

A result is of the kind of its argument: a tensor on the tensor's backend, a NumPy array, or a
Python number.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.distributed.averaging.buckets import Bucket
from distgrad.distributed.batches.sharding import examples_here
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.distributed.safety.undivided import Undivided
from distgrad.distributed.verbs.checks import check_root
from distgrad.distributed.verbs.collective_ops import (
    ALLGATHER,
    ALLREDUCE,
    ALLTOALL,
    BROADCAST,
    EXTREMUM,
    PRODUCT,
    REDUCE_SCATTER,
)
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.distributed.verbs.entered import Entered, enter, enter_host
from distgrad.distributed.verbs.in_traces import exchange_lengths, refuse_trace
from distgrad.errors import BatchError, CommunicationError

_OPS = ("sum", "mean", "prod", "min", "max")


def allreduce(x: Any, op: str = "sum", comm: Communicator | None = None) -> Any:
    """Return the elementwise reduction of all ranks' values, the same on every rank.

    Parameters
    ----------
    x : Tensor, Variable, array or number
        Of the same shape and dtype on every rank.
    op : {"sum", "mean", "prod", "min", "max"}
        How to reduce; ``"mean"`` weighs all ranks equally (`average` weighs by examples) and makes
        float64 of integers.
    comm : Communicator, optional
        The ranks; `world()` by default.

    Raises
    ------
    DesyncError
        On every rank, if ranks call different operations, or with different shapes or dtypes, or if
        tapes follow `x` on some ranks only.
    CommunicationError
        If there is no such `op`, or it means nothing for the dtype of `x`.

    Notes
    -----
    Derivatives, in both modes and of any order, are those of the map from all ranks' inputs to all
    ranks' outputs; the target is the *sum* of all ranks' targets. So the gradient of a sum is the
    sum of the ranks' cotangents: where every rank takes the same loss of the result, it is `size`
    times that of one loss. Every rank has to walk back: each rank's target must depend on the
    result, if only by ``0 * result``. Of ``"min"`` and ``"max"`` the gradient goes to the ranks
    that hold the extremum, in equal shares.

    Examples
    --------
    >>> import distgrad as dg
    >>> import distgrad.distributed as dist
    >>> ranks = dist.RecordedCommunicator(size=3)
    >>> dg.grad(lambda x: dist.allreduce(x, comm=ranks) ** 2)(dg.asarray(2.0)).item()
    36.0
    """
    comm = ranks_of(comm)
    if op not in _OPS:
        raise CommunicationError(
            f"allreduce: unknown op {op!r}; expected one of {', '.join(map(repr, _OPS))}"
        )
    value = enter("allreduce", x)
    _refuse_truth("allreduce", op, value)
    if op == "mean" and value.is_integer:
        value = value.as_float64()
    what = f"allreduce (op={op!r})"
    if op in ("sum", "mean"):
        total = value.through(ALLREDUCE, comm, what)
        return value.leave(total if op == "sum" else _divided(total, comm.size))
    if op == "prod":
        return value.leave(value.through(PRODUCT, comm, what))
    return value.leave(value.through(EXTREMUM, comm, what, reduction=op))


def broadcast(x: Any, root: int = 0, comm: Communicator | None = None) -> Any:
    """Return the root's value on every rank.

    Parameters
    ----------
    x : Tensor, Variable, array or number
        Of the same shape and dtype on every rank; only the root's values count.
    root : int
        The rank whose value all get.
    comm : Communicator, optional
        The ranks; `world()` by default.

    Raises
    ------
    DesyncError
        As for `allreduce`.
    CommunicationError
        If `root` is no rank.

    Notes
    -----
    Derivatives are as for `allreduce`: the root's gradient is the sum of all ranks' cotangents, the
    others' is 0. They have to follow their own value all the same.
    """
    comm = ranks_of(comm)
    check_root(root, comm.size)
    value = enter("broadcast", x)
    return value.leave(value.through(BROADCAST, comm, f"broadcast (root={root})", root=root))


def allgather(x: Any, comm: Communicator | None = None) -> Any:
    """Return all ranks' values end to end along the first axis: what `shard` took apart.

    Parameters
    ----------
    x : Tensor, Variable, array or number
        Lengths along the first axis may differ between ranks, and be zero; a value without axes
        counts as one of length 1.
    comm : Communicator, optional
        The ranks; `world()` by default.

    Raises
    ------
    DesyncError
        As for `allreduce`; the other axes have to agree.

    Notes
    -----
    Derivatives are as for `allreduce`: a rank's gradient is the sum of all ranks' cotangents of its
    part, which is `reduce_scatter`.
    """
    comm = ranks_of(comm)
    value = enter("allgather", x).with_axis()
    entry = Entry("x", value.dtype_name, value.shape[1:])
    what = "allgather (all axes but the first)"
    lengths, what = exchange_lengths(comm, what, entry, value.shape[0])
    counts = tuple(lengths.tolist())
    return value.leave(value.through(ALLGATHER, comm, what, counts=counts))


def reduce_scatter(x: Any, op: str = "sum", comm: Communicator | None = None) -> Any:
    """Return this rank's part of the elementwise reduction of all ranks' values.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of the same shape and dtype on every rank, with an axis at least.
    op : {"sum", "mean"}
        How to reduce; as for `allreduce`.
    comm : Communicator, optional
        The ranks; `world()` by default.

    Returns
    -------
    Tensor or array
        The part along the first axis that `shard` gives this rank: lengths differ by one at most.

    Raises
    ------
    DesyncError
        As for `allreduce`.
    CommunicationError
        If `x` has no axis, or there is no such reduction.

    Notes
    -----
    Derivatives are as for `allreduce`: every rank's gradient is all ranks' cotangents end to end,
    which is `allgather`.
    """
    comm = ranks_of(comm)
    if op not in ("sum", "mean"):
        raise CommunicationError(
            f"reduce_scatter: op is {op!r}; expected 'sum' or 'mean' (dist.shard of dist.allreduce "
            "for others)"
        )
    value = enter("reduce_scatter", x)
    if not value.shape:
        raise CommunicationError(
            "reduce_scatter: x has no axis to share; expected an array with a first axis"
        )
    _refuse_truth("reduce_scatter", op, value)
    if op == "mean" and value.is_integer:
        value = value.as_float64()
    parts = _even_parts(value.shape[0], comm.size)
    part = value.through(REDUCE_SCATTER, comm, f"reduce_scatter (op={op!r})", parts=parts)
    return value.leave(part if op == "sum" else _divided(part, comm.size))


def alltoall(x: Any, counts: Sequence[int] | None = None, comm: Communicator | None = None) -> Any:
    """Return what the other ranks have for this one, end to end in the order of the ranks.

    Parameters
    ----------
    x : Tensor, Variable or array
        Along the first axis what is for rank 0, then what is for rank 1, and so on. Lengths may
        differ between ranks; the other axes have to agree.
    counts : sequence of int, optional
        How many rows are for each rank; by default as `shard` would cut them.
    comm : Communicator, optional
        The ranks; `world()` by default.

    Raises
    ------
    DesyncError
        As for `allreduce`.
    CommunicationError
        If `x` has no axis, or the counts are not those of its rows.

    Notes
    -----
    Derivatives are as for `allreduce`: cotangents go back the way that the values came.
    """
    comm = ranks_of(comm)
    value = enter("alltoall", x)
    if not value.shape:
        raise CommunicationError(
            "alltoall: x has no axis to share; expected an array with a first axis"
        )
    length = value.shape[0]
    row = _even_parts(length, comm.size) if counts is None else _whole_numbers(counts)
    if row is None or len(row) != comm.size or sum(row) != length or min(row) < 0:
        raise CommunicationError(
            f"alltoall: counts are {counts if row is None else list(row)}; expected one whole "
            f"number for each of {comm.size} ranks, {length} in all, as x has rows"
        )
    entry = Entry("x", value.dtype_name, value.shape[1:])
    lengths, what = exchange_lengths(comm, "alltoall (all axes but the first)", entry, row)
    table = tuple(map(tuple, lengths.tolist()))
    return value.leave(value.through(ALLTOALL, comm, what, table=table))


def average(value: Any, examples: float | None = None, comm: Communicator | None = None) -> Any:
    """Return the mean over all examples of values that are means over each rank's examples.

    Parameters
    ----------
    value : nest of tensors, arrays or numbers
        This rank's means, such as a loss and an accuracy.
    examples : float, optional
        How many examples they stand for; by default those of the last `shard`, or one. With zero
        examples the values don't count, even if they are NaN.
    comm : Communicator, optional
        The ranks; `world()` by default.

    Returns
    -------
    nest of tensors, arrays or numbers
        Σ nᵢvᵢ / Σ nᵢ, added up in float64 (complex128 if a value is complex); integers become
        floats.

    Raises
    ------
    BatchError
        If no rank has an example.
    DesyncError, TapeError
        As for `allreduce`.
    """
    comm = ranks_of(comm)
    weight = examples_here("average", examples, comm)
    if comm.size == 1 and weight == 0:
        raise BatchError("average: no rank of 1 has an example; expected at least one")
    leaves, treedef = tree.flatten(value)
    entered = [enter_host("average", leaf) for leaf in leaves]
    hosts = [host.astype(np.float64) if host.dtype.kind in "iub" else host for host, _ in entered]
    if comm.size > 1:
        names = [path or "value" for path in tree.paths(value)]
        entries = [Entry(n, h.dtype.name, h.shape) for n, h in zip(names, hosts, strict=True)]
        wire = np.complex128 if any(host.dtype.kind == "c" for host in hosts) else np.float64
        shapes = tuple(host.shape for host in hosts)
        bucket = Bucket(np.dtype(wire), tuple(range(len(hosts))), shapes)
        with Undivided(comm, "average"):
            agree(comm, Plan("average", tuple(entries)))
            message = comm.allreduce(bucket.pack(hosts, weight))
        if message[0] == 0:
            raise BatchError(
                f"average: no rank of {comm.size} has an example; expected at least one"
            )
        message /= message[0].real
        parts = zip(bucket.unpack(message), hosts, strict=True)
        hosts = [
            (part if host.dtype.kind == "c" else part.real).astype(host.dtype)
            for part, host in parts
        ]
    results = [leave(host) for host, (_, leave) in zip(hosts, entered, strict=True)]
    return tree.unflatten(treedef, results)


def barrier(comm: Communicator | None = None) -> None:
    """Return once every rank has called this.

    Raises
    ------
    DesyncError
        On every rank, if another rank calls another operation.
    """
    comm = ranks_of(comm)
    refuse_trace("barrier", comm)
    agree(comm, Plan("barrier"))
    comm.barrier()


def _even_parts(length: int, size: int) -> tuple[int, ...]:
    """Return how `shard` cuts so many rows."""
    stops = [rank * length // size for rank in range(size + 1)]
    return tuple(stop - start for start, stop in itertools.pairwise(stops))


def _refuse_truth(function: str, op: str, value: Entered) -> None:
    """Raise a `CommunicationError` if true and false were to be added or multiplied."""
    if value.dtype_name == "bool" and op not in ("min", "max"):
        raise CommunicationError(
            f"{function}: op={op!r} is not defined for dtype bool; convert x to integers to count, "
            "or take dist.allreduce with op='max' for any and op='min' for all"
        )


def _whole_numbers(counts: Any) -> tuple[int, ...] | None:
    """Return counts as integers; None if they are none."""
    try:
        return tuple(operator.index(count) for count in counts)
    except TypeError:
        return None


def _divided(total: Any, size: int) -> Any:
    return (total / size).astype(total.dtype) if isinstance(total, np.ndarray) else total / size

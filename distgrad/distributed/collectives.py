"""The verbs for users: on tensors, variables, arrays and numbers, checked before data travel.

A result is of the kind of its argument: a tensor on the tensor's backend, a NumPy array, or a
Python number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.core.seam import LISTENERS
from distgrad.distributed.buckets import Bucket
from distgrad.distributed.communicator import Array, Communicator, check_root
from distgrad.distributed.fingerprint import Entry, Plan, agree
from distgrad.distributed.launch import world
from distgrad.distributed.sharding import examples_here
from distgrad.eager import asarray
from distgrad.errors import BatchError, CommunicationError, TapeError
from distgrad.tensor import Operators, Tensor


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
        On every rank, if ranks call different operations, or with different shapes or dtypes.
    TapeError
        If a tape watches `x`: this operation has no gradient yet.
    """
    comm = world() if comm is None else comm
    host, leave = _enter("allreduce", x)
    if op == "mean" and host.dtype.kind in "iu":
        host = host.astype(np.float64)
    agree(comm, _plan(f"allreduce (op={op!r})", host))
    result = comm.allreduce(host, "sum" if op == "mean" else op)
    return leave((result / comm.size).astype(host.dtype) if op == "mean" else result)


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
    DesyncError, TapeError
        As for `allreduce`.
    """
    comm = world() if comm is None else comm
    check_root(root, comm.size)
    host, leave = _enter("broadcast", x)
    agree(comm, _plan(f"broadcast (root={root})", host))
    return leave(comm.broadcast(host, root))


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
    DesyncError, TapeError
        As for `allreduce`; the other axes have to agree.
    """
    comm = world() if comm is None else comm
    host, leave = _enter("allgather", x)
    host = host.reshape(1) if host.ndim == 0 else host
    rest = Entry("x", host.dtype.name, host.shape[1:])
    agree(comm, Plan("allgather (all axes but the first)", (rest,)))
    lengths = comm.allgather(np.array(host.shape[0], np.int64))
    padded = np.zeros((int(lengths.max()), *host.shape[1:]), host.dtype)
    padded[: host.shape[0]] = host
    rows = comm.allgather(padded)
    return leave(np.concatenate([row[:length] for row, length in zip(rows, lengths, strict=True)]))


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
    comm = world() if comm is None else comm
    weight = examples_here("average", examples, comm)
    leaves, treedef = tree.flatten(value)
    entered = [_enter("average", leaf) for leaf in leaves]
    hosts = [host.astype(np.float64) if host.dtype.kind in "iub" else host for host, _ in entered]
    if comm.size > 1:
        names = [path or "value" for path in tree.paths(value)]
        entries = [Entry(n, h.dtype.name, h.shape) for n, h in zip(names, hosts, strict=True)]
        agree(comm, Plan("average", tuple(entries)))
        wire = np.complex128 if any(host.dtype.kind == "c" for host in hosts) else np.float64
        shapes = tuple(host.shape for host in hosts)
        bucket = Bucket(np.dtype(wire), tuple(range(len(hosts))), shapes)
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
    comm = world() if comm is None else comm
    agree(comm, Plan("barrier"))
    comm.barrier()


def _plan(operation: str, host: Array) -> Plan:
    return Plan(operation, (Entry("x", host.dtype.name, host.shape),))


def _enter(function: str, x: Any) -> tuple[Array, Callable[[Array], Any]]:
    """Return a value on the host, and what makes a result of the same kind from a host array.

    Raises
    ------
    TapeError
        If a tape follows the value.
    """
    if isinstance(x, (bool, int, float, complex)):
        return np.asarray(x), lambda host: host.item() if host.ndim == 0 else host
    if isinstance(x, np.generic):
        return np.asarray(x), lambda host: host[()]
    if isinstance(x, np.ndarray):
        if x.dtype.kind in "OSU":
            raise CommunicationError(
                f"{function}: x has dtype {x.dtype}; expected an array of numbers"
            )
        return x, lambda host: host
    tensor = x.read() if isinstance(x, Operators) else asarray(x)
    if any(listener.follows(tensor.key) for listener in LISTENERS.get()):
        raise TapeError(
            f"{function}: a tape watches x, but {function} has no gradient yet; pass "
            "dg.stop_gradient(x) to cut on purpose, or average gradients with "
            "dist.DistributedGradientTape"
        )
    kernels = tensor.kernels
    return kernels.backend.to_host(tensor.array), lambda host: Tensor(
        kernels.backend.asarray(host), kernels
    )

"""Make variables equal on all ranks, before the first step of training."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad import tree
from distgrad.distributed.averaging.exchange import describe_sources
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.safety.fingerprint import Plan, agree
from distgrad.distributed.safety.undivided import Undivided
from distgrad.distributed.verbs.checks import check_root
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.distributed.verbs.in_traces import refuse_trace
from distgrad.variable import Variable


def broadcast_variables(variables: Any, root: int = 0, comm: Communicator | None = None) -> None:
    """Assign the root's values to the variables of every rank.

    Parameters
    ----------
    variables : Variable or nest of Variable
        The same variables on every rank, in the same order.
    root : int
        The rank whose values all get.
    comm : Communicator, optional
        The ranks; `world()` by default.

    Raises
    ------
    DesyncError
        On every rank, if number, names, shapes or dtypes differ between ranks; nothing is changed
        then.
    TypeError
        If the nest holds anything else than variables.
    CommunicationError
        If `root` is no rank.
    TraceError
        Within `distgrad.function`.
    """
    comm = ranks_of(comm)
    check_root(root, comm.size)
    leaves, treedef = tree.flatten(variables)
    for position, leaf in enumerate(leaves):
        if not isinstance(leaf, Variable):
            raise TypeError(
                f"broadcast_variables: item {position} is a {type(leaf).__name__}; expected a "
                "Variable: only a variable can be assigned to (dist.broadcast returns new values)"
            )
    if comm.size == 1:
        return
    refuse_trace("broadcast_variables", comm)
    plan = Plan(f"broadcast_variables(root={root})", describe_sources(treedef, leaves))
    with Undivided(comm, plan.operation):
        agree(comm, plan)
        if leaves:
            _broadcast(leaves, root, comm)


def _broadcast(leaves: list[Variable], root: int, comm: Communicator) -> None:
    # One message of bytes for all dtypes: a broadcast computes nothing.
    sizes = [leaf.nbytes for leaf in leaves]
    message = np.empty(sum(sizes), np.uint8)
    pieces = np.split(message, np.cumsum(sizes)[:-1])
    if comm.rank == root:
        for leaf, piece in zip(leaves, pieces, strict=True):
            host = leaf.backend.to_host(leaf.array)
            piece[...] = np.ascontiguousarray(host).reshape(-1).view(np.uint8)
    message = comm.broadcast(message, root)
    if comm.rank != root:
        pieces = np.split(message, np.cumsum(sizes)[:-1])
        for leaf, piece in zip(leaves, pieces, strict=True):
            leaf.assign(np.array(piece).view(leaf.dtype).reshape(leaf.shape))

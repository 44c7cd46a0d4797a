"""Average gradients over ranks: agree on what travels, pack it into messages, and take it out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.core.seam import LISTENERS
from distgrad.distributed.buckets import Bucket, plan_buckets
from distgrad.distributed.buffers import buffers_of
from distgrad.distributed.communicator import Array, Communicator, wire_dtype
from distgrad.distributed.fingerprint import Entry, Plan, agree
from distgrad.distributed.slices import exchange_counts, gather_rows, host_rows, is_worth_it
from distgrad.dtypes import DType, as_dtype
from distgrad.errors import BatchError, TapeError
from distgrad.sparse import IndexedSlices, densified, made
from distgrad.tape.arguments import UnconnectedGradients, unconnected
from distgrad.tensor import Tensor

UNNAMED = "Variable"  # the name of variables that were given none
NOWHERE = "no rank's target depends on it; was it watched, and of a floating dtype?"
AVERAGES = ("examples", "ranks", "sum")


def check_average(function: str, average: str) -> None:
    """Raise a `ValueError` unless there is such an average."""
    if average not in AVERAGES:
        raise ValueError(
            f"{function}: average is {average!r}; expected one of {', '.join(map(repr, AVERAGES))}"
        )


def average_gradients(
    comm: Communicator, plan: Plan, leaves: list[Any], gradients: Sequence[Any], weight: float,
    *, as_sum: bool,
) -> list[Any]:
    """Return the gradients of all ranks, added up and divided by all weights.

    Parameters
    ----------
    comm : Communicator
        Of two ranks or more.
    plan : Plan
        What travels; the same on every rank.
    leaves : list of Tensor or Variable
        The sources.
    gradients : sequence of Tensor, IndexedSlices or None
        This rank's own, one for each source.
    weight : float
        By which they are multiplied.
    as_sum : bool
        Whether to leave out the division.

    Returns
    -------
    list of Tensor, IndexedSlices or None
        None where no rank has a gradient.
    """
    # Who has a gradient at all, and who has a dense one.
    present = [gradient is not None for gradient in gradients]
    dense = [each and not _is_sparse(g) for each, g in zip(present, gradients, strict=True)]
    union = agree(comm, plan, present + dense)
    connected, dense = union[: len(leaves)], union[len(leaves) :]
    reduced = _reduce_sparse(comm, leaves, list(gradients), connected, dense, weight, as_sum)
    found = [each and slices is None for each, slices in zip(connected, reduced, strict=True)]
    for position, gradient in enumerate(_reduce(comm, leaves, gradients, found, weight, as_sum)):
        reduced[position] = reduced[position] if gradient is None else gradient
    return reduced


def connect(
    policy: UnconnectedGradients, leaves: list[Any], gradients: Sequence[Any]
) -> list[Any]:
    """Return the gradients with what the policy says in place of None."""
    return [
        unconnected(policy, position, source, NOWHERE) if found is None else found
        for position, (source, found) in enumerate(zip(leaves, gradients, strict=True))
    ]


def _is_sparse(gradient: Any) -> bool:
    return isinstance(gradient, IndexedSlices)


def _reduce_sparse(
    comm: Communicator,
    sources: list[Any],
    gradients: list[Any],
    connected: list[bool],
    dense: list[bool],
    weight: float,
    as_sum: bool,
) -> list[Any]:
    """Return the gradients that are worth being exchanged as rows; None for all others."""
    results: list[Any] = [None] * len(sources)
    sparse = [p for p, found in enumerate(connected) if found and not dense[p]]
    if not sparse:
        return results
    dtypes = _numpy_dtypes([source.array for source in sources])
    wires = {p: wire_dtype(dtypes[p], "sum") for p in sparse}
    shapes = {p: tuple(sources[p].array.shape) for p in sparse}
    rows = {p: host_rows(gradients[p], shapes[p], wires[p]) for p in sparse}
    table, weights = exchange_counts(comm, [rows[p] for p in sparse], weight)
    counts = dict(zip(sparse, table.T, strict=True))
    for wire in dict.fromkeys(wires.values()):
        chosen = [
            p
            for p in sparse
            if wires[p] == wire and is_worth_it(counts[p], shapes[p], wire.itemsize)
        ]
        if not chosen:
            continue
        summed = gather_rows(
            comm,
            [rows[p] for p in chosen],
            np.stack([counts[p] for p in chosen], axis=1),
            weights,
            [shapes[p] for p in chosen],
            as_sum,
        )
        for position, (values, indices) in zip(chosen, summed, strict=True):
            kernels = sources[position].kernels
            results[position] = made(
                Tensor(kernels.backend.asarray(values, dtype=dtypes[position]), kernels),
                Tensor(kernels.backend.asarray(indices), kernels),
                shapes[position],
            )
    return results


def _reduce(
    comm: Communicator,
    sources: list[Any],
    gradients: Sequence[Any],
    connected: list[bool],
    weight: float,
    as_sum: bool,
) -> list[Tensor | None]:
    """Return the connected gradients added up over all ranks and divided by all weights."""
    results: list[Tensor | None] = [None] * len(sources)
    positions = tuple(position for position, found in enumerate(connected) if found)
    for bucket in plan_buckets(*layout_of(sources), positions):
        out = buffers_of(comm).take(bucket.length, bucket.dtype)
        message = bucket.pack([on_host(gradients[p]) for p in bucket.positions], weight, out)
        message = comm.allreduce(message, "sum", out=message)
        take_out(bucket, message, sources, results, as_sum=as_sum, ranks=comm.size)
    return results


def take_out(
    bucket: Bucket,
    message: Array,
    sources: list[Any],
    results: list[Any],
    *,
    as_sum: bool,
    ranks: int,
) -> None:
    """Put the gradients of a message that was added up into `results`, each at its position.

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
    if not as_sum:
        message /= total
    for position, array in zip(bucket.positions, bucket.unpack(message), strict=True):
        source = sources[position]
        dtype = _numpy_dtypes([source.array])[0]
        results[position] = Tensor(
            source.kernels.backend.asarray(array, dtype=dtype), source.kernels
        )


def layout_of(
    sources: list[Any],
) -> tuple[tuple[np.dtype[Any], ...], tuple[tuple[int, ...], ...]]:
    """Return the dtypes of sources as NumPy's, and their shapes."""
    arrays = [source.array for source in sources]
    return _numpy_dtypes(arrays), tuple(tuple(array.shape) for array in arrays)


def on_host(gradient: Any) -> Array | None:
    """Return a gradient as a NumPy array, dense; None of None."""
    if gradient is None or isinstance(gradient, np.ndarray):
        return gradient
    tensor = densified(gradient)
    host: Array = tensor.backend.to_host(tensor.array)
    return host


def refuse_listeners(tape: Any, gradients: Sequence[Any]) -> None:
    """Raise if another tape listens: it would not hear the average, and silently give None."""
    others = [each for each in LISTENERS.get() if each is not tape]
    if any(each.follows(g.key) for each in others for g in gradients if g is not None):
        raise TapeError(
            "gradient: another tape records, but the average over ranks cannot be differentiated "
            "yet; take higher derivatives on each rank with the plain GradientTape first"
        )


def describe_sources(treedef: tree.TreeDef, leaves: list[Any]) -> tuple[Entry, ...]:
    """Return an entry for each source: its name, or else its place in the nest."""
    names = tuple(getattr(leaf, "name", UNNAMED) for leaf in leaves)
    arrays = [leaf.array for leaf in leaves]
    dtypes = _numpy_dtypes(arrays)
    return _entries(treedef, names, dtypes, tuple(tuple(array.shape) for array in arrays))


@lru_cache(maxsize=64)  # a training loop asks for the same at every step
def _entries(
    treedef: tree.TreeDef,
    names: tuple[str, ...],
    dtypes: tuple[DType, ...],
    shapes: tuple[tuple[int, ...], ...],
) -> tuple[Entry, ...]:
    paths = tree.paths(tree.unflatten(treedef, list(range(len(names)))))
    labels = [
        (path or f"source {position}") if name == UNNAMED else name
        for position, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    return tuple(
        Entry(label, dtype.name, shape)
        for label, dtype, shape in zip(labels, dtypes, shapes, strict=True)
    )


def _numpy_dtypes(arrays: list[Any]) -> tuple[DType, ...]:
    """Return the dtypes of any backend's arrays as NumPy's."""
    return tuple(
        array.dtype if isinstance(array.dtype, np.dtype) else as_dtype(array.dtype)
        for array in arrays
    )

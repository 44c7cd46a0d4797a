"""Average gradients over ranks: agree on what travels, pack it into messages, and take it out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.core.seam import LISTENERS
from distgrad.core.spans import COMPUTE, spanned
from distgrad.distributed.averaging.adding import Adder, Native, all_dense
from distgrad.distributed.averaging.buckets import Bucket, plan_buckets
from distgrad.distributed.averaging.buffers import buffers_of
from distgrad.distributed.averaging.by_host import passages_one_ahead
from distgrad.distributed.averaging.in_place import taken
from distgrad.distributed.averaging.layouts import (
    layout_known,
    layout_of,
    numpy_dtypes,
    remember_layout,
    want_places,
)
from distgrad.distributed.averaging.on_device import added_on_device, line_to_average
from distgrad.distributed.averaging.report import Tally
from distgrad.distributed.averaging.slices import (
    exchange_counts,
    gather_rows,
    host_rows,
    is_worth_it,
)
from distgrad.distributed.averaging.weights import weights_in
from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.distributed.safety.undivided import Undivided
from distgrad.distributed.verbs.communicator import Array, Communicator, wire_dtype
from distgrad.dtypes import DType
from distgrad.errors import TapeError
from distgrad.sparse import IndexedSlices, densified, made
from distgrad.tape.arguments import UnconnectedGradients, check_leaf, unconnected
from distgrad.tensor import Tensor

UNNAMED = "Variable"  # the name of variables that were given none
NOWHERE = "no rank's target depends on it; was it watched, and of a floating dtype?"


def average_gradients(
    comm: Communicator,
    plan: Plan,
    leaves: list[Any],
    gradients: Sequence[Any],
    weight: float,
    *,
    as_sum: bool,
    bucket_bytes: int | None = None,
    adder: Adder | None = None,
    takes: bool = False,
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
    bucket_bytes : int, optional
        How long a message may get.
    adder : Adder, optional
        How messages are added up; by MPI's allreduce unless given.
    takes : bool
        Whether `gradients` is a list that may be used up: what nobody else holds of it is added up
        where it lies.

    Returns
    -------
    list of Tensor, IndexedSlices or None
        None where no rank has a gradient.
    """
    adder = Native(as_sum=as_sum) if adder is None else adder
    gradients = gradients if adder.takes_sparse else all_dense(gradients)
    tally = Tally(adder.algorithm)
    with Undivided(comm, plan.operation), tally.exposed_time():
        slots = tally.computed(comm, weight)
        union = tally.agree(lambda: agree(comm, plan, presence_of(gradients), slots=slots), slots)
        adder.prepare(comm)
        factor = adder.weigh(comm, weight, weights_in(comm, slots, weight))
        want_places(comm, layout_known(comm, plan), adder)
        mine: Any = gradients if takes else list(gradients)
        rest = Rest(
            *(comm, leaves, mine, union, weight, factor), as_sum=as_sum, adder=adder, takes=takes
        )
        results = rest.average(tally, bucket_bytes)
    remember_layout(comm, plan, leaves, union, bucket_bytes, adder)
    tally.close(comm)
    return results


def presence_of(gradients: Sequence[Any]) -> list[bool]:
    """Return which gradients there are, and then which of them are dense."""
    present = [gradient is not None for gradient in gradients]
    return present + [g is not None and not _is_sparse(g) for g in gradients]


class Rest:
    """What is still to be averaged once the ranks know who has which gradient.

    Parameters
    ----------
    comm, leaves, weight, as_sum, takes :
        As for `average_gradients`.
    gradients : list of Tensor, IndexedSlices or None
        This rank's own.
    union : list of bool
        Which gradients any rank has, and then which any rank has dense.
    factor : float
        By which dense gradients are multiplied, see `Adder.weigh`.
    adder : Adder
        How messages are added up, ready for this step.
    done : sequence, optional
        The averages that were made already.
    """

    def __init__(
        self,
        comm: Communicator,
        leaves: list[Any],
        gradients: list[Any],
        union: list[bool],
        weight: float,
        factor: float,
        *,
        as_sum: bool,
        adder: Adder,
        takes: bool = False,
        done: Sequence[Any] | None = None,
    ) -> None:
        self._comm = comm
        self._leaves = leaves
        self._gradients = gradients
        self._takes = takes
        self._factor = factor
        self._connected, self._dense = union[: len(leaves)], union[len(leaves) :]
        self._weight = weight
        self._as_sum = as_sum
        self._adder = adder
        self._done = [None] * len(leaves) if done is None else list(done)

    def average(self, tally: Tally, bucket_bytes: int | None) -> list[Any]:
        """Return all averages, those made already among them; None where no rank has one."""
        comm, leaves, adder = self._comm, self._leaves, self._adder
        waiting = [
            each and done is None for each, done in zip(self._connected, self._done, strict=True)
        ]
        results = _reduce_sparse(
            comm, leaves, self._gradients, waiting, self._dense, self._weight, self._as_sum
        )
        found = [each and slices is None for each, slices in zip(waiting, results, strict=True)]
        positions = tuple(position for position, each in enumerate(found) if each)
        buckets = plan_buckets(
            *layout_of(leaves), positions, bucket_bytes, has_weight=adder.has_weight
        )
        line = line_to_average(comm, leaves, adder)
        if line is not None:
            messages = added_on_device(line, buckets, leaves, self._gradients, self._factor, tally)
            for bucket, message in messages:
                take_out(bucket, message, leaves, results)
            buckets = ()
        for bucket, passage in passages_one_ahead(buckets, leaves, self._gradients, self._factor):
            if passage is not None:
                passage.arrived()
                message = passage.host
                tally.add_up(message, partial(adder.add_up, comm, bucket, message))
                take_out(bucket, passage.back(), leaves, results)
                continue
            own = self._own(bucket)
            if own is not None:
                message = own.reshape(-1)
                factor = self._factor or 1.0  # zeros need none
                tally.add_up(message, partial(adder.add_up, comm, bucket, message, factor))
                position = bucket.positions[0]
                results[position] = _as_tensor(own, leaves[position])
                continue
            out = self._room(bucket)
            arrays = [on_host(self._gradients[p]) for p in bucket.positions]
            message = bucket.pack(arrays, self._factor, out)
            tally.add_up(message, partial(adder.add_up, comm, bucket, message))
            take_out(bucket, message, leaves, results)
        return [
            (new if done is None else done) if each else None
            for each, new, done in zip(self._connected, results, self._done, strict=True)
        ]

    def _own(self, bucket: Bucket) -> Array | None:
        """Return the only gradient of a bucket, to be weighed where it lies; else None."""
        if not self._takes or bucket.has_weight or len(bucket.positions) > 1:
            return None
        places = getattr(self._comm, "places", None)
        own = taken(self._gradients, bucket.positions[0], bucket.dtype, places)
        if own is None:
            return None
        # As an average that was given out: all that has its memory is a view of the one or other.
        buffers_of(self._comm).note(own if own.base is None else own.base)
        if not self._factor:
            own.fill(0)  # whatever it holds: the mean over no examples is NaN
        return own

    def _room(self, bucket: Bucket) -> Array:
        """Return memory for a message: where the other rank sees it, if there is some."""
        pool = buffers_of(self._comm)
        places = getattr(self._comm, "places", None) if type(self._adder) is Native else None
        place: Array | None = places and places.take(bucket.length, bucket.dtype)
        if place is None:
            return pool.take(bucket.length, bucket.dtype)
        pool.note(place)
        return place


def connect(policy: UnconnectedGradients, leaves: list[Any], gradients: Sequence[Any]) -> list[Any]:
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
    dtypes = numpy_dtypes([source.array for source in sources])
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


@spanned("unpack", COMPUTE)
def take_out(
    bucket: Bucket,
    message: Array,
    sources: list[Any],
    results: list[Any],
) -> None:
    """Put the gradients of a message that was added up into `results`, each at its position."""
    for position, array in zip(bucket.positions, bucket.unpack(message), strict=True):
        results[position] = _as_tensor(array, sources[position])


def _as_tensor(array: Array, source: Any) -> Tensor:
    """Return an array as a tensor of its source's dtype and backend."""
    dtype = numpy_dtypes([source.array])[0]
    return Tensor(source.kernels.backend.asarray(array, dtype=dtype), source.kernels)


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


def check_sources(function: str, leaves: Sequence[Any]) -> None:
    """Raise a `TypeError` unless all sources are tensors or variables."""
    for position, leaf in enumerate(leaves):
        check_leaf(function, "source", position, leaf)


def describe_sources(treedef: tree.TreeDef, leaves: list[Any]) -> tuple[Entry, ...]:
    """Return an entry for each source: its name, or else its place in the nest."""
    names = tuple(getattr(leaf, "name", UNNAMED) for leaf in leaves)
    try:
        arrays = [leaf.array for leaf in leaves]
    except AttributeError:
        check_sources("gradient", leaves)
        raise
    dtypes = numpy_dtypes(arrays)
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

"""Reduce and exchange arrays in devices' memory by messages, for an MPI that takes these.

Not every call of such an MPI does. Open MPI's collectives that do not block read device memory as
the host's, which ends the process [1]_, and those that block hear of no lost rank meanwhile. What
all of them take are messages between two ranks: each rank reduces a slice, on its device and in the
order of the ranks, so that all get the same bits, and sends it to the others.

References
----------
.. [1] open-mpi/ompi, issues 9845 and 12045; "Which MPI APIs do NOT work with CUDA-aware?" in Open
   MPI's FAQ.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from distgrad.distributed.verbs.exchanging import pieces

Array = Any

_PIECE = 2**26  # bytes, for which there is scratch memory at a time
_TO_REDUCE, _REDUCED, _EXCHANGED = 3, 4, 5  # tags; those of `slices` are smaller
FUNCTIONS = {"sum": "add", "prod": "multiply", "min": "minimum", "max": "maximum"}

# What an exception interrupts may still be written by MPI: it stays where it is.
_interrupted: list[Any] = []


def reduce_on_device(
    communicator: Any, flat: Array, module: Any, op: str, most: int
) -> Iterator[Any]:
    """Yield requests, each to be completed before the next; after the last the result is there.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        On which no other messages of these tags travel.
    flat : array
        Of one axis, contiguous, its values computed, of the same length and dtype on every rank;
        overwritten by the same bits on every rank.
    module : module
        CuPy.
    op : {"sum", "prod", "min", "max"}
        What to do with the elements.
    most : int
        How many elements a message may have.
    """
    step = max(min(most, _PIECE // flat.dtype.itemsize), 1)
    for start in range(0, flat.size, step):
        yield from _piece(communicator, flat[start : start + step], module, FUNCTIONS[op])


def _piece(comm: Any, flat: Array, module: Any, function: str) -> Iterator[Any]:
    rank, size = comm.rank, comm.size
    bounds = [place * flat.size // size for place in range(size + 1)]
    slices = [flat[start:stop] for start, stop in pairwise(bounds)]
    own, others = slices[rank], [(rank + place) % size for place in range(1, size)]
    givers = others if own.size else []
    takers = [other for other in others if slices[other].size]
    scratch = module.empty((size - 1, own.size), flat.dtype)
    arrived = dict(zip(others, scratch, strict=True))
    under_way: list[Any] = []
    try:
        under_way += [comm.Irecv(arrived[other], other, _TO_REDUCE) for other in givers]
        under_way += [comm.Isend(slices[other], other, _TO_REDUCE) for other in takers]
        yield from under_way
        if own.size:
            ordered = [arrived.get(other, own) for other in range(size)]
            for each in ordered[1:]:
                getattr(module, function)(ordered[0], each, out=ordered[0])
            if rank:
                own[...] = ordered[0]
            module.cuda.get_current_stream().synchronize()  # MPI knows nothing of streams
        under_way = [comm.Irecv(slices[other], other, _REDUCED) for other in takers]
        under_way += [comm.Isend(own, other, _REDUCED) for other in givers]
        yield from under_way
    except BaseException:  # also where whoever completes the requests gave up
        _interrupted.append((under_way, flat, scratch))
        raise


def exchange_on_device(
    communicator: Any, own: Array, result: Array, parts: list[tuple[slice, slice]], most: int
) -> Iterator[Any]:
    """Yield requests that bring what the other ranks have for this one.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        On which no other messages of this tag travel.
    own, result : array
        Of one axis, contiguous; the values of `own` are computed, and `result` is not in use.
    parts : list of tuple of slice
        For each rank what of `own` it gets, and where in `result` its own go; nothing is done for
        this rank's own.
    most : int
        How many elements a message may have.
    """
    rank, size = communicator.rank, communicator.size
    others = [(rank + place) % size for place in range(1, size)]
    under_way: list[Any] = []
    try:
        for other in others:
            for piece in pieces(result[parts[other][1]], most):
                under_way.append(communicator.Irecv(piece, other, _EXCHANGED))
        for other in others:
            for piece in pieces(own[parts[other][0]], most):
                under_way.append(communicator.Isend(piece, other, _EXCHANGED))
        yield from under_way
    except BaseException:  # also where whoever completes the requests gave up
        _interrupted.append((under_way, own, result))
        raise

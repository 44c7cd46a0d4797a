"""Adasum: add up gradients that point apart, average those that agree, along a tree over the ranks.

Two gradients a and b come to (1 - a·b / 2a·a) a + (1 - a·b / 2b·b) b: their sum where they are
orthogonal, their mean where they are parallel. Each rank holds one slice of the message of every
rank, so that only the dot products, three numbers for each variable and pair, travel between the
levels of the tree: as many bytes as the best allreduce sends, for any number of ranks.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from distgrad.distributed.averaging.buckets import Bucket
from distgrad.distributed.verbs.communicator import Array, Communicator


def add_up_adaptively(comm: Communicator, bucket: Bucket, message: Array) -> int:
    """Put the adaptive sum of all ranks' messages in the place of this rank's.

    Parameters
    ----------
    comm : Communicator
        The ranks; all of them call this.
    bucket : Bucket
        The layout of the message, whose first element is 1 on ranks that have examples, else 0.
        Its variables are added up each by itself.
    message : numpy.ndarray
        Overwritten, the same bits on every rank; its first element becomes 1 if any rank had
        examples.

    Returns
    -------
    int
        The bytes that this rank gave to the others, each counted once.

    Notes
    -----
    Neighbours are added up first, then neighbouring pairs, and so on; where the number is odd, the
    last one waits for the next level. So 2ᵏ ranks form the tree of [1]_. The dot products are those
    of whole variables, in float64; complex numbers count as pairs of real ones. A gradient of zero
    leaves the other as it is.

    References
    ----------
    .. [1] Maleki, Musuvathi, Mytkowicz, Saarikivi, Xu, Eksarevskiy, Ekanayake and Barsoum, "Scaling
       distributed training with adaptive summation", MLSys 2021, arXiv:2006.02924, algorithm 1.
    """
    size = comm.size
    bounds = [rank * message.size // size for rank in range(size + 1)]
    lengths = [stop - start for start, stop in pairwise(bounds)]
    own = lengths[comm.rank]
    received = comm.alltoallv(message, np.tile(np.array(lengths, np.int64), (size, 1)))
    rows = [received[rank * own : (rank + 1) * own] for rank in range(size)]
    runs = _runs(bucket, bounds[comm.rank], bounds[comm.rank + 1])
    sent = message.nbytes
    while len(rows) > 1:
        pairs = [(rows[place], rows[place + 1]) for place in range(0, len(rows) - 1, 2)]
        dots = np.zeros((len(pairs), 1 + len(bucket.shapes), 3))
        for place, (a, b) in enumerate(pairs):
            for variable, run in runs:
                dots[place, variable] = _dots(a[run], b[run])
        dots = comm.allreduce(dots, "sum", out=dots)
        sent += dots.nbytes
        for place, (a, b) in enumerate(pairs):
            for variable, run in runs:
                _combine(a[run], b[run], *(float(each) for each in dots[place, variable]))
        rows = [a for a, _ in pairs] + rows[2 * len(pairs) :]
    comm.allgatherv(rows[0], lengths, out=message)
    # Ones are parallel to ones and zeros to nothing, but for rounding.
    message[0] = float(message[0].real > 0)
    return sent


def _runs(bucket: Bucket, start: int, stop: int) -> list[tuple[int, slice]]:
    """Return what a slice of the message holds of each variable; number 0 is the weight."""
    runs, first = [], 0
    for variable, size in enumerate([1, *(math.prod(shape) for shape in bucket.shapes)]):
        last = first + size
        if first < stop and last > start and size:
            runs.append((variable, slice(max(first, start) - start, min(last, stop) - start)))
        first = last
    return runs


def _dots(a: Array, b: Array) -> tuple[float, float, float]:
    """Return a·a, b·b and a·b of parts of two vectors, summed in float64."""
    a, b = a.view(a.real.dtype), b.view(b.real.dtype)
    return tuple(  # type: ignore[return-value]  # three, as there are pairs
        float(np.einsum("i,i->", left, right, dtype=np.float64))
        for left, right in ((a, a), (b, b), (a, b))
    )


def _combine(a: Array, b: Array, aa: float, bb: float, ab: float) -> None:
    """Put the adaptive sum of two vectors in the place of the first."""
    # A zero vector is orthogonal to all; NaN in a product makes the sum NaN, so that it is seen.
    of_a = 1 - ab / (2 * aa) if aa != 0 else 1.0
    of_b = 1 - ab / (2 * bb) if bb != 0 else 1.0
    a *= of_a
    a += np.multiply(b, of_b, dtype=b.dtype)

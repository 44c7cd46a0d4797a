"""Cut messages into pieces that MPI can count, and exchange arrays of any length in rounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from distgrad.distributed.verbs.communicator import Array


def pieces(flat: Array, limit: int) -> Iterator[Array]:
    """Yield a flat array in pieces that a message can carry; nothing for an empty one."""
    for start in range(0, flat.size, limit):
        yield flat[start : start + limit]


def starts(sizes: Any) -> list[int]:
    """Return where pieces of some sizes start that lie end to end."""
    found: list[int] = (np.cumsum(sizes) - sizes).tolist()
    return found


def distance(whole: Array, part: Array) -> int:
    """Return by how many bytes a view starts after the array that it views."""
    return int(part.__array_interface__["data"][0] - whole.__array_interface__["data"][0])


def fits(counts: Array, itemsize: int, limit: int) -> bool:
    """Return whether no rank sends or receives more bytes than a message can count."""
    most = max(int(counts.sum(axis=0).max()), int(counts.sum(axis=1).max()))
    return most * itemsize <= limit


def parts(
    counts: Array, rank: int, *, everybody_gets_all: bool = False
) -> list[tuple[slice, slice]]:
    """Return for each rank what of this rank's elements it gets, and where its own are put.

    Parameters
    ----------
    counts : numpy.ndarray of shape (size, size)
        How many elements the rank of a row has for the rank of a column.
    rank : int
        This rank.
    everybody_gets_all : bool
        Whether what this rank has is for each rank the same, and not end to end.
    """
    to, come = counts[rank].tolist(), counts[:, rank].tolist()
    starts_to = [0] * len(to) if everybody_gets_all else starts(to)
    return [
        (slice(a, a + n), slice(b, b + m))
        for a, n, b, m in zip(starts_to, to, starts(come), come, strict=True)
    ]


def exchange(
    mpi: Any,
    communicator: Any,
    own: Array,
    counts: Array,
    result: Array,
    limit: int,
    *,
    everybody_gets_all: bool,
) -> Iterator[Any]:
    """Yield the requests, each to be completed before the next, that bring what others have.

    Parameters
    ----------
    mpi : module
        `mpi4py.MPI`.
    communicator : mpi4py.MPI.Comm
        Of all ranks that do this.
    own : numpy.ndarray
        Flat: what this rank has for rank 0, for rank 1, ..., or for each of them.
    counts : numpy.ndarray of shape (size, size)
        How many elements the rank of a row has for the rank of a column; the same on all.
    result : numpy.ndarray
        Where all that comes is put, end to end in the order of the ranks.
    limit : int
        How many bytes a rank may send or receive in one message.
    everybody_gets_all : bool
        Whether `own` is for each rank the same.
    """
    rank, size, itemsize = communicator.rank, communicator.size, own.itemsize
    to = counts[rank] * itemsize
    come = counts[:, rank] * itemsize
    starts_to = np.zeros(size, np.int64) if everybody_gets_all else np.cumsum(to) - to
    starts_come = np.cumsum(come) - come
    sent, arrived = own.view(np.uint8), result.view(np.uint8)
    byte, alltoallv = mpi.BYTE, communicator.Ialltoallv
    if not everybody_gets_all and fits(counts, itemsize, limit):
        yield alltoallv(
            [sent, to.tolist(), starts_to.tolist(), byte],
            [arrived, come.tolist(), starts_come.tolist(), byte],
        )
        return
    # In rounds, of the same number on every rank since all know all counts.
    limit = limit // size or 1
    for done in range(0, int(counts.max()) * itemsize, limit):
        sizes_to = np.clip(to - done, 0, limit)
        sizes_come = np.clip(come - done, 0, limit)
        here = starts_to + done
        message = np.concatenate([sent[a : a + n] for a, n in zip(here, sizes_to, strict=True)])
        piece = np.empty(int(sizes_come.sum()), np.uint8)
        yield alltoallv(
            [message, sizes_to.tolist(), starts(sizes_to), byte],
            [piece, sizes_come.tolist(), starts(sizes_come), byte],
        )
        for a, n, b in zip(starts_come + done, sizes_come, starts(sizes_come), strict=True):
            arrived[a : a + n] = piece[b : b + n]

"""Add up sparse gradients over ranks: each sends its rows and where they belong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend import load
from distgrad.distributed.averaging.weights import share
from distgrad.distributed.verbs.communicator import Array, Communicator
from distgrad.sparse import IndexedSlices


class Rows(NamedTuple):
    """A rank's rows of one array, each position once and in ascending order, on the host."""

    values: Array
    indices: Array


def host_rows(gradient: Any, shape: tuple[int, ...], wire: np.dtype[Any]) -> Rows:
    """Return the rows of slices, those of one position added up; none of None."""
    if not isinstance(gradient, IndexedSlices):
        return Rows(np.zeros((0, *shape[1:]), wire), np.zeros(0, np.int64))
    values = gradient.values.backend.to_host(gradient.values.array)
    indices = gradient.indices.backend.to_host(gradient.indices.array)
    return added_up(values.astype(wire, copy=False), indices.astype(np.int64), shape[0])


def added_up(values: Array, indices: Array, length: int) -> Rows:
    """Return rows with each position once, added up in the order in which they stand."""
    unique, place_of = np.unique(indices % max(length, 1), return_inverse=True)
    total = np.zeros((len(unique), *values.shape[1:]), values.dtype)
    host: Any = load("numpy")
    return Rows(host.add_rows(total, place_of.reshape(-1), values), unique)


def exchange_counts(
    comm: Communicator, rows: Sequence[Rows], weight: float
) -> tuple[Array, list[float]]:
    """Return how many rows of each array each rank has, as a table, and the ranks' weights."""
    # Exact in float64 up to 2**53 rows; a rank without examples sends none.
    own = [float(len(each.indices)) if weight else 0.0 for each in rows]
    table = comm.allgather(np.array([weight, *own]))
    return table[:, 1:].astype(np.int64), [float(each) for each in table[:, 0]]


def is_worth_it(counts: Array, shape: tuple[int, ...], itemsize: int) -> bool:
    """Return whether the rows of an array are fewer bytes than the whole of it.

    Parameters
    ----------
    counts : numpy.ndarray of shape (ranks,)
        How many rows each rank has.
    shape : tuple of int
        The shape of the whole array.
    itemsize : int
        Bytes of an element on the wire.

    Notes
    -----
    A rank receives ``ranks * max(counts)`` rows and positions when all gather, and about twice the
    array when all reduce (Thakur, Rabenseifner and Gropp, "Optimization of collective communication
    operations in MPICH", 2005).
    """
    row = math.prod(shape[1:]) * itemsize
    gathered = len(counts) * int(counts.max(initial=0)) * (row + 8)
    return gathered < 2 * shape[0] * row


def gather_rows(
    comm: Communicator,
    rows: Sequence[Rows],
    counts: Array,
    weights: Sequence[float],
    shapes: Sequence[tuple[int, ...]],
    as_sum: bool,
) -> list[Rows]:
    """Return the rows of several arrays of one dtype, added up over ranks and divided by weights.

    Parameters
    ----------
    comm : Communicator
        The ranks that exchange.
    rows : sequence of Rows
        This rank's rows of each array.
    counts : numpy.ndarray of shape (ranks, arrays)
        How many rows of each array each rank has.
    weights : sequence of float
        The ranks' weights; all rows of a rank are multiplied by its own.
    shapes : sequence of tuple of int
        The shapes of the arrays.
    as_sum : bool
        Whether to leave out the division by the sum of the weights.

    Returns
    -------
    list of Rows
        The same bits on every rank: rows of one position are added up in the order of the ranks.

    Raises
    ------
    BatchError
        If no rank has an example.
    """
    weight = weights[comm.rank]
    share(weight, weights, as_sum=as_sum)  # refuses a batch without examples
    total = sum(weights)
    sent = [each if weight else Rows(each.values[:0], each.indices[:0]) for each in rows]
    widths = [math.prod(shape[1:]) for shape in shapes]
    values = _gathered(comm, [each.values * weight for each in sent], counts * widths)
    indices = _gathered(comm, [each.indices for each in sent], counts)
    results = []
    for place, shape in enumerate(shapes):
        summed = added_up(
            values[place].reshape(len(indices[place]), *shape[1:]),
            indices[place],
            shape[0],
        )
        results.append(summed if as_sum else Rows(summed.values / total, summed.indices))
    return results


def _gathered(comm: Communicator, own: Sequence[Array], sizes: Array) -> list[Array]:
    """Return for each array all ranks' elements of it end to end, in the order of the ranks.

    Parameters
    ----------
    comm : Communicator
        The ranks that exchange.
    own : sequence of numpy.ndarray
        This rank's arrays, of one dtype.
    sizes : numpy.ndarray of shape (ranks, arrays)
        How many elements each rank has of each.
    """
    flat = np.concatenate([array.ravel() for array in own])
    message = np.zeros(int(sizes.sum(axis=1).max()), flat.dtype)
    message[: flat.size] = flat
    received = comm.allgather(message)
    stops = np.cumsum(sizes, axis=1)
    return [
        np.concatenate(
            [
                row[stops[rank, place] - sizes[rank, place] : stops[rank, place]]
                for rank, row in enumerate(received)
            ]
        )
        for place in range(len(own))
    ]

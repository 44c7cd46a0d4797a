"""Ranks as threads: the distributed layer's logic is tested without processes or MPI."""

from __future__ import annotations

import threading
from functools import reduce

import numpy as np
import pytest

from distgrad.distributed.verbs.communicator import wire_dtype

_REDUCE = {
    "sum": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "bor": np.bitwise_or,
}


class ThreadCommunicator:
    """One rank of a group of threads."""

    def __init__(self, rank, size, barrier, slots, parts):
        self.rank = rank
        self.size = size
        self.local_rank = rank
        self.started = 0
        self.verbs = []
        self._barrier = barrier
        self._slots = slots
        self._parts = parts

    def _exchange(self, verb, value):
        self.started += 1
        self.verbs.append(verb)
        self._slots[self.rank] = np.array(value)
        self._barrier.wait(10)
        everyone = list(self._slots)
        self._barrier.wait(10)
        return everyone

    def allreduce(self, array, op="sum", *, out=None):
        wire = wire_dtype(array.dtype, op)
        rows = [row.astype(wire) for row in self._exchange("allreduce", array)]
        result = np.asarray(reduce(_REDUCE[op], rows)).astype(array.dtype)
        if out is None:
            return result
        out[...] = result
        return out

    def broadcast(self, array, root=0):
        return np.array(self._exchange("broadcast", array)[root])

    def allgather(self, array):
        return np.stack(self._exchange("allgather", array))

    def allgatherv(self, array, counts, *, out=None):
        return np.concatenate(self._exchange("allgatherv", array), out=out)

    def alltoall(self, array):
        return np.stack([row[self.rank] for row in self._exchange("alltoall", array)])

    def alltoallv(self, array, counts):
        counts = np.asarray(counts)
        stops = np.cumsum(counts, axis=1)
        pieces = [
            flat[stops[rank, self.rank] - counts[rank, self.rank] : stops[rank, self.rank]]
            for rank, flat in enumerate(self._exchange("alltoallv", array))
        ]
        return np.concatenate(pieces)

    def reduce_scatter(self, array, op="sum"):
        rows = [row[self.rank] for row in self._exchange("reduce_scatter", array)]
        return np.asarray(reduce(_REDUCE[op], rows)).astype(array.dtype)

    def barrier(self):
        self._exchange("barrier", 0)

    def machine(self):
        return 0  # threads share one

    def count(self, what):
        self.started += 1

    def split(self, colour):
        colours = [int(each) for each in self._exchange("split", colour)]
        members = [rank for rank, each in enumerate(colours) if each == colour]
        if self.rank == members[0]:
            self._parts[colour] = threading.Barrier(len(members)), [None] * len(members)
        self.barrier()
        barrier, slots = self._parts[colour]
        self.barrier()  # nobody replaces them before everybody has them
        return ThreadCommunicator(members.index(self.rank), len(members), barrier, slots, {})


@pytest.fixture
def on_ranks():
    """Return ``run(size, function)``: call function(communicator) on each rank, list the results.

    What a rank raises takes the place of its result.
    """

    def run(size, function):
        barrier = threading.Barrier(size)
        slots, parts = [None] * size, {}
        results = [None] * size

        def work(rank):
            try:
                results[rank] = function(ThreadCommunicator(rank, size, barrier, slots, parts))
            except Exception as error:  # the test looks at it
                results[rank] = error

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return results

    return run

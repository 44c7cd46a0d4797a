"""Add up messages in the quickest way there is: in shared memory, by slices, or by MPI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from distgrad.core.spans import COMPUTE, span
from distgrad.distributed.verbs import places, shared_memory, slices
from distgrad.distributed.verbs.communicator import Array
from distgrad.distributed.verbs.exchanging import pieces


class Sums:
    """Sums of one communicator of MPI's.

    Parameters
    ----------
    mpi : module
        `mpi4py.MPI`.
    communicator : mpi4py.MPI.Comm
        On which no other messages of the slices' tags travel.
    ranks_here : int
        How many ranks of the job this machine has.
    shares_memory : bool
        Whether to share memory where that is possible, the same on all ranks.
    """

    def __init__(
        self, mpi: Any, communicator: Any, ranks_here: int, *, shares_memory: bool
    ) -> None:
        self._mpi = mpi
        self._communicator = communicator
        self._ranks_here = ranks_here
        self._slices = slices.Slices(communicator)
        self._memory: shared_memory.SharedMemory | None = None
        self._may_join = shares_memory  # until it was tried
        self.places = places.Places(communicator.rank)
        self._wanted: list[places.Size] = []

    @property
    def is_in_memory(self) -> bool:
        """Whether long messages are added up in shared memory."""
        return self._memory is not None

    def want(self, sizes: tuple[places.Size, ...]) -> None:
        """Find places for the messages of a step before the next sum, where memory is shared.

        Parameters
        ----------
        sizes : tuple
            Of all messages, the same on every rank, where all call this between the same sums.
        """
        if self._memory is not None and not self.places.is_settled(sizes):
            self._wanted += self.places.missing(sizes)

    def _find_places(self) -> Iterator[Any]:
        """Yield requests that find places."""
        wanted, self._wanted = self._wanted, []
        memory = yield from shared_memory.share(
            self._mpi, self._communicator, self._ranks_here, places.bytes_for(wanted)
        )
        if memory is not None:
            self.places.take_over(memory, wanted)

    def add_up(self, flat: Array, most: int, factor: float = 1.0) -> Iterator[Any]:
        """Yield requests, each to be completed before the next; after the last the sum is there.

        Parameters
        ----------
        flat : numpy.ndarray
            Of one axis, contiguous, of the same length and dtype on every rank; overwritten by the
            same bits on every rank.
        most : int
            How many elements a message may have.
        factor : float
            By which this rank's numbers are multiplied.
        """
        size = self._communicator.size
        if shared_memory.is_worth_it(size, flat.nbytes):
            if self._may_join:
                self._memory = yield from shared_memory.join(
                    self._mpi, self._communicator, self._ranks_here
                )
                self._may_join = False
            if self._memory is not None:
                if self._wanted:
                    yield from self._find_places()
                is_done = False
                if self.places.has(flat):
                    is_done = yield from self.places.add_up(self._memory, flat, factor)
                if not is_done:
                    yield from self._memory.add_up(flat, factor)
                return
        if factor != 1:
            with span("weigh", COMPUTE):
                np.multiply(flat, factor, out=flat)
        if slices.is_worth_it(size, flat.nbytes):
            yield from self._slices.add_up(flat, most)
            return
        for piece in pieces(flat, most):
            yield self._communicator.Iallreduce(self._mpi.IN_PLACE, piece, self._mpi.SUM)

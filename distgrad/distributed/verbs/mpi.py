"""The MPI communicator: the verbs over mpi4py, on a communicator of its own, safe to wait in.

Messages travel as buffers only (mpi4py's upper-case calls): nothing is pickled. Each verb says of
which non-blocking requests it consists; `Operations` waits for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np

from distgrad.distributed.safety.fingerprint import Plan, agree
from distgrad.distributed.safety.guard import Guard
from distgrad.distributed.verbs.checks import (
    check_colour,
    check_counts,
    check_root,
    check_rows,
)
from distgrad.distributed.verbs.communicator import Array, describe, wire_dtype
from distgrad.distributed.verbs.device_slices import exchange_on_device, reduce_on_device
from distgrad.distributed.verbs.exchanging import distance, exchange, fits, pieces, starts
from distgrad.distributed.verbs.families import Member, made
from distgrad.distributed.verbs.operations import Operations
from distgrad.distributed.verbs.places import Places, Size
from distgrad.distributed.verbs.sums import Sums

# Elements a message. MPI counts are C ints: from 2^31 on Open MPI refuses and Intel MPI returns
# wrong numbers at once; 2^28 elements of 16 bytes are safe on every MPI that was tried.
MESSAGE_ELEMENTS = 2**28


class MPICommunicator:
    """A group of MPI processes.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        The group; it is duplicated, so that the program's own messages on it cannot mix with ours.
    guard : Guard
        The process's guard, `distgrad.distributed.world().guard`.
    local_rank : int, optional
        The number among the group's processes of this machine; asked of MPI unless given.
    background : bool
        Whether its verbs are called by a thread that may wait inside MPI, see `duplicate`.
    """

    def __init__(
        self,
        communicator: Any,
        guard: Guard,
        local_rank: int | None = None,
        *,
        background: bool = False,
    ) -> None:
        self._background = background
        self.guard = guard
        self._mpi = mpi = guard.mpi
        self._communicator = made(mpi, communicator.Dup)
        # What a thread in the background does has to wait inside MPI, without the interpreter.
        self._sums = Sums(
            mpi, self._communicator, len(guard.neighbours), shares_memory=not background
        )
        self.rank: int = self._communicator.rank
        self.size: int = self._communicator.size
        self.local_rank: int = (
            _local_rank(mpi, self._communicator) if local_rank is None else local_rank
        )
        identity, members = guard.enroll(self._communicator, lambda: operations.started)
        self._operations = operations = Operations(guard, identity, members, background=background)
        self._run = operations.run
        forget = partial(guard.forget, identity, self._communicator)
        self._member = Member(self._communicator, self, forget)
        self._reductions = {
            "sum": mpi.SUM, "prod": mpi.PROD, "min": mpi.MIN, "max": mpi.MAX, "bor": mpi.BOR
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<MPI communicator: rank {self.rank} of {self.size}>"

    @property
    def started(self) -> int:
        """How many operations this rank has begun."""
        return self._operations.started

    @started.setter
    def started(self, value: int) -> None:
        self._operations.started = value

    @property
    def blocked_nanoseconds(self) -> int:
        """How long whoever called verbs was in them."""
        return self._operations.blocked_nanoseconds

    def allreduce(self, array: Array, op: str = "sum", *, out: Array | None = None) -> Array:
        """Return the elementwise reduction of all ranks' arrays; see `Communicator`."""
        array = np.asarray(array)
        wire = wire_dtype(array.dtype, op)
        in_place = out is not None and out.dtype == wire and out.flags.c_contiguous
        if in_place and out is not None:
            buffer = out
            if out is not array:
                buffer[...] = array
        else:
            buffer = np.array(array, dtype=wire, order="C")
        reduction = self._reductions[op]
        flat = buffer.reshape(-1)

        def requests() -> Iterator[Any]:
            if op == "sum":
                yield from self._sums.add_up(flat, MESSAGE_ELEMENTS)
                return
            for piece in pieces(flat, MESSAGE_ELEMENTS):
                yield self._communicator.Iallreduce(self._mpi.IN_PLACE, piece, reduction)

        self._run(requests, lambda: describe(f"allreduce ({op})", array.dtype, array.shape))
        if out is None:
            return buffer.astype(array.dtype, copy=False)
        if buffer is not out:
            out[...] = buffer.reshape(array.shape)
        return out

    def add_up_weighed(self, message: Array, factor: float) -> None:
        """Put the sum of all ranks' messages, each times its rank's factor, into the message.

        Parameters
        ----------
        message : numpy.ndarray
            Contiguous, of a dtype in which MPI adds up, of the same shape and dtype on every rank.
        factor : float
            This rank's.
        """
        flat = message.reshape(-1)
        what = partial(describe, "allreduce (sum)", message.dtype, message.shape)
        self._run(lambda: self._sums.add_up(flat, MESSAGE_ELEMENTS, factor), what)

    @property
    def places(self) -> Places:
        """Where messages may lie from the start, see `want_places`."""
        return self._sums.places

    def want_places(self, sizes: tuple[Size, ...]) -> None:
        """Have the next sum find places for messages of these sizes; all ranks call this."""
        self._sums.want(sizes)

    def allreduce_on_device(self, array: Any, module: Any, op: str = "sum") -> None:
        """Reduce all ranks' arrays in a device's memory in place, by an MPI that takes these.

        Parameters
        ----------
        array : array with ``__cuda_array_interface__``
            Contiguous, its values computed, of the same shape and dtype on every rank.
        module : module
            CuPy.
        op : {"sum", "prod", "min", "max"}
            What to do with the elements.
        """
        flat, comm = array.reshape(-1), self._communicator
        self._run(
            lambda: reduce_on_device(comm, flat, module, op, MESSAGE_ELEMENTS),
            lambda: describe(f"allreduce ({op})", array.dtype, array.shape),
        )

    def exchange_on_device(
        self, own: Any, result: Any, parts: list[tuple[slice, slice]], verb: str
    ) -> None:
        """Bring what the others have for this rank, in a device's memory; see `device_slices`."""
        comm = self._communicator
        self._run(
            lambda: exchange_on_device(comm, own, result, parts, MESSAGE_ELEMENTS),
            lambda: describe(verb, own.dtype, own.shape),
        )

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """Return the root's array; see `Communicator`."""
        check_root(root, self.size)
        result = np.array(array, order="C")
        raw = result.reshape(-1).view(np.uint8)

        def requests() -> Iterator[Any]:
            for piece in pieces(raw, MESSAGE_ELEMENTS):
                yield self._communicator.Ibcast(piece, root)

        self._run(requests, lambda: describe("broadcast", result.dtype, result.shape))
        return result

    def allgather(self, array: Array) -> Array:
        """Return all ranks' arrays along a new first axis; see `Communicator`."""
        own = np.ascontiguousarray(array)
        result = np.empty((self.size, *np.shape(array)), own.dtype)
        raw = own.reshape(-1).view(np.uint8)
        rows = result.reshape(self.size, -1).view(np.uint8)

        def requests() -> Iterator[Any]:
            # The limit holds for what arrives: `size` pieces in one message.
            for piece in pieces(raw, MESSAGE_ELEMENTS // self.size or 1):
                if piece.size == raw.size:
                    yield self._communicator.Iallgather(piece, rows)
                    return
                start = distance(raw, piece)
                arrived = np.empty((self.size, piece.size), np.uint8)
                yield self._communicator.Iallgather(piece, arrived)
                rows[:, start : start + piece.size] = arrived

        self._run(requests, lambda: describe("allgather", own.dtype, own.shape))
        return result

    def allgatherv(self, array: Array, counts: Sequence[int], *, out: Array | None = None) -> Array:
        """Return all ranks' elements end to end; see `Communicator`."""
        check_counts("allgatherv", array, counts[self.rank])
        own = np.ascontiguousarray(array)
        table = np.repeat(np.asarray(counts, np.int64)[:, np.newaxis], self.size, axis=1)

        def what() -> str:
            return describe("allgatherv", own.dtype, own.shape)

        if fits(table, own.itemsize, MESSAGE_ELEMENTS):
            result = np.empty(int(table[:, 0].sum()), own.dtype) if out is None else out
            sizes = (table[:, 0] * own.itemsize).tolist()
            received = [result.view(np.uint8), sizes, starts(sizes), self._mpi.BYTE]
            self._run(
                lambda: iter([self._communicator.Iallgatherv(own.view(np.uint8), received)]), what
            )
            return result
        result = self._exchange(own, table, what, everybody_gets_all=True)
        if out is None:
            return result
        out[...] = result
        return out

    def alltoall(self, array: Array) -> Array:
        """Return what the others have for this rank; see `Communicator`."""
        check_rows("alltoall", array, self.size)
        own = np.ascontiguousarray(array)
        counts = np.full((self.size, self.size), own[0].size, np.int64)
        what = partial(describe, "alltoall", own.dtype, own.shape)
        return self._exchange(own.reshape(-1), counts, what).reshape(own.shape)

    def alltoallv(self, array: Array, counts: Array) -> Array:
        """Return what the others have for this rank, end to end; see `Communicator`."""
        counts = np.asarray(counts, np.int64)
        check_counts("alltoallv", array, int(counts[self.rank].sum()))
        own = np.ascontiguousarray(array)
        what = partial(describe, "alltoallv", own.dtype, own.shape)
        return self._exchange(own, counts, what)

    def reduce_scatter(self, array: Array, op: str = "sum") -> Array:
        """Return this rank's row of the reduction of all arrays; see `Communicator`."""
        wire = wire_dtype(array.dtype, op)
        check_rows("reduce_scatter", array, self.size)
        rows = np.ascontiguousarray(array, wire).reshape(self.size, -1)
        result = np.empty(rows.shape[1], wire)
        reduction = self._reductions[op]

        def requests() -> Iterator[Any]:
            for piece in pieces(result, MESSAGE_ELEMENTS // self.size or 1):
                if piece.size == result.size:
                    yield self._communicator.Ireduce_scatter_block(rows, piece, reduction)
                    return
                start = distance(result, piece) // wire.itemsize
                sent = np.ascontiguousarray(rows[:, start : start + piece.size])
                yield self._communicator.Ireduce_scatter_block(sent, piece, reduction)

        self._run(requests, lambda: describe(f"reduce_scatter ({op})", array.dtype, array.shape))
        return result.astype(array.dtype, copy=False).reshape(np.shape(array)[1:])

    def _exchange(
        self,
        own: Array,
        counts: Array,
        what: Callable[[], str],
        *,
        everybody_gets_all: bool = False,
    ) -> Array:
        """Return what all ranks have for this one, by as many rounds as the messages need."""
        result = np.empty(int(counts[:, self.rank].sum()), own.dtype)

        def requests() -> Iterator[Any]:
            return exchange(
                *(self._mpi, self._communicator, own, counts, result, MESSAGE_ELEMENTS),
                everybody_gets_all=everybody_gets_all,
            )

        self._run(requests, what)
        return result

    def swap(self, array: Array, partner: int) -> Array:
        """Return the partner's array, and give it this rank's; all ranks call this together.

        Parameters
        ----------
        array : numpy.ndarray
            Of the same shape and dtype on both.
        partner : int
            Whose partner is this rank; who has none gives its own rank, and gets a copy.
        """
        own = np.ascontiguousarray(array)
        result = own.copy()
        sent, arrived = own.reshape(-1).view(np.uint8), result.reshape(-1).view(np.uint8)

        def requests() -> Iterator[Any]:
            for piece, place in zip(
                pieces(sent, MESSAGE_ELEMENTS), pieces(arrived, MESSAGE_ELEMENTS), strict=True
            ):
                sending = self._communicator.Isend(piece, partner)
                yield self._communicator.Irecv(place, partner)
                yield sending

        def what() -> str:
            return describe(f"swap with rank {partner}", own.dtype, own.shape)

        self._run(requests if partner != self.rank else lambda: iter(()), what)
        return result

    def barrier(self) -> None:
        """Return once every rank has called this."""
        self._run(lambda: iter([self._communicator.Ibarrier()]), lambda: "barrier")

    def duplicate(self) -> MPICommunicator:
        """Return a communicator of the same ranks for a thread of its own; all ranks call this.

        Its verbs wait inside MPI, where messages make progress and the interpreter is free for
        other threads, but where nobody hears of failures: the thread that needs the results does,
        by `wait_for`.
        """
        agree(self, Plan("duplicate of a communicator"))
        self._member.free_dropped(self._mpi)
        ranks = MPICommunicator(self._communicator, self.guard, self.local_rank, background=True)
        self._member.take_in(ranks._member)
        return ranks

    def split(self, colour: int) -> MPICommunicator:
        """Return a communicator of the ranks that give the same number; all ranks call this.

        Raises
        ------
        CommunicationError
            If it is none, or negative, which MPI keeps for itself.
        DesyncError
            On every rank, if another rank does something else.
        """
        check_colour(colour)
        agree(self, Plan("split of a communicator"))
        self._member.free_dropped(self._mpi)
        part = made(self._mpi, partial(self._communicator.Split, colour, self.rank))
        ranks = MPICommunicator(part, self.guard, self.local_rank, background=self._background)
        part.Free()
        self._member.take_in(ranks._member)
        return ranks

    def machine(self) -> int:
        """Return the lowest rank on this rank's machine; all ranks call this."""
        agree(self, Plan("search for the ranks of each machine"))
        neighbours = self._communicator.Split_type(self._mpi.COMM_TYPE_SHARED)
        lowest = np.array(self.rank, np.int64)
        neighbours.Allreduce(self._mpi.IN_PLACE, lowest, self._mpi.MIN)
        neighbours.Free()
        return int(lowest)

    def count(self, what: str) -> None:
        """Count an operation that consists of some of parts made by `split`."""
        self._operations.begin(lambda: what)

    def name_next(self, what: Callable[[], str]) -> None:
        """Call the next operation by these words, where others are waited for in vain."""
        self._operations.name_next(what)

    def break_off(self, what: str, error: BaseException) -> None:
        """Begin no operation any more; see `Undivided`."""
        self._operations.break_off(what, error)

    def wait_for(self, done: threading.Event) -> None:
        """Return once another thread, which uses this communicator, has set the event.

        Raises
        ------
        RemoteRankError, StallError
            If that thread waits for a rank that failed, left or has not come before the deadline.
        """
        self._operations.wait_for(done)

    def abort(self, code: int = 1) -> NoReturn:
        """End all ranks at once, with this exit code."""
        self.guard.abort(code)
        raise SystemExit(code)  # not reached: MPI_Abort ends the process


def _local_rank(mpi: Any, communicator: Any) -> int:
    neighbours = communicator.Split_type(mpi.COMM_TYPE_SHARED)
    rank = int(neighbours.rank)
    neighbours.Free()
    return rank

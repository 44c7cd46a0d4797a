"""Carry arrays in devices' memory along the way that their ranks have chosen, by a `Line`'s verbs.

They are those of a `Communicator`, on arrays of a device. What the way does not take (booleans,
extrema of floating numbers, whose NaN NCCL does not define) goes by the host, through the backend's
staging buffers.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from distgrad.distributed.verbs.communicator import Communicator, exchange_json, wire_dtype
from distgrad.distributed.verbs.device_slices import FUNCTIONS
from distgrad.distributed.verbs.exchanging import parts
from distgrad.distributed.verbs.nccl import NAMES, NCCLGroup
from distgrad.distributed.verbs.streamed_sums import StreamedSums
from distgrad.dtypes import as_dtype
from distgrad.errors import CommunicationError, LaunchError, RemoteRankError, StallError

# All ranks have just agreed on something, and NCCL on thousands of ranks takes half a minute.
_TRIAL_SECONDS = 120.0


class Line:
    """The way of one communicator's device arrays, on one rank.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    backend : Backend
        Whose arrays travel; its `to_host` and `asarray` do the staging.
    way, reason : str
        What `choose` returned.
    group : NCCLGroup, optional
        The ranks as NCCL knows them, where that is the way.

    Attributes
    ----------
    counts : Counter
        How many arrays went which way.
    rank, size : int
        This rank's number, and how many there are.
    """

    def __init__(
        self,
        comm: Communicator,
        backend: Any,
        way: str,
        reason: str = "",
        group: NCCLGroup | None = None,
    ) -> None:
        self._comm = comm
        self._backend = backend
        self.way = way
        self.reason = reason
        self._group = group
        self._sums: StreamedSums | None = None
        self._exchanges: bool | None = None
        self.counts: Counter[str] = Counter()
        self.rank, self.size = comm.rank, comm.size

    def way_of(self, dtype: Any, op: str) -> str:
        """Return the way of a reduction.

        Parameters
        ----------
        dtype : dtype
            Of the array.
        op : str
            As for `Communicator.allreduce`.
        """
        wire = wire_dtype(np.dtype(dtype), op)
        if np.dtype(dtype).kind == "b" or op == "bor":
            return "host"
        if wire.kind == "c" and op != "sum":
            return "host"  # NCCL knows complex numbers as pairs
        if op in ("min", "max") and wire.kind == "f":
            return "host"
        if self.way == "nccl" and wire.name not in NAMES:
            return "host"
        return self.way

    def allreduce(self, array: Any, op: str = "sum") -> Any:
        """Return the elementwise reduction of all ranks' device arrays, as a device array.

        Parameters
        ----------
        array : array
            On the device, of the same shape and dtype on every rank; not changed.
        op : str
            As for `Communicator.allreduce`.
        """
        dtype = as_dtype(array.dtype)
        way = self.way_of(dtype, op)
        self.counts[way] += 1
        if way == "host":
            host = self._backend.to_host(array)
            return self._backend.asarray(self._comm.allreduce(host, op))
        # A copy in the dtype of the wire: half precision is added up in float32.
        wire = array.astype(wire_dtype(np.dtype(dtype), op), order="C", copy=True)
        if self._group is not None and way == "nccl":
            self._group.allreduce(wire, op)
        else:
            self._by_mpi(wire, op)
        return wire.astype(dtype, copy=False)

    def empty(self, length: int, dtype: Any) -> Any:
        """Return a flat array on the device for a message."""
        return self._backend.module.empty(length, dtype)

    def sums(self) -> StreamedSums | None:
        """Return what adds up messages on a stream of its own, where the way is NCCL's; else None.

        All ranks call this together the first time.
        """
        if self._sums is None and self._group is not None:
            module = self._group.module
            self._sums = StreamedSums(NCCLGroup(self._comm, module), module)
        return self._sums

    def add_up(self, message: Any) -> None:
        """Put the sum of all ranks' messages, in a dtype of the wire, into this rank's."""
        self.counts[self.way] += 1
        if self._group is not None:
            self._group.allreduce(message)
        else:
            self._by_mpi(message, "sum")

    def alltoallv(self, array: Any, counts: Any) -> Any:
        """Return what the others have for this rank, end to end; see `Communicator`."""
        table = np.asarray(counts, np.int64)
        if self._goes_by_host():
            return self._backend.asarray(self._comm.alltoallv(self._backend.to_host(array), table))
        return self._exchanged("alltoallv", array, table)

    def allgatherv(self, array: Any, counts: Sequence[int], *, out: Any = None) -> Any:
        """Return all ranks' elements end to end; see `Communicator`."""
        if self._goes_by_host():
            host = self._comm.allgatherv(self._backend.to_host(array), counts)
            gathered = self._backend.asarray(host)
            if out is None:
                return gathered
            out[...] = gathered
            return out
        table = np.repeat(np.asarray(counts, np.int64)[:, np.newaxis], self.size, axis=1)
        return self._exchanged("allgatherv", array, table, out, everybody_gets_all=True)

    def reduce_scatter(self, array: Any, op: str = "sum") -> Any:
        """Return this rank's row of the reduction of all ranks' arrays; see `Communicator`."""
        dtype = as_dtype(array.dtype)
        way = self.way_of(dtype, op)
        if way == "host" or not self.can_exchange():
            self.counts["host"] += 1
            host = self._backend.to_host(array)
            return self._backend.asarray(self._comm.reduce_scatter(host, op))
        self.counts[way] += 1
        rows = array.astype(wire_dtype(np.dtype(dtype), op), order="C", copy=False)
        return self._row_of(rows, op).astype(dtype, copy=False)

    def _row_of(self, rows: Any, op: str) -> Any:
        """Return this rank's row of a reduction in a dtype of the wire."""
        if self._group is not None:
            result = self._backend.module.empty(rows.shape[1:], rows.dtype)
            self._group.reduce_scatter(rows, result, op)
            return result
        length = rows[0].size
        counts = np.full((self.size, self.size), length, np.int64)
        arrived = self._exchanged("reduce_scatter", rows.reshape(-1), counts)
        ordered = arrived.reshape(rows.shape)
        for each in ordered[1:]:  # in the order of the ranks
            getattr(self._backend.module, FUNCTIONS[op])(ordered[0], each, out=ordered[0])
        return ordered[0].copy()  # a view would keep what came from all ranks

    def _goes_by_host(self) -> bool:
        """Return whether slices go by the host, and count an array that goes one way or other."""
        by_host = self.way == "host" or not self.can_exchange()
        self.counts["host" if by_host else self.way] += 1
        return by_host

    def _exchanged(
        self, verb: str, own: Any, counts: Any, out: Any = None, *, everybody_gets_all: bool = False
    ) -> Any:
        own = own.astype(own.dtype, order="C", copy=False)  # its memory is read as one line
        result = self.empty(int(counts[:, self.rank].sum()), own.dtype) if out is None else out
        slices = parts(counts, self.rank, everybody_gets_all=everybody_gets_all)
        mine, place = slices[self.rank]
        result[place] = own[mine]
        if self._group is not None:
            self._group.exchange(own, result, slices, verb)
        else:
            self._backend.synchronize()  # MPI knows nothing of streams
            exchange: Any = getattr(self._comm, "exchange_on_device")  # noqa: B009  MPI's has it
            exchange(own, result, slices, verb)
        return result

    def can_exchange(self) -> bool:
        """Return whether ranks get what others have for them, tried once with known numbers.

        All ranks call this.

        Raises
        ------
        LaunchError
            If another rank does not answer, such as one that waits for this one.
        """
        if self._exchanges is None:
            comm = self._comm
            wrong = ""
            try:
                with within_trial(comm):
                    wrong = self._wrong_with_exchanges()
                    said: list[str] = exchange_json(comm, wrong)
            except StallError as error:
                raise LaunchError(
                    f"{self.way} did not answer when messages from rank to rank were tried for "
                    f"arrays on devices; DISTGRAD_DEVICE_BUFFERS=host does not try them "
                    f"({f'{wrong}; ' if wrong else ''}{error})"
                ) from error
            self._exchanges = not any(said)
            if not self._exchanges and comm.rank == 0:
                rank = next(rank for rank, each in enumerate(said) if each)
                warnings.warn(
                    f"slices of arrays on devices travel by the host: {self.way} failed when "
                    f"messages from rank to rank were tried, on rank {rank}: {said[rank]}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return self._exchanges

    def _wrong_with_exchanges(self) -> str:
        """Return what is wrong on this rank; empty if nothing is."""
        try:
            return self._try_to_exchange()
        except (RemoteRankError, StallError):
            raise
        except CommunicationError as error:
            return str(error)

    def _try_to_exchange(self) -> str:
        """Return what is wrong with slices of known numbers; empty if nothing is."""
        numbers = np.arange(self.size)
        lengths = np.add.outer(numbers, numbers) + 3  # unlike ones
        names = np.add.outer(self.size * numbers, numbers)  # from whom to whom
        own = np.repeat(names[self.rank], lengths[self.rank])
        expected = np.repeat(names[:, self.rank], lengths[:, self.rank])
        found = self._exchanged("trial", self._backend.asarray(own), lengths)
        if not np.array_equal(self._backend.to_host(found), expected):
            return "what arrived is not what was sent"
        rows = names + 1.0  # whole numbers: their sums are exact in any order
        row = self._row_of(self._backend.asarray(rows * (1 + self.rank)), "sum")
        if not np.array_equal(self._backend.to_host(row), rows[self.rank] * sum(numbers + 1)):
            return "reduce_scatter gave a wrong sum of known numbers"
        return ""

    def _by_mpi(self, array: Any, op: str) -> None:
        self._backend.synchronize()  # MPI knows nothing of streams
        reduce: Any = getattr(self._comm, "allreduce_on_device")  # noqa: B009  MPI's has it
        reduce(array, module_of(array), op)

    def try_out(self, length: int) -> str:
        """Return what is wrong with the sum of known numbers; empty if nothing is.

        All ranks call this.
        """
        # Small whole numbers, of which sums are exact in any order.
        own = (np.arange(length, dtype=np.float32) % 1021) + self._comm.rank
        expected = self._comm.allreduce(own)
        message = self._backend.asarray(own)
        try:
            self.add_up(message)
        except (RemoteRankError, StallError):
            raise
        except CommunicationError as error:
            return str(error)
        finally:
            self.counts.clear()
        is_right = np.array_equal(self._backend.to_host(message), expected)
        return "" if is_right else f"it gave a wrong sum of {length} known numbers"

    def broadcast(self, array: Any, root: int = 0) -> Any:
        """Return the root's device array, as a device array."""
        way = "nccl" if self._group is not None else "host"
        self.counts[way] += 1
        if self._group is None:
            host = self._backend.to_host(array)
            return self._backend.asarray(self._comm.broadcast(host, root))
        result = array.astype(array.dtype, order="C", copy=True)
        self._group.broadcast(result, root)
        return result


@contextmanager
def within_trial(comm: Communicator) -> Iterator[None]:
    """Wait for other ranks no longer than a trial of a way may take."""
    guard: Any = getattr(comm, "guard", None)
    if guard is None:
        yield
        return
    before = guard.timeout
    guard.timeout = min(before, _TRIAL_SECONDS)
    try:
        yield
    finally:
        guard.timeout = before


def module_of(array: Any) -> Any:
    """Return the module of an array, such as CuPy."""
    return sys.modules[type(array).__module__.partition(".")[0]]

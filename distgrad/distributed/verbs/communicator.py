"""What ranks say to each other: verbs on host arrays, and communicators without processes."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np

from distgrad.distributed.verbs.checks import check_colour, check_counts, check_root, check_rows
from distgrad.errors import CommunicationError

Array = np.ndarray[Any, Any]

REDUCTIONS = ("sum", "prod", "min", "max", "bor")

# Added up in float32: half precision loses digits in long sums, MPI has no bfloat16, and the
# reduction of half precision in the common MPIs is slower than that of twice the bytes.
_NARROW_FLOATS = ("float16", "bfloat16")


@runtime_checkable
class Communicator(Protocol):
    """A group of ranks that call the same verbs in the same order.

    The verbs take NumPy arrays and know nothing of tensors, variables or gradients. A call returns
    once this rank's part is done; arguments are not changed except where `out` says so.

    A communicator may also have ``duplicate()``, which all ranks call together: another one of the
    same ranks, whose verbs a thread of its own may call, and whose ``wait_for(event)`` returns once
    that thread has set the event, or raises what the waiting for other ranks raises. Without it,
    nothing overlaps. And it may have ``split(colour)``, the communicator of the ranks that give the
    same number, ``machine()``, the lowest rank on this rank's machine, both called by all ranks
    together, and ``count(what)``, which notes an operation made of some of the parts: without them,
    there is no ``reduction="hierarchical"``. And ``add_up_weighed(message, factor)``, which adds up
    messages where they lie, each times its rank's factor: without it, they are multiplied before.
    Where there are ``places``, messages may lie in memory that another rank sees; all ranks call
    ``want_places(sizes)``, which has some found for the messages of a step. ``name_next(what)`` has
    errors of the next verb call it ``what()``: the ranks' comparison before a collective goes by
    the collective's name.

    Attributes
    ----------
    rank : int
        This process's number in the group, from 0.
    size : int
        How many ranks there are.
    local_rank : int
        This process's number among those of its machine, from 0: the GPU to take.
    started : int
        How many collective operations this rank has begun: equal on all ranks at the same place of
        the program.
    """

    rank: int
    size: int
    local_rank: int
    started: int

    def allreduce(self, array: Array, op: str = "sum", *, out: Array | None = None) -> Array:
        """Return the elementwise reduction of all ranks' arrays, the same on every rank.

        Parameters
        ----------
        array : numpy.ndarray
            Of the same shape and dtype on every rank. float16 and bfloat16 are added up in
            float32 on the way.
        op : {"sum", "prod", "min", "max", "bor"}
            What to do with the elements; ``"bor"`` is the bitwise or, of unsigned integers.
        out : numpy.ndarray, optional
            Where to put the result: contiguous, of the array's shape and dtype, such as the array
            itself.

        Raises
        ------
        CommunicationError
            If the dtype cannot be reduced, or MPI reports an error.
        RemoteRankError, StallError
            If another rank failed or left, or has not come before the deadline.
        """
        ...

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """Return the root's array; `array` has the same shape and dtype on every rank."""
        ...

    def allgather(self, array: Array) -> Array:
        """Return all ranks' arrays along a new first axis of length `size`."""
        ...

    def allgatherv(self, array: Array, counts: Sequence[int], *, out: Array | None = None) -> Array:
        """Return all ranks' elements end to end, in the order of the ranks.

        Parameters
        ----------
        array : numpy.ndarray of shape (counts[rank],)
            Of the same dtype on every rank.
        counts : sequence of int
            How many elements each rank has; the same on every rank.
        out : numpy.ndarray of shape (sum of counts,), optional
            Where to put the result: contiguous, of the array's dtype.
        """
        ...

    def alltoall(self, array: Array) -> Array:
        """Return what the others have for this rank, row i from rank i.

        Parameters
        ----------
        array : numpy.ndarray of shape (size, ...)
            Row i goes to rank i.
        """
        ...

    def alltoallv(self, array: Array, counts: Array) -> Array:
        """Return what the others have for this rank, end to end in the order of the ranks.

        Parameters
        ----------
        array : numpy.ndarray of shape (sum of counts[rank],)
            The elements for rank 0, then those for rank 1, ...
        counts : numpy.ndarray of shape (size, size)
            How many elements the rank of a row sends to the rank of a column; the same on every
            rank.
        """
        ...

    def reduce_scatter(self, array: Array, op: str = "sum") -> Array:
        """Return this rank's row of the elementwise reduction of all ranks' arrays.

        Parameters
        ----------
        array : numpy.ndarray of shape (size, ...)
            Of the same shape and dtype on every rank.
        op : {"sum", "prod", "min", "max", "bor"}
            As for `allreduce`.
        """
        ...

    def barrier(self) -> None:
        """Return once every rank has called this."""
        ...

    def abort(self, code: int = 1) -> NoReturn:
        """End all ranks at once, with this exit code and without further words."""
        ...


class SerialCommunicator:
    """The group of one: what a script gets without `mpirun`, so that it runs unchanged."""

    rank = 0
    size = 1
    local_rank = 0

    def __init__(self) -> None:
        self.started = 0

    def __repr__(self) -> str:
        return "<serial communicator>"

    def split(self, colour: int) -> SerialCommunicator:
        """Return a group of the ranks that give the same number: of this one."""
        check_colour(colour)
        return SerialCommunicator()

    def allreduce(self, array: Array, op: str = "sum", *, out: Array | None = None) -> Array:
        """Return a copy of the array, or `out` filled with it."""
        self.started += 1
        wire_dtype(array.dtype, op)
        return _delivered(np.array(array), out)

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """Return a copy of the array."""
        self.started += 1
        check_root(root, self.size)
        return np.array(array)

    def allgather(self, array: Array) -> Array:
        """Return a copy of the array with a new first axis of length 1."""
        self.started += 1
        return np.array(array)[np.newaxis]

    def allgatherv(self, array: Array, counts: Sequence[int], *, out: Array | None = None) -> Array:
        """Return a copy of the array."""
        self.started += 1
        check_counts("allgatherv", array, counts[0])
        return _delivered(np.array(array), out)

    def alltoall(self, array: Array) -> Array:
        """Return a copy of the array."""
        self.started += 1
        check_rows("alltoall", array, self.size)
        return np.array(array)

    def alltoallv(self, array: Array, counts: Array) -> Array:
        """Return a copy of the array."""
        self.started += 1
        check_counts("alltoallv", array, int(counts[0][0]))
        return np.array(array)

    def reduce_scatter(self, array: Array, op: str = "sum") -> Array:
        """Return a copy of the only row."""
        self.started += 1
        wire_dtype(array.dtype, op)
        check_rows("reduce_scatter", array, self.size)
        return np.array(array[0])

    def barrier(self) -> None:
        """Return at once."""
        self.started += 1

    def abort(self, code: int = 1) -> NoReturn:
        """End the process with this exit code."""
        sys.exit(code)


@dataclass(frozen=True)
class Call:
    """One call of a verb, as a `RecordedCommunicator` notes it."""

    verb: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


class RecordedCommunicator:
    """A group whose other ranks do exactly as this one does, without processes: for tests.

    Parameters
    ----------
    size : int
        How many ranks to pretend.
    rank : int
        Which of them this is.

    Attributes
    ----------
    calls : list of Call
        Every call, in order.
    """

    def __init__(self, size: int = 2, rank: int = 0) -> None:
        self.size = size
        self.rank = rank
        self.local_rank = rank
        self.started = 0
        self.calls: list[Call] = []

    def duplicate(self) -> RecordedCommunicator:
        """Return a communicator of the same ranks that notes its calls in the same list."""
        other = RecordedCommunicator(self.size, self.rank)
        other.calls = self.calls
        return other

    def wait_for(self, done: threading.Event) -> None:
        """Return once another thread has set the event."""
        done.wait()

    def _note(self, verb: str, op: str, array: Array) -> None:
        self.started += 1
        self.calls.append(Call(verb, op, array.shape, array.dtype.name, array.nbytes))

    def allreduce(self, array: Array, op: str = "sum", *, out: Array | None = None) -> Array:
        """Return what `size` equal arrays reduce to."""
        wire_dtype(array.dtype, op)
        self._note("allreduce", op, array)
        return _delivered(self._reduced(np.array(array), op), out)

    def _reduced(self, same: Array, op: str) -> Array:
        if op == "sum":
            same = (same * self.size).astype(same.dtype)
        elif op == "prod":
            same = (same**self.size).astype(same.dtype)
        return same

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """Return a copy of the array."""
        check_root(root, self.size)
        self._note("broadcast", "", array)
        return np.array(array)

    def allgather(self, array: Array) -> Array:
        """Return `size` copies of the array along a new first axis."""
        self._note("allgather", "", array)
        return np.stack([array] * self.size)

    def allgatherv(self, array: Array, counts: Sequence[int], *, out: Array | None = None) -> Array:
        """Return each rank's elements, those of this rank as often as a count asks."""
        check_counts("allgatherv", array, counts[self.rank])
        self._note("allgatherv", "", array)
        return _delivered(np.concatenate([np.resize(array, count) for count in counts]), out)

    def alltoall(self, array: Array) -> Array:
        """Return `size` copies of the row for this rank."""
        check_rows("alltoall", array, self.size)
        self._note("alltoall", "", array)
        return np.stack([array[self.rank]] * self.size)

    def alltoallv(self, array: Array, counts: Array) -> Array:
        """Return the elements for this rank from each rank, as often as a count asks."""
        check_counts("alltoallv", array, int(np.sum(counts[self.rank])))
        self._note("alltoallv", "", array)
        stops = np.cumsum(counts[self.rank])
        mine = array[stops[self.rank] - counts[self.rank][self.rank] : stops[self.rank]]
        return np.concatenate([np.resize(mine, row[self.rank]) for row in counts])

    def reduce_scatter(self, array: Array, op: str = "sum") -> Array:
        """Return what `size` equal rows for this rank reduce to."""
        wire_dtype(array.dtype, op)
        check_rows("reduce_scatter", array, self.size)
        self._note("reduce_scatter", op, array)
        return self._reduced(np.array(array[self.rank]), op)

    def barrier(self) -> None:
        """Return at once."""
        self._note("barrier", "", np.empty(0, np.uint8))

    def abort(self, code: int = 1) -> NoReturn:
        """End the process with this exit code."""
        sys.exit(code)


def exchange_json(communicator: Communicator, value: Any) -> list[Any]:
    """Return every rank's value, in the order of the ranks; values are what JSON can hold."""
    text = json.dumps(value).encode()
    lengths = communicator.allgather(np.array(len(text), np.int64))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    texts = communicator.allgather(padded)
    return [json.loads(row[:length].tobytes()) for row, length in zip(texts, lengths, strict=True)]


@lru_cache(maxsize=256)  # asking a dtype for its name takes longer than a small message
def wire_dtype(dtype: np.dtype[Any], op: str) -> np.dtype[Any]:
    """Return the dtype in which arrays are reduced.

    Raises
    ------
    CommunicationError
        If there is no such reduction, or it means nothing for the dtype.
    """
    if op not in REDUCTIONS:
        raise CommunicationError(
            f"allreduce: unknown op {op!r}; expected one of {', '.join(map(repr, REDUCTIONS))}"
        )
    if dtype.name in _NARROW_FLOATS:
        wire: np.dtype[Any] = np.dtype(np.float32)
    elif dtype.kind == "b" and op in ("min", "max", "bor"):
        wire = np.dtype(np.uint8)
    elif dtype.kind in "iufc" and dtype.itemsize <= (16 if dtype.kind == "c" else 8):
        wire = dtype if dtype.isnative else dtype.newbyteorder("=")  # MPI adds up in no other
    else:
        hint = "; convert it to integers to count" if dtype.kind == "b" else ""
        raise CommunicationError(f"allreduce: {op!r} is not defined for dtype {dtype}{hint}")
    if (op == "bor" and wire.kind not in "iu") or (op in ("min", "max") and wire.kind == "c"):
        raise CommunicationError(f"allreduce: {op!r} is not defined for dtype {dtype}")
    return wire


def describe(verb: str, dtype: Any, shape: tuple[int, ...]) -> str:
    """Return an operation in words, such as ``allreduce of float32[3, 4]``."""
    return f"{verb} of {dtype}{list(shape)}"


def _delivered(result: Array, out: Array | None) -> Array:
    if out is None:
        return result
    out[...] = result
    return out

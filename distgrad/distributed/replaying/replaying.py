"""A communicator without other ranks: it returns what a recorded rank once heard."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from distgrad.distributed.replaying.tape_file import Array, Reader, ReplayError, checksum, path_of


class ReplayCommunicator:
    """One rank of a recorded job, alone: every operation returns what it returned then.

    A program that computes the same as then goes through the same steps, bit for bit; under a
    debugger, with more printing, with another version of a kernel. If it asks for another
    operation, or adds other numbers to a sum, the error says in which operation.

    Parameters
    ----------
    folder : str or os.PathLike
        What ``DISTGRAD_RECORD`` named.
    rank : int
        Which rank to be.
    check : bool
        Whether what this rank gives to sums must be what it gave then.
    stream : str
        Which of the rank's communicators: ``"0"`` is the world's, those made of it follow.

    Raises
    ------
    ReplayError
        If there is no such recording.
    """

    def __init__(
        self, folder: Any, rank: int = 0, *, check: bool = True, stream: str = "0"
    ) -> None:
        self._folder = Path(folder)
        self._stream = stream
        self._check = check
        self._made = 0
        self._file = Reader(path_of(self._folder, rank, stream))
        self.rank = int(self._file.about["rank"])
        self.size = int(self._file.about["size"])
        self.local_rank = int(self._file.about["local_rank"])
        self._named = rank
        self.started = int(self._file.about["started"])

    def __repr__(self) -> str:
        return f"<replay of rank {self.rank} of {self.size}, operation {self.started}>"

    def _recall(
        self, verb: str, op: str, array: Array, shape: Sequence[int], out: Array | None = None
    ) -> Array:
        self.started += 1
        header, content = self._file.read()
        asked = [verb, op, array.dtype.name, list(shape)]
        then = [header.get(key) for key in ("verb", "op", "dtype", "shape")]
        if asked != then:
            raise ReplayError(
                f"replay of rank {self.rank}: operation {self.started} is {_words(asked)}, but was "
                f"{_words(then)} when it was recorded; is it the same program, with the same "
                "arguments?"
            )
        if self._check and "sent" in header and header["sent"] != checksum(array):
            raise ReplayError(
                f"replay of rank {self.rank}: in operation {self.started}, {_words(asked)}, this "
                "rank gives other numbers than when it was recorded; up to here nothing differed "
                "(check=False, or DISTGRAD_REPLAY_CHECK=0, goes on)"
            )
        result = np.frombuffer(content, array.dtype).reshape(shape).copy()
        if out is None:
            return result
        out[...] = result.reshape(out.shape)
        return out

    def allreduce(self, array: Array, op: str = "sum", *, out: Array | None = None) -> Array:
        """Return what the ranks' arrays came to."""
        array = np.asarray(array)
        return self._recall("allreduce", op, array, array.shape, out)

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """Return what the root had."""
        return self._recall("broadcast", "", array, np.shape(array))

    def allgather(self, array: Array) -> Array:
        """Return what all ranks had."""
        return self._recall("allgather", "", array, (self.size, *np.shape(array)))

    def allgatherv(self, array: Array, counts: Sequence[int], *, out: Array | None = None) -> Array:
        """Return what all ranks had."""
        return self._recall("allgatherv", "", array, (int(np.sum(counts)),), out)

    def alltoall(self, array: Array) -> Array:
        """Return what the others had for this rank."""
        return self._recall("alltoall", "", array, np.shape(array))

    def alltoallv(self, array: Array, counts: Array) -> Array:
        """Return what the others had for this rank."""
        length = int(np.asarray(counts)[:, self.rank].sum())
        return self._recall("alltoallv", "", array, (length,))

    def reduce_scatter(self, array: Array, op: str = "sum") -> Array:
        """Return what this rank's row came to."""
        return self._recall("reduce_scatter", op, array, np.shape(array)[1:])

    def swap(self, array: Array, partner: int) -> Array:
        """Return what the partner had."""
        return self._recall("swap", "", array, np.shape(array))

    def machine(self) -> int:
        """Return the lowest rank on this rank's machine."""
        return int(self._recall("machine", "", np.empty((), np.int64), ()))

    def barrier(self) -> None:
        """Return at once: the others are where they were."""
        self.started += 1

    def duplicate(self) -> ReplayCommunicator:
        """Return the next communicator that was made of this one."""
        self._made += 1
        self.started += 1  # the ranks compared that all of them make it
        return ReplayCommunicator(
            self._folder,
            self._named,
            check=self._check,
            stream=f"{self._stream}.{self._made}",
        )

    def split(self, colour: int) -> ReplayCommunicator:
        """Return the next communicator that was made of this one."""
        return self.duplicate()

    def count(self, what: str) -> None:
        """Count an operation that consists of some of parts made by `split`."""
        self.started += 1

    def wait_for(self, done: threading.Event) -> None:
        """Return once another thread has set the event."""
        done.wait()

    def abort(self, code: int = 1) -> NoReturn:
        """End the process with this exit code."""
        sys.exit(code)


def _words(operation: Sequence[Any]) -> str:
    verb, op, dtype, shape = operation
    return f"{verb}{f' ({op})' if op else ''} of {dtype}{shape}"

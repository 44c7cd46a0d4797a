"""A communicator that keeps what comes back from every operation."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from distgrad.distributed.replaying.tape_file import ABOUT, Array, Writer, checksum, path_of
from distgrad.distributed.verbs.communicator import Communicator

# What is sent may hold measured times where the greatest or any bit is asked for.
_UNTIMED = ("sum", "prod")


class RecordingCommunicator:
    """Passes everything on to another communicator, and writes down the results.

    Parameters
    ----------
    inner : Communicator
        Does the work.
    folder : Path
        Where each rank writes a file for each of its communicators.
    stream : str
        Which communicator of the program this is, counted as they are made.
    named : int, optional
        By which rank the file is named; a part of the ranks counts its own anew.
    """

    def __init__(
        self, inner: Any, folder: Path, stream: str = "0", named: int | None = None
    ) -> None:
        self._inner = inner
        self._folder = folder
        self._stream = stream
        self._made = 0
        self.rank: int = inner.rank
        self.size: int = inner.size
        self.local_rank: int = inner.local_rank
        about = {name: getattr(inner, name) for name in ABOUT}
        self._named: int = self.rank if named is None else named
        self._file = Writer(path_of(folder, self._named, stream), about)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # the guard, and whatever else an MPI communicator has

    @property
    def started(self) -> int:
        """How many collective operations this rank has begun."""
        return int(self._inner.started)

    def _keep(self, verb: str, result: Array, op: str = "", sent: str = "") -> Array:
        header = {"verb": verb, "op": op, "dtype": result.dtype.name, "shape": list(result.shape)}
        if sent:
            header["sent"] = sent
        self._file.write(header, result)
        return result

    def allreduce(self, array: Array, op: str = "sum", *, out: Array | None = None) -> Array:
        """Reduce as the inner communicator does."""
        array = np.asarray(array)
        sent = checksum(array) if op in _UNTIMED else ""  # now: the result may take its place
        return self._keep("allreduce", self._inner.allreduce(array, op, out=out), op, sent)

    def add_up_weighed(self, message: Array, factor: float) -> None:
        """Multiply, and then reduce as the inner communicator does: so the replay does, too."""
        np.multiply(message, factor, out=message)
        self.allreduce(message, "sum", out=message)

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """Broadcast as the inner communicator does."""
        return self._keep("broadcast", self._inner.broadcast(array, root))

    def allgather(self, array: Array) -> Array:
        """Gather as the inner communicator does."""
        return self._keep("allgather", self._inner.allgather(array))

    def allgatherv(self, array: Array, counts: Sequence[int], *, out: Array | None = None) -> Array:
        """Gather as the inner communicator does."""
        found = self._inner.allgatherv(array, counts, out=out)
        return self._keep("allgatherv", found)

    def alltoall(self, array: Array) -> Array:
        """Exchange as the inner communicator does."""
        return self._keep("alltoall", self._inner.alltoall(array))

    def alltoallv(self, array: Array, counts: Array) -> Array:
        """Exchange as the inner communicator does."""
        return self._keep("alltoallv", self._inner.alltoallv(array, counts))

    def reduce_scatter(self, array: Array, op: str = "sum") -> Array:
        """Reduce as the inner communicator does."""
        sent = checksum(array) if op in _UNTIMED else ""
        return self._keep("reduce_scatter", self._inner.reduce_scatter(array, op), op, sent)

    def swap(self, array: Array, partner: int) -> Array:
        """Swap as the inner communicator does."""
        return self._keep("swap", self._inner.swap(array, partner))

    def barrier(self) -> None:
        """Wait as the inner communicator does."""
        self._inner.barrier()

    def machine(self) -> int:
        """Return the lowest rank on this rank's machine."""
        found = int(self._inner.machine())
        self._keep("machine", np.array(found, np.int64))
        return found

    def duplicate(self) -> RecordingCommunicator:
        """Return a communicator of the same ranks, whose operations are written down as well."""
        return self._child(self._inner.duplicate())

    def split(self, colour: int) -> RecordingCommunicator:
        """Return a communicator of some ranks, whose operations are written down as well."""
        return self._child(self._inner.split(colour))

    def _child(self, inner: Communicator) -> RecordingCommunicator:
        self._made += 1
        stream = f"{self._stream}.{self._made}"
        return RecordingCommunicator(inner, self._folder, stream, self._named)

    def wait_for(self, done: threading.Event) -> None:
        """Wait as the inner communicator does."""
        self._inner.wait_for(done)

    def abort(self, code: int = 1) -> NoReturn:
        """End all ranks at once."""
        self._inner.abort(code)
        raise SystemExit(code)

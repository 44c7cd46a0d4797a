"""Rows of logical shards: on the host, or on the device that computed them.

There they are packed and added up without anybody waiting, and leave once a step: to the devices of
other ranks, or, where no way leads there, to the host. The bits are the same: each addition rounds
as the host's does, and the order is that of `distgrad.distributed.averaging.ordered`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from distgrad.distributed.averaging.buckets import Bucket
from distgrad.distributed.averaging.buffers import buffers_of
from distgrad.distributed.averaging.exchange import on_host
from distgrad.distributed.averaging.on_device import packed
from distgrad.distributed.averaging.ordered import OrderedSum
from distgrad.distributed.verbs.communicator import Array, Communicator
from distgrad.distributed.verbs.device_buffers import is_on_device
from distgrad.distributed.verbs.device_line import Line
from distgrad.errors import BatchError
from distgrad.tensor import Tensor


class Rows(Protocol):
    """The rows of one bucket on this rank.

    Attributes
    ----------
    bucket : Bucket
        What each row carries.
    """

    bucket: Bucket

    def add(self, gradients: Sequence[Any], weight: float) -> None:
        """Add the gradients of this rank's next logical shard, one for each source, or None."""
        ...

    def own(self) -> list[list[Any]]:
        """Return what this rank has added up so far, for each of the bucket's positions."""
        ...

    def leave(self, line: Line | None) -> None:
        """Begin what the sum over all ranks waits for; `total` follows.

        Parameters
        ----------
        line : Line, optional
            The way of rows between devices; None where they go by the host.
        """
        ...

    def total(self) -> Any:
        """Return the sum over all ranks' logical shards, where the rows are; all call this."""
        ...

    def divide(self, message: Any) -> None:
        """Divide a message by the weight that leads it."""
        ...

    def weight_of(self, message: Any) -> float:
        """Return the weight that leads a message."""
        ...


def rows_of(comm: Communicator, bucket: Bucket, leaves: Sequence[Any], count: int) -> Rows:
    """Return the rows of a bucket, none yet.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    bucket : Bucket
        What each row carries.
    leaves : sequence of Tensor or Variable
        All sources.
    count : int
        How many logical shards there are over all ranks.
    """
    carried = [leaves[position] for position in bucket.positions]
    backend = carried[0].kernels.backend
    passages = getattr(backend, "passages", None)
    if passages is None or not all(
        is_on_device(each.array) and each.kernels.backend is backend for each in carried
    ):
        return HostRows(comm, bucket, count)
    return DeviceRows(comm, bucket, leaves, count)


class HostRows:
    """Rows in memory of the host, whatever the gradients lie in.

    Parameters
    ----------
    comm, bucket, count :
        As for `rows_of`.
    """

    def __init__(self, comm: Communicator, bucket: Bucket, count: int) -> None:
        self._comm, self.bucket = comm, bucket
        self._pool = buffers_of(comm)
        self._sum = OrderedSum(comm, count)

    def add(self, gradients: Sequence[Any], weight: float) -> None:
        """Add the gradients of this rank's next logical shard; see `Rows`."""
        bucket = self.bucket
        row = self._pool.take(bucket.length, bucket.dtype)
        self._sum.add(bucket.pack([on_host(gradients[p]) for p in bucket.positions], weight, row))

    def own(self) -> list[list[Any]]:
        """Return what this rank has added up so far; see `Rows`."""
        return [list(each) for each in zip(*map(self.bucket.unpack, self._sum.rows), strict=True)]

    def leave(self, line: Line | None) -> None:
        """Begin nothing: `total` does it all."""

    def total(self) -> Array:
        """Return the sum over all ranks' logical shards; see `Rows`."""
        length, dtype = self.bucket.length, self.bucket.dtype
        out = None if self._comm.size == 1 else self._pool.take(length, dtype)
        return self._sum.total(length, dtype, out)

    def divide(self, message: Array) -> None:
        """Divide a message by the weight that leads it."""
        total = message[0].real
        if total != 1:
            message /= total

    def weight_of(self, message: Array) -> float:
        """Return the weight that leads a message."""
        return float(message[0].real)


class DeviceRows:
    """Rows on the device of the gradients.

    Parameters
    ----------
    comm, bucket, leaves, count :
        As for `rows_of`; all of the bucket's lie with one backend, which has `passages`.
    """

    def __init__(
        self, comm: Communicator, bucket: Bucket, leaves: Sequence[Any], count: int
    ) -> None:
        self._comm, self.bucket, self._leaves = comm, bucket, leaves
        self._kernels = leaves[bucket.positions[0]].kernels
        self._backend = self._kernels.backend
        self._sum = OrderedSum(comm, count, self._backend.module)
        self._line: Line | None = None
        self._leaving: list[Any] = []

    def add(self, gradients: Sequence[Any], weight: float) -> None:
        """Add the gradients of this rank's next logical shard; see `Rows`."""
        self._sum.add(packed(self.bucket, self._leaves, gradients, weight))

    def own(self) -> list[list[Any]]:
        """Return what this rank has added up so far; see `Rows`."""
        found = zip(*map(self.bucket.unpack, self._sum.rows), strict=True)
        return [[Tensor(array, self._kernels) for array in each] for each in found]

    def leave(self, line: Line | None) -> None:
        """Begin to copy the rows to the host, if they go by it; see `Rows`."""
        self._line = line
        if line is None and self._comm.size > 1:
            self._leaving = [self._backend.passages.bring(row) for row in self._sum.rows]

    def total(self) -> Any:
        """Return the sum over all ranks' logical shards; see `Rows`."""
        length, dtype = self.bucket.length, self.bucket.dtype
        if self._line is not None or self._comm.size == 1:
            return self._sum.total(length, dtype, via=self._line)
        for each in self._leaving:
            each.arrived()
        summed = self._sum.on_host([each.host for each in self._leaving])
        self._leaving = []
        passages = self._backend.passages
        return passages.put(summed.total(length, dtype, passages.room(length, dtype)))

    def divide(self, message: Any) -> None:
        """Divide a message by the weight that leads it; nobody waits for that."""
        total = message[:1].real.copy()
        parts = message.view(total.dtype)  # of complex numbers both
        parts /= total

    def weight_of(self, message: Any) -> float:
        """Return the weight that leads a message, once the device has it."""
        return float(self._backend.to_host(message[:1])[0].real)


def check_weight(rows: Rows, message: Any, ranks: int) -> None:
    """Raise unless the weight that leads a message is more than zero.

    Raises
    ------
    BatchError
        If the weights of all ranks add up to zero.
    """
    if rows.weight_of(message) == 0:
        raise BatchError(
            f"gradient: no rank of {ranks} has an example; expected at least one in the global "
            "batch"
        )

"""Add up gradients that never leave the devices: one message after the other, or by a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from distgrad.distributed.averaging.adding import Adder, Native
from distgrad.distributed.averaging.buckets import Bucket
from distgrad.distributed.averaging.report import Tally
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.distributed.verbs.device_buffers import is_on_device, line_of_sources
from distgrad.distributed.verbs.device_line import Line
from distgrad.sparse import densified


def line_to_average(comm: Communicator, leaves: Sequence[Any], adder: Adder) -> Line | None:
    """Return the way of gradients that stay on the devices; None where they go by the host."""
    return line_of_sources(comm, leaves) if type(adder) is Native else None


def added_on_device(
    line: Line,
    buckets: Sequence[Bucket],
    leaves: Sequence[Any],
    gradients: Sequence[Any],
    factor: float,
    tally: Tally,
) -> Iterator[tuple[Bucket, Any]]:
    """Yield each bucket and the sum of all ranks' messages.

    Parameters
    ----------
    line : Line
        Their way.
    buckets : sequence of Bucket
        The same on every rank.
    leaves, gradients : sequence
        The sources, and for each this rank's own, or None.
    factor : float
        By which gradients are multiplied.
    tally : Tally
        Notes what it costs.
    """
    sums = line.sums() if buckets else None
    if sums is None:
        for bucket in buckets:
            message = packed(bucket, leaves, gradients, factor)

            def add(message: Any = message) -> int:
                line.add_up(message)
                return int(message.nbytes)

            yield bucket, tally.add_up(message, add)
        return
    sums.begin()
    messages = []
    for bucket in buckets:
        message = packed(bucket, leaves, gradients, factor)
        tally.carry(message.nbytes, partial(sums.start, message))
        messages.append(message)
    sums.join()
    line.counts[line.way] += len(buckets)
    tally.on_device = sums.seconds
    yield from zip(buckets, messages, strict=True)


def packed(bucket: Bucket, leaves: Sequence[Any], gradients: Any, factor: float) -> Any:
    """Return a bucket's message in new memory of the device, of the gradients at its positions."""
    backend = leaves[bucket.positions[0]].kernels.backend
    arrays = [on_device(gradients[position], backend) for position in bucket.positions]
    # NumPy's functions, by which messages are packed, are the device's own on its arrays.
    return bucket.pack(arrays, factor, backend.module.empty(bucket.length, bucket.dtype))


def on_device(gradient: Any, backend: Any) -> Any:
    """Return a gradient, or a sum of some on the host, as a device's array, dense; None of None."""
    if gradient is None:
        return None
    array = gradient if isinstance(gradient, np.ndarray) else densified(gradient).array
    return array if is_on_device(array) else backend.asarray(array)

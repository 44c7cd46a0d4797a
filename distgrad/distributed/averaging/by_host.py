"""Bring gradients from a device to the host by one copy a bucket, where a backend can do so.

Such a backend has ``passages.bring(message)``, which begins to copy a flat array of the device to
the host and returns at once; what it returns has ``arrived()``, which any thread may call to wait
for it, the array ``host``, and ``back()``, which begins the copy back and returns the message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distgrad.distributed.averaging.buckets import Bucket
from distgrad.distributed.verbs.device_buffers import is_on_device
from distgrad.sparse import densified


def passage_of(bucket: Bucket, gradients: Sequence[Any], factor: float) -> Any | None:
    """Return a bucket's message on its way to the host, packed on the device; or None.

    Parameters
    ----------
    bucket : Bucket
        What it carries.
    gradients : sequence of Tensor, IndexedSlices, numpy.ndarray or None
        One for each of the bucket's positions. Unless all there are lie with one backend that
        brings messages, there is none.
    factor : float
        By which they are multiplied.
    """
    found = [each for each in gradients if each is not None]
    if not found or not bucket.length or any(isinstance(each, np.ndarray) for each in found):
        return None
    backend = found[0].backend
    passages = getattr(backend, "passages", None)
    if passages is None or any(each.backend is not backend for each in found):
        return None
    arrays = [None if each is None else densified(each).array for each in gradients]
    message = backend.module.empty(bucket.length, bucket.dtype)
    return passages.bring(bucket.pack(arrays, factor, message))


def passages_one_ahead(
    buckets: Sequence[Bucket], leaves: Sequence[Any], gradients: Sequence[Any], factor: float
) -> Iterator[tuple[Bucket, Any | None]]:
    """Yield each bucket and its message on its way to the host, if it is; the next one has left."""
    before: tuple[Bucket, Any | None] | None = None
    for bucket in buckets:
        passage = None
        if is_on_device(leaves[bucket.positions[0]].array):
            passage = passage_of(bucket, [gradients[p] for p in bucket.positions], factor)
        if before is not None:
            yield before
        before = bucket, passage
    if before is not None:
        yield before

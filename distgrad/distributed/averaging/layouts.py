"""How the dense gradients of a step travel, as all ranks agreed in the step before.

What is known before a step can be prepared: messages that leave during the walk back, and memory
that another rank sees, into which gradients are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from distgrad.core.destinations import Offers
from distgrad.distributed.averaging.adding import Adder, Native
from distgrad.distributed.averaging.buckets import Bucket, plan_buckets
from distgrad.distributed.safety.fingerprint import Plan
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.distributed.verbs.device_buffers import is_on_device
from distgrad.distributed.verbs.places import Size
from distgrad.dtypes import DType, as_dtype


@dataclass(frozen=True)
class Layout:
    """How the dense gradients of a step travel, as all ranks agreed in the step before.

    Attributes
    ----------
    buckets : tuple of Bucket
        In the order in which they leave.
    dense : str
        Which sources are in them, in words that differ where these do.
    sizes : tuple
        Of the buckets' messages, see `Places`.
    """

    buckets: tuple[Bucket, ...]
    dense: str
    sizes: tuple[Size, ...] = ()


# By what the ranks agreed on: the same on every rank, step by step.
_layouts: WeakKeyDictionary[Communicator, dict[Plan, Layout]] = WeakKeyDictionary()
_LAYOUTS = 16  # models that train in turn


def remember_layout(
    comm: Communicator,
    plan: Plan,
    leaves: list[Any],
    union: list[bool],
    bucket_bytes: int | None,
    adder: Adder,
) -> None:
    """Keep how the dense gradients of this plan travel, for its next step."""
    known = _layouts.setdefault(comm, {})
    dense = union[len(leaves) :]
    word = bytes(dense).hex()
    layout = known.get(plan)
    if layout is not None and layout.dense == word:
        return
    positions = tuple(position for position, found in enumerate(dense) if found)
    buckets = plan_buckets(*layout_of(leaves), positions, bucket_bytes, has_weight=adder.has_weight)
    # What comes from a device comes to memory that the device can write to.
    comes = any(is_on_device(leaf.array) for leaf in leaves)
    sizes = () if comes else tuple((each.dtype.char, each.length) for each in buckets)
    known[plan] = Layout(buckets, word, sizes)
    if len(known) > _LAYOUTS:
        del known[next(iter(known))]


def layout_known(comm: Communicator, plan: Plan) -> Layout | None:
    """Return how the dense gradients of this plan travelled last, if there was a step."""
    return _layouts.get(comm, {}).get(plan)


def want_places(comm: Communicator, layout: Layout | None, adder: Adder) -> None:
    """Have memory that other ranks see for the messages of a known layout, where there can be."""
    by_comm = getattr(comm, "want_places", None)
    if by_comm is not None and layout is not None and type(adder) is Native:
        by_comm(layout.sizes)


def offers(comm: Communicator, layout: Layout | None, adder: Adder) -> Offers:
    """Return places for gradients that travel alone: computed there, they need not be copied."""
    places = getattr(comm, "places", None)
    if places is None or layout is None or type(adder) is not Native:
        return {}
    alone = [
        (bucket, size)
        for bucket, size in zip(layout.buckets, layout.sizes, strict=False)
        if len(bucket.positions) == 1
    ]
    free = {size: places.free(size) for _, size in alone}
    offered: Offers = {}
    while any(free.values()):  # shapes of the same length share what there is
        for bucket, size in alone:
            if free[size]:
                key = bucket.shapes[0], bucket.dtype.char
                offered.setdefault(key, []).append(free[size].pop().reshape(bucket.shapes[0]))
    return offered


def layout_of(
    sources: list[Any],
) -> tuple[tuple[np.dtype[Any], ...], tuple[tuple[int, ...], ...]]:
    """Return the dtypes of sources as NumPy's, and their shapes."""
    arrays = [source.array for source in sources]
    return numpy_dtypes(arrays), tuple(tuple(array.shape) for array in arrays)


def numpy_dtypes(arrays: list[Any]) -> tuple[DType, ...]:
    """Return the dtypes of any backend's arrays as NumPy's."""
    return tuple(
        array.dtype if isinstance(array.dtype, np.dtype) else as_dtype(array.dtype)
        for array in arrays
    )

"""Add gradients up in the order in which they come; one communication averages the sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.distributed.averaging.adding import Manner
from distgrad.distributed.averaging.buckets import BUCKET_BYTES
from distgrad.distributed.averaging.exchange import (
    average_gradients,
    describe_sources,
    on_host,
)
from distgrad.distributed.averaging.finiteness import each_alone
from distgrad.distributed.averaging.layouts import layout_of, numpy_dtypes
from distgrad.distributed.batches.sharding import examples_here
from distgrad.distributed.safety.fingerprint import Plan
from distgrad.distributed.verbs.communicator import Communicator, wire_dtype
from distgrad.distributed.verbs.device_buffers import is_on_device
from distgrad.errors import BatchError
from distgrad.sparse import IndexedSlices, densified
from distgrad.tensor import Tensor


class RunningMean:
    """Adds up gradients as they come, each times its weight."""

    def __init__(self, comm: Communicator, leaves: list[Any], manner: Manner) -> None:
        self.comm = self._comm = comm
        self._leaves = leaves
        self._average = manner.average
        self._manner = manner
        self._weight = 0.0
        self._sums: list[Any] = [None] * len(leaves)

    def add(self, gradients: Sequence[Any], examples: float | None) -> None:
        """Add one gradient for each source, or None."""
        weight = examples_here("GradientAccumulator.add", examples, self._comm)
        if weight == 0:
            return  # of no examples the mean is NaN
        self._weight += weight
        factor = 1.0 if self._average == "sum" else weight
        for position, gradient in enumerate(gradients):
            if gradient is not None:
                self._add(position, gradient, factor)

    def _add(self, position: int, gradient: Any, factor: float) -> None:
        so_far = self._sums[position]
        if isinstance(gradient, IndexedSlices) and (
            so_far is None or isinstance(so_far, IndexedSlices)
        ):
            values = gradient.values.array
            wire = wire_dtype(numpy_dtypes([values])[0], "sum")
            term = (gradient if values.dtype == wire else gradient.astype(wire)) * factor
            self._sums[position] = term if so_far is None else so_far + term
            return
        dense = densified(gradient)
        if is_on_device(dense.array):
            # NumPy's function is the device's own on its arrays; nothing waits for it.
            wire = wire_dtype(np.dtype(dense.array.dtype), "sum")
            term = np.multiply(dense.array, factor, dtype=wire)
            if so_far is not None:
                term += densified(so_far).array
            self._sums[position] = Tensor(term, dense.kernels)
            return
        host = np.asarray(on_host(dense))
        # Half precision would overflow, and NumPy makes scalars of arrays of no dimensions.
        term = np.asarray(np.multiply(host, factor, dtype=wire_dtype(host.dtype, "sum")))
        if so_far is not None:
            term += on_host(so_far)
        self._sums[position] = term

    def own(self) -> list[list[Any]]:
        """Return what this rank has added up for each source; see `Finiteness.judge`."""
        return each_alone(self._sums)

    def finish(self, treedef: tree.TreeDef) -> list[Any]:
        """Return the average over ranks, by one communication."""
        as_sum = self._average == "sum"
        divisor = 1.0 if as_sum else self._weight
        means = [None if each is None else _divided(each, divisor) for each in self._sums]
        if self._comm.size == 1:
            if self._weight == 0:
                raise BatchError(
                    "gradients: nothing with an example was added; call add for each piece first"
                )
            return [_as_gradient(*each) for each in zip(self._leaves, means, strict=True)]
        entries = describe_sources(treedef, self._leaves)
        adder = self._manner.adder(self._comm, entries)
        plan = Plan(f"accumulated gradients ({self._manner.words})", adder.entries(entries))
        weight = self._weight if self._average == "examples" else float(self._weight > 0)
        return average_gradients(
            self._comm,
            plan,
            self._leaves,
            means,
            weight,
            as_sum=as_sum,
            bucket_bytes=BUCKET_BYTES,
            adder=adder,
            takes=True,
        )


def _divided(total: Any, divisor: float) -> Any:
    if isinstance(total, np.ndarray):
        return np.asarray(total / divisor, total.dtype)
    if isinstance(total, IndexedSlices):
        return total / divisor
    return Tensor(total.array / total.array.dtype.type(divisor), total.kernels)


def _as_gradient(source: Any, mean: Any) -> Any:
    """Return a host array, or a device's sum, as a tensor of its source's dtype and backend."""
    if mean is None:
        return mean
    dtype = layout_of([source])[0][0]
    if isinstance(mean, IndexedSlices):
        return mean if mean.dtype == dtype else mean.astype(dtype)
    array = mean if isinstance(mean, np.ndarray) else mean.array
    return Tensor(source.kernels.backend.asarray(array, dtype=dtype), source.kernels)

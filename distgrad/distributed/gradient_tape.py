"""DistributedGradientTape: a tape whose gradients are those of the batch of all ranks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import lru_cache
from types import TracebackType
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.core.seam import LISTENERS
from distgrad.distributed.buckets import plan_buckets
from distgrad.distributed.communicator import Communicator, wire_dtype
from distgrad.distributed.fingerprint import Entry, Plan, agree
from distgrad.distributed.launch import world
from distgrad.distributed.sharding import examples_here
from distgrad.distributed.slices import exchange_counts, gather_rows, host_rows, is_worth_it
from distgrad.dtypes import DType, as_dtype
from distgrad.errors import BatchError, ShapeError, TapeError, UnsupportedOptionError
from distgrad.sparse import IndexedSlices, densified, made
from distgrad.tape.arguments import UnconnectedGradients, unconnected, unconnected_policy
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tensor import Tensor
from distgrad.variable import Variable

_UNNAMED = "Variable"  # the name of variables that were given none
_NOWHERE = "no rank's target depends on it; was it watched, and of a floating dtype?"
_AVERAGES = ("examples", "ranks", "sum")


class DistributedGradientTape:
    """A `GradientTape` whose `gradient` averages over all ranks.

    Each rank records its own part of the batch. The gradients go into one flat buffer for each
    dtype, in the order of the sources, and are added up by one allreduce.

    Parameters
    ----------
    tape : GradientTape
        Records this rank's computation; may have done so already.
    comm : Communicator, optional
        The ranks to average over; `world()` by default.
    bucket_bytes : None
        Several buckets a dtype; not supported yet.
    compression : None
        Fewer bytes a number; not supported yet.
    deterministic : None or False
        The same bits for any number of ranks; not supported yet.
    average : {"examples", "ranks", "sum"}
        What the gradients are multiplied by. ``"examples"``: the mean over all examples,
        Σ nᵢgᵢ / Σ nᵢ with nᵢ the examples of rank i, right for losses that are means over a
        rank's examples. ``"ranks"``: the mean over the ranks that have examples. ``"sum"``: the
        sum, for losses that are sums.

    Raises
    ------
    UnsupportedOptionError
        If an argument asks for what is not supported yet.

    Examples
    --------
    >>> import distgrad as dg
    >>> import distgrad.distributed as dist
    >>> x = dg.Variable(3.0)
    >>> with dist.DistributedGradientTape(dg.GradientTape(), dist.SerialCommunicator()) as tape:
    ...     y = x**2
    >>> print(tape.gradient(y, x))
    dg.Tensor(6.0, shape=(), dtype=float32)
    """

    def __init__(
        self,
        tape: GradientTape,
        comm: Communicator | None = None,
        *,
        bucket_bytes: int | None = None,
        compression: str | None = None,
        deterministic: bool | None = None,
        average: str = "examples",
    ) -> None:
        for argument, given in (
            ("bucket_bytes", bucket_bytes),
            ("compression", compression),
            ("deterministic", deterministic or None),
        ):
            if given is not None:
                raise UnsupportedOptionError(
                    f"DistributedGradientTape: {argument}={given!r} is not supported yet; leave "
                    f"{argument} out"
                )
        if average not in _AVERAGES:
            raise ValueError(
                f"DistributedGradientTape: average is {average!r}; expected one of "
                f"{', '.join(map(repr, _AVERAGES))}"
            )
        self._tape = tape
        self._communicator = comm
        self._average = average

    # --- the tape's own methods -----------------------------------------------------------------

    def __enter__(self) -> DistributedGradientTape:
        self._tape.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tape.__exit__(kind, error, trace)

    def watch(self, tensor: Any) -> None:
        """Follow values; see `GradientTape.watch`."""
        self._tape.watch(tensor)

    def stop_recording(self) -> AbstractContextManager[None]:
        """Hear nothing within a ``with`` block; see `GradientTape.stop_recording`."""
        return self._tape.stop_recording()

    def reset(self) -> None:
        """Forget everything so far; see `GradientTape.reset`."""
        self._tape.reset()

    def watched_variables(self) -> tuple[Variable, ...]:
        """Return the watched variables; see `GradientTape.watched_variables`."""
        return self._tape.watched_variables()

    # --- gradients ------------------------------------------------------------------------------

    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE,
        *,
        examples: float | None = None,
    ) -> Any:
        """Return the gradient of the targets of all ranks with respect to sources.

        All ranks call it with the same sources, in the same order.

        Parameters
        ----------
        target, output_gradients :
            As for `GradientTape.gradient`: this rank's own.
        sources : Tensor, Variable or nest of them
            The replicated values to differentiate with respect to.
        unconnected_gradients : {"none", "zero", "error"} or UnconnectedGradients
            What to return for a source that no rank's target depends on. Where only some ranks'
            targets do, the others contribute zeros.
        examples : float, optional
            How many examples this rank's target stands for, or their total weight; by default those
            of the last `shard` on this communicator, or one where there was none. A rank with zero
            examples contributes exact zeros, even if its own gradient is NaN.

        Returns
        -------
        nest of Tensor, IndexedSlices or None
            In the structure of `sources`, each of its source's shape, dtype and backend; the same
            bits on every rank. Sparse are those that are sparse on every rank that has one, if that
            takes fewer bytes to exchange; then each position stands there once, in ascending order.

        Raises
        ------
        DesyncError
            On every rank, if the sources differ between ranks.
        BatchError
            If no rank has an example.
        ShapeError
            If a target is no scalar, with ``average="examples"``: elements would be summed, and the
            sum weighted as if it were a mean.
        TapeError
            If another tape records what this one returns: averages have no gradient yet.
        RemoteRankError, StallError
            If another rank failed or left, or has not come before the deadline.
        """
        comm = world() if self._communicator is None else self._communicator
        if self._average == "examples" and output_gradients is None:
            _refuse_sums(target)
        if comm.size == 1:
            return self._tape.gradient(target, sources, output_gradients, unconnected_gradients)
        policy = unconnected_policy(unconnected_gradients)
        weight = examples_here("gradient", examples, comm)
        if self._average != "examples":
            weight = float(weight > 0)
        leaves, treedef = tree.flatten(sources)
        # Asked for in a flat list: None among them would vanish in a nest.
        gradients = self._tape.gradient(
            target, None if sources is None else leaves, output_gradients
        )
        _refuse_listeners(self._tape, gradients)

        plan = Plan(f"gradient (average={self._average!r})", describe_sources(treedef, leaves))
        # Who has a gradient at all, and who has a dense one.
        present = [gradient is not None for gradient in gradients]
        dense = [each and not _is_sparse(g) for each, g in zip(present, gradients, strict=True)]
        union = agree(comm, plan, present + dense)
        connected, dense = union[: len(leaves)], union[len(leaves) :]
        as_sum = self._average == "sum"
        reduced = _reduce_sparse(comm, leaves, gradients, connected, dense, weight, as_sum)
        found = [each and slices is None for each, slices in zip(connected, reduced, strict=True)]
        for position, gradient in enumerate(
            _reduce(comm, leaves, gradients, found, weight, as_sum)
        ):
            reduced[position] = reduced[position] if gradient is None else gradient
        results = [
            unconnected(policy, position, source, _NOWHERE) if found is None else found
            for position, (source, found) in enumerate(zip(leaves, reduced, strict=True))
        ]
        return tree.unflatten(treedef, results)


def _refuse_sums(target: Any) -> None:
    """Raise if a target has elements, which a tape sums: on one rank as on many."""
    for leaf in tree.flatten(target)[0]:
        shape = tuple(getattr(leaf, "shape", ()))
        if shape:
            raise ShapeError(
                f"gradient: the target has shape {shape}; expected the mean loss of this rank's "
                "examples, a scalar: take dg.mean(losses), or average='sum' for sums"
            )


def _is_sparse(gradient: Any) -> bool:
    return isinstance(gradient, IndexedSlices)


def _reduce_sparse(
    comm: Communicator,
    sources: list[Any],
    gradients: list[Any],
    connected: list[bool],
    dense: list[bool],
    weight: float,
    as_sum: bool,
) -> list[Any]:
    """Return the gradients that are worth being exchanged as rows; None for all others."""
    results: list[Any] = [None] * len(sources)
    sparse = [p for p, found in enumerate(connected) if found and not dense[p]]
    if not sparse:
        return results
    dtypes = _numpy_dtypes([source.array for source in sources])
    wires = {p: wire_dtype(dtypes[p], "sum") for p in sparse}
    shapes = {p: tuple(sources[p].array.shape) for p in sparse}
    rows = {p: host_rows(gradients[p], shapes[p], wires[p]) for p in sparse}
    table, weights = exchange_counts(comm, [rows[p] for p in sparse], weight)
    counts = dict(zip(sparse, table.T, strict=True))
    for wire in dict.fromkeys(wires.values()):
        chosen = [
            p
            for p in sparse
            if wires[p] == wire and is_worth_it(counts[p], shapes[p], wire.itemsize)
        ]
        if not chosen:
            continue
        summed = gather_rows(
            comm,
            [rows[p] for p in chosen],
            np.stack([counts[p] for p in chosen], axis=1),
            weights,
            [shapes[p] for p in chosen],
            as_sum,
        )
        for position, (values, indices) in zip(chosen, summed, strict=True):
            kernels = sources[position].kernels
            results[position] = made(
                Tensor(kernels.backend.asarray(values, dtype=dtypes[position]), kernels),
                Tensor(kernels.backend.asarray(indices), kernels),
                shapes[position],
            )
    return results


def _reduce(
    comm: Communicator,
    sources: list[Any],
    gradients: list[Any],
    connected: list[bool],
    weight: float,
    as_sum: bool,
) -> list[Tensor | None]:
    """Return the connected gradients added up over all ranks and divided by all weights."""
    results: list[Tensor | None] = [None] * len(sources)
    arrays = [source.array for source in sources]
    dtypes = _numpy_dtypes(arrays)
    shapes = tuple(tuple(array.shape) for array in arrays)
    positions = tuple(position for position, found in enumerate(connected) if found)
    for bucket in plan_buckets(dtypes, shapes, positions):
        message = bucket.pack([_on_host(gradients[p]) for p in bucket.positions], weight)
        message = comm.allreduce(message, "sum", out=message)
        total = message[0].real
        if total == 0:
            raise BatchError(
                f"gradient: no rank of {comm.size} has an example; expected at least one in the "
                "global batch"
            )
        if not as_sum:
            message /= total
        for position, array in zip(bucket.positions, bucket.unpack(message), strict=True):
            kernels = sources[position].kernels
            results[position] = Tensor(
                kernels.backend.asarray(array, dtype=dtypes[position]), kernels
            )
    return results


def _on_host(gradient: Any) -> np.ndarray[Any, Any] | None:
    if gradient is None:
        return None
    tensor = densified(gradient)
    host: np.ndarray[Any, Any] = tensor.backend.to_host(tensor.array)
    return host


def _refuse_listeners(tape: GradientTape, gradients: list[Any]) -> None:
    """Raise if another tape listens: it would not hear the average, and silently give None."""
    others = [each for each in LISTENERS.get() if each is not tape]
    if any(each.follows(g.key) for each in others for g in gradients if g is not None):
        raise TapeError(
            "gradient: another tape records, but the average over ranks cannot be differentiated "
            "yet; take higher derivatives on each rank with the plain GradientTape first"
        )


def describe_sources(treedef: tree.TreeDef, leaves: list[Any]) -> tuple[Entry, ...]:
    """Return an entry for each source: its name, or else its place in the nest."""
    names = tuple(getattr(leaf, "name", _UNNAMED) for leaf in leaves)
    arrays = [leaf.array for leaf in leaves]
    dtypes = _numpy_dtypes(arrays)
    return _entries(treedef, names, dtypes, tuple(tuple(array.shape) for array in arrays))


@lru_cache(maxsize=64)  # a training loop asks for the same at every step
def _entries(
    treedef: tree.TreeDef,
    names: tuple[str, ...],
    dtypes: tuple[DType, ...],
    shapes: tuple[tuple[int, ...], ...],
) -> tuple[Entry, ...]:
    paths = tree.paths(tree.unflatten(treedef, list(range(len(names)))))
    labels = [
        (path or f"source {position}") if name == _UNNAMED else name
        for position, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    return tuple(
        Entry(label, dtype.name, shape)
        for label, dtype, shape in zip(labels, dtypes, shapes, strict=True)
    )


def _numpy_dtypes(arrays: list[Any]) -> tuple[DType, ...]:
    """Return the dtypes of any backend's arrays as NumPy's."""
    return tuple(
        array.dtype if isinstance(array.dtype, np.dtype) else as_dtype(array.dtype)
        for array in arrays
    )

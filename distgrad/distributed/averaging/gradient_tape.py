"""DistributedGradientTape: a tape whose gradients are those of the batch of all ranks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any

from distgrad import tree
from distgrad.core.destinations import offering
from distgrad.core.under_way import settle
from distgrad.distributed.averaging.adding import Adder, all_dense, manner
from distgrad.distributed.averaging.buckets import BUCKET_BYTES, checked_bucket_bytes
from distgrad.distributed.averaging.exchange import (
    Rest,
    average_gradients,
    connect,
    describe_sources,
    presence_of,
    refuse_listeners,
)
from distgrad.distributed.averaging.finiteness import Finiteness, each_alone
from distgrad.distributed.averaging.layouts import layout_known, offers, remember_layout
from distgrad.distributed.averaging.on_device import line_to_average
from distgrad.distributed.averaging.ordered_gradients import (
    OrderedGradients,
    number_of_shards,
    walk_each_shard,
)
from distgrad.distributed.averaging.overlap import WalkedAverage
from distgrad.distributed.averaging.report import CommReport, last_report
from distgrad.distributed.averaging.tuning import AUTO, observed, search_of
from distgrad.distributed.averaging.walking import check_overlap, walked_average
from distgrad.distributed.averaging.weights import refuse_none
from distgrad.distributed.batches.sharding import examples_here
from distgrad.distributed.compression.protocol import Compression
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.safety.fingerprint import Plan
from distgrad.distributed.safety.undivided import Undivided
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.errors import ShapeError
from distgrad.tape.arguments import UnconnectedGradients, unconnected_policy
from distgrad.tape.gradient_tape import GradientTape
from distgrad.variable import Variable


class DistributedGradientTape:
    """A `GradientTape` whose `gradient` averages over all ranks.

    Each rank records its own part of the batch. The gradients go into flat buffers, in the order of
    the sources, and each is added up by one allreduce; a large one that nobody else holds where it
    lies. What a program holds of this rank's own gradient is never written into.

    Parameters
    ----------
    tape : GradientTape
        Records this rank's computation; may have done so already.
    comm : Communicator, optional
        The ranks to average over; `world()` by default.
    bucket_bytes : int or "auto"
        How long a message may get: gradients travel in several, those of the last sources first,
        since the walk back comes to them first. Sources are best given in the order of their use.
        With ``"auto"`` the first 20 steps or fewer try some lengths, and all ranks go on with the
        quickest, which is kept in the user's cache for the next job of these sources; with
        `deterministic` and on one rank it is the default.
    overlap : bool, optional
        Whether messages travel while the walk goes on, carried by a thread; by default, from the
        second step on, if every rank has two cores or more to itself, and there are two messages
        or more.
    compression : Compression or {"fp16", "bf16", "int8", "topk", "powersgd"}, optional
        How gradients travel in fewer bytes, see `distgrad.distributed.compression`. What has a
        memory keeps it in the instance; for a name, one is kept for these ranks and sources. Each
        rank sends its share of the average, gradient times nᵢ / Σ nᵢ, so that weights stay exact.
        Gradients that are exchanged row by row are not compressed. On one rank nothing is.
    reduction : {"native", "hierarchical"}
        Whether MPI adds up in its own way, or the ranks of each machine do so first; the results
        differ by rounding alone. ``DISTGRAD_NODE_SIZES=2,1`` pretends that ranks 0 and 1 share a
        machine and rank 2 has another.
    deterministic : bool or int, optional
        Whether the gradients have the same bits for any number of ranks, under any MPI: then the
        target of `gradient` is a list with one loss for each of this rank's logical shards, see
        `logical_shards`; a number says how many there are over all ranks.
    average : {"examples", "ranks", "sum", "adasum"}
        What the gradients are multiplied by. ``"examples"``: the mean over all examples,
        Σ nᵢgᵢ / Σ nᵢ with nᵢ the examples of rank i, right for losses that are means over a
        rank's examples. ``"ranks"``: the mean over the ranks that have examples. ``"sum"``: the
        sum, for losses that are sums. ``"adasum"``: the adaptive sum of [1]_ over the ranks that
        have examples, which for each variable adds up what is orthogonal and averages what is
        parallel; sparse gradients are made dense.
    nonfinite : {"keep", "raise", "skip"}
        What to do if an average has a NaN or an infinity, on all ranks alike: return it; raise an
        error that names the ranks and variables it comes from; or return None for every source and
        set `skipped`. All but ``"keep"`` cost a pass over the averages.

    Raises
    ------
    UnsupportedOptionError
        If more than one of compression, reduction, Adasum and deterministic is asked for.
    ValueError, TypeError
        If there is no such average, reduction, compression or overlap, or `tape` is no tape.

    References
    ----------
    .. [1] Maleki et al., "Scaling distributed training with adaptive summation", MLSys 2021,
       arXiv:2006.02924.

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
        bucket_bytes: int | str = BUCKET_BYTES,
        overlap: bool | None = None,
        compression: Compression | str | None = None,
        deterministic: bool | int | None = None,
        average: str = "examples",
        nonfinite: str = "keep",
        reduction: str = "native",
    ) -> None:
        if not hasattr(tape, "gradient") or isinstance(tape, (type, DistributedGradientTape)):
            raise TypeError(
                f"DistributedGradientTape: tape is of type {type(tape).__name__}; expected a tape "
                "that averages nothing, as dg.GradientTape() makes one"
            )
        self._is_tuned = bucket_bytes == AUTO
        if self._is_tuned:
            bucket_bytes = BUCKET_BYTES
        self._bucket_bytes = checked_bucket_bytes(
            "DistributedGradientTape", bucket_bytes, f", or {AUTO!r}"
        )
        check_overlap("DistributedGradientTape", overlap)
        self._overlap = overlap
        self._count = number_of_shards("DistributedGradientTape", deterministic)
        self._manner = manner(
            "DistributedGradientTape",
            average,
            reduction=reduction,
            compression=compression,
            is_deterministic=self._count is not None,
        )
        self._tape = tape
        self._communicator = comm
        self._average = average
        self._finiteness = Finiteness("DistributedGradientTape", nonfinite)

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

    @property
    def report(self) -> CommReport:
        """What the last averaging of gradients on these ranks cost; see `last_report`."""
        return last_report(self._communicator)

    @property
    def skipped(self) -> bool:
        """Whether the last `gradient` returned None alone, because of ``nonfinite="skip"``."""
        return self._finiteness.skipped

    # --- gradients ------------------------------------------------------------------------------

    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE,
        *,
        examples: float | Sequence[float] | None = None,
    ) -> Any:
        """Return the gradient of the targets of all ranks with respect to sources.

        All ranks call it with the same sources, in the same order.

        Parameters
        ----------
        target, output_gradients :
            As for `GradientTape.gradient`: this rank's own. With `deterministic`, lists with one
            for each logical shard that `logical_shards` yielded on this rank.
        sources : Tensor, Variable or nest of them
            The replicated values to differentiate with respect to.
        unconnected_gradients : {"none", "zero", "error"} or UnconnectedGradients
            What to return for a source that no rank's target depends on. Where only some ranks'
            targets do, the others contribute zeros.
        examples : float, optional
            How many examples this rank's target stands for, or their total weight; by default those
            of the last `shard` on this communicator, or one where there was none. A rank with zero
            examples contributes exact zeros, even if its own gradient is NaN. With `deterministic`,
            a list with one number for each target.

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
            If no rank has an example, or `examples` is no number of them.
        ShapeError
            If a target is no scalar, with ``average="examples"``: elements would be summed, and the
            sum weighted as if it were a mean.
        TapeError
            If another tape records what this one returns: averages have no gradient yet.
        NonFiniteGradientError
            On every rank, with ``nonfinite="raise"``, if an average is not finite.
        RemoteRankError, StallError
            If another rank failed or left, or has not come before the deadline.
        """
        comm = ranks_of(self._communicator)
        policy = unconnected_policy(unconnected_gradients)
        if self._average == "examples" and output_gradients is None:
            _refuse_sums(target)
        if self._count is not None:
            leaves, treedef = tree.flatten(sources)
            sums = OrderedGradients(comm, leaves, self._average, self._count, self._bucket_bytes)
            walk_each_shard(self._tape, sums, target, output_gradients, examples)
            found = connect(policy, leaves, sums.finish(treedef))
            found = self._finiteness.judge(comm, treedef, leaves, found, sums.own)
            return tree.unflatten(treedef, found)
        if comm.size == 1:
            refuse_none([examples_here("gradient", examples, comm)])
            alone = self._tape.gradient(target, sources, output_gradients, unconnected_gradients)
            if not self._finiteness.looks:
                return alone
            leaves, treedef = tree.flatten(sources)
            found = tree.flatten_like(treedef, alone)
            own = partial(each_alone, found)
            return tree.unflatten(
                treedef, self._finiteness.judge(comm, treedef, leaves, found, own)
            )
        if self._is_tuned:
            return self._tuned(comm, sources, target, output_gradients, policy, examples)
        weight = examples_here("gradient", examples, comm)
        if self._average != "examples":
            weight = float(weight > 0)
        leaves, treedef = tree.flatten(sources)
        operation = f"gradient ({self._manner.words}"
        if self._bucket_bytes != BUCKET_BYTES or self._overlap is not None:
            operation += f", bucket_bytes={self._bucket_bytes}, overlap={self._overlap}"
        entries = describe_sources(treedef, leaves)
        adder = self._manner.adder(comm, entries)
        plan = Plan(f"{operation})", adder.entries(entries))
        line = line_to_average(comm, leaves, adder)
        layout = layout_known(comm, plan)
        average = walked_average(comm, plan, leaves, line, layout, weight, adder, self._overlap)
        if average is not None:
            found, gradients = self._overlapped(
                average, comm, plan, leaves, target, output_gradients, adder
            )
            found = connect(policy, leaves, found)
            own = partial(each_alone, gradients)
            found = self._finiteness.judge(comm, treedef, leaves, found, own)
            return tree.unflatten(treedef, found)
        # Asked for in a flat list: None among them would vanish in a nest.
        with offering(offers(comm, layout, adder)):
            gradients = self._tape.gradient(
                target, None if sources is None else leaves, output_gradients
            )
        refuse_listeners(self._tape, gradients)
        # Whose gradient is not finite, `judge` looks for in what each rank had.
        takes = not self._finiteness.blames
        found = average_gradients(
            comm,
            plan,
            leaves,
            gradients,
            weight,
            as_sum=self._average == "sum",
            bucket_bytes=self._bucket_bytes,
            adder=adder,
            takes=takes,
        )
        found = connect(policy, leaves, found)
        own = partial(each_alone, gradients if weight else [None] * len(leaves))
        found = self._finiteness.judge(comm, treedef, leaves, found, own)
        return tree.unflatten(treedef, found)

    def _tuned(
        self,
        comm: Communicator,
        sources: Any,
        target: Any,
        output_gradients: Any,
        policy: UnconnectedGradients,
        examples: Any,
    ) -> Any:
        """Return the gradient by buckets of the length that a search tries, or has settled on."""
        leaves, treedef = tree.flatten(sources)
        nbytes = sum(leaf.array.nbytes for leaf in leaves)
        entries = describe_sources(treedef, leaves)
        search = search_of(comm, entries, nbytes, self._manner.words, self._overlap)
        self._bucket_bytes = search.choice.bucket_bytes
        begun = time.perf_counter()
        self._is_tuned = False
        try:
            found = self.gradient(target, sources, output_gradients, policy, examples=examples)
        finally:
            self._is_tuned = True
        if search.settled is None:
            settle()  # else only what the host did would count
        observed(search, begun, comm)
        return found

    def _overlapped(
        self,
        average: WalkedAverage,
        comm: Communicator,
        plan: Plan,
        leaves: list[Any],
        target: Any,
        output_gradients: Any,
        adder: Adder,
    ) -> tuple[list[Any], list[Any]]:
        """Return the averages, whose buckets leave during the walk, and this rank's gradients."""
        try:
            gradients = self._tape.gradient(
                target, leaves, output_gradients, on_ready=average.ready
            )
            refuse_listeners(self._tape, gradients)
            gradients = gradients if adder.takes_sparse else all_dense(gradients)
        except BaseException:
            average.interrupt()
            raise
        with Undivided(comm, plan.operation):
            done, union = average.finish(leaves, presence_of(gradients))
            rest = Rest(
                *(comm, leaves, list(gradients), union, average.weight, average.factor),
                as_sum=self._average == "sum",
                adder=adder,
                done=done,
            )
            found = rest.average(average.tally, self._bucket_bytes)
        remember_layout(comm, plan, leaves, union, self._bucket_bytes, adder)
        average.tally.close(comm)
        return found, (gradients if average.weight else [None] * len(leaves))


def _refuse_sums(target: Any) -> None:
    """Raise if a target has elements, which a tape sums: on one rank as on many."""
    for leaf in tree.flatten(target)[0]:
        shape = tuple(getattr(leaf, "shape", ()))
        if shape:
            raise ShapeError(
                f"gradient: the target has shape {shape}; expected the mean loss of this rank's "
                "examples, a scalar: take dg.mean(losses), or average='sum' for sums"
            )

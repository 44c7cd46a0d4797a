"""Add up the gradients of logical shards in an order that no number of ranks changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.distributed.averaging.buckets import BUCKET_BYTES, plan_buckets
from distgrad.distributed.averaging.exchange import describe_sources, refuse_listeners, take_out
from distgrad.distributed.averaging.layouts import layout_of
from distgrad.distributed.averaging.ordered_rows import Rows, check_weight, rows_of
from distgrad.distributed.averaging.report import Tally
from distgrad.distributed.batches.logical import LOGICAL_SHARDS, Cut, check_number, last_cut
from distgrad.distributed.batches.sharding import checked_examples
from distgrad.distributed.safety.fingerprint import Plan, agree
from distgrad.distributed.safety.undivided import Undivided
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.distributed.verbs.device_buffers import line_of_sources
from distgrad.distributed.verbs.device_line import Line
from distgrad.dtypes import is_differentiable
from distgrad.errors import BatchError, TapeError
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tensor import Tensor


def number_of_shards(function: str, deterministic: bool | int | None) -> int | None:
    """Return how many logical shards ``deterministic=`` asks for; None for none.

    Raises
    ------
    ValueError
        If it is no integer, or less than 1.
    """
    if deterministic is None or deterministic is False:
        return None
    count = LOGICAL_SHARDS if deterministic is True else deterministic
    if not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(
            f"{function}: deterministic is {deterministic!r}; expected True or a number of logical "
            "shards, 1 or more"
        )
    return int(count)


class OrderedGradients:
    """Adds up the gradients of logical shards along a fixed tree.

    Parameters
    ----------
    comm : Communicator
        The ranks; one is enough.
    leaves : list of Tensor or Variable
        The sources.
    average : {"examples", "ranks", "sum"}
        What to divide by.
    count : int
        How many logical shards there are over all ranks.
    bucket_bytes : int
        How long a message may get; it changes no bit.
    """

    def __init__(
        self,
        comm: Communicator,
        leaves: list[Any],
        average: str,
        count: int,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.comm = self._comm = comm
        self.leaves = leaves
        self._average = average
        self.cut: Cut = last_cut("gradient", comm, count)
        self._has_gradient = [False] * len(leaves)
        self._added = self._place = 0
        # All that can have a gradient: whether they do, other ranks would have to say first.
        positions = tuple(p for p, leaf in enumerate(leaves) if is_differentiable(leaf.dtype))
        self._rows: list[Rows] = [
            rows_of(comm, bucket, leaves, count)
            for bucket in plan_buckets(*layout_of(leaves), positions, bucket_bytes)
        ]

    def add(self, gradients: Sequence[Any], examples: float | None = None) -> None:
        """Add one gradient for each source, or None: those of the next logical shard."""
        self._added += 1
        self._skip_empty()
        if self._place == len(self.cut.sizes):
            check_number("gradient", "gradients", self._added, self.cut)
        weight = float(self.cut.sizes[self._place])
        if examples is not None:
            weight = checked_examples("gradient", examples, self._comm)
        self._put(gradients, weight)

    def _skip_empty(self) -> None:
        sizes = self.cut.sizes
        while self._place < len(sizes) and not sizes[self._place]:
            self._put([None] * len(self.leaves), 0.0)

    def _put(self, gradients: Sequence[Any], weight: float) -> None:
        if self._average != "examples":
            weight = float(weight > 0)
        for position, gradient in enumerate(gradients):
            if gradient is not None:
                self._has_gradient[position] = True
        for rows in self._rows:
            rows.add(gradients, weight)
        self._place += 1

    def own(self) -> list[list[Any]]:
        """Return what this rank has added up for each source; see `Finiteness.judge`."""
        found: list[list[Any]] = [[] for _ in self.leaves]
        for rows in self._rows:
            for position, arrays in zip(rows.bucket.positions, rows.own(), strict=False):
                found[position] = arrays
        return found

    def finish(self, treedef: tree.TreeDef) -> list[Tensor | None]:
        """Return the average over all logical shards, the same bits on every rank."""
        check_number("gradient", "gradients", self._added, self.cut)
        self._skip_empty()
        comm, count = self._comm, self.cut.count
        operation = f"gradient (average={self._average!r}, deterministic={count})"
        entries = describe_sources(treedef, self.leaves)
        with Undivided(comm, operation):
            return self._finished(Plan(operation, entries))

    def _finished(self, plan: Plan) -> list[Tensor | None]:
        comm = self._comm
        tally = Tally("ordered")
        with tally.exposed_time():
            slots = tally.computed(comm)
            connected = tally.agree(
                lambda: agree(comm, plan, self._has_gradient, slots=slots), slots
            )
            line = line_of_sources(comm, self.leaves)
            if line is not None and not line.can_exchange():
                line = None
        results: list[Tensor | None] = [None] * len(self.leaves)
        checked = set()
        for rows, message in self._totals(line, tally):
            if rows.bucket.dtype not in checked:  # in all of one dtype the weight is the same
                check_weight(rows, message, comm.size)
                checked.add(rows.bucket.dtype)
            if self._average != "sum":
                rows.divide(message)
            take_out(rows.bucket, message, self.leaves, results)
        if comm.size > 1:
            tally.close(comm)
        return [each if found else None for each, found in zip(results, connected, strict=True)]

    def _totals(self, line: Line | None, tally: Tally) -> Iterator[tuple[Rows, Any]]:
        """Yield rows and their sums over all ranks; while one is made, the next rows leave."""
        for rows in self._rows[:1]:
            rows.leave(line)
        for rows, following in zip_longest(self._rows, self._rows[1:]):
            if following is not None:
                following.leave(line)
            with tally.exposed_time():
                message = tally.carry(rows.bucket.length * rows.bucket.dtype.itemsize, rows.total)
            yield rows, message


def walk_each_shard(
    tape: GradientTape, sums: OrderedGradients, target: Any, output_gradients: Any, examples: Any
) -> None:
    """Add the gradients of this rank's logical shards, by one walk back for each.

    Parameters
    ----------
    tape : GradientTape
        Which recorded them; persistent where there are several.
    sums : OrderedGradients
        What they are added to.
    target, output_gradients, examples :
        As for `DistributedGradientTape.gradient`.

    Raises
    ------
    BatchError
        If there is not one target, cotangent or number of examples for each shard.
    TapeError
        If the tape is not persistent and there are several, or another one records the gradients.
    """
    targets = list(target) if isinstance(target, (list, tuple)) else [target]
    check_number("gradient", "targets", len(targets), sums.cut)
    seeds = _one_each("output_gradients", output_gradients, len(targets))
    weights = _one_each("examples", examples, len(targets))
    if len(targets) > 1 and not tape._persistent:
        raise TapeError(
            f"gradient: deterministic takes the gradient of each of {len(targets)} logical "
            "shards by itself: dist.DistributedGradientTape(dg.GradientTape(persistent=True)), "
            "or one tape for each shard and dist.GradientAccumulator"
        )
    for each, seed, weight in zip(targets, seeds, weights, strict=True):
        gradients = tape.gradient(each, sums.leaves, seed)
        refuse_listeners(tape, gradients)
        sums.add(gradients, weight)


def _one_each(argument: str, given: Any, number: int) -> Sequence[Any]:
    """Return one value for each logical shard, or raise a `BatchError`."""
    if given is None:
        return [None] * number
    if not isinstance(given, (list, tuple)) or len(given) != number:
        raise BatchError(
            f"gradient: {argument} is {given!r}; with deterministic, expected a list with one for "
            f"each of the {number} targets"
        )
    return given

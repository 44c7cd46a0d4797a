"""Steps that are taken where variables are read next, bucket by bucket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from distgrad import tree
from distgrad.distributed.averaging.adding import Adder, Manner, Native, all_dense
from distgrad.distributed.averaging.buckets import BUCKET_BYTES, Bucket, plan_buckets
from distgrad.distributed.averaging.buffers import buffers_of
from distgrad.distributed.averaging.exchange import (
    Rest,
    describe_sources,
    on_host,
    presence_of,
    refuse_listeners,
)
from distgrad.distributed.averaging.lanes import Job, Lane, finish_at_exit, lane_of
from distgrad.distributed.averaging.layouts import (
    Layout,
    layout_known,
    layout_of,
    remember_layout,
)
from distgrad.distributed.averaging.overlap import OverlappedAverage
from distgrad.distributed.averaging.report import Tally
from distgrad.distributed.averaging.weights import weights_in
from distgrad.distributed.batches.sharding import examples_here
from distgrad.distributed.safety.fingerprint import Plan, agree
from distgrad.distributed.safety.undivided import Undivided
from distgrad.distributed.stepping.carrying import Carriage
from distgrad.distributed.stepping.deferred_step import DeferredStep
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.errors import CommunicationError
from distgrad.optimizers.stateful import Optimizer
from distgrad.tape.gradient_tape import GradientTape


class WalkingAverage(OverlappedAverage):
    """Buckets that leave during the walk back, and go on leaving after it."""

    def __init__(
        self,
        lane: Lane,
        comm: Communicator,
        plan: Plan,
        layout: Layout,
        weight: float,
        adder: Adder,
    ) -> None:
        self.carriage = Carriage(lane, len(layout.buckets))
        super().__init__(lane, comm, plan, layout, weight, adder)
        self.tally.algorithm = f"deferred {adder.algorithm}"

    def _submit(self, work: Callable[[], Any]) -> Job:
        return self.carriage.give(work)

    def agree(self, gradients: Sequence[Any]) -> list[bool]:
        """Return what any rank has, once all ranks have walked back."""
        self.carriage.through()
        comm, tally = self._comm, self.tally
        with tally.exposed_time():
            slots = tally.computed(comm)
            compare = partial(agree, comm, self._plan, presence_of(gradients), slots=slots)
            return tally.agree(compare, slots)


class Deferral:
    """The deferred steps of one optimizer, one after the other.

    Parameters
    ----------
    optimizer : Optimizer
        Who takes them.
    manner : Manner
        How gradients are averaged.
    bucket_bytes : int
        How long a message may get.
    """

    def __init__(self, optimizer: Optimizer, manner: Manner, bucket_bytes: int) -> None:
        self._optimizer = optimizer
        self._manner = manner
        self._bucket_bytes = bucket_bytes
        self._step: DeferredStep | None = None

    def wait(self) -> None:
        """Complete the step that is under way, if there is one."""
        if self._step is not None:
            self._step.wait()

    def apply(
        self, comm: Communicator, gradients: Sequence[Any], variables: Any, examples: Any
    ) -> None:
        """Begin a step with gradients that are there."""
        self._finish(comm)
        leaves, treedef = tree.flatten(variables)
        plan, adder, weight = self._planned(comm, treedef, leaves, examples)
        self._send(comm, plan, adder, weight, leaves, gradients)

    def minimize(
        self, comm: Communicator, target: Any, variables: Any, tape: GradientTape, examples: Any
    ) -> None:
        """Walk a tape back, and begin a step: from the second on buckets leave in the meantime."""
        self._finish(comm)
        leaves, treedef = tree.flatten(variables)
        plan, adder, weight = self._planned(comm, treedef, leaves, examples)
        layout = layout_known(comm, plan)
        if layout is None or not layout.buckets:
            gradients = tape.gradient(target, leaves)
            refuse_listeners(tape, gradients)
            self._send(comm, plan, adder, weight, leaves, gradients)
            return
        average = WalkingAverage(_lane(comm), comm, plan, layout, weight, adder)
        try:
            gradients = tape.gradient(target, leaves, on_ready=average.ready)
            refuse_listeners(tape, gradients)
            gradients = gradients if adder.takes_sparse else all_dense(gradients)
        except BaseException:
            average.interrupt()
            raise
        union = average.agree(gradients)
        self._begin(
            *(comm, plan, adder, weight, average.factor, leaves, gradients, union),
            *(average.tally, layout.buckets, average.carriage.jobs),
        )

    def _finish(self, comm: Communicator) -> None:
        """Complete the step before, or say that it never will be."""
        self.wait()
        before, self._step = self._step, None
        # Survivors of a lost rank have gone back to what they committed, and are other ranks.
        if before is not None and before.failed is not None and before.comm is comm:
            raise CommunicationError(
                "DistributedOptimizer: the step before was given up, some variables have its "
                "values and some have not; load a checkpoint, or broadcast_variables, and go on"
            ) from before.failed

    def _planned(
        self, comm: Communicator, treedef: tree.TreeDef, leaves: list[Any], examples: Any
    ) -> tuple[Plan, Adder, float]:
        weight = examples_here("apply", examples, comm)
        if self._manner.average != "examples":
            weight = float(weight > 0)
        entries = describe_sources(treedef, leaves)
        adder = self._manner.adder(comm, entries)
        operation = f"gradient ({self._manner.words}, wait='next-read'"
        if self._bucket_bytes != BUCKET_BYTES:
            operation += f", bucket_bytes={self._bucket_bytes}"
        return Plan(f"{operation})", adder.entries(entries)), adder, weight

    def _send(
        self,
        comm: Communicator,
        plan: Plan,
        adder: Adder,
        weight: float,
        leaves: list[Any],
        gradients: Sequence[Any],
    ) -> None:
        """Send gradients that are there, those of the first layers first."""
        lane = _lane(comm)
        gradients = gradients if adder.takes_sparse else all_dense(gradients)
        tally = Tally(f"deferred {adder.algorithm}")
        with Undivided(comm, plan.operation):
            with tally.exposed_time():
                slots = tally.computed(comm, weight)
                compare = partial(agree, comm, plan, presence_of(gradients), slots=slots)
                union = tally.agree(compare, slots)
                adder.prepare(comm)
                adder.prepare(lane.comm)
                factor = adder.weigh(comm, weight, weights_in(comm, slots, weight))
            positions = tuple(p for p, dense in enumerate(union[len(leaves) :]) if dense)
            buckets = plan_buckets(
                *layout_of(leaves), positions, self._bucket_bytes, has_weight=adder.has_weight
            )
            carriage = Carriage(lane, len(buckets))
            works: list[Callable[[], Any]] = []
            for bucket in buckets:
                out = buffers_of(comm).take(bucket.length, bucket.dtype)
                own = [on_host(gradients[p]) for p in bucket.positions]
                message = bucket.pack(own, factor, out)
                add = partial(adder.add_up, lane.comm, bucket, message)
                works.append(partial(tally.add_up, message, add))
            carriage.give_all(works)
        self._begin(
            *(comm, plan, adder, weight, factor, leaves, gradients, union),
            *(tally, buckets, carriage.jobs),
        )

    def _begin(
        self,
        comm: Communicator,
        plan: Plan,
        adder: Adder,
        weight: float,
        factor: float,
        leaves: list[Any],
        gradients: Sequence[Any],
        union: list[bool],
        tally: Tally,
        buckets: Sequence[Bucket],
        jobs: list[Job],
    ) -> None:
        as_sum, lane = self._manner.average == "sum", _lane(comm)
        sent = {position for bucket in buckets for position in bucket.positions}
        left = [p for p in range(len(leaves)) if union[p] and p not in sent]
        known: list[Any] = [None] * len(leaves)
        if left:  # rows of sparse gradients, and what had none in the step before
            with Undivided(comm, plan.operation), tally.exposed_time():
                if adder.__class__ is not Native:
                    for job in jobs:  # whose adding up remembers, in the order of calls
                        lane.wait(job)
                done = [p if p in sent else None for p in range(len(leaves))]
                rest = Rest(
                    *(comm, leaves, list(gradients), union, weight, factor),
                    as_sum=as_sum,
                    adder=adder,
                    done=done,
                )
                found = rest.average(tally, self._bucket_bytes)
            for p in left:
                known[p] = found[p]
        remember_layout(comm, plan, leaves, union, self._bucket_bytes, adder)
        if not any(union[: len(leaves)]):
            raise ValueError(
                "DistributedOptimizer: every gradient is None on every rank; expected one at "
                "least: was the loss computed within the tape, from these variables?"
            )
        finish_at_exit(lane)
        self._step = DeferredStep(self._optimizer, comm, lane, tally, leaves, union, buckets, jobs)
        self._step.begin(known)


def _lane(comm: Communicator) -> Lane:
    lane = lane_of(comm, True)
    if lane is None:
        raise CommunicationError(
            f"DistributedOptimizer: wait='next-read' on {comm!r}, which has no method duplicate "
            "and so nothing that travels in the meantime; expected wait='step'"
        )
    return lane

"""ShardedOptimizer: an optimizer whose state, gradients and parameters are cut over the ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.distributed.averaging.buckets import BUCKET_BYTES, checked_bucket_bytes
from distgrad.distributed.averaging.finiteness import are_finite
from distgrad.distributed.averaging.ordered_gradients import number_of_shards
from distgrad.distributed.averaging.walking import check_overlap
from distgrad.distributed.safety.fingerprint import agree
from distgrad.distributed.safety.undivided import Undivided
from distgrad.distributed.sharded.building import CutVariablesOptimizer
from distgrad.distributed.sharded.refusals import (
    gradients_by_position,
    is_cut,
    refuse_averages,
    refuse_tape,
    variables_of,
)
from distgrad.distributed.sharded.steps import check_optimizer, take_step
from distgrad.distributed.verbs.communicator import Array, Communicator
from distgrad.dtypes import as_dtype
from distgrad.errors import UnsupportedOptionError
from distgrad.optimizers.loss_scaling import LossScale
from distgrad.optimizers.stateful import Optimizer
from distgrad.sparse import densified
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tensor import Tensor

_AVERAGES = ("examples", "ranks", "sum", None)


class ShardedOptimizer(CutVariablesOptimizer):
    """Takes the steps of an optimizer, each rank for its part of the variables.

    Gradients come from a plain `GradientTape` of this rank's examples; they are averaged here.

    Parameters
    ----------
    optimizer : Optimizer
        Such as `Adam`, or `Optimizer` of a chain with clipping; a fresh one.
    stage : {1, 2, 3}
        What is cut: the optimizer's state; the sums of gradients as well; parameters, too.
    comm : Communicator, optional
        The ranks; `world()` by default.
    average : {"examples", "ranks", "sum"} or None
        As for `DistributedGradientTape`. None, at stage 1: the gradients given are averages
        already, such as those of a `DistributedGradientTape` or a `GradientAccumulator`.
    deterministic : bool or int
        Whether the sums have the same bits for any number of ranks: then what is added is the
        gradient of one logical shard each, see `logical_shards`. A row of whole gradients is held
        for each subtree of them, at every stage. At stage 3 a rank that has more of them than
        another gathers more often, which is a `DesyncError`: there their number is to be a multiple
        of that of the ranks, each with examples, or all passes of a step are made within one
        ``with optimizer.gathered():``.
    bucket_bytes : int
        How many bytes of variables are reduced and gathered together. At stage 3 it matters for
        variables outside of blocks; a block's are gathered together.
    overlap : bool, optional
        At stages 2 and 3, whether `backward` and `minimize` reduce gradients by a thread while
        others are being computed, which takes the memory of one more message. By default, where
        every rank has two cores to itself. Messages between devices leave in turn with what is
        computed there, and those of `deterministic` at the step.

    Raises
    ------
    TypeError
        If `optimizer` is none, or is one of whole vectors (`LBFGS`, `NewtonCG`).
    UnsupportedOptionError
        If a transform needs whole arrays and is not known; with ``lazy=True``; or for a
        combination of arguments that there is not.
    ValueError
        If the optimizer has a state already, or an argument is out of range.

    Notes
    -----
    ZeRO [1]_. A step sends as many bytes as an allreduce at stages 1 and 2 (reduce_scatter and
    allgather), and half as many more at stage 3, which gathers parameters twice.

    Before the first step the variables get rank 0's values.

    References
    ----------
    .. [1] Rajbhandari, Rasley, Ruwase and He, "ZeRO: memory optimizations toward training trillion
       parameter models", SC 2020, arXiv:1910.02054.

    Examples
    --------
    >>> import distgrad as dg
    >>> import distgrad.distributed as dist
    >>> x = dg.Variable([3.0, 4.0], name="x")
    >>> ranks = dist.SerialCommunicator()
    >>> optimizer = dist.ShardedOptimizer(dg.optimizers.SGD(0.5), stage=2, comm=ranks)
    >>> with dg.GradientTape() as tape:
    ...     loss = dg.sum(x**2)
    >>> optimizer.minimize(loss, x, tape)
    True
    >>> x.numpy().tolist()
    [0.0, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        stage: int = 1,
        comm: Communicator | None = None,
        *,
        average: str | None = "examples",
        deterministic: bool | int = False,
        bucket_bytes: int = BUCKET_BYTES,
        overlap: bool | None = None,
    ) -> None:
        check_optimizer(optimizer)
        if stage not in (1, 2, 3):
            raise ValueError(f"ShardedOptimizer: stage is {stage!r}; expected 1, 2 or 3")
        checked_bucket_bytes("ShardedOptimizer", bucket_bytes)
        check_overlap("ShardedOptimizer", overlap)
        if average not in _AVERAGES:
            raise ValueError(
                f"ShardedOptimizer: average is {average!r}; expected one of "
                f"{', '.join(map(repr, _AVERAGES))}"
            )
        count = number_of_shards("ShardedOptimizer", deterministic)
        if average is None and (stage > 1 or count):
            raise UnsupportedOptionError(
                "ShardedOptimizer: average=None takes whole averages, at stage 1 and without "
                "deterministic (which belongs to whoever averages); here leave average out and "
                "give the gradients of this rank's examples"
            )
        super().__init__(optimizer, stage, comm, average, bucket_bytes, count, overlap)
        self._averages: dict[int, Any] = {}

    # --- gradients --------------------------------------------------------------------------------

    def add(self, gradients: Any, variables: Any, examples: float | None = None) -> None:
        """Add the gradients of one tape to what the next `step` takes; all ranks call it.

        Each call reduces, so that every rank calls it as often, one without examples with
        ``examples=0``. Only with `deterministic` is it the step that does; then call `build` first.

        Parameters
        ----------
        gradients : nest of Tensor, IndexedSlices, array or None
            This rank's own, in the structure of `variables`; slices become dense. Where no rank has
            one, the variable stays as it is.
        variables : Variable or nest of Variable
            Those of the first call, or some of them; the same on every rank.
        examples : float, optional
            How many examples they stand for; by default those of the last `shard` or
            `micro_batches`, or, with `deterministic`, of the next logical shard.

        Raises
        ------
        DesyncError
            On every rank, if ranks add other variables, or do something else.
        TapeError
            If the gradients are averages over ranks already.
        ShapeError, DTypeError, ValueError
            If a gradient does not fit its variable.
        """
        self.build(variables)
        work = self._work
        holdings = work.holdings
        placed = gradients_by_position(holdings, gradients, variables)
        if self._average is not None and holdings.comm.size > 1:
            refuse_averages(holdings.comm, placed, holdings.names)
        empty, weight = work.weights.next(examples)
        self._note([each is not None for each in placed])
        own = sum(densified(each).nbytes for each in placed if each is not None)
        work.walk.own_bytes = max(work.walk.own_bytes, own)
        with Undivided(holdings.comm, "ShardedOptimizer.add"):
            if self._count is None:  # of logical shards some ranks may have more than others
                agree(holdings.comm, holdings.plan("ShardedOptimizer.add"))
            if self._average is None:
                self._averages = dict(enumerate(placed))
                return
            work.skip(empty)
            work.sums.begin(weight)
            for unit in holdings.units:
                work.sums.add(unit, [placed[position] for position in unit.positions])

    def backward(
        self,
        target: Any,
        variables: Any,
        tape: GradientTape,
        examples: Any = None,
    ) -> None:
        """Walk a tape back, and add its gradients to what the next `step` takes.

        At stages 2 and 3 a gradient is reduced as soon as its unit is complete, and let go: never
        are all of them there, unless `deterministic`. All ranks call it. If the walk fails there,
        what was added since the last step is lost, unless `deterministic`.

        Parameters
        ----------
        target : Tensor, or list of them with `deterministic`
            The mean loss of this rank's examples, or of each logical shard.
        variables : Variable or nest of Variable
            As for `add`.
        tape : GradientTape
            What recorded the target: a plain one. Persistent for several targets.
        examples : float, or list of them with `deterministic`
            As for `add`.

        Raises
        ------
        TypeError
            If the tape averages over ranks itself.
        TapeError
            If another tape records the loss: no derivative goes through a reduction here.
        ValueError
            At stage 3, if the variables were not cut before the loss was computed.
        DesyncError
            As for `add`.
        """
        refuse_tape(tape, target)
        leaves = variables_of("backward", variables)
        work = self._work
        if self.stage == 3 and any(is_cut(v) and not work.holdings.knows(v) for v in leaves):
            raise ValueError(
                "ShardedOptimizer: at stage 3 variables are cut before the forward pass; call "
                "optimizer.build(variables) first"
            )
        self.build(variables)
        leaves = [leaf for leaf in leaves if work.holdings.knows(leaf)]
        several = self._count is not None and isinstance(target, (list, tuple))
        targets = target if several else [target]
        weights = examples if several and examples is not None else [examples] * len(targets)
        for each, given in zip(targets, weights, strict=True):
            if self.stage == 1 or (self.stage == 2 and self._count is not None):
                self.add(tape.gradient(each, leaves), leaves, given)
                continue
            empty, weight = work.weights.next(given)
            work.skip(empty)
            work.sums.begin(weight)
            work.walk.back(tape, each, leaves)
            self._note(work.walk.present)

    def _note(self, present: list[bool]) -> None:
        """Note which variables have a gradient on this rank."""
        self._present = [a or b for a, b in zip(self._present, present, strict=True)]

    # --- steps ------------------------------------------------------------------------------------

    def step(self, loss_scale: LossScale | None = None) -> bool:
        """Change all variables by what was added since the last step; all ranks call it.

        Parameters
        ----------
        loss_scale : LossScale, optional
            By whose factor the loss was multiplied. If the average is not finite on some rank, no
            rank takes the step.

        Returns
        -------
        bool
            Whether the step was taken.

        Raises
        ------
        BatchError
            If no rank has an example, or not one gradient was added for each logical shard.
        ValueError
            If nothing was added, or no rank has any gradient.
        """
        work = self._work
        holdings = work.holdings
        if self._count is None and not self._averages and work.sums.nothing:
            raise ValueError(
                "ShardedOptimizer: there is nothing to take a step with; call add, backward, or "
                "minimize"
            )
        work.skip(work.weights.finish())
        with Undivided(holdings.comm, "ShardedOptimizer.step"):
            present = agree(holdings.comm, holdings.plan("ShardedOptimizer.step"), self._present)
            self._present = [False] * len(holdings.leaves)
            gradients = self._finished(present)
        self._gradient_bytes = work.walk.own_bytes + work.sums.close()
        work.walk.own_bytes = 0
        if not any(present):
            raise ValueError(
                f"ShardedOptimizer: every gradient is None ({', '.join(holdings.names[:4])}) on "
                "every rank; was the loss computed within the tape, from these variables?"
                + (" At stage 3 call minimize or backward." if self.stage == 3 else "")
            )
        if loss_scale is not None:
            gradients = loss_scale.unscale(gradients)
            finite = are_finite(list(gradients.values()))
            everywhere = holdings.comm.allreduce(np.array(finite, np.int64), "min")
            if not loss_scale.note(bool(everywhere)):
                return False
        holdings.fill()
        exact = self._count is not None
        take_step(self._inner, holdings.comm, gradients, holdings.parts, exact=exact)
        del gradients
        holdings.spread()
        return True

    def apply(self, gradients: Any, variables: Any, examples: float | None = None) -> None:
        """Add gradients and take a step: `add`, then `step`; all ranks call it."""
        self.add(gradients, variables, examples)
        self.step()

    def apply_scaled(self, scale: LossScale, gradients: Any, variables: Any) -> bool:
        """Do what ``scale.apply(optimizer, gradients, variables)`` asks for."""
        self.add(gradients, variables)
        return self.step(scale)

    def minimize(
        self,
        target: Any,
        variables: Any,
        tape: GradientTape,
        examples: Any = None,
        *,
        loss_scale: LossScale | None = None,
    ) -> bool:
        """Walk a tape back and take a step: `backward`, then `step`; all ranks call it.

        Returns
        -------
        bool
            Whether the step was taken, see `step`.
        """
        self.backward(target, variables, tape, examples)
        return self.step(loss_scale)

    def _finished(self, present: list[bool]) -> dict[str, Any]:
        """Return the average of this rank's parts by name, in the order of all."""
        work = self._work
        holdings = work.holdings
        rows: dict[int, Array] = {}
        for unit in holdings.units if self._average is not None else ():
            row = work.sums.finish(unit, as_sum=self._average == "sum")
            if row is not None:
                for piece in unit.pieces[holdings.comm.rank]:
                    rows[piece.position] = row[piece.at : piece.at + piece.stop - piece.start]
        for position, gradient in self._averages.items():
            whole = holdings.carrier(holdings.unit_of(holdings.leaves[position])).array_of(gradient)
            if whole is not None:
                piece = holdings.piece(position)
                rows[position] = whole.reshape(-1)[piece.start : piece.stop]
        self._averages = {}
        gradients: dict[str, Any] = {}
        for position, part in enumerate(holdings.parts):
            gradients[part.name] = None
            if present[position] and position in rows:
                dtype = as_dtype(holdings.leaves[position].dtype)
                array = part.backend.asarray(rows[position], dtype=dtype)
                gradients[part.name] = Tensor(array, part.kernels)
        return gradients

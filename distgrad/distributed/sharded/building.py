"""What a sharded optimizer stands on: variables cut over ranks, blocks, and what is held."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.distributed.sharded.blocks import Block
from distgrad.distributed.sharded.holdings import Holdings
from distgrad.distributed.sharded.keeping import (
    CutVariables,
    parameters_of,
    report_of,
    slots_of,
)
from distgrad.distributed.sharded.reducing import Collector
from distgrad.distributed.sharded.refusals import (
    is_cut,
    variables_of,
)
from distgrad.distributed.sharded.report import ShardReport
from distgrad.distributed.sharded.resting import RestingHoldings
from distgrad.distributed.sharded.walking import Walk
from distgrad.distributed.sharded.weighing import Weights
from distgrad.distributed.variables import broadcast_variables
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.dtypes import as_dtype
from distgrad.errors import UnsupportedOptionError
from distgrad.optimizers.description import described
from distgrad.optimizers.stateful import Optimizer
from distgrad.variable import Variable


class CutVariablesOptimizer:
    """An optimizer for variables that are cut over ranks; `ShardedOptimizer` takes its steps.

    Parameters
    ----------
    optimizer, stage, comm, average, bucket_bytes
        As for `ShardedOptimizer`.
    count : int, optional
        How many logical shards there are, if sums are to be deterministic.
    overlap : bool, optional
        As for `ShardedOptimizer`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        stage: int,
        comm: Communicator | None,
        average: str | None,
        bucket_bytes: int,
        count: int | None,
        overlap: bool | None,
    ) -> None:
        self.stage = stage
        self._inner = optimizer
        self._comm = comm
        self._average = average
        self._bucket_bytes = bucket_bytes
        self._count = count
        self._overlap = overlap
        self._known: _Work | None = None
        self._present: list[bool] = []
        self._gradient_bytes = 0

    def __repr__(self) -> str:
        kind = type(self._inner.transform).__name__
        return f"<sharded {kind}: stage {self.stage}, {len(self._work.holdings.leaves)} variables>"

    @property
    def _work(self) -> _Work:
        if self._known is None:
            comm = ranks_of(self._comm)
            self._known = _Work(comm, self.stage, self._average, self._count, self._overlap)
        return self._known

    @property
    def comm(self) -> Communicator:
        """The ranks that share the variables."""
        return self._work.holdings.comm

    # --- variables --------------------------------------------------------------------------------

    def build(self, variables: Any) -> None:
        """Cut variables over the ranks and create the state; all ranks call it.

        At stages 1 and 2 the first step does it. At stage 3 it comes before the first forward pass,
        after `block`: variables that are in no block are gathered where they are read, and stay
        whole until the step is done.

        Parameters
        ----------
        variables : Variable or nest of Variable
            All that this optimizer will ever change. Those that are not trainable, or of integers,
            stay whole.

        Raises
        ------
        DesyncError
            If the variables differ between ranks.
        TypeError, ValueError
            As for `Optimizer.build`.
        """
        leaves = variables_of("build", variables)
        holdings = self._work.holdings
        fresh = [leaf for leaf in leaves if is_cut(leaf) and not holdings.knows(leaf)]
        if self._inner.variables:
            if fresh:
                raise ValueError(
                    f"ShardedOptimizer: the variable {fresh[0].name!r} is not among the "
                    f"{len(holdings.leaves)} that it was built for; call "
                    "optimizer.build(all_variables) first"
                )
            return
        self._take(fresh, self._bucket_bytes, "build")
        if not holdings.leaves:
            raise ValueError("ShardedOptimizer: there is no trainable variable; expected some")
        self._inner.build(holdings.parts)
        self._present = [False] * len(holdings.leaves)
        holdings.empty()

    def block(self, function: Callable[..., Any], variables: Any = None) -> Block:
        """Return a function whose variables are whole only while it runs; all ranks call it.

        Parameters
        ----------
        function : callable
            Of nests of tensors; a module as a rule. It is run again in the backward pass, and has
            to give the same then: see `recompute_grad`.
        variables : nest of Variable, optional
            What is gathered for it; by default the module's own. They are cut now.

        Returns
        -------
        Block
            To be called in the function's place.

        Raises
        ------
        UnsupportedOptionError
            At stages 1 and 2, where variables are whole.
        ValueError
            If a variable is in a block already, there is none, or the optimizer is built.

        Examples
        --------
        >>> import distgrad as dg
        >>> import distgrad.distributed as dist
        >>> layer = dg.nn.Dense(3).build(dg.ones((1, 2)))
        >>> ranks = dist.SerialCommunicator()
        >>> optimizer = dist.ShardedOptimizer(dg.optimizers.Adam(0.1), stage=3, comm=ranks)
        >>> block = optimizer.block(layer)
        >>> optimizer.build(layer.variables)
        >>> block(dg.ones((5, 2))).shape
        (5, 3)
        """
        if self.stage != 3:
            raise UnsupportedOptionError(
                f"ShardedOptimizer.block: variables are whole at stage {self.stage}; blocks are "
                "for stage 3 (dg.recompute_grad saves activations at any stage)"
            )
        if variables is None:
            variables = getattr(function, "variables", None) or []
        leaves = [leaf for leaf in variables_of("block", variables) if is_cut(leaf)]
        if not leaves or self._inner.variables:
            raise ValueError(
                "ShardedOptimizer.block: "
                + (
                    "the optimizer was built already; make all blocks first"
                    if leaves
                    else "the function has no trainable variables; build the module first, or name "
                    "them: optimizer.block(function, variables)"
                )
            )
        for leaf in leaves:
            if self._work.holdings.knows(leaf):
                raise ValueError(
                    f"ShardedOptimizer.block: the variable {leaf.name!r} is in a block already; "
                    "leave it out there, or share one block"
                )
        self._take(leaves, 2**62, "block")
        return Block(self._work.walk, function, leaves)

    def _take(self, leaves: list[Variable], unit_bytes: int, method: str) -> None:
        """Make variables equal on all ranks, and cut them."""
        entries = [Entry(each.name, as_dtype(each.dtype).name, each.shape) for each in leaves]
        operation = (
            f"ShardedOptimizer.{method} (stage={self.stage}, average={self._average!r}, "
            f"deterministic={self._count}, bucket_bytes={self._bucket_bytes}, "
            f"overlap={self._overlap}, "
            f"{described(self._inner.transform)})"
        )
        comm = self._work.holdings.comm
        agree(comm, Plan(operation, tuple(entries)))
        start = nbytes = 0
        for place, leaf in enumerate(leaves):  # in pieces, each of which is a message
            nbytes += leaf.nbytes
            if nbytes >= self._bucket_bytes or place == len(leaves) - 1:
                broadcast_variables(leaves[start : place + 1], comm=comm)
                start, nbytes = place + 1, 0
        self._work.holdings.take(leaves, unit_bytes)

    # --- what is held -----------------------------------------------------------------------------

    def gathered(self, variables: Any = None) -> AbstractContextManager[None]:
        """Return a context in which variables are whole; all ranks enter it together.

        Parameters
        ----------
        variables : nest of Variable, optional
            Which; all by default. With them come those that were cut together with them.

        Notes
        -----
        At stages 1 and 2 they always are. What is assigned to a variable, in the context or outside
        of it, reaches each rank's own part alone, and so has to be the same on all ranks.
        """
        holdings = self._work.holdings
        if self.stage != 3:
            return nullcontext()
        leaves = holdings.leaves
        if variables is not None:
            leaves = [v for v in variables_of("gathered", variables) if holdings.knows(v)]
        return self._work.walk.whole(leaves, "gathered")

    def release(self) -> None:
        """Let go of variables that operations outside of blocks have gathered; a step does, too."""
        holdings = self._work.holdings
        if isinstance(holdings, RestingHoldings):
            holdings.release()

    @property
    def iterations(self) -> int:
        """How many steps were taken."""
        return self._inner.iterations

    @property
    def variables(self) -> list[Variable]:
        """The variables of the state: the count of steps, and of each slot this rank's part."""
        return self._inner.variables

    def cut_variables(self) -> CutVariables:
        """Return what a checkpoint holds: by name a variable, where it starts, and of how many.

        Slots are flat parts, ``<variable>/<slot>``; at stage 3 so are the parameters,
        ``parameters/<variable>``. Of what every rank holds whole the last number is None.

        Raises
        ------
        ValueError
            If there is no state yet.
        """
        if not self._inner.variables:
            raise ValueError(
                "ShardedOptimizer: there is no state yet; call optimizer.build(variables) first"
            )
        holdings = self._work.holdings
        found = slots_of(self._inner, holdings)
        if not isinstance(holdings, RestingHoldings):
            return found
        holdings.parts_may_change()
        return found | parameters_of(holdings)

    def report(self) -> ShardReport:
        """Return how many bytes this rank holds, beside the formula; ``print`` shows a table."""
        return report_of(self.stage, self._inner, self._work.holdings, self._gradient_bytes)


class _Work:
    """What a sharded optimizer works with once it knows the ranks."""

    def __init__(
        self,
        comm: Communicator,
        stage: int,
        average: str | None,
        count: int | None,
        overlap: bool | None,
    ) -> None:
        self.holdings = RestingHoldings(comm, overlap) if stage == 3 else Holdings(comm)
        self.sums = Collector(self.holdings, count)
        self.weights = Weights(comm, average, count)
        self.walk = Walk(self.holdings, self.sums, overlap)

    def skip(self, empty: int) -> None:
        """Add the zeros of logical shards without an example."""
        for _ in range(empty):
            self.sums.begin(0.0)
            for unit in self.holdings.units:
                self.sums.add(unit, [None] * len(unit.positions))

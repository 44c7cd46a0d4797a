"""Collect gradients over several tapes, and average them over ranks once.

Two ways to add up: in the order in which they come (`running_mean`), with one allreduce at the end;
or one row for each logical shard (`ordered_gradients`), in an order that does not depend on the
number of ranks.
"""

from __future__ import annotations

from typing import Any

from distgrad import tree
from distgrad.distributed.averaging.adding import manner
from distgrad.distributed.averaging.exchange import check_sources, connect
from distgrad.distributed.averaging.finiteness import Finiteness
from distgrad.distributed.averaging.ordered_gradients import OrderedGradients, number_of_shards
from distgrad.distributed.averaging.running_mean import RunningMean
from distgrad.distributed.compression.protocol import Compression
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.errors import ShapeError
from distgrad.tape.arguments import UnconnectedGradients, check_leaf, unconnected_policy

_OUTLINE_CHARACTERS = 120


class GradientAccumulator:
    """Adds up gradients of several tapes; `gradients` communicates once for all of them.

    Parameters
    ----------
    sources : Variable, Tensor or nest of them
        With respect to what the gradients are; the same on every rank.
    comm : Communicator, optional
        The ranks to average over; `world()` by default.
    deterministic : bool or int
        Whether the result has the same bits for any number of ranks: then each gradient added is
        that of one logical shard, see `logical_shards`. A number says how many there are.
    average : {"examples", "ranks", "sum", "adasum"}
        As for `DistributedGradientTape`. With `deterministic`, ``"ranks"`` means the logical shards
        that have examples. With ``"adasum"``, a rank's gradient is the mean over its examples.
    compression, reduction :
        As for `DistributedGradientTape`.
    nonfinite : {"keep", "raise", "skip"}
        As for `DistributedGradientTape`.

    Raises
    ------
    ValueError
        If there is no such average, number of logical shards, compression or reduction.
    UnsupportedOptionError
        If two of these do not go together.

    Examples
    --------
    A rank's part in pieces that fit into memory:

    >>> import numpy as np
    >>> import distgrad as dg
    >>> import distgrad.distributed as dist
    >>> ranks, x = dist.SerialCommunicator(), dg.Variable(2.0)
    >>> accumulator = dist.GradientAccumulator(x, ranks)
    >>> for batch in dist.micro_batches(np.arange(7.0), 3, ranks):
    ...     with dg.GradientTape() as tape:
    ...         loss = dg.mean(batch * x)
    ...     accumulator.add(tape.gradient(loss, x))
    >>> print(accumulator.gradients())
    dg.Tensor(3.0, shape=(), dtype=float32)
    """

    def __init__(
        self,
        sources: Any,
        comm: Communicator | None = None,
        *,
        deterministic: bool | int = False,
        average: str = "examples",
        nonfinite: str = "keep",
        compression: Compression | str | None = None,
        reduction: str = "native",
    ) -> None:
        self._finiteness = Finiteness("GradientAccumulator", nonfinite)
        self._count = number_of_shards("GradientAccumulator", deterministic)
        self._manner = manner(
            "GradientAccumulator",
            average,
            reduction=reduction,
            compression=compression,
            is_deterministic=self._count is not None,
        )
        self._leaves, self._treedef = tree.flatten(sources)
        check_sources("GradientAccumulator", self._leaves)
        self._comm = comm
        self._average = average
        self._sums: RunningMean | OrderedGradients | None = None

    def add(self, gradients: Any, examples: float | None = None) -> None:
        """Add the gradients of one tape.

        Parameters
        ----------
        gradients : nest of Tensor, IndexedSlices or None
            In the structure of the sources: what the tape of this rank returned.
        examples : float, optional
            How many examples they stand for, or their weight; by default those of the piece that
            `micro_batches`, `logical_shards` or `shard` gave last.

        Raises
        ------
        BatchError
            If the number of examples is negative, or there are more gradients than logical shards.
        ValueError
            If the structure is not that of the sources.
        ShapeError, TypeError
            If a gradient has not its source's shape, or is no tensor.
        """
        try:
            flat = tree.flatten_like(self._treedef, gradients)
        except ValueError as error:
            raise ValueError(
                f"GradientAccumulator.add: gradients has the structure {_outline(gradients)}; "
                f"expected that of the sources, {_outline_of(self._treedef)}, as "
                "tape.gradient(loss, sources) returns it"
            ) from error
        for position, (leaf, gradient) in enumerate(zip(self._leaves, flat, strict=True)):
            if gradient is not None:
                check_leaf("GradientAccumulator.add", "gradient", position, gradient)
                if tuple(gradient.shape) != tuple(leaf.shape):
                    raise ShapeError(
                        f"GradientAccumulator.add: gradient {position} has shape "
                        f"{tuple(gradient.shape)}, its source {tuple(leaf.shape)}; expected the "
                        "same shape: are gradients and sources in the same order?"
                    )
        self._started().add(flat, examples)

    def gradients(
        self, unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE
    ) -> Any:
        """Return the average over all that was added on all ranks, and start again from nothing.

        All ranks call it, also one that had no examples and added nothing.

        Parameters
        ----------
        unconnected_gradients : {"none", "zero", "error"} or UnconnectedGradients
            What to return for a source that nothing depends on.

        Returns
        -------
        nest of Tensor, IndexedSlices or None
            In the structure of the sources.

        Raises
        ------
        DesyncError, BatchError, NonFiniteGradientError, RemoteRankError, StallError
            As for `DistributedGradientTape.gradient`.
        """
        policy = unconnected_policy(unconnected_gradients)
        sums, self._sums = self._started(), None
        found = connect(policy, self._leaves, sums.finish(self._treedef))
        found = self._finiteness.judge(sums.comm, self._treedef, self._leaves, found, sums.own)
        return tree.unflatten(self._treedef, found)

    @property
    def skipped(self) -> bool:
        """Whether the last `gradients` returned None alone, because of ``nonfinite="skip"``."""
        return self._finiteness.skipped

    def _started(self) -> RunningMean | OrderedGradients:
        comm = ranks_of(self._comm)
        # What was added for ranks that are no more, of which one was lost, is no part of a sum.
        if self._sums is None or self._sums.comm is not comm:
            if self._count is None:
                self._sums = RunningMean(comm, self._leaves, self._manner)
            else:
                self._sums = OrderedGradients(comm, self._leaves, self._average, self._count)
        return self._sums


def _outline(nest: Any) -> str:
    return _outline_of(tree.flatten(nest)[1])


def _outline_of(treedef: Any) -> str:
    """Return a structure in a few words, a star for each leaf."""
    stars = str(tree.unflatten(treedef, ["*"] * treedef.num_leaves)).replace("'*'", "*")
    return stars if len(stars) <= _OUTLINE_CHARACTERS else f"{stars[:_OUTLINE_CHARACTERS]}..."

"""DistributedOptimizer: an optimizer that is given each rank's own gradients, and averages them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad import tree
from distgrad.distributed.averaging.accumulation import GradientAccumulator
from distgrad.distributed.averaging.adding import manner
from distgrad.distributed.averaging.buckets import BUCKET_BYTES
from distgrad.distributed.averaging.gradient_tape import DistributedGradientTape
from distgrad.distributed.compression.protocol import Compression
from distgrad.distributed.sharded.refusals import refuse_averages, refuse_tape, variables_of
from distgrad.distributed.stepping.checks import WHO, check_optimizer, check_wait
from distgrad.distributed.stepping.deferring import Deferral
from distgrad.distributed.stepping.equal_variables import EqualVariablesOptimizer
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.errors import UnsupportedOptionError
from distgrad.optimizers.loss_scaling import LossScale
from distgrad.optimizers.stateful import Optimizer
from distgrad.optimizers.transforms import checked_gradients
from distgrad.tape.gradient_tape import GradientTape


class DistributedOptimizer(EqualVariablesOptimizer):
    """Takes the steps of an optimizer with gradients that it averages over ranks.

    Gradients come from a plain `GradientTape` of this rank's examples. Variables and the state of
    the optimizer get rank 0's values when they are seen first: at the first step or `build`, and
    those of a layer that was added later at the first step with them.

    Parameters
    ----------
    optimizer : Optimizer
        Any of `distgrad.optimizers` that is applied to gradients, or `Optimizer` of a chain.
    comm : Communicator, optional
        The ranks; `world()` by default.
    wait : {"step", "next-read"}
        When averages are waited for. ``"step"``: before `apply` or `minimize` returns.
        ``"next-read"``: where a variable is read next, in the next forward pass as a rule, layer by
        layer; a thread carries the buckets in the meantime, those of the first layers first once
        all ranks have walked back. Each variable gets the same bits either way.
    bucket_bytes, overlap, compression, deterministic, average, nonfinite, reduction
        As for `DistributedGradientTape`. With ``wait="next-read"`` `overlap` is on.

    Attributes
    ----------
    optimizer : Optimizer
        The one given. Its own `apply` takes averages, such as those of a `DistributedGradientTape`.
    skipped : bool
        Whether the last step was left out, because of ``nonfinite="skip"`` or a loss scale.

    Raises
    ------
    TypeError
        If `optimizer` is none, or averages over ranks itself.
    ValueError, UnsupportedOptionError
        If there is no such option, or two do not go together: ``wait="next-read"`` is not for what
        looks at all averages before any variable changes, such as clipping by the global norm.

    Notes
    -----
    The first gradients are computed before the first step, from the values that each rank had: call
    `build` before the loop if these differ.

    If a rank fails while averages are on their way, the error is raised where a variable is read.
    That step is given up then: variables that were not read keep the values before it.

    To wait as late as possible is known as crossing the barrier of a step [1]_.

    References
    ----------
    .. [1] Peng et al., "A generic communication scheduler for distributed DNN training
       acceleration", SOSP 2019.

    Examples
    --------
    >>> import distgrad as dg
    >>> import distgrad.distributed as dist
    >>> x = dg.Variable([3.0, 4.0], name="x")
    >>> optimizer = dist.DistributedOptimizer(dg.optimizers.SGD(0.5), dist.SerialCommunicator())
    >>> with dg.GradientTape() as tape:
    ...     loss = dg.sum(x**2)
    >>> optimizer.apply(tape.gradient(loss, x), x)
    >>> x.numpy().tolist()
    [0.0, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        comm: Communicator | None = None,
        *,
        wait: str = "step",
        bucket_bytes: int | str = BUCKET_BYTES,
        overlap: bool | None = None,
        compression: Compression | str | None = None,
        deterministic: bool | int | None = None,
        average: str = "examples",
        nonfinite: str = "keep",
        reduction: str = "native",
    ) -> None:
        check_optimizer(optimizer)
        self.skipped = False
        self._options: dict[str, Any] = {
            "bucket_bytes": bucket_bytes,
            "overlap": overlap,
            "compression": compression,
            "deterministic": deterministic,
            "average": average,
            "nonfinite": nonfinite,
            "reduction": reduction,
        }
        nothing: Any = _Given([])
        DistributedGradientTape(nothing, comm, **self._options)  # which checks the options
        check_wait(optimizer, wait, self._options)
        deferral = None
        if wait != "step" and not isinstance(bucket_bytes, str):
            way = manner(WHO, average, reduction=reduction, compression=compression)
            deferral = Deferral(optimizer, way, bucket_bytes)
        super().__init__(optimizer, comm, deferral)

    # --- steps ------------------------------------------------------------------------------------

    def apply(self, gradients: Any, variables: Any, examples: float | None = None) -> None:
        """Average gradients over ranks, and change variables by one step; all ranks call it.

        Parameters
        ----------
        gradients : nest of Tensor, IndexedSlices, array or None
            This rank's own, in the structure of `variables`, from a plain tape.
        variables : Variable or nest of Variable
            The same on every rank, in the same order.
        examples : float, optional
            How many examples the gradients stand for; by default those of the last `shard`.

        Raises
        ------
        TapeError
            If the gradients are averages over ranks already.
        DesyncError, BatchError, NonFiniteGradientError, RemoteRankError, StallError
            As for `DistributedGradientTape.gradient`.
        ShapeError, DTypeError, ValueError
            If a gradient does not fit its variable, or no rank has any.
        UnsupportedOptionError
            With `deterministic`: gradients of logical shards are given one by one, by `add`.
        """
        if self._options["deterministic"]:
            raise UnsupportedOptionError(
                f"{WHO}: deterministic takes the gradient of each logical shard by itself; call "
                "add(gradients, variables) for each and then step(), or minimize with a list of "
                "losses and a persistent tape"
            )
        found = self._checked(gradients, variables)
        self.build(variables)
        self.skipped = False
        if self._defers:
            assert self._deferral is not None  # noqa: S101  for the type checker
            self._deferral.apply(self.comm, found, variables, examples)
            return
        self._take(*self._averaged(found, variables, examples), None)

    def apply_scaled(self, scale: LossScale, gradients: Any, variables: Any) -> bool:
        """Do what ``scale.apply(optimizer, gradients, variables)`` asks for."""
        self._refuse_scale(scale)
        found = self._checked(gradients, variables)
        self.build(variables)
        return self._take(*self._averaged(found, variables, None), scale)

    def minimize(
        self,
        target: Any,
        variables: Any,
        tape: GradientTape,
        examples: Any = None,
        *,
        loss_scale: LossScale | None = None,
    ) -> bool:
        """Walk a tape back, average on the way, and change variables; all ranks call it.

        Parameters
        ----------
        target : Tensor, or list of them with `deterministic`
            The mean loss of this rank's examples, or of each of its logical shards.
        variables : Variable or nest of Variable
            The same on every rank, in the same order.
        tape : GradientTape
            What recorded the target: a plain one. Persistent for several targets.
        examples : float, or list of them with `deterministic`
            As for `apply`.
        loss_scale : LossScale, optional
            By whose factor the loss was multiplied; all ranks skip a step that overflowed on one.

        Returns
        -------
        bool
            Whether the step was taken.

        Raises
        ------
        TypeError
            If the tape averages over ranks itself.
        TapeError
            If another tape records the loss.
        DesyncError, BatchError, ValueError
            As for `apply`.
        """
        refuse_tape(tape, target, WHO)
        self._refuse_scale(loss_scale)
        self.build(variables)
        self.skipped = False
        if self._defers:
            assert self._deferral is not None  # noqa: S101  for the type checker
            self._deferral.minimize(self.comm, target, variables, tape, examples)
            return True
        averaging = self._averaging(tape)
        averages = averaging.gradient(target, variables, examples=examples)
        return self._take(averages, variables, averaging.skipped, loss_scale)

    # --- several gradients for one step -----------------------------------------------------------

    def add(self, gradients: Any, variables: Any, examples: float | None = None) -> None:
        """Add the gradients of a piece of this rank's part to what `step` takes; no message.

        Parameters
        ----------
        gradients, variables
            As for `apply`; of one logical shard each with `deterministic`.
        examples : float, optional
            How many examples they stand for; by default those of the piece that `micro_batches`,
            `logical_shards` or `shard` gave last.

        Raises
        ------
        TapeError, ShapeError, DTypeError, ValueError
            As for `apply`.
        """
        found = self._checked(gradients, variables)
        self.build(variables)
        own = dict(zip((leaf.key for leaf in tree.flatten(variables)[0]), found, strict=True))
        self._started().add([own.get(leaf.key) for leaf in self._leaves], examples)

    def step(self, loss_scale: LossScale | None = None) -> bool:
        """Average what was added on all ranks, by one communication, and change variables.

        All ranks call it, also one that had no example and added nothing; such a rank has called
        `build` before.

        Returns
        -------
        bool
            Whether the step was taken, see `minimize`.

        Raises
        ------
        DesyncError, BatchError, ValueError
            As for `apply`.
        """
        if not self._leaves:
            raise ValueError(
                f"{WHO}: there are no variables yet; call build(variables) first, or add"
            )
        self._refuse_scale(loss_scale)
        self.wait()
        accumulator, self._accumulator = self._started(), None
        averages = accumulator.gradients()
        return self._take(averages, self._leaves, accumulator.skipped, loss_scale)

    def _started(self) -> GradientAccumulator:
        if self._accumulator is None:
            options = {
                name: self._options[name]
                for name in ("average", "nonfinite", "compression", "reduction")
            }
            deterministic = self._options["deterministic"] or False
            self._accumulator = GradientAccumulator(
                self._leaves, self.comm, deterministic=deterministic, **options
            )
        return self._accumulator

    # --- what steps are made of -------------------------------------------------------------------

    @property
    def _defers(self) -> bool:
        return self._deferral is not None and self.comm.size > 1

    def _refuse_scale(self, scale: LossScale | None) -> None:
        if scale is not None and self._deferral is not None:
            raise UnsupportedOptionError(
                f"{WHO}: a loss scale with wait='next-read': whether a step is taken is known when "
                "all averages are there; expected wait='step'"
            )

    def _checked(self, gradients: Any, variables: Any) -> list[Any]:
        """Return this rank's own gradients in a list, if they fit and are no averages."""
        leaves, treedef = tree.flatten(variables)
        variables_of("apply", leaves, WHO)
        names = [leaf.name for leaf in leaves]
        found = checked_gradients(WHO, treedef, gradients, leaves, names)
        if self.comm.size > 1:
            refuse_averages(
                *(self.comm, found, names, WHO),
                "or give averages to optimizer.optimizer.apply",
            )
        return found

    def _averaging(self, tape: Any) -> DistributedGradientTape:
        return DistributedGradientTape(tape, self._comm, **self._options)

    def _averaged(self, found: list[Any], variables: Any, examples: Any) -> tuple[Any, Any, bool]:
        """Return averages, the variables, and whether the step is to be left out."""
        given: Any = _Given(found)
        # Nothing is computed while these travel: a thread would carry them for nothing.
        options = self._options | {"overlap": False}
        averaging = DistributedGradientTape(given, self._comm, **options)
        averages = averaging.gradient(0.0, variables, examples=examples)
        return averages, variables, averaging.skipped

    def _take(
        self, averages: Any, variables: Any, is_skipped: bool, scale: LossScale | None
    ) -> bool:
        self.skipped = is_skipped
        if is_skipped:
            return False
        if scale is None:
            self.optimizer.apply(averages, variables)
            return True
        self.skipped = not scale.apply(self.optimizer, averages, variables)
        return not self.skipped


class _Given:
    """A tape whose gradients are there already."""

    def __init__(self, gradients: Sequence[Any]) -> None:
        self._gradients = list(gradients)

    def gradient(self, target: Any, sources: Any, *_: Any, **__: Any) -> Any:
        """Return them in the structure of the sources."""
        return tree.unflatten(tree.flatten(sources)[1], self._gradients)

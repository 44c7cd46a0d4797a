"""What a distributed optimizer stands on: variables, and a state, that are equal on all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distgrad.distributed.averaging.accumulation import GradientAccumulator
from distgrad.distributed.averaging.report import CommReport, last_report
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.distributed.sharded.refusals import variables_of
from distgrad.distributed.stepping.checks import WHO
from distgrad.distributed.stepping.deferring import Deferral
from distgrad.distributed.variables import broadcast_variables
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.optimizers.description import described
from distgrad.optimizers.stateful import Optimizer
from distgrad.tensor import Tensor
from distgrad.variable import Variable


class EqualVariablesOptimizer:
    """An optimizer whose variables are equal on all ranks; `DistributedOptimizer` takes its steps.

    Parameters
    ----------
    optimizer, comm
        As for `DistributedOptimizer`.
    deferral : Deferral, optional
        Who takes steps where variables are read next, if they are to be taken there.
    """

    def __init__(
        self, optimizer: Optimizer, comm: Communicator | None, deferral: Deferral | None
    ) -> None:
        self.optimizer = optimizer
        self._comm = comm
        self._deferral = deferral
        self._leaves: list[Variable] = []
        self._known: set[int] = set()
        self._accumulator: GradientAccumulator | None = None

    def __repr__(self) -> str:
        kind = type(self.optimizer.transform).__name__
        wait = "step" if self._deferral is None else "next-read"
        return f"<distributed {kind}: {len(self._leaves)} variables, wait={wait!r}>"

    @property
    def comm(self) -> Communicator:
        """The ranks to average over."""
        return ranks_of(self._comm)

    # --- variables --------------------------------------------------------------------------------

    def build(self, variables: Any) -> None:
        """Make variables and their state equal on all ranks, if they are new; all ranks call it.

        Every step calls this for its variables.

        Parameters
        ----------
        variables : Variable or nest of Variable
            The same on all ranks, in the same order.

        Raises
        ------
        DesyncError
            On every rank, if variables, optimizers or their settings differ between ranks.
        TypeError, ValueError
            If something else is among them, or one is there twice.
        TraceError
            Within `distgrad.function`.
        """
        leaves = variables_of("build", variables, WHO)
        fresh = [leaf for leaf in leaves if leaf.key not in self._known]
        if not fresh:
            return
        if self._accumulator is not None:
            raise ValueError(
                f"{WHO}: the variable {fresh[0].name!r} is new, but gradients of the others wait "
                "for step(); call that first"
            )
        self.wait()
        comm, optimizer = self.comm, self.optimizer
        entries = tuple(Entry(each.name, each.dtype.name, each.shape) for each in fresh)
        agree(comm, Plan(f"{WHO}.build of {described(optimizer.transform)}", entries))
        broadcast_variables(fresh, comm=comm)
        optimizer.extend(fresh)  # from the values that all have: a slot may copy them
        broadcast_variables(
            [slot for slot in optimizer.variables if slot.key not in self._known], comm=comm
        )
        self._leaves += fresh
        self._known.update(each.key for each in (*fresh, *optimizer.variables))

    def wait(self) -> None:
        """Complete the step whose averages are on their way; nothing with ``wait="step"``.

        Raises
        ------
        RemoteRankError, StallError
            If another rank failed, left, or does not come.
        """
        if self._deferral is not None:
            self._deferral.wait()

    # --- state ------------------------------------------------------------------------------------

    @property
    def report(self) -> CommReport:
        """What the last averaging on these ranks cost; see `last_report`."""
        return last_report(self._comm)

    @property
    def iterations(self) -> int:
        """How many steps were taken."""
        return self.optimizer.iterations

    @property
    def variables(self) -> list[Variable]:
        """The variables of the optimizer's state, see `Optimizer.variables`."""
        self.wait()
        return self.optimizer.variables

    def state_dict(self) -> dict[str, Tensor]:
        """Return the values of the state by name, the same on every rank."""
        self.wait()
        return self.optimizer.state_dict()

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take a state that `state_dict` returned, or a checkpoint holds: the same on all ranks.

        What rank 0 alone has loaded before the first step, or `build`, all get then.

        Raises
        ------
        ValueError, ShapeError, DTypeError
            As for `Optimizer.load_state_dict`.
        """
        self.wait()
        self.optimizer.load_state_dict(values)

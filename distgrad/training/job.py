"""One training job as one of its ranks: its arguments, its ranks, and averages over batches."""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

import distgrad as dg
import distgrad.distributed as dist
from distgrad import tree
from distgrad.data import Dataset, Loader
from distgrad.distributed.averaging.ordered import own_range
from distgrad.distributed.batches.logical import LOGICAL_SHARDS, last_cut
from distgrad.distributed.verbs.communicator import exchange_json
from distgrad.errors import DistgradError
from distgrad.random import Generator
from distgrad.training.averages import Averaged, Sums
from distgrad.training.meter import MeteredCommunicator
from distgrad.training.pieces import drawn_apart, kept_states
from distgrad.training.preemption import Preemption

EVALUATION_BATCH = 1024
HEAD = 16  # numbers of one message, of which two are the job's own: more than most jobs have


class JobError(DistgradError):
    """The job cannot do what it was asked, for a reason that its user can do something about.

    Raised by all ranks alike; the first one says it in one line, and the exit code is 1.
    """


class Preempted(DistgradError):
    """The job was asked to make room; it has saved its state and leaves with exit code 75."""


class Job:
    """What a job's body is given: arguments, ranks, and averages over all of them.

    Parameters
    ----------
    name : str
        Of the job.
    arguments : argparse.Namespace
        As `JobParser` reads them.
    world : MeteredCommunicator
        The ranks.
    preemption : Preemption, optional
        Hears signals.

    Attributes
    ----------
    generator : Generator
        Of the seed, the same on every rank. Take a child for each purpose: ``fold_in(number)``.
    saved_generators : sequence of Generator
        Those in the state that `train` was given, as of layers. With ``--deterministic`` they draw
        by the piece, so that ranks with unlike numbers of pieces draw alike.

    Raises
    ------
    JobError
        If the backend asked for cannot be used.
    """

    def __init__(
        self,
        name: str,
        arguments: argparse.Namespace,
        world: MeteredCommunicator,
        preemption: Preemption | None = None,
    ) -> None:
        self.name, self.arguments, self.world = name, arguments, world
        self.preemption = Preemption() if preemption is None else preemption
        _use_backend(arguments.backend)
        self.generator = dg.random.Generator(arguments.seed)
        self.saved_generators: Sequence[Generator] = ()
        self.is_troubled = False  # all ranks are to stop, without a wish from outside
        self.asked_to_stop: bool | None = None  # what the ranks have said in this step, if they did

    @property
    def speaks(self) -> bool:
        """Whether this rank prints what is no error: the first one, unless it is to be quiet."""
        return self.world.rank == 0 and not self.arguments.quiet

    def warn(self, text: str) -> None:
        """Print a warning on standard error, on the first rank; even if the job is to be quiet."""
        if self.world.rank == 0:
            with contextlib.suppress(OSError):
                print(f"{self.name}: warning: {text}", file=sys.stderr, flush=True)

    # --- batches ----------------------------------------------------------------------------------

    def loader(self, dataset: Dataset, *, batch: int | None = None, **options: Any) -> Loader:
        """Return the batches of a data set for training: this rank reads its own rows alone.

        Parameters
        ----------
        dataset : Dataset
            The examples.
        batch : int, optional
            Examples of a global batch; ``--global-batch`` by default.
        **options
            Of `distgrad.data.Loader`: ``last``, ``shuffle``, ``threads``, ``ahead``, ``seed``.

        Raises
        ------
        JobError
            If the loader refuses them.
        """
        size = self.arguments.global_batch if batch is None else batch
        options = {"seed": self.arguments.seed, **options}
        try:
            return Loader(dataset, size, rows=self.rows, **options)
        except ValueError as error:
            raise JobError(str(error)) from error

    def rows(self, size: int) -> tuple[int, int]:
        """Return which rows of a global batch of this size are this rank's, from and up to."""
        rank, ranks = self.world.rank, self.world.size
        if self.arguments.deterministic:
            own = own_range(LOGICAL_SHARDS, ranks, rank)
            return own.start * size // LOGICAL_SHARDS, own.stop * size // LOGICAL_SHARDS
        return rank * size // ranks, (rank + 1) * size // ranks

    def pieces(self, batch: Any) -> Iterator[Any]:
        """Yield this rank's part of a global batch, in the pieces that are computed by themselves.

        With ``--deterministic`` they are as many for any number of ranks (`dist.logical_shards`),
        so that ``--micro-batches`` changes nothing; else `dist.micro_batches`.
        """
        if not self.arguments.deterministic:
            return dist.micro_batches(batch, self.arguments.micro_batches, self.world)
        shards = dist.logical_shards(batch, self.world)
        if not self.saved_generators:
            return shards
        own = own_range(LOGICAL_SHARDS, self.world.size, self.world.rank)
        sizes = last_cut("pieces", self.world, LOGICAL_SHARDS).sizes
        numbers = [number for number, size in zip(own, sizes, strict=True) if size]
        return drawn_apart(shards, numbers, self.saved_generators)

    # --- averages ---------------------------------------------------------------------------------

    def gradients(self, loss: Callable[[Any], Any], batch: Any, variables: Any) -> Averaged:
        """Return gradients and figures of a global batch, averaged over its examples.

        Parameters
        ----------
        loss : callable
            ``loss(piece)`` returns the losses of the examples of a piece, of shape (n, ...), or
            their mean; or a pair of that and a dict of further figures, each of shape (n, ...) or a
            mean as well. It is called on a tape, once for each piece of this rank.
        batch : nest of arrays (size, ...)
            The global batch: what a loader of `loader` gives, or arrays that all ranks hold.
        variables : nest of Variable
            To differentiate with respect to.

        Returns
        -------
        Averaged
            The same on every rank; with ``--deterministic``, to the bit for any number of ranks.

        Notes
        -----
        All ranks call it together. It may be called several times in a step: for two models, say,
        or for a line search.
        """
        size = int(tree.flatten(batch)[0][0].shape[0])
        everybody = size >= self.world.size  # each rank has an example then
        alone = self.arguments.micro_batches == 1 and not self.arguments.deterministic
        sums = Sums()
        if alone and everybody:
            # Without pieces to add up, gradients can travel while the walk back goes on.
            (piece,) = self.pieces(batch)
            with dist.DistributedGradientTape(dg.GradientTape(), self.world) as tape:
                mean = sums.add(loss(piece), piece)
            gradients = tape.gradient(mean, variables)
        else:
            accumulator = dist.GradientAccumulator(
                variables, self.world, deterministic=self.arguments.deterministic
            )
            for piece in self.pieces(batch):
                with dg.GradientTape() as local:
                    mean = sums.add(loss(piece), piece)
                accumulator.add(local.gradient(mean, variables))
            gradients = accumulator.gradients()
        totals = self._totals([sums], size)
        figures = {name: total / size for name, total in totals.items()}
        return Averaged(gradients, figures.pop("loss"), size, figures)

    def evaluate(
        self,
        function: Callable[[Any], Mapping[str, Any]],
        dataset: Dataset,
        *,
        batch: int = EVALUATION_BATCH,
    ) -> dict[str, float]:
        """Return the means of figures over all examples of a data set, each counted once.

        Parameters
        ----------
        function : callable
            ``function(piece)`` returns a dict of figures, each of shape (n, ...) or a mean.
        dataset : Dataset
            Every rank reads its own part of it.
        batch : int
            How many examples the ranks look at together.

        Notes
        -----
        All ranks call it together, and get the same numbers. With ``--deterministic`` what is drawn
        here from `saved_generators` leaves them as they were: to look changes nothing.
        """
        totals: dict[str, float] = {}
        waiting: list[Sums] = []
        own = self.saved_generators if self.arguments.deterministic else ()
        with (
            kept_states(own),
            Loader(dataset, batch, seed=0, shuffle=False, last="keep", rows=self.rows) as loader,
        ):
            for start in range(0, len(dataset), batch):
                sums = Sums()
                for piece in self.pieces(next(loader)):
                    sums.add(function(piece), piece)
                waiting.append(sums)
                if self.arguments.deterministic:  # what was cut by one call is summed by one call
                    size = min(batch, len(dataset) - start)
                    for name, total in self._totals(waiting, size).items():
                        totals[name] = totals.get(name, 0.0) + total
                    waiting.clear()
        totals = totals or self._totals(waiting, min(batch, len(dataset)))
        return {name: total / len(dataset) for name, total in totals.items()}

    def first_rank(self, action: Callable[[], Any]) -> Any:
        """Do something on the first rank alone, such as opening a file; None on the others.

        Raises
        ------
        JobError
            On every rank, if it raised an `OSError` or a `JobError` there.
        """
        result, refusal = None, ""
        if self.world.rank == 0:
            try:
                result = action()
            except (OSError, JobError) as error:
                refusal = str(error) or type(error).__name__
        refusal = exchange_json(self.world, refusal)[0]
        if refusal:
            raise JobError(refusal)
        return result

    def sum_over_ranks(self, values: Any) -> np.ndarray[Any, Any]:
        """Return numbers added up over the ranks, in double precision whatever the job's dtype.

        Raises
        ------
        DesyncError
            On every rank, if they give different numbers of values.
        """
        return self._sum_named(values, [])

    def _sum_named(self, values: Any, names: Sequence[str]) -> np.ndarray[Any, Any]:
        """Return values of these names, added up over the ranks, which have to give the same."""
        numbers = np.asarray(values, dtype=np.float64)
        # The wish to stop, and what tells these values from others, travel along: they cost no
        # message of their own. A head of fixed length meets that of a rank with other values.
        wish = float(self.preemption.heard > 0 or self.is_troubled)
        mark = float(crc32(json.dumps([len(numbers), *names]).encode()))
        head = np.zeros(HEAD)
        begun = numbers[: HEAD - 2]
        head[: len(begun) + 2] = wish, mark, *begun
        total = self.world.allreduce(head)
        if total[1] != mark * self.world.size:
            self._refuse_unlike(len(numbers), names)
        self.asked_to_stop = bool(total[0]) or bool(self.asked_to_stop)
        rest = numbers[HEAD - 2 :]
        if not len(rest):
            return total[2 : len(begun) + 2]
        return np.concatenate([total[2:], self.world.allreduce(rest)])

    def _refuse_unlike(self, count: int, names: Sequence[str]) -> None:
        """Raise, on all ranks, for ranks that add up values of other names or another number."""
        said = exchange_json(self.world, ", ".join(names) or f"{count} values")
        rank = next(rank for rank, each in enumerate(said) if each != said[0])
        raise dist.DesyncError(
            f"figures: rank {rank} has {said[rank]}; rank 0 has {said[0]}; expected the same names "
            "in the same order on every rank"
        )

    def peak_memory(self) -> int:
        """Return how many bytes the largest of the ranks has had in memory at most."""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
        return int(self.world.allreduce(np.array([own], dtype=np.float64), "max")[0])

    def hear(self) -> bool:
        """Return whether any rank was asked to make room; the same on all, once a step."""
        if self.asked_to_stop is None:
            self.sum_over_ranks([])
        heard, self.asked_to_stop = bool(self.asked_to_stop), None
        return heard

    def _totals(self, sums: Sequence[Sums], size: int) -> dict[str, float]:
        """Return the sums of figures over all ranks; the names come from those that have some."""
        rows = [row for each in sums for row in each.rows]
        own = names = next((each.names for each in sums if each.names), [])
        fewest = LOGICAL_SHARDS if self.arguments.deterministic else 1
        if size < max(fewest, self.world.size):  # a rank may have nothing
            names = max(exchange_json(self.world, names), key=len)
        if self.arguments.deterministic:
            self._sum_named([], own or names)
            totals = dist.sum_logical_shards(rows, self.world)
        else:
            totals = self._sum_named(
                np.sum(rows, axis=0) if rows else np.zeros(len(names)), own or names
            )
        return {name: float(each) for name, each in zip(names, totals, strict=True)}


def _use_backend(name: str) -> None:
    try:
        dg.set_backend(name)
    except (LookupError, ImportError) as error:
        raise JobError(f"--backend {name}: {error}") from error

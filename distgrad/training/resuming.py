"""Save what a job needs to go on, and go on from it: exactly, on any number of ranks."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distgrad import tree
from distgrad.checkpoint import CheckpointMismatchError, Manager
from distgrad.checkpoint.files import make_directories, make_hidden, remove_whole
from distgrad.checkpoint.leaves import collect
from distgrad.checkpoint.listing import listed, newest_first
from distgrad.distributed import DistributedOptimizer
from distgrad.distributed.verbs.communicator import exchange_json
from distgrad.errors import CheckpointError, DamagedCheckpointError
from distgrad.optimizers import Optimizer
from distgrad.random import Generator
from distgrad.training.arguments import option
from distgrad.training.job import Job, JobError
from distgrad.variable import Variable

# What a training cannot change on its way and still be the same training.
FIXED = ("seed", "dtype", "global_batch")

# What it may change; it is then no longer the training that it would have been without a pause.
SCHEDULED = ("steps", "learning_rate")

KEPT = 3  # checkpoints: one may be damaged by the disk, and one is being written


class Checkpoints:
    """The checkpoints of a job; without ``--checkpoint-dir`` there are none, and nothing is saved.

    Parameters
    ----------
    job : Job
        Whose arguments say where and how often.
    state : nest
        Of models, optimizers, variables, generators, and objects with `state` and `load_state`.
    variables : sequence of Variable
        Those of the model, which the state has to hold.

    Raises
    ------
    TypeError, ValueError
        If the state could not be loaded again, or lacks a variable.
    """

    def __init__(self, job: Job, state: Any, variables: Sequence[Variable]) -> None:
        self._job, self._state = job, state
        self._check(variables)
        directory = job.arguments.checkpoint_dir
        self._manager = None if directory is None else Manager(directory, keep=KEPT, comm=job.world)
        self._saved: int | None = None

    @property
    def generators(self) -> list[Generator]:
        """The generators that a checkpoint holds, each once: also those of layers."""
        found = (leaf.value for leaf in collect(_nest(self._state)).values())
        return list({id(each): each for each in found if isinstance(each, Generator)}.values())

    def _check(self, variables: Sequence[Variable]) -> None:
        for path, leaf in zip(tree.paths(self._state), tree.flatten(self._state)[0], strict=True):
            if isinstance(leaf, (Optimizer, DistributedOptimizer)) and not leaf.variables:
                raise ValueError(
                    f"train: the optimizer state[{path!r}] has no variables yet, into which a "
                    "checkpoint could be loaded; call optimizer.build(variables) first"
                )
            if not (_keeps_state(leaf) or _is_assigned(leaf)):
                raise TypeError(
                    f"train: state[{path!r}] is a {type(leaf).__name__}, to which nothing can be "
                    "assigned; expected a variable, a model, an optimizer, a generator, or an "
                    "object with state() and load_state(state)"
                )
        leaves = collect(_nest(self._state))
        held = {leaf.value.key for leaf in leaves.values() if isinstance(leaf.value, Variable)}
        # Of parameters in parts (ZeRO's stage 3) the optimizer saves the parts, by their names.
        cut = {path.partition("/parameters/")[2] for path in leaves}
        for each in variables:
            if each.key not in held and each.name not in cut:
                raise ValueError(
                    f"train: the state does not hold the variable {each.name!r}, which a training "
                    "that is resumed would start anew; put its model, or itself, into state"
                )

    # --- load -------------------------------------------------------------------------------------

    def resume(self, wanted: bool) -> int:
        """Load the newest whole checkpoint if there is one; return its step, 0 for a new start.

        Parameters
        ----------
        wanted : bool
            Whether to go on from it.

        Raises
        ------
        JobError
            If it is of another job, or there is one and to go on is not wanted, or all that are
            there are damaged, or none could be written.
        """
        if self._manager is None:
            return 0
        manager = self._manager
        self._try_to_write(manager.directory)
        newest = self._job.first_rank(lambda: _newest_of(manager))
        if self._job.world.size > 1:
            newest = int(self._job.sum_over_ranks([newest or 0])[0])
        if not newest:
            return 0
        if not wanted:
            raise JobError(
                f"--checkpoint-dir {manager.directory} holds a checkpoint already (step {newest}); "
                "go on from it with --resume, or name another directory"
            )
        self._job.first_rank(lambda: self._refuse_others(manager))
        try:
            found = manager.load({"job": _nest(self._state)})
        except CheckpointMismatchError as error:
            raise JobError(f"--resume: the checkpoint is of another job: {error}") from error
        except CheckpointError as error:
            raise JobError(f"--resume: {error}") from error
        steps = self._job.arguments.steps
        if found.step > steps:
            raise JobError(
                f"--steps {steps}: the checkpoint is of step {found.step} already; ask for as many "
                "at least: they are counted from the start"
            )
        self._warn_of_changes(found.metadata or {})
        self._load_states(found.nest["job"])
        self._saved = found.step
        return found.step

    def _try_to_write(self, directory: Path) -> None:
        """Refuse, before the first step, a directory that is not one that all ranks write to."""
        world = self._job.world
        with contextlib.ExitStack() as stack:

            def begin() -> str:
                try:
                    make_directories(directory)
                    hidden, lock = make_hidden(directory, "trial")
                except OSError as error:
                    raise JobError(f"--checkpoint-dir {directory}: {error.strerror}") from error
                stack.callback(os.close, lock)
                stack.callback(remove_whole, hidden)
                return hidden.name

            name = exchange_json(world, self._job.first_rank(begin))[0]
            for rank, wrong in enumerate(exchange_json(world, _refusal(directory / name))):
                if wrong:
                    where = f"--checkpoint-dir {directory}"
                    raise JobError(f"{where}: {f'rank {rank}: ' if world.size > 1 else ''}{wrong}")

    def _load_states(self, nest: Any) -> None:
        """Hand their states to the objects that keep some; what one refuses, all ranks refuse."""
        leaves, treedef = tree.flatten(self._state)
        loaded = tree.flatten_like(treedef, nest)
        refusal = ""
        for path, leaf, value in zip(tree.paths(self._state), leaves, loaded, strict=True):
            if _keeps_state(leaf) and not refusal:
                try:
                    leaf.load_state(value)
                except ValueError as error:
                    refusal = f"{path}: {error}"
        for said in exchange_json(self._job.world, refusal):
            if said:
                raise JobError(f"--resume: the checkpoint is of another job: {said}")

    def _refuse_others(self, manager: Manager) -> None:
        """Refuse a checkpoint of other arguments, before its numbers fail to fit the state."""
        metadata = _newest_metadata(manager)
        arguments, there = vars(self._job.arguments), metadata.get("arguments", {})
        pairs = [("job", metadata.get("job"), self._job.name)]
        pairs += [(option(name), there.get(name), arguments[name]) for name in FIXED]
        for name, saved, own in pairs:
            if saved is not None and saved != own:
                raise JobError(
                    f"--resume: the checkpoint was saved with {name} {saved}, not {own}; go on "
                    f"with {name} {saved}, or begin anew in another --checkpoint-dir"
                )

    def _warn_of_changes(self, metadata: dict[str, Any]) -> None:
        arguments, there = vars(self._job.arguments), metadata.get("arguments", {})
        for argument in SCHEDULED:
            saved, own = there.get(argument), arguments[argument]
            if saved is not None and saved != own:
                name = option(argument)
                self._job.warn(
                    f"--resume: the checkpoint was saved with {name} {saved}; what follows from "
                    f"{name} {own}, such as a schedule of the learning rate, holds from here on "
                    f"alone: the curve is not that of one run with {own}"
                )

    # --- save -------------------------------------------------------------------------------------

    def save(self, step: int, *, wait: bool = False) -> None:
        """Save after a step, unless that is done already; return at once unless `wait`.

        Raises
        ------
        JobError
            On every rank, if one could not write.
        """
        if self._manager is None:
            return
        try:
            if self._saved != step:
                arguments = {n: vars(self._job.arguments)[n] for n in (*FIXED, *SCHEDULED)}
                self._manager.save(
                    {"job": _nest(self._state)},
                    step=step,
                    metadata={"job": self._job.name, "arguments": arguments},
                )
                self._saved = step
            if wait:
                self._manager.wait()
        except CheckpointError as error:
            raise JobError(str(error)) from error

    def after(self, step: int) -> None:
        """Save if it is time to, and let one that is under way appear."""
        if self._manager is None:
            return
        if step % self._job.arguments.checkpoint_every == 0:
            self.save(step)
        else:
            try:
                self._manager.poll()
            except CheckpointError as error:
                raise JobError(str(error)) from error

    def leave(self, kind: Any, error: Any, trace: Any) -> None:
        """Give up what is under way after an error."""
        if self._manager is not None:
            self._manager.__exit__(kind, error, trace)


def closed(state: Any) -> Iterator[Any]:
    """Yield the objects of a state that have threads to end."""
    for leaf in tree.flatten(state)[0]:
        if _keeps_state(leaf) and callable(getattr(leaf, "close", None)):
            yield leaf


def _nest(state: Any) -> Any:
    """Return what a checkpoint holds for a state."""
    return tree.map(lambda leaf: leaf.state() if _keeps_state(leaf) else leaf, state)


def _refusal(hidden: Path) -> str:
    """Return why this rank cannot write into a directory that rank 0 has made; empty if it can."""
    try:
        with tempfile.TemporaryFile(dir=hidden) as file:
            file.write(b"0")
    except FileNotFoundError:
        return "does not see what rank 0 writes there; expected a directory that all ranks share"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _newest_of(manager: Manager) -> int:
    """Return the step of the newest checkpoint, 0 for none.

    Where none is whole it is that of a damaged one: a new start would forget them without a word.
    """
    there = newest_first(listed(manager.directory))
    return manager.latest or (there[0].step if there else 0)


def _newest_metadata(manager: Manager) -> dict[str, Any]:
    """Return what was saved with the newest checkpoint that can tell; all are of one job."""
    for found in newest_first(listed(manager.directory)):
        with contextlib.suppress(DamagedCheckpointError, OSError):  # which loading tells
            metadata = found.manifest().metadata
            return metadata if isinstance(metadata, dict) and "arguments" in metadata else {}
    return {}


def _keeps_state(leaf: Any) -> bool:
    if hasattr(leaf, "variables"):  # a `nn.Module` has `state` too, but its variables are assigned
        return False
    return callable(getattr(leaf, "state", None)) and callable(getattr(leaf, "load_state", None))


def _is_assigned(leaf: Any) -> bool:
    return isinstance(leaf, (Variable, Generator)) or hasattr(leaf, "variables")

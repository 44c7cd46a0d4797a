"""The loop that all training jobs share: steps, records, checkpoints, and a way out at any time."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

import distgrad.distributed as dist
from distgrad.distributed.launching.supervision import RESTARTS_VARIABLE
from distgrad.training.history import Trained
from distgrad.training.job import Job, JobError, Preempted
from distgrad.training.metrics import variables_sha256
from distgrad.training.outlets import Outlets
from distgrad.training.resuming import Checkpoints, closed
from distgrad.training.stopping import EarlyStopping
from distgrad.variable import Variable

Record = Mapping[str, float]


def train(
    job: Job,
    step: Callable[[int], Record],
    *,
    variables: Sequence[Variable],
    state: Any,
    evaluate: Callable[[], Record] | None = None,
    evaluate_every: int | None = None,
    early_stopping: EarlyStopping | None = None,
    title: str | None = None,
    show: Mapping[str, Callable[[float], str]] | None = None,
    facts: Callable[[Trained], Mapping[str, str]] | None = None,
    hints: Sequence[str] = (),
    finite: bool = True,
) -> Trained:
    """Make the steps that the arguments ask for, and everything around them.

    Parameters
    ----------
    job : Job
        What `run_job` gave to the body.
    step : callable
        ``step(number)`` makes one update, number from 1 on, and returns its record: ``loss`` at
        least, ``grad_norm``, ``examples``, and any further figures; the same numbers on every rank,
        as `Averaged.record` gives them.
    variables : sequence of Variable
        Those of the model. They start from the first rank's values, and `variables_sha256` is over
        them.
    state : nest
        All that changes from step to step: models, optimizers (built), generators, loaders,
        variables. It is what a checkpoint holds; what is not in it is lost in a resume.
    evaluate : callable, optional
        Returns figures such as ``{"test_accuracy": 0.98}``, as `Job.evaluate` does; called at the
        end by all ranks.
    evaluate_every : int, optional
        Evaluate after every so many steps, too; the figures go into the step's record.
    early_stopping : EarlyStopping, optional
        Ends the training before its last step.
    title : str, optional
        Of the summary and the report; the job's name by default.
    show : mapping of str to callable, optional
        Which figures stand beside the loss in the progress, each with how to write it.
    facts : callable, optional
        Further lines of the summary, by name.
    hints : sequence of str
        What to try next.
    finite : bool
        Whether a loss or gradient norm that is infinite or not a number ends the job with an error.
        Without, JSON gets null in its place: for jobs that scale their loss.

    Returns
    -------
    Trained
        On every rank.

    Raises
    ------
    JobError
        If the job cannot do what it was asked: a file that cannot be written, a checkpoint of
        another job, a loss that is not finite.
    Preempted
        If a rank was asked to make room, after the state was saved; `run_job` turns it into exit
        code 75.
    """
    arguments = job.arguments
    started = time.perf_counter()
    kept = {"state": state, "stopping": early_stopping} if early_stopping else {"state": state}
    checkpoints = Checkpoints(job, kept, variables)
    job.saved_generators = checkpoints.generators
    dist.broadcast_variables(list(variables))
    # A job that `distgrad run` starts again after a preemption goes on without being told.
    again = os.environ.get(RESTARTS_VARIABLE, "0") != "0"
    begun = checkpoints.resume(arguments.resume or again)
    outlets = Outlets(job, begun, title or job.name, show or {})
    if begun:
        outlets.say(f"resumed after step {begun}")
    done = begun
    job.world.read()  # what came before the first step is not its cost
    try:
        with (
            outlets,
            nullcontext() if arguments.timeline is None else dist.timeline(arguments.timeline),
            np.errstate(over="ignore", invalid="ignore"),  # it is looked at below
        ):
            is_over = early_stopping is not None and early_stopping.is_over  # before a resume
            for number in range(begun + 1, (begun if is_over else arguments.steps) + 1):
                with dist.span("step", "steps", number=number):
                    record = _measured(job, step, number, kept)
                if finite:
                    _check(record, arguments.learning_rate)
                if evaluate is not None and evaluate_every and number % evaluate_every == 0:
                    record |= _plain("evaluate()", evaluate())
                outlets.write(record)
                done = number
                stopped = early_stopping is not None and early_stopping.look(record)
                checkpoints.after(number)
                if job.hear():
                    outlets.refuse_failed()
                    _leave(job, checkpoints, number)
                if stopped:
                    break
            checkpoints.save(done, wait=True)
    except dist.TimelineError as error:
        checkpoints.leave(*sys.exc_info())
        raise JobError(f"--timeline {arguments.timeline}: {error}") from error
    except BaseException:
        checkpoints.leave(*sys.exc_info())
        raise
    finally:
        for each in closed(kept):
            each.close()

    final = _plain("evaluate()", evaluate()) if evaluate is not None else {}
    seconds = time.perf_counter() - started
    trained = Trained(done, final, variables_sha256(variables), outlets.history, seconds)
    outlets.finish(trained, dict(facts(trained)) if facts is not None else {}, hints)
    return trained


def _measured(job: Job, step: Callable[[int], Record], number: int, state: Any) -> dict[str, Any]:
    """Make a step; return its record with what it cost."""
    waited = sum(getattr(each, "waited", 0.0) for each in closed(state))
    started = time.perf_counter()
    found = _plain(f"step({number})", step(number))
    if not isinstance(found.get("loss"), (int, float)):
        raise ValueError(
            f"train: step({number}) returned {', '.join(found) or 'nothing'}; expected a record "
            "with 'loss', a number, as Averaged.record() gives it"
        )
    cost = job.world.read()
    return {
        "step": number,
        "loss": found.pop("loss"),
        "grad_norm": found.pop("grad_norm", None),
        "examples": found.pop("examples", job.arguments.global_batch),
        "seconds": time.perf_counter() - started,
        "comm_seconds": cost.seconds,
        "exposed_comm_seconds": cost.exposed_seconds,
        "data_seconds": sum(getattr(each, "waited", 0.0) for each in closed(state)) - waited,
        "bytes_sent": cost.bytes_sent,
        "ranks": job.world.size,
        **found,
    }


def _plain(function: str, found: Any) -> dict[str, Any]:
    """Return what a function of the job returned, with Python's numbers for those of arrays."""
    if not isinstance(found, Mapping):
        raise TypeError(
            f"train: {function} returned {type(found).__name__}; expected a dict of figures by name"
        )
    figures = dict(found)
    for name, value in figures.items():
        if not hasattr(value, "shape"):
            continue
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if array.shape:
            raise ValueError(
                f"train: {function} returned {name!r} of shape {array.shape}; expected a number, "
                "such as its mean"
            )
        figures[name] = array.item() if array.dtype.kind in "biu" else float(array)
    return figures


def _check(record: Mapping[str, Any], rate: float) -> None:
    norm = record["grad_norm"]
    if not (math.isfinite(record["loss"]) and (norm is None or math.isfinite(norm))):
        given = "" if norm is None else f", gradient norm {norm:g}"
        raise JobError(
            f"training diverged in step {record['step']} (loss {record['loss']:g}{given}); try "
            f"--learning-rate below {rate:g}"
        )


def _leave(job: Job, checkpoints: Checkpoints, number: int) -> None:
    checkpoints.save(number, wait=True)
    raise Preempted(
        f"asked to make room: saved after step {number} in {job.arguments.checkpoint_dir}; "
        "go on with --resume"
    )

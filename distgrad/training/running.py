"""Run a job as one of its ranks, and turn how it ends into an exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import distgrad.distributed as dist
from distgrad.distributed.launching.launch import detect
from distgrad.distributed.launching.supervision import AGAIN
from distgrad.training.arguments import JobParser
from distgrad.training.job import Job, JobError, Preempted
from distgrad.training.meter import MeteredCommunicator
from distgrad.training.preemption import Preemption


def run_job(
    body: Callable[[Job], None],
    *,
    name: str,
    description: str,
    steps: int,
    global_batch: int,
    learning_rate: float,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Run a job as one of its ranks and return the exit status.

    Parameters
    ----------
    body : callable
        ``body(job)``: does the work; every rank calls it.
    name, description : str
        Of the job, in messages and help.
    steps, global_batch, learning_rate : int, int, float
        The job's defaults of the arguments that all jobs take.
    add_arguments : callable, optional
        Adds the job's own arguments to the parser.
    argv : sequence of str, optional
        The words of the command line; those of this process by default.

    Returns
    -------
    int
        0; 1 after a `JobError`, which the first rank prints in one line, or where memory does not
        suffice, which the rank says that lacks it; 75 (EX_TEMPFAIL) if the job was asked to make
        room and has saved its state.
    """
    sizes = ""
    try:
        world = MeteredCommunicator(dist.init())
        dist.init(communicator=world)
        parser = JobParser(
            name,
            description,
            is_first=world.rank == 0,
            steps=steps,
            global_batch=global_batch,
            learning_rate=learning_rate,
        )
        if add_arguments is not None:
            add_arguments(parser)
        arguments = parser.parse_args(argv)
        sizes = parser.sizes_of(arguments)
        preemption = Preemption()
        if arguments.checkpoint_dir is None:  # nothing can be saved: signals end the job
            body(Job(name, arguments, world, preemption))
        else:
            with preemption:
                body(Job(name, arguments, world, preemption))
    except Preempted as asked:
        if detect().rank == 0:
            print(f"{name}: {asked}", file=sys.stderr, flush=True)
        return AGAIN
    except (JobError, dist.LaunchError) as error:  # on every rank alike: nobody waits for another
        if detect().rank == 0:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        return 1
    except MemoryError as error:  # perhaps of this rank alone: others hear of it as it leaves
        lacks = f"rank {detect().rank} has not enough memory" + (f": {error}" if str(error) else "")
        remedy = "take a smaller --global-batch or model, more --micro-batches, or more machines"
        given = f"; asked for {sizes}" if sizes else ""
        print(f"{name}: {lacks}{given}; {remedy}", file=sys.stderr, flush=True)
        return 1
    return 0

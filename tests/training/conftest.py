"""A small job that is started as a program, or by a fork of this one, and broken on purpose."""

import json
import os
import sys
import warnings
from pathlib import Path

import pytest

from distgrad.testing.ranks import run_ranks

JOB = """
import os, signal, sys
import numpy as np
import distgrad as dg
import distgrad.distributed as dist
from distgrad.data import from_arrays
from distgrad.training import EarlyStopping, JobError, run_job, train


def main(argv=None):
    return run_job(
        body, name="job", description="Fit a plane.", steps=20, global_batch=7,
        learning_rate=0.05, add_arguments=add_arguments, argv=argv,
    )


def add_arguments(parser):
    parser.add_argument("--signal", default="")  # number:rank:step
    parser.add_argument("--patience", type=int, default=0)
    parser.add_argument("--fail", default="")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--examples", type=int, default=45)
    parser.add_argument("--evaluation-batch", type=int, default=10)


def body(job):
    if job.arguments.fail == "folders":  # as of machines without a disk in common
        own = os.path.join(os.path.dirname(__file__), f"machine-{job.world.rank}")
        os.makedirs(own)
        os.chdir(own)
    numbers = np.random.default_rng(3)
    x = numbers.normal(size=(job.arguments.examples, 3)).astype(job.arguments.dtype)
    y = (x @ [1.0, -2.0, 0.5] + 0.25).astype(job.arguments.dtype)
    weights = dg.Variable(np.zeros(3, job.arguments.dtype), name="weights")
    offset = dg.Variable(np.zeros((), job.arguments.dtype), name="offset")
    variables = [weights, offset]
    optimizer = dg.optimizers.Adam(job.arguments.learning_rate)
    optimizer.build(variables)
    noise = dg.random.Generator(job.arguments.seed)
    dropout = dg.nn.Dropout(job.arguments.dropout, generator=dg.random.Generator(9))

    def jitter(examples, draws):
        return examples[0] + 0.01 * draws.normal((3,)).astype(examples[0].dtype), examples[1]

    data = from_arrays((x, y))
    batches = job.loader(data.map(jitter, random=True))

    def errors(piece):
        x = dropout(dg.asarray(piece[0]), training=True)
        return dg.square(x @ weights + offset - piece[1])

    def loss(piece):
        found = errors(piece)
        unlike = job.arguments.fail == "names" and job.world.rank == 1
        return found, {"tiny" if unlike else "small": found.numpy() < 0.1}

    def step(number):
        if job.arguments.signal:
            kind, rank, at = map(int, job.arguments.signal.split(":"))
            if (job.world.rank, number) == (rank, at) and "DISTGRAD_TEST_DEAF" not in os.environ:
                os.kill(os.getpid(), kind)
        averaged = job.gradients(loss, next(batches), variables)
        optimizer.apply(averaged.gradients, variables)
        drawn = float(noise.uniform(()))
        if job.arguments.fail == "step" and number == 3:
            raise JobError("step 3 does not please")
        if job.arguments.fail == "memory" and number == 3 and job.world.rank == 1:
            np.empty(2**50)
        return {**averaged.record(), "drawn": drawn}

    train(
        job, step, variables=variables,
        state={"model": variables, "optimizer": optimizer, "data": batches, "noise": noise,
               "dropout": dropout},
        evaluate=lambda: job.evaluate(lambda piece: {"error": errors(piece)}, data,
                                      batch=job.arguments.evaluation_batch),
        evaluate_every=5,
        early_stopping=EarlyStopping("error", patience=job.arguments.patience)
        if job.arguments.patience else None,
    )


if __name__ == "__main__":
    sys.exit(main())
"""


class Jobs:
    """Runs the small job and reads what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "job.py"
        self.script.write_text(JOB)

    def run(self, ranks, *arguments, timeout=90.0, **environment):
        """Run it on ranks as programs of their own."""
        words = [str(self.script), *map(str, arguments), "--quiet"]
        return run_ranks(ranks, words, timeout=timeout, env=environment)

    def start(self, *arguments):
        """Run it in a fork of this process, which has imported all; return the process id."""
        child = os.fork()
        if child:
            return child
        status = 99
        try:
            with (self.folder / "output").open("a") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                sys.stdout = sys.stderr = output  # pytest has put its own there
                warnings.resetwarnings()  # to print, where pytest raises
                names = {"__name__": "forked"}
                exec(compile(JOB, "job.py", "exec"), names)  # noqa: S102  this file's own text
                status = names["main"]([*map(str, arguments), "--quiet"])
        finally:
            os._exit(status)

    def wait(self, child):
        """Return the exit status of a fork: minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def output(self):
        """Return what forks have printed."""
        path = self.folder / "output"
        return path.read_text() if path.exists() else ""

    @staticmethod
    def records(path):
        """Return the lines of a metrics file."""
        return [json.loads(line) for line in Path(path).read_text().splitlines()]

    @staticmethod
    def curve(path):
        """Return what a job's metrics say of its numbers: all but times and ranks."""
        times = {"seconds", "comm_seconds", "exposed_comm_seconds", "data_seconds"}
        left_out = times | {"bytes_sent", "ranks"}
        return [
            {name: value for name, value in record.items() if name not in left_out}
            for record in Jobs.records(path)
        ]


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path)

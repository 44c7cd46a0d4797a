"""What a case of the matrix is, and the bench on which its jobs run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distgrad.testing.faults import VARIABLE
from distgrad.testing.ranks import RankResult, run_ranks

PRELUDE = """
import hashlib, os, signal, sys, time
import numpy as np
import distgrad as dg
import distgrad.distributed as dist

def say(text):
    os.write(1, f"{text}\\n".encode())  # in one piece: all ranks share the pipe
"""

# Five steps on random data of each rank's own; says whether all ranks ended with equal variables.
TRAIN = """
world = dist.init(timeout=float(os.environ.get("PATIENCE", "40")), grace=1)
signal.signal(signal.SIGUSR1, lambda *_: None)
rng = np.random.default_rng(world.rank)
kernel = dg.Variable(np.ones((4, 3)), name="kernel")
bias = dg.Variable(np.zeros(3), name="bias")
audit = dist.DivergenceAudit([kernel, bias], every=2) if "audit" in sys.argv else None
policy = "raise" if "raise" in sys.argv else "keep"
for step in range(6):
    x = dg.asarray(rng.normal(size=(2, 4)))
    with dist.DistributedGradientTape(dg.GradientTape(), nonfinite=policy) as tape:
        loss = dg.mean((dg.tanh(x @ kernel) + bias) ** 2)
    for variable, gradient in zip([kernel, bias], tape.gradient(loss, [kernel, bias])):
        variable.assign_sub(0.1 * gradient)
    if audit is not None:
        audit.step()
dist.DivergenceAudit([kernel, bias]).check()
if world.rank == 0:
    say("all ranks have trained, with equal variables")
"""
# The same with a gradient of 1 MiB: 2 ranks of one machine add it up in memory of both, a few more
# by slices.
TRAIN_LONG = (
    TRAIN.replace("[kernel, bias]", "[kernel, bias, table]")
    .replace("audit =", 'table = dg.Variable(np.ones((512, 256)), name="table")\naudit =')
    .replace("+ bias) ** 2)", "+ bias) ** 2) + dg.mean(dg.tanh(wide @ table / 1000))")
    .replace("for step", "wide = np.ones((64, 512))\nfor step")
)
TRAINED = "all ranks have trained, with equal variables"


@dataclass(frozen=True)
class Limit:
    """How long the job of a case may take to end, as docs/reliability.md says.

    Attributes
    ----------
    seconds, seconds_a_rank : float
        What is added up for a number of ranks.
    since : {"the fault", "the start"}
        From when it counts: the last moment of a fault that was announced, or the start of the job.
    reason : str
        Why it is as long, where it is not that of all.
    """

    seconds: float
    seconds_a_rank: float = 0.0
    since: str = "the fault"
    reason: str = ""

    def on(self, ranks: int) -> float:
        """Return the seconds for so many ranks."""
        return self.seconds + self.seconds_a_rank * ranks

    def __str__(self) -> str:
        more = f" + {self.seconds_a_rank:g} s a rank" if self.seconds_a_rank else ""
        return f"{self.seconds:g} s{more} from {self.since}"


# On a machine busy with other work; the ranks' own grace periods are of 1 s here.
SOON = Limit(10)
# Where the job goes on, and has to come to its end: the deadline, after which it counts as hanging.
TO_THE_END = Limit(60, 30, "the start", "the job goes on to its end")


class UnexpectedEndError(AssertionError):
    """A job with a fault did not end as it should."""


@dataclass
class Bench:
    """Where the jobs of a case run.

    Attributes
    ----------
    ranks : int
        How many ranks each has.
    folder : Path
        For scripts and checkpoints.
    other_mpirun : str
        The launcher of another MPI; empty if there is none.
    deadline : float, optional
        Seconds after which a job counts as hanging; by default those of `TO_THE_END`.
    seconds : float
        From the last fault to the end of its job; where none is announced, of the whole job.
    announced : bool
        Whether one was announced.
    """

    ranks: int
    folder: Path
    other_mpirun: str = ""
    deadline: float = 0.0
    seconds: float = field(default=0.0, init=False)
    announced: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.deadline = self.deadline or TO_THE_END.on(self.ranks)

    def run(
        self,
        source: str,
        *arguments: str,
        ranks: int | None = None,
        faults: str = "",
        mpirun: str | None = None,
        elastic: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> RankResult:
        """Run a job and return how it ended."""
        script = self.folder / "job.py"
        script.write_text(PRELUDE + source, encoding="utf-8")
        environment = dict(variables or {}) | ({VARIABLE: faults} if faults else {})
        result = run_ranks(
            self.ranks if ranks is None else ranks,
            [script, *arguments],
            mpi=mpirun,
            timeout=self.deadline,
            env=environment,
            elastic=elastic,
        )
        ended = time.time()
        told = re.findall(r"FAULT (\d+\.\d{3})", result.stdout + result.stderr)
        self.announced = bool(told)
        self.seconds = ended - max(map(float, told)) if told else result.seconds
        return result

    def ends(
        self, result: RankResult, *words: str, by: str = "all", code: int | None = None
    ) -> None:
        """Raise unless a job ended badly, and ranks said so in these words.

        Parameters
        ----------
        result : RankResult
            How it ended.
        *words : str
            What stands in what each of the ranks says, all in one.
        by : {"all", "others", "anybody"}
            Which ranks: all, all but rank 1, or anybody, such as the launcher.
        code : int, optional
            The exit code, if one is expected.
        """
        if result.returncode == 0 or TRAINED in result.stdout:
            raise UnexpectedEndError(f"the job went on:\n{result.stdout}{result.stderr}")
        if code is not None and result.returncode != code:
            raise UnexpectedEndError(
                f"exit code {result.returncode} in place of {code}:\n{result.stderr}"
            )
        ranks = [rank for rank in range(self.ranks) if by == "all" or rank != 1]
        texts = [_said_by(result, rank) for rank in ranks]
        if by == "anybody":
            texts = [result.stderr + result.stdout]
        for text in texts:
            missing = [word for word in words if word not in text]
            if missing:
                raise UnexpectedEndError(f"nobody says {missing[0]!r}:\n{result.stderr}")

    def goes_on(self, result: RankResult, *words: str) -> None:
        """Raise unless a job ended well, and said this."""
        if result.returncode != 0:
            raise UnexpectedEndError(f"exit code {result.returncode}:\n{result.stderr}")
        for word in words:
            if word not in result.stdout:
                raise UnexpectedEndError(f"nobody says {word!r}:\n{result.stdout}{result.stderr}")

    def keeps(self, limit: Limit) -> None:
        """Raise unless the last job ended within a limit."""
        if limit.since == "the fault" and not self.announced:
            raise UnexpectedEndError("no moment of a fault was announced, from which to count")
        if self.seconds > limit.on(self.ranks):
            raise UnexpectedEndError(
                f"it took {self.seconds:.1f} s to end; expected {limit}, "
                f"{limit.on(self.ranks):g} s on {self.ranks} ranks"
            )


def _said_by(result: RankResult, rank: int) -> str:
    mark = f"[rank {rank}] "
    lines = result.stderr.splitlines()
    return "\n".join(line.removeprefix(mark) for line in lines if line.startswith(mark))


@dataclass(frozen=True)
class Case:
    """A fault, and what has to become of the job.

    Attributes
    ----------
    number : int
        1 to 26, as in docs/reliability.md.
    fault : str
        What goes wrong.
    injected : str
        How it is done here.
    expected : str
        How the job ends.
    play : callable
        Runs the jobs of the case on a bench, and raises `UnexpectedEndError`.
    limit : Limit
        Within what the last of them has to end.
    variant : str
        Tells two cases of one number apart.
    elastic : bool
        Whether ranks have to outlive each other: Open MPI alone.
    needs_other : bool
        Whether the launcher of another MPI is needed.
    """

    number: int
    fault: str
    injected: str
    expected: str
    play: Callable[[Bench], None]
    limit: Limit = SOON
    variant: str = ""
    elastic: bool = False
    needs_other: bool = False

    @property
    def name(self) -> str:
        """Such as ``F8`` or ``F8-elastic``."""
        return f"F{self.number}" + (f"-{self.variant}" if self.variant else "")

    def run(self, bench: Bench) -> None:
        """Run the jobs on a bench, and raise `UnexpectedEndError` unless they end as they should.

        Raises
        ------
        UnexpectedEndError
            If one ends otherwise, or the last one too late.
        """
        self.play(bench)
        bench.keeps(self.limit)

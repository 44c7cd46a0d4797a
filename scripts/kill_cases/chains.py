"""Start a tiny training, kill a rank of it at a random moment, go on, and compare the ends.

Each checkpoint that is visible has to be whole after a kill, the next run has to go on from the
newest, and the end has to have the bits of a run that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distgrad as dg
from distgrad.checkpoint.listing import listed
from distgrad.distributed import SerialCommunicator
from distgrad.distributed.launching.launchers import find_launcher
from distgrad.distributed.launching.processes import (
    MARK,
    end_processes,
    launcher_folder,
    outer_environment,
    ranks_of,
)
from distgrad.errors import CheckpointError, CheckpointWarning

SCRIPTS = Path(__file__).resolve().parents[1]

RANKS = (1, 2, 3, 4)
KILLS_OF_A_JOB = 5  # one after the other, each followed by a resume
STEPS = 30
DEADLINE = 120.0  # seconds, of one run
START_UP = 2.0  # seconds: imports, MPI_Init and the load of a checkpoint, here about 1.5
A_STEP = 0.02  # seconds, with its checkpoint
_MOST_IN_VAIN = 10  # jobs that end before they are killed, one after the other
WRITING = 0.006  # seconds from the first file of a checkpoint to its last rename

# 97 and 7: no number of ranks divides them.
TRAININGS = {
    "train_digits": ("--global-batch", "97"),
    "train_text": ("--global-batch", "7", *("--width", "8", "--heads", "2", "--blocks", "1")),
}
# The optimizer's state is cut over the ranks: each holds, and writes, what no other has.
TRAININGS["train_text --zero 1"] = (*TRAININGS["train_text"], "--zero", "1")

MOMENTS = {
    "starting": f"within {START_UP:.0f} s after the start: imports, MPI_Init, load",
    "any": "some steps after the start",
    "writing": "some steps after the start, when the next checkpoint has begun to be written",
}


class LostWorkError(RuntimeError):
    """A job that was killed lost a checkpoint, or ended with another result."""


@dataclass
class Kill:
    """One kill, and what came of it."""

    training: str
    ranks: int
    rank: int
    moment: str
    before: int
    after: int
    unfinished: bool
    then: int = 0


@dataclass
class Chain:
    """A job from its first start to its end, with what was done to it."""

    training: str
    kills: list[Kill]


def command_of(training: str, folder: Path, ranks: int) -> list[str]:
    """Return the words that start a training, or go on with it."""
    script = SCRIPTS / f"{training.split(maxsplit=1)[0]}.py"
    return [
        *(str(find_launcher().path), "-n", str(ranks), sys.executable, str(script)),
        *TRAININGS[training],
        *("--steps", str(STEPS), "--deterministic", "--checkpoint-every", "1", "--resume"),
        *("--checkpoint-dir", str(folder / "saved"), "--metrics", str(folder / "metrics.jsonl")),
    ]


class Run:
    """One start of a job under `mpirun`, which is ended when the block is left."""

    def __init__(self, training: str, folder: Path, ranks: int) -> None:
        self.ranks, self.saved = ranks, folder / "saved"
        self._mark, self._output = uuid.uuid4().hex, folder / "output"
        self._after = contextlib.ExitStack()
        environment = outer_environment() | {
            **{MARK: self._mark, "DISTGRAD_PROGRESS": "lines"},
            **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            **self._after.enter_context(launcher_folder()),
        }
        self.begun = time.monotonic()
        with self._output.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                command_of(training, folder, ranks),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *ignored: object) -> None:
        end_processes(self._mark)
        self.process.wait()
        self._after.close()

    def wait(self) -> int:
        """Return the exit status of the launcher.

        Raises
        ------
        LostWorkError
            If it does not end: a rank that was killed has left the others waiting.
        """
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired as error:
            raise LostWorkError(
                f"a job did not end in {DEADLINE} s; it said:\n{self.said()}"
            ) from error

    def goes_on(self) -> bool:
        """Return whether the job has not ended."""
        if time.monotonic() - self.begun > DEADLINE:
            raise LostWorkError(f"a job did not get on in {DEADLINE} s; it said:\n{self.said()}")
        return self.process.poll() is None

    def said(self) -> str:
        """Return what all ranks have printed."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def shared_memory(self) -> set[Path]:
        """Return the segments that the ranks share: MPICH leaves them behind when one is killed."""
        found = set()
        for pid in ranks_of(self._mark):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
                    found.add(Path(line.split(maxsplit=5)[-1]))
        return {path for path in found if path.parent == Path("/dev/shm")}  # noqa: S108

    def process_of(self, rank: int) -> int | None:
        """Return the process of a rank once all ranks are there; None if the job ends before."""
        while self.goes_on():
            there = {number: pid for pid, number in ranks_of(self._mark).items()}
            if len(there) == self.ranks:
                return there[rank]
            time.sleep(0.002)  # each look reads all of /proc, and the ranks need the cores
        return None


def newest(saved: Path) -> int:
    """Return the step of the newest visible checkpoint, 0 if there is none."""
    return max((each.step for each in listed(saved)), default=0)


def unfinished(saved: Path) -> set[str]:
    """Return the checkpoints that are being written, or were when a rank was killed."""
    names = os.listdir(saved) if saved.is_dir() else []
    return {name for name in names if name.startswith(".writing-")}


def wait_for(run: Run, moment: str, begun: int, chance: random.Random) -> None:
    """Wait until a moment of a kind has come; a job that ends before is not waited for."""
    if moment == "starting":
        time.sleep(chance.uniform(0, START_UP))
        return
    wanted = begun + chance.randint(1, STEPS // KILLS_OF_A_JOB)
    while run.goes_on() and newest(run.saved) < wanted:
        time.sleep(0.001)
    if moment == "any":
        time.sleep(chance.uniform(0, A_STEP))
        return
    there = unfinished(run.saved)
    while run.goes_on() and not unfinished(run.saved) - there:
        there &= unfinished(run.saved)
    time.sleep(chance.uniform(0, WRITING))


def kill_once(training: str, folder: Path, ranks: int, chance: random.Random) -> Kill | None:
    """Start or resume a job and kill a rank of it; return None if it ended before.

    Raises
    ------
    LostWorkError
        If a checkpoint is lost or damaged, or the job did not go on from the newest one.
    """
    rank, moment = chance.randrange(ranks), chance.choice(("starting", "any", "writing", "writing"))
    begun, left_before = newest(folder / "saved"), unfinished(folder / "saved")
    with Run(training, folder, ranks) as run:
        pid = run.process_of(rank)
        wait_for(run, moment, begun, chance)
        if pid is None or not run.goes_on():
            return None
        segments, before = run.shared_memory(), newest(run.saved)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        if run.wait() == 0:  # the rank had done all that it had to do
            return None
    for path in segments:
        path.unlink(missing_ok=True)
    check_resumed(run, begun)
    after = newest(run.saved)
    if after < before:
        raise LostWorkError(f"step {before} was saved; after the kill the newest is {after}")
    check_whole(run.saved)
    left = bool(unfinished(run.saved) - left_before)
    return Kill(training, ranks, rank, moment, before, after, left)


def check_resumed(run: Run, newest_before: int) -> None:
    """Raise an error if a run went on from another checkpoint than the newest."""
    said = [line for line in run.said().splitlines() if line.startswith("resumed after step ")]
    if said and said != [f"resumed after step {newest_before}"]:
        raise LostWorkError(f"the newest checkpoint was {newest_before}, but the job said {said}")
    if not newest_before and said:
        raise LostWorkError(f"there was no checkpoint, but the job said {said}")


def check_whole(saved: Path) -> None:
    """Load all that is visible, with all checksums."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        for each in listed(saved):
            try:
                dg.checkpoint.load(saved, step=each.step, comm=SerialCommunicator())
            except (CheckpointError, CheckpointWarning) as error:
                raise LostWorkError(
                    f"the checkpoint of step {each.step} is lost: {error}"
                ) from error


def records(folder: Path) -> list[dict[str, Any]]:
    """Return what a job measured, less what depends on time and on the number of ranks."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    *steps, last = map(json.loads, lines)
    kept = [{name: each[name] for name in ("step", "loss", "grad_norm")} for each in steps]
    return [*kept, last]


def run_to_the_end(training: str, folder: Path, ranks: int) -> list[dict[str, Any]]:
    """Start or resume a job that nobody disturbs; return what it measured.

    Raises
    ------
    LostWorkError
        If it fails, or did not go on from the newest checkpoint.
    """
    begun = newest(folder / "saved")
    with Run(training, folder, ranks) as run:
        status = run.wait()
    if status:
        raise LostWorkError(f"{training} on {ranks} ranks failed ({status}):\n{run.said()}")
    check_resumed(run, begun)
    return records(folder)


def play_chain(
    training: str, kills: int, expected: list[dict[str, Any]], chance: random.Random
) -> Chain:
    """Start a job, kill it so many times or until it ends before, let it end, and compare.

    Raises
    ------
    LostWorkError
        If anything was lost.
    """
    chain = Chain(training, [])
    with tempfile.TemporaryDirectory() as name:
        folder, ended = Path(name), False
        while len(chain.kills) < kills and not ended:
            ranks = chance.choice(RANKS)
            if chain.kills:
                chain.kills[-1].then = ranks
            found = kill_once(training, folder, ranks, chance)
            ended = found is None
            if found is not None:
                chain.kills.append(found)
        ranks = chance.choice(RANKS)
        if chain.kills and not chain.kills[-1].then:
            chain.kills[-1].then = ranks
        result = records(folder) if ended else run_to_the_end(training, folder, ranks)
    if result != expected:
        differ = [
            a["step"] for a, b in zip(result, expected, strict=False) if a != b and "step" in a
        ]
        raise LostWorkError(
            f"{training} ended with {result[-1]}, undisturbed with {expected[-1]}; "
            f"{len(result)} lines of metrics, {len(expected)} undisturbed; the first step that "
            f"differs: {differ[:1]}"
        )
    return chain


def undisturbed(training: str) -> list[dict[str, Any]]:
    """Return what a training measures on one rank if nothing happens."""
    with tempfile.TemporaryDirectory() as name:
        return run_to_the_end(training, Path(name), 1)


def play(
    kills: int,
    seed: int,
    trainings: Sequence[str] = tuple(TRAININGS),
    in_a_row: int = KILLS_OF_A_JOB,
) -> Iterator[Chain]:
    """Yield chains until there were so many kills.

    Raises
    ------
    LostWorkError
        If anything was lost; the message says how to do the same again. Also if jobs end so early
        that none is killed.
    """
    expected: dict[str, list[dict[str, Any]]] = {}
    done = turn = in_vain = 0
    while done < kills:
        training = trainings[turn % len(trainings)]
        wanted = min(in_a_row, kills - done)
        chance = random.Random(f"{seed} {turn}")  # noqa: S311  to be drawn again, not to be secret
        try:
            if training not in expected:
                expected[training] = undisturbed(training)
            chain = play_chain(training, wanted, expected[training], chance)
        except LostWorkError as error:
            raise LostWorkError(
                f"{training}, turn {turn} of scripts/list_kills.py --seed {seed}: {error}"
            ) from error
        done += len(chain.kills)
        turn += 1
        in_vain = 0 if chain.kills else in_vain + 1
        if in_vain == _MOST_IN_VAIN:
            raise LostWorkError(
                f"{in_vain} jobs one after the other ended before a rank was killed; expected "
                f"moments within {STEPS} steps: give the jobs more STEPS"
            )
        yield chain

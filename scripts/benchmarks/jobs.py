"""Run each training job as it is documented, on several numbers of ranks, and compare the results.

The commands and what they have to come to are in one table below; docs/how-to/run-the-jobs.md tells
the same figures. A job's figures are those of the last line of its --metrics. A limit is the
documented figure with room for rounding: ranks add up in another order, and so do other versions of
BLAS, which a training of many steps makes visible in the third digit or so. Jobs run one after the
other, the cheapest first. Seconds are those of the clock, the start of the ranks included. The exit
status is 1 if a figure is beyond its limit or a job fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distgrad.distributed.launching.launchers import find_launcher
from distgrad.errors import JobTimeoutError
from distgrad.testing.ranks import run_ranks

SCRIPTS = Path(__file__).resolve().parents[1]
DEADLINE = 3600.0  # seconds, of one run


def percent(share: float) -> str:
    """Return a share in per cent."""
    return f"{100 * share:.2f} %"


def power(number: float) -> str:
    """Return a tiny number."""
    return f"{number:.0e}"


def unit(name: str, digits: int) -> Callable[[float], str]:
    """Return how to write a number of a unit."""
    return lambda number: f"{number:.{digits}f}{name and ' '}{name}"


@dataclass(frozen=True)
class Figure:
    """What a job has to come to.

    Attributes
    ----------
    key : str
        Its name in the last line of the metrics.
    documented : float
        What docs/how-to/run-the-jobs.md says.
    limit : float
        What still counts as that.
    most : bool
        Whether the limit is an upper one.
    write : callable
        How a number of the kind is written.
    """

    key: str
    documented: float
    limit: float
    most: bool
    write: Callable[[float], str]

    def is_reached(self, found: float) -> bool:
        """Return whether a result keeps to the limit; what is no number does not."""
        return found <= self.limit if self.most else found >= self.limit

    @property
    def words(self) -> str:
        """The limit in words."""
        return f"{'at most' if self.most else 'at least'} {self.write(self.limit)}"


# The cheapest first. Of Newton's method the page says how far rounding may lead at worst, 2e-8.
JOBS: dict[str, tuple[Figure, ...]] = {
    "fit_newton.py": (Figure("largest_difference", 2e-15, 2e-8, True, power),),
    "fit_newton.py --data digits": (Figure("largest_difference", 6e-15, 2e-8, True, power),),
    "train_policy.py": (Figure("test_return", 199, 195, False, unit("moves", 1)),),
    "train_digits.py": (Figure("test_accuracy", 0.986, 0.97, False, percent),),
    "train_timeseries.py": (Figure("test_error", 0.61, 0.65, True, unit("ppm", 3)),),
    "train_timeseries.py --cell lstm": (Figure("test_error", 0.63, 0.67, True, unit("ppm", 3)),),
    "fit_physics.py": (
        Figure("viscosity_error", 0.002, 0.005, True, percent),
        Figure("velocity_error", 0.003, 0.005, True, percent),
    ),
    "train_gan.py": (
        Figure("frechet_distance", 1.03, 1.2, True, unit("", 2)),
        Figure("confidence", 0.78, 0.75, False, percent),
        Figure("classes", 9.9, 9.5, False, unit("", 1)),
    ),
    "train_text.py": (Figure("bits_per_byte", 2.47, 2.52, True, unit("bits", 3)),),
    "train_images.py": (Figure("test_accuracy", 0.901, 0.895, False, percent),),
}


def run_job(command: str, ranks: int) -> dict[str, float]:
    """Run a job and return the last line of its metrics, with its ``clock`` in seconds.

    Raises
    ------
    RuntimeError
        If it fails; with the last line that it said.
    """
    script, *words = command.split()
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        argv = [str(SCRIPTS / script), *words, "--quiet", "--metrics", str(metrics)]
        started = time.perf_counter()
        if ranks == 1:
            done = subprocess.run(
                [sys.executable, *argv],
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                check=False,
            )
            code, said = done.returncode, done.stderr
        else:
            found = run_ranks(ranks, argv, mpi=find_launcher().path, timeout=DEADLINE)
            code, said = found.returncode, found.stderr
        clock = time.perf_counter() - started
        if code:
            raise RuntimeError(" ".join(said.strip().splitlines()[-1:]) or f"exit code {code}")
        last = json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])
    return {**last, "clock": clock}


def rows(command: str, found: dict[int, dict[str, float] | str]) -> tuple[list[str], bool]:
    """Return a job's rows of the table, and whether all of its figures are as documented."""
    good, lines = True, []
    for number, figure in enumerate(JOBS[command]):
        cells = []
        for each in found.values():
            if isinstance(each, str):
                cells.append(f"failed: {each}")
                good = False
                continue
            reached = figure.is_reached(each[figure.key])
            cells.append(figure.write(each[figure.key]) + ("" if reached else " **(beyond)**"))
            good = good and reached
        clocks = " / ".join(
            "-" if isinstance(e, str) else f"{e['clock']:.0f}" for e in found.values()
        )
        lines.append(
            f"| {'' if number else f'`{command}`'} | {figure.key.replace('_', ' ')} "
            f"| {figure.write(figure.documented)}; {figure.words} | {' | '.join(cells)} "
            f"| {'' if number else clocks} |"
        )
    return lines, good


def main() -> int:
    """Run what is asked for, print a table in Markdown, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", default="1,2,4", help="numbers, separated by commas")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help="jobs, such as train_text"
    )
    arguments = parser.parse_args()
    try:
        numbers = [int(each) for each in arguments.ranks.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        parser.error(f"--ranks: expected numbers such as 1,2,4, got {arguments.ranks!r}")
    names = {command.split(".")[0] for command in JOBS}
    if unknown := set(arguments.only) - names:
        parser.error(
            f"--only: no job is called {', '.join(sorted(unknown))}; there are: "
            + ", ".join(sorted(names))
        )
    counts = " | ".join(f"{n} rank{'s' if n > 1 else ''}" for n in numbers)
    print(f"| job | figure | documented; limit | {counts} | seconds |")
    print("| --- " * (len(numbers) + 4) + "|", flush=True)
    all_good = True
    for command in JOBS:
        if arguments.only and command.split(".")[0] not in arguments.only:
            continue
        found: dict[int, dict[str, float] | str] = {}
        for ranks in numbers:
            try:
                found[ranks] = run_job(command, ranks)
            except (RuntimeError, JobTimeoutError, subprocess.TimeoutExpired) as error:
                found[ranks] = str(error).splitlines()[0]
            print(f"{command}, {ranks} ranks: {found[ranks]}", file=sys.stderr, flush=True)
        lines, good = rows(command, found)
        print("\n".join(lines), flush=True)
        all_good = all_good and good
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())

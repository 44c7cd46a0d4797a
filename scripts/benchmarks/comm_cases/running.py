"""Run cases in turn on all ranks, start such jobs, and print their figures."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.testing.ranks import run_ranks

PROGRAM = Path(__file__).resolve().parents[1] / "comm.py"

# How a job's ranks find each other without MPI: a file that PyTorch makes.
STORE = "DISTGRAD_BENCH_STORE"


def in_turn(
    rounds: int, cases: dict[str, Callable[[], Any]], meet: Callable[[], Any]
) -> dict[str, list[float]]:
    """Return each case's seconds; all run in turn, round after round, from a barrier.

    The first round warms up and does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, case in cases.items():
            meet()
            started = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - started)
    return {name: each[1:] for name, each in seconds.items()}


def medians(
    rounds: int, cases: dict[str, Callable[[], Any]], meet: Callable[[], Any]
) -> dict[str, float]:
    """Return each case's median seconds on this rank."""
    seconds = in_turn(rounds, cases, meet)
    return {name: statistics.median(each) for name, each in seconds.items()}


def of_the_slowest(
    seconds: dict[str, list[float]], gather: Callable[[np.ndarray], np.ndarray]
) -> dict[str, float]:
    """Return median and least over the rounds of what each case took on the slowest rank.

    Parameters
    ----------
    seconds : dict
        This rank's, as `in_turn` returns them; the cases are the same on every rank.
    gather : callable
        Returns all ranks' arrays along a new first axis.

    Notes
    -----
    Ranks that do nothing together are done when the last one is, too: its time is what a step of
    all can be compared with. One rank's own would count the machine's jitter for nothing there, and
    against the step in which ranks wait for each other.
    """
    slowest = np.max(gather(np.array(list(seconds.values()))), axis=0)
    found = dict(zip(seconds, np.median(slowest, axis=1).tolist(), strict=True))
    least = {
        f"{name} least": float(each.min()) for name, each in zip(seconds, slowest, strict=True)
    }
    return found | least


def measure(name: str, ranks: int, rounds: int, size: int = 0) -> dict[str, Any] | None:
    """Return what rank 0 of a job measured; None, said aloud, if the job failed."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_ranks(
            ranks,
            [str(PROGRAM), "--worker", name, "--rounds", str(rounds), "--size", str(size)],
            timeout=300,
            env={STORE: str(Path(folder) / "store")},
        )
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        reason = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"{name} on {ranks} ranks: no figures ({reason})")
        return None
    figures: dict[str, Any] = json.loads(lines[0])
    return figures


def line(what: str, seconds: float, other: str = "", ratio: float | None = None) -> None:
    """Print a figure, and its ratio to another."""
    text = f"  {what:46}{1e3 * seconds:10.3f} ms"
    print(text if ratio is None else f"{text}{ratio:8.2f} x {other}")


def line_of_both(what: str, found: dict[str, Any], case: str, beside: str = "") -> None:
    """Print a case's median and least, and the ratios of both to those of another case."""
    median, least = found[case], found[f"{case} least"]
    text = f"  {what:46}{1e3 * median:10.3f} ms {1e3 * least:10.3f}"
    if beside:
        ratios = median / found[beside], least / found[f"{beside} least"]
        text += f"{ratios[0]:8.2f} {ratios[1]:7.2f}"
    print(text)

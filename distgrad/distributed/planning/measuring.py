"""Measure what reductions cost: of eight bytes to 64 MiB, on two ranks and on more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.distributed.planning.link import PlanningError, Sample

LENGTHS = tuple(8 * 4**power for power in range(12)) + (64 * 2**20,)
_SECONDS = 0.25  # for all repetitions of one length, unless one alone takes longer
_MOST, _LEAST = 60, 5  # repetitions


def measure(
    comm: Any,
    lengths: Sequence[int] = LENGTHS,
    now: Callable[[], float] = time.perf_counter,
) -> list[Sample]:
    """Return the seconds of allreduces on the first 2, 4, 8, ... ranks, and on all of them.

    Parameters
    ----------
    comm : Communicator
        The ranks, which all call this. With ``split(color)``, parts of them are measured, too.
    lengths : sequence of int
        Of messages, in bytes: multiples of 4.
    now : callable
        Returns this rank's time in seconds.

    Returns
    -------
    list of Sample
        Of repetitions the lower quartile, as long as the slowest rank took: what a message costs,
        not what else a machine does meanwhile.

    Raises
    ------
    PlanningError
        On one rank alone.
    """
    if comm.size < 2:
        raise PlanningError(
            "plan: one rank alone sends no messages; start several: distgrad plan -n 2, or "
            "mpirun -n 8 distgrad plan --measure-into FILE"
        )
    samples = []
    for ranks in _numbers(comm):
        takes_part = comm.rank < ranks
        part = comm if ranks == comm.size else comm.split(int(not takes_part))
        if takes_part:
            for length in lengths:
                samples.append(Sample(ranks, length, _typical(part, length, now)))
        comm.barrier()
    # What one rank saw is what all use.
    flat = np.array(samples if comm.rank == 0 else _nothing(comm, lengths), np.float64)
    return [Sample(int(r), int(n), float(s)) for r, n, s in comm.broadcast(flat)]


def _numbers(comm: Any) -> list[int]:
    if not hasattr(comm, "split"):
        return [comm.size]
    return [n for n in (2**k for k in range(1, 20)) if n < comm.size] + [comm.size]


def _nothing(comm: Any, lengths: Sequence[int]) -> np.ndarray:
    return np.zeros((len(_numbers(comm)) * len(lengths), 3))


def _typical(comm: Any, length: int, now: Callable[[], float]) -> float:
    buffer = np.zeros(length // 4, np.float32)
    taken: list[float] = []
    repetitions = _MOST
    comm.allreduce(buffer, "sum", out=buffer)  # the first one sets up connections
    while len(taken) < repetitions:
        comm.barrier()
        begun = now()
        comm.allreduce(buffer, "sum", out=buffer)
        taken.append(now() - begun)
        if len(taken) == 2:
            slowest = float(comm.allreduce(np.array(max(taken)), "max"))
            repetitions = int(np.clip(_SECONDS / max(slowest, 1e-9), _LEAST, _MOST))
    return float(comm.allreduce(np.array(np.quantile(taken, 0.25)), "max"))


def save(samples: Sequence[Sample], path: Path) -> None:
    """Write measurements as JSON."""
    path.write_text(json.dumps({"distgrad_measurement": 1, "samples": samples}) + "\n")


def load(path: Path) -> list[Sample]:
    """Return the measurements of a file.

    Raises
    ------
    PlanningError
        If it has none.
    """
    try:
        value = json.loads(path.read_text())
        return [Sample(int(r), int(n), float(s)) for r, n, s in value["samples"]]
    except (ValueError, KeyError, TypeError) as error:
        raise PlanningError(
            f"{path} has no measurements; expected what distgrad plan --measure-into wrote"
        ) from error

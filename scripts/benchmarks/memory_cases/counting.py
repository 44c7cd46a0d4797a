"""Count the highest memory of a training step over ranks, and set it beside a formula.

Counted is what Python's allocators hand out (tracemalloc, which NumPy tells of its arrays), from
before the model is made to the end of the third step; the highest of all ranks during that step is
told. Seconds are of a step without counting, the least of three.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.testing.ranks import run_ranks

Step = Callable[[], Any]
Formula = Callable[[str, int], tuple[str, float]]  # of a case and ranks: in words, and in bytes


def count(comm: Any, make: Callable[[], Step]) -> dict[str, float]:
    """Return the highest peak of all ranks in bytes, and a step's seconds.

    Parameters
    ----------
    comm : Communicator
        The ranks, all of which call this.
    make : callable
        Makes a model and returns its step; it is called twice.
    """
    step = make()
    step()
    seconds = []
    for _ in range(3):
        comm.barrier()
        started = time.perf_counter()
        step()
        comm.barrier()
        seconds.append(time.perf_counter() - started)
    del step
    gc.collect()
    tracemalloc.start()
    step = make()
    step()
    step()
    gc.collect()
    tracemalloc.reset_peak()
    step()
    peak = comm.allreduce(np.array(tracemalloc.get_traced_memory()[1]), "max")
    return {"peak": int(peak), "seconds": min(seconds)}


def tell(comm: Any, counted: dict[str, float]) -> None:
    """Print what was counted, on the first rank, for `compare` to read."""
    if comm.rank == 0:
        print(json.dumps(counted), flush=True)


def compare(ranks: int, argv: Sequence[str], cases: Sequence[str], formula: Formula) -> None:
    """Run a job for each case, and print a table.

    Parameters
    ----------
    ranks : int
        Of each job.
    argv : sequence of str
        What follows ``python``, less the name of the case; it has to call `tell`.
    cases : sequence of str
        Names.
    formula : callable
        What a case ought to take.
    """
    print(f"{'':20}{'formula, MB':>12}{'peak, MB':>10}{'peak / formula':>16}{'ms':>7}")
    for case in cases:
        done = run_ranks(ranks, [*argv, case], timeout=600)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            print(f"{case}: not measured ({' '.join(last)})", file=sys.stderr)
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        words, nbytes = formula(case, ranks)
        print(
            f"{case:20}{nbytes / 1e6:12.1f}{found['peak'] / 1e6:10.1f}"
            f"{found['peak'] / nbytes:16.2f}{found['seconds'] * 1e3:7.0f}  {words}",
            flush=True,
        )

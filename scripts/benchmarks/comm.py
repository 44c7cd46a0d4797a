"""Measure what averaging gradients over MPI ranks costs, beside MPI itself and beside PyTorch.

Each job runs on ranks of this machine. `averaging`: many tensors in buckets beside one raw
MPI_Allreduce of the same bytes, the comparison of plans, the deterministic sum, and sums in memory
that two ranks share. `compression`: compressed, adaptive and hierarchical sums beside the plain
one. `hiding`: how much of the messages is hidden where the walk back waits (sleeps stand for it:
they leave the cores free), and how much more if a step waits where a variable is read next and
messages take their time (sleeps, too). `steps`: training steps on two ranks beside
DistributedDataParallel with gloo and beside two single processes at the same time, which is what
this machine can do at most. Ratios are distgrad's time to the other's.

The cases are in scripts/benchmarks/comm_cases/, each file a subject.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys

from comm_cases import averaging, hiding, steps

SUBJECTS = ("averaging", "compression", "hiding", "steps")
WORKERS = averaging.WORKERS | hiding.WORKERS | steps.WORKERS


def main() -> None:
    """Run the jobs and print their figures, the losing ratios among them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=7, help="how often each case runs")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3], help="to average on")
    parser.add_argument(
        "--megabytes", type=int, default=averaging.MEGABYTES, help="of gradients to average"
    )
    parser.add_argument("--size", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.megabytes < 1 or min(arguments.ranks) < 2:
        parser.error("--rounds and --megabytes must be 1 or more, --ranks 2 or more")
    unknown = [name for name in arguments.subjects if name not in SUBJECTS]
    if unknown:
        parser.error(f"no subject is called {unknown[0]!r}; there are: {', '.join(SUBJECTS)}")
    if arguments.worker:
        _work(arguments.worker, arguments.rounds, arguments.size)
        return
    rounds, wanted = arguments.rounds, arguments.subjects or SUBJECTS
    cores = len(os.sched_getaffinity(0))
    print(f"Python {platform.python_version()}, {cores} cores, medians of {rounds} rounds")
    if "averaging" in wanted:
        for ranks in arguments.ranks:
            averaging.show_averaging(rounds, ranks, arguments.megabytes)
        averaging.show_sums(rounds)
    if "compression" in wanted:
        averaging.show_compression(rounds)
    if "hiding" in wanted:
        hiding.show_overlap(rounds)
        hiding.show_slow_network(rounds)
    if "steps" in wanted:
        steps.show_steps(rounds)


def _work(name: str, rounds: int, size: int) -> None:
    """Run a case on this rank; rank 0 prints its figures."""
    figures = WORKERS[name](rounds, size)
    rank = figures.pop("rank", None)
    if rank is None:
        import distgrad.distributed as dist

        rank = dist.world().rank
    if rank == 0:
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    sys.exit(main())

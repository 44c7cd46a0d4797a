#!/usr/bin/env python3
"""Run every fault of the matrix as jobs of its own, and write docs/reliability.md from what came.

scripts/list_faults.py [--ranks N ...] [--only F8 ...] [--other-mpirun PATH] [--page]

Runs under the MPI of the Python that runs it: once with that of an environment with MPICH, once
with that of one with Open MPI. Each outcome is a line of docs/reliability.jsonl; of several runs of
the same fault, ranks and MPI the last counts. With --page nothing is run. The exit status is 1 if
an outcome of this run is not the expected one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from distgrad.distributed.launching.launchers import find_launcher
from distgrad.errors import DistgradError
from distgrad.testing.fault_matrix import CASES, Bench, Case, Limit, UnexpectedEndError

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "reliability.md"
OUTCOMES = CHECKOUT / "docs" / "reliability.jsonl"
RANKS = (2, 3, 4, 8)
MPIS = ("MPICH", "Open MPI")

INTRODUCTION = """\
# What becomes of a job when something goes wrong

Plain MPI answers most faults of a data-parallel job by a hang or by silently wrong gradients. This
page lists {count} cases of 26 faults, each run as jobs of their own, with the outcome on 2, 3, 4
and 8 ranks under two MPIs. It is written by `scripts/list_faults.py` from the outcomes in
`docs/reliability.jsonl`; nothing in the tables is written by hand:

```
.environments/mpich/bin/python scripts/list_faults.py
.environments/openmpi/bin/python scripts/list_faults.py
```

The cases are in `distgrad/testing/fault_matrix/`. `tests/faults/test_fault_matrix.py` runs them on
2 ranks; how to survive what is listed here: [Survive failures](how-to/survive-failures.md).

- An outcome is *ok* if the job ended as the table says: with the error and the words that the case
  expects, on the ranks that have to say them, and with a non-zero exit code; or, where it has to go
  on, with exit code 0 and the right numbers. In either case it ended within the limit of the case.
- The seconds are those from the fault to the end of the job, the launcher's own included. In
  parentheses are those of the whole job, start-up included, where no moment of the fault is
  announced.
- The jobs of F6, F7, F8, F9 and F26 have a gradient of 1 MiB, which 2 ranks add up in memory of
  both, 3 and 4 by slices, 8 by MPI's own sum. Ranks that are lost within a sum of two are tried in
  `tests/faults/test_stalls.py`.
- More ranks than cores share a machine here ({machine}), which may be busy with other work: the
  seconds are upper limits, not figures of speed.
"""

NOTES = """\
## What is not in the tables

- **F21 under MPICH was once "not as expected"** on 2, 3, 4 and 8 ranks: the right error came, but
  the whole job, on a busy machine, took 12.9 s on 2 ranks, and the limit was 10 s then, as for
  faults whose moment is announced. It has a limit of its own now, in which the start of the ranks
  is counted, and was run again; the outcomes before are in the history of the file of outcomes.
- **Seconds depend on deadlines** where nobody says anything: a rank that hangs (F9) is named when
  the others have waited for `dist.init(timeout=...)` seconds, 4 in this case, 1800 by default.
- **A corrupted message that reaches all ranks alike** (F23) leaves them equal, and equally wrong:
  an audit compares ranks with each other and cannot see it. What reaches one rank only is found.
- **A whole machine that is lost** was never tried: all ranks here share one.
- **Ranks outlive each other under Open MPI alone** (F8 with `dist.ElasticJob`). MPICH and Intel MPI
  have the calls, but a rank's death ends all others, or `Revoke` interrupts nobody: there the job
  is started again from its last checkpoint (F17, F19).
- **2^31 elements** (F22) are tried by lowering the limit; real messages of that size need more
  memory than a test may take.
- **Fork with network cards** (F25) is tried on shared memory only; what drivers do to a forked
  child's registered memory is theirs.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, write the page, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS, metavar="N")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="such as F8")
    parser.add_argument("--other-mpirun", default=os.environ.get("DISTGRAD_OTHER_MPIRUN", ""))
    parser.add_argument("--page", action="store_true", help="write the page, run nothing")
    given = parser.parse_args(arguments)
    as_expected = True
    if not given.page:
        mpi = find_launcher().family
        chosen = [case for case in CASES if not given.only or case.name in given.only]
        for ranks in given.ranks:
            for case in chosen:
                outcome = run_case(case, ranks, mpi, other_mpirun(given.other_mpirun, mpi))
                as_expected = as_expected and outcome["outcome"] != "not as expected"
                with OUTCOMES.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(outcome) + "\n")
                print(f"{mpi}, {ranks} ranks, {case.name}: {outcome['outcome']}", flush=True)
                if outcome.get("detail"):
                    print(outcome["detail"], flush=True)
    PAGE.write_text(page(read_outcomes()), encoding="utf-8")
    return 0 if as_expected else 1


def other_mpirun(given: str, mpi: str) -> str:
    """Return the launcher of the other MPI: as given, or of the checkout's other environment."""
    other = "openmpi" if mpi == "MPICH" else "mpich"
    beside = CHECKOUT / ".environments" / other / "bin" / "mpirun"
    return given or (str(beside) if beside.exists() else "")


def run_case(case: Case, ranks: int, mpi: str, other: str) -> dict[str, Any]:
    """Return the outcome of a case, as a line of the file of outcomes."""
    outcome: dict[str, Any] = {"fault": case.name, "mpi": mpi, "ranks": ranks}
    if case.elastic and mpi != "Open MPI":
        return outcome | {"outcome": "not possible"}
    if case.needs_other and not other:
        return outcome | {"outcome": "not run: no other MPI here"}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(ranks, Path(folder), other)
        begun = time.monotonic()
        try:
            case.run(bench)
        except (UnexpectedEndError, DistgradError) as error:
            detail = str(error).replace(folder, "FOLDER")
            for path, word in ((CHECKOUT, "CHECKOUT"), (sys.prefix, "ENVIRONMENT")):
                detail = detail.replace(str(path), word)  # the file is for readers elsewhere
            return outcome | {"outcome": "not as expected", "detail": detail[-3000:]}
        whole = time.monotonic() - begun
    return outcome | {
        "outcome": "ok",
        "seconds": round(bench.seconds, 1),
        "after_fault": bench.announced,
        "whole": round(whole, 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def read_outcomes() -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the last outcome of each fault, MPI and number of ranks."""
    lines = OUTCOMES.read_text(encoding="utf-8").splitlines() if OUTCOMES.exists() else []
    outcomes = [json.loads(line) for line in lines]
    return {(each["fault"], each["mpi"], each["ranks"]): each for each in outcomes}


def page(outcomes: dict[tuple[str, str, int], dict[str, Any]]) -> str:
    """Return the page."""
    machine = f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}"
    parts = [INTRODUCTION.format(count=len(CASES), machine=machine)]
    parts.append("## The faults\n")
    parts.append("| | fault | injected | expected | limit |\n| --- | --- | --- | --- | --- |")
    parts += [
        f"| {case.name} | {case.fault} | {case.injected} | {case.expected} | {case.limit} |"
        for case in CASES
    ]
    parts.append("\nThe limits that are not those of most cases:\n")
    parts += limits(CASES)
    for mpi in MPIS:
        parts.append(f"\n## Outcomes under {mpi}\n")
        parts.append("| | " + " | ".join(f"{n} ranks" for n in RANKS) + " |")
        parts.append("| --- " * (len(RANKS) + 1) + "|")
        for case in CASES:
            cells = [cell(outcomes.get((case.name, mpi, n))) for n in RANKS]
            parts.append(f"| {case.name} | {' | '.join(cells)} |")
    found = [each["outcome"] for each in outcomes.values()]
    good, bad = found.count("ok"), found.count("not as expected")
    parts.append(f"\n{good} outcomes as expected, {bad} not.\n")
    return "\n".join(parts) + "\n" + NOTES


def limits(cases: Sequence[Case]) -> list[str]:
    """Return a line for each limit that has a reason: of which cases, and why."""
    of: dict[Limit, list[str]] = {}
    for case in cases:
        if case.limit.reason:
            of.setdefault(case.limit, []).append(case.name)
    lines = [f"- {limit} ({', '.join(names)}): {limit.reason}." for limit, names in of.items()]
    return [text for line in lines for text in wrap(line, 100, subsequent_indent="  ")]


def cell(outcome: dict[str, Any] | None) -> str:
    """Return a cell of a table of outcomes."""
    if outcome is None:
        return "not run"
    if outcome["outcome"] != "ok":
        return str(outcome["outcome"])
    seconds = f"{outcome['seconds']} s"
    return f"ok, {seconds}" if outcome["after_fault"] else f"ok ({seconds})"


if __name__ == "__main__":
    sys.exit(main())

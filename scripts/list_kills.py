#!/usr/bin/env python3
"""Kill random ranks of training jobs at random moments, resume, and compare with undisturbed runs.

scripts/list_kills.py [--kills N] [--seed S] [--only train_text ...] [--page]

A job that saves a checkpoint after every step is started on 1 to 4 ranks; one of its ranks gets
SIGKILL; the job is started again with --resume on 1 to 4 ranks; and so on, until it has been killed
often enough and may end. With --page docs/kill-proof.md is written. The exit status is 1 if a
checkpoint was lost or a result differs. What is drawn follows from the seed, what happens at that
moment does not: a failure may need several runs to come again.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kill_cases.chains import (
    KILLS_OF_A_JOB,
    MOMENTS,
    START_UP,
    STEPS,
    TRAININGS,
    Chain,
    LostWorkError,
    play,
)

from distgrad.distributed.launching.launchers import find_launcher

PAGE = Path(__file__).resolve().parents[1] / "docs" / "kill-proof.md"

INTRODUCTION = """\
# Jobs whose ranks are killed

{kills} times a random rank of a training job got SIGKILL at a random moment; each time the job was
resumed on the same or another number of ranks. Written by

```
python scripts/list_kills.py --kills {kills} --seed {seed} --page
```

({machine}, {mpi}; {minutes:.0f} minutes). The jobs are tiny: {steps} steps of
`train_digits`, of `train_text`, and of `train_text` with the optimizer's state cut over the ranks.
They run `--deterministic`, save a checkpoint after every step, are killed up to {of_a_job} times
in a row, and may end then.

After each kill:

- **No checkpoint is lost.** The newest that was visible before the kill is there, or a newer one,
  and every visible one is loaded with all its checksums. The next run says that it goes on from the
  newest.
- **The end is the same.** When a job was allowed to end, the losses and gradient norms of all
  steps, what it found on held-out data, and `variables_sha256` were compared with those of a run on
  one rank that nobody disturbed: all {ends} ends have the same bits.

Killed while "starting" means within {start_up:.0f} s after the start, when Python imports, MPI
starts, or the checkpoint is loaded; "any", at a random step; "writing", shortly after a checkpoint
has begun to be written. "Unfinished" are kills after which a checkpoint lay there half written.

What SIGKILL does not show: the operating system lives on, and writes what it was given. That files
are flushed before they are renamed is meant for machines that lose power, which was not tried.

{summary}
`tests/scripts/test_kills.py` does the same with a few kills. What becomes of jobs with
other faults: [reliability](reliability.md).

## All kills

"Newest" is the newest checkpoint that was visible just before and after the kill; "then" are the
ranks of the run that came next.

"""


def page(chains: Sequence[Chain], seed: int, seconds: float) -> str:
    """Return the page about what was seen."""
    kills = [kill for chain in chains for kill in chain.kills]
    columns = [*MOMENTS, "unfinished", "same ranks then", "others then", "ends, all the same"]
    lines = [f"| | kills | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for training in [*TRAININGS, None]:
        own = [kill for kill in kills if training in (kill.training, None)]
        moments = Counter(kill.moment for kill in own)
        figures = [
            *(moments[moment] for moment in MOMENTS),
            sum(kill.unfinished for kill in own),
            sum(kill.then == kill.ranks for kill in own),
            sum(kill.then != kill.ranks for kill in own),
            sum(training in (chain.training, None) for chain in chains),
        ]
        name = "all" if training is None else f"`{training}`"
        lines.append(f"| {name} | {len(own)} | {' | '.join(map(str, figures))} |")
    launcher = find_launcher()
    head = INTRODUCTION.format(
        kills=len(kills),
        seed=seed,
        steps=STEPS,
        ends=len(chains),
        of_a_job=KILLS_OF_A_JOB,
        start_up=START_UP,
        minutes=seconds / 60,
        machine=f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}",
        mpi=f"{launcher.family} {launcher.version}".strip(),
        summary="\n".join(lines) + "\n",
    )
    table = [
        "| | job | ranks | killed | moment | newest | unfinished | then |",
        "| --- " * 8 + "|",
    ]
    for number, kill in enumerate(kills, 1):
        steps = f"{kill.before} → {kill.after}" if kill.after != kill.before else f"{kill.after}"
        table.append(
            f"| {number} | {kill.training} | {kill.ranks} | rank {kill.rank} | {kill.moment} "
            f"| {steps} | {'yes' if kill.unfinished else ''} | {kill.then} |"
        )
    return head + "\n".join(table) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill and resume, say what came of it, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--only", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--page", action="store_true", help="write docs/kill-proof.md")
    given = parser.parse_args(arguments)
    if given.kills < 1:
        parser.error(f"--kills: a number from 1 on expected, got {given.kills}")
    begun, chains = time.monotonic(), []
    try:
        for chain in play(given.kills, given.seed, given.only):
            chains.append(chain)
            for kill in chain.kills:
                print(kill, flush=True)
            print(f"{chain.training}: {len(chain.kills)} kills, the same end", flush=True)
    except LostWorkError as error:
        print(error, file=sys.stderr)
        return 1
    if given.page:
        text = page(chains, given.seed, time.monotonic() - begun)
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

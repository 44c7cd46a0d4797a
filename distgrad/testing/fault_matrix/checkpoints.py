"""Faults of checkpoints: ranks killed while they save, full disks, other numbers of ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

from distgrad.testing.fault_matrix.cases import TO_THE_END, Bench, Case, UnexpectedEndError
from distgrad.testing.fault_matrix.numbers import hash_of
from distgrad.testing.fault_matrix.trainings import DETERMINISTIC

FULL = """
import resource
world = dist.init(timeout=40)
folder = sys.argv[1]
table = dg.Variable(np.ones((1000, 50)), name="table")
rows = 1000 * world.size
own = dg.checkpoint.Shard(table, start=1000 * world.rank, rows=rows)
dg.checkpoint.save(folder, {"table": own}, step=1)
if world.rank == 1:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    dg.checkpoint.save(folder, {"table": own}, step=2)
except dg.checkpoint.CheckpointWriteError as error:
    say(f"rank {world.rank} hears: {'rank 1' in str(error)}")
dist.barrier()
if world.rank == 0:
    say(f"newest {dg.checkpoint.latest(folder)}")
"""


def _folder(bench: Bench) -> Path:
    folder = bench.folder / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _killed_while_saving(bench: Bench) -> None:
    whole = hash_of(bench, DETERMINISTIC, ranks=1)
    folder = _folder(bench)
    for moment in (3, 11, 24):  # of its first, second and later calls to the file system
        result = bench.run(
            DETERMINISTIC,
            str(folder),
            variables={"DISTGRAD_KILL_AT": f"{bench.ranks - 1}:{moment}"},
        )
        if result.returncode == 0 and "killed while" in result.stderr:
            raise UnexpectedEndError(f"the job went on:\n{result.stdout}{result.stderr}")
    found = hash_of(bench, DETERMINISTIC, str(folder))
    if found != whole:
        raise UnexpectedEndError(f"hash {found} after three deaths, {whole} without")


def _full_disk(bench: Bench) -> None:
    result = bench.run(FULL, str(_folder(bench)))
    heard = result.stdout.count("hears: True")
    if result.returncode != 0 or heard != bench.ranks or "newest 1\n" not in result.stdout:
        raise UnexpectedEndError(f"{result.returncode}:\n{result.stdout}{result.stderr}")


def _other_ranks(bench: Bench) -> None:
    whole = hash_of(bench, DETERMINISTIC, ranks=1)
    folder = _folder(bench)
    for ranks in (bench.ranks, bench.ranks + 1):
        # Two steps after a checkpoint: they have to be done again.
        faults = f"kill:rank={ranks - 1},step=10"
        bench.run(DETERMINISTIC, str(folder), ranks=ranks, faults=faults)
    result = bench.run(DETERMINISTIC, str(folder), ranks=max(bench.ranks - 1, 1))
    bench.goes_on(result, "rank 0 begins at step 16", f"hash {whole}")


CASES = (
    Case(
        17,
        "a rank is killed in the middle of a checkpoint",
        "SIGKILL at its 3rd, 11th and 24th call to the file system, in three starts",
        "the newest whole checkpoint is found; at last the bits of an undisturbed run",
        _killed_while_saving,
        limit=TO_THE_END,
    ),
    Case(
        18,
        "the disk is full on one rank",
        "a limit of 4 KiB for files on rank 1",
        "`CheckpointWriteError` on all ranks, names rank 1; the older checkpoint stays",
        _full_disk,
        limit=TO_THE_END,
    ),
    Case(
        19,
        "a job goes on with another number of ranks",
        "killed on p and on p + 1 ranks, finished on p - 1",
        "goes on from the last checkpoint: the bits of an undisturbed run",
        _other_ranks,
        limit=TO_THE_END,
    ),
)

"""Jobs that are killed while they save, and go on with another number of ranks."""

import random
import textwrap

import pytest

import distgrad as dg
from distgrad.distributed import SerialCommunicator
from distgrad.testing.ranks import run_ranks

pytestmark = pytest.mark.fault

# Reads what there is, checks it, and saves ten more steps; one rank may kill itself on the way.
JOB = """
    import os, signal, sys
    import numpy as np
    import distgrad as dg
    import distgrad.distributed as dist

    directory, victim, moment = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    world = dist.world()
    rows = 1003
    start, stop = rows * world.rank // world.size, rows * (world.rank + 1) // world.size
    table = dg.Variable(np.zeros((701, 300)))
    moments = dg.Variable(np.zeros((stop - start, 5)))
    shard = dg.checkpoint.Shard(moments, start=start, rows=rows)
    nest = {"table": table, "moments": shard, "step": 0}
    step = 0
    if dg.checkpoint.latest(directory) is not None:
        step = dg.checkpoint.load(directory, nest).nest["step"]
        assert (table.numpy() == step).all()
        assert (moments.numpy() == step + np.arange(start, stop)[:, None]).all()
    print(f"rank {world.rank} of {world.size} goes on from {step}", flush=True)

    calls = 0
    def counted(call):
        def wrapper(*arguments, **options):
            global calls
            calls += 1
            if world.rank == victim and calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return wrapper
    for name in "open mkdir write fsync rename unlink".split():
        setattr(os, name, counted(getattr(os, name)))

    manager = dg.checkpoint.Manager(directory, keep=2)
    for step in range(step + 1, step + 11):
        table.assign(np.full((701, 300), float(step)))
        moments.assign(step + np.arange(start, stop, dtype=np.float64)[:, None] * np.ones(5))
        nest["step"] = step
        manager.save(nest, step=step)
    manager.close()
"""


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.py"
    path.write_text(textwrap.dedent(JOB))
    return path


def test_a_job_goes_on_with_another_number_of_ranks(job, tmp_path):
    steps = []
    for ranks in (1, 2, 3, 1):
        result = run_ranks(ranks, [job, tmp_path / "all", "-1", "0"])
        assert result.returncode == 0, result.stderr
        steps.append(f"rank 0 of {ranks} goes on from {10 * len(steps)}" in result.stdout)

    assert steps == [True] * 4


def test_a_rank_killed_while_it_saves_loses_no_checkpoint(job, tmp_path):
    rng = random.Random(7)  # noqa: S311  moments, no secrets
    alone = SerialCommunicator()
    newest = 0
    for attempt in range(8):
        ranks = 2 + attempt % 2
        victim, moment = rng.randrange(ranks), rng.randrange(1, 60)
        result = run_ranks(ranks, [job, tmp_path / "all", str(victim), str(moment)])

        assert f"goes on from {newest}\n" in result.stdout, result.stderr
        found = dg.checkpoint.latest(tmp_path / "all") or 0
        assert found >= newest
        newest = found
        if newest:
            assert dg.checkpoint.load(tmp_path / "all", comm=alone).step == newest

    assert newest > 0

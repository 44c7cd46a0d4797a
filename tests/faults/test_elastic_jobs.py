"""Jobs that lose ranks to SIGKILL and go on with those left, to the bits of a whole job."""

import os
import random
import re
import subprocess
import sys

import pytest

from distgrad.distributed.launching.launchers import find_launcher
from distgrad.testing.fault_matrix.cases import PRELUDE
from distgrad.testing.fault_matrix.trainings import DETERMINISTIC
from distgrad.testing.ranks import find_mpirun, run_ranks


@pytest.fixture
def run(tmp_path):
    """Return ``run(source, n, **variables)`` for ranks that outlive each other."""
    if find_launcher(find_mpirun()).family != "Open MPI":
        pytest.skip("only Open MPI's ranks outlive each other")

    def run(source, n, **variables):
        script = tmp_path / "job.py"
        script.write_text(PRELUDE + source)
        return run_ranks(n, script, timeout=90, env=variables, elastic=n > 1)

    return run


# Kills ranks so many seconds after their first step, wherever they are: most likely inside of MPI.
KILLER = """
import threading
def die(seconds):
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)
run = dist.ElasticJob.run
def run_and_die(job, step, steps):
    for each in filter(None, os.environ.get("KILL", "").split(";")):
        rank, _, seconds = each.partition(":")
        if int(rank) == dist.world().rank:
            threading.Thread(target=die, args=(float(seconds),), daemon=True).start()
    run(job, step, steps)
dist.ElasticJob.run = run_and_die
"""


def test_whoever_dies_whenever_the_variables_are_those_of_a_whole_job(run):
    whole = re.findall(r"hash \w+", run(DETERMINISTIC, 1).stdout)
    rng = random.Random(11)  # noqa: S311  moments, no secrets
    endings = []
    for attempt in range(4):
        n = 3 + attempt % 2
        victims = [0, *rng.sample(range(1, n), attempt % 2)]
        kill = ";".join(f"{rank}:{rng.uniform(0, 0.6):.3f}" for rank in victims)

        result = run(KILLER + DETERMINISTIC, n, KILL=kill)

        assert result.returncode == 0, (kill, result.stderr)
        assert set(re.findall(r"hash \w+", result.stdout)) == set(whole), (kill, result.stdout)
        endings.append(result.stdout.count("hash"))
    assert all(survivors >= 2 for survivors in endings)


PLAIN = """
world = dist.init(timeout=40)
x = dg.Variable(np.zeros(3), name="x")
seen = []
def train(step):
    seen.append(step)
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        loss = dg.sum((x - 1.0) ** 2)
    x.assign_sub(0.1 * tape.gradient(loss, x))
"""


def test_a_job_without_it_ends_with_the_name_of_the_dead_rank(run):
    result = run(
        PLAIN + "for step in range(9): train(step)", 3, DISTGRAD_FAULTS="kill:rank=1,step=4"
    )

    assert result.returncode != 0
    assert "RankLostError" in result.stderr
    assert "dist.ElasticJob" in result.stderr


def test_too_few_survivors_end_the_job_with_a_word(run):
    result = run(
        PLAIN + "dist.ElasticJob(x, min_ranks=2).run(train, 9)",
        2,
        DISTGRAD_FAULTS="kill:rank=0,step=4",
    )

    assert result.returncode != 0
    assert "1 ranks are left after step 3; expected min_ranks=2 or more" in result.stderr


def test_an_exception_is_no_death_and_ends_the_job(run):
    result = run(
        PLAIN + "dist.ElasticJob(x).run(train, 9)", 3, DISTGRAD_FAULTS="raise:rank=1,step=4"
    )

    assert result.returncode != 0
    assert "RemoteRankError: rank 1 raised" in result.stderr


def test_steps_since_the_last_commit_are_done_again_by_ranks_with_new_numbers(run):
    source = (
        PLAIN
        + """
job = dist.ElasticJob(x, commit_every=4)
job.run(train, 9)
ranks = dist.world()
assert job.recoveries[0].lost == (0,) and job.recoveries[0].ranks == ranks.size == 2
assert (dist.allgather(np.array([[ranks.rank]])).ravel() == [0, 1]).all()
dist.DivergenceAudit(x).check()
say(f"steps {seen}")
"""
    )

    result = run(source, 3, DISTGRAD_FAULTS="kill:rank=0,step=7")

    assert result.returncode == 0, result.stderr
    steps = [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]
    assert result.stdout.count(f"steps {steps}") == 2
    assert "[rank 0] rank 0 died; 2 ranks go on from step 4" in result.stderr


def test_distgrad_run_starts_such_jobs_and_ends_well_with_the_survivors(run, tmp_path):
    script = tmp_path / "elastic.py"
    script.write_text(PRELUDE + PLAIN + "dist.ElasticJob(x).run(train, 9)\nsay('done')")

    done = subprocess.run(
        [sys.executable, "-m", "distgrad", "run", "-n", "3", "--elastic", script],
        env={**os.environ, "DISTGRAD_FAULTS": "kill:rank=1,step=4"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 2


def test_ranks_whose_messages_travel_in_a_thread_are_freed_too(run):
    source = """
world = dist.init(timeout=40)
model = [dg.Variable(np.ones((30, 30)), name=f"layer{n}") for n in range(5)]
def train(step):
    tape = dist.DistributedGradientTape(dg.GradientTape(), bucket_bytes=8000, overlap=True)
    with tape:
        y = dg.ones((1, 30), dtype="float64")
        for variable in model:
            y = dg.tanh(y @ variable)
        loss = dg.mean(y)
    for variable, gradient in zip(model, tape.gradient(loss, model)):
        variable.assign_sub(0.1 * gradient)
job = dist.ElasticJob(model)
job.run(train, 12)
dist.DivergenceAudit(model).check()
say(f"{dist.last_report().algorithm} on {dist.world().size}, {len(job.recoveries)} losses")
"""
    result = run(source, 3, DISTGRAD_FAULTS="kill:rank=2,step=6")

    assert result.returncode == 0, result.stderr
    assert result.stdout.count("on 2, 1 losses") == 2
    assert "overlapped" in result.stdout


LONG = """
world = dist.init(timeout=40)
x = dg.Variable(np.zeros(2**20, np.float32), name="x")
def train(step):
    with dist.DistributedGradientTape(dg.GradientTape(), overlap=False) as tape:
        loss = dg.sum((x - 1.0) ** 2)
    x.assign_sub(0.1 * tape.gradient(loss, x))
dist.ElasticJob(x).run(train, 150)
world = dist.world()
print("size", world.size, "in memory", world._sums.is_in_memory, float(x.numpy().min()), flush=True)
"""


@pytest.mark.parametrize("n", [2, 3])
def test_a_rank_that_dies_within_long_sums_is_missed_and_the_others_go_on(run, n):
    result = run(KILLER + LONG, n, KILL="1:0.4")

    assert result.returncode == 0, result.stderr
    found = re.findall(r"size (\d) in memory (\w+) (\S+)", result.stdout)
    assert [size for size, _, _ in found] == [str(n - 1)] * (n - 1)
    assert all(float(least) > 0.999 for _, _, least in found)
    if n == 3 and len(os.sched_getaffinity(0)) > 1:  # two that are left share memory anew
        assert all(shared == "True" for _, shared, _ in found)

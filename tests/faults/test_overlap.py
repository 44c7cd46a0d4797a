"""A rank that is lost while others' buckets travel by a thread ends the job as any other does."""

import pytest

STEPS = """
world = dist.init()
model = [dg.Variable(np.ones((50, 50)), name=f"layer{n}") for n in range(6)]

def interrupted(x, act):
    @dg.custom_gradient
    def identity(x):
        def gradient(g):
            act()
            return g
        return x, gradient
    return identity(x)

def step(act=lambda: None):
    tape = dist.DistributedGradientTape(dg.GradientTape(), bucket_bytes=20000, overlap=True)
    with tape:
        y = dg.ones((1, 50), dtype="float64")
        for n, variable in enumerate(model):
            y = dg.tanh(y @ variable)
            if n == 2:
                y = interrupted(y, act)  # half of the buckets have left by then
        loss = dg.mean(y)
    return tape.gradient(loss, model)

for _ in range(4):
    step()
assert dist.last_report().algorithm == "overlapped allreduce"
"""


def test_a_rank_that_raises_during_the_walk_is_heard_by_those_that_wait_for_its_buckets(run_broken):
    job = run_broken(
        STEPS
        + """
def fail():
    fault()
    raise ValueError("boom")
step(fail if world.rank == 1 else lambda: None)
""",
        3,
    )

    for rank in (0, 2):
        assert "RemoteRankError: rank 1 raised ValueError: boom" in job.by_rank(rank)
    assert "in allreduce (sum) of float64" in job.by_rank(0)


def test_a_rank_that_is_killed_during_the_walk_ends_the_job(run_broken):
    run_broken(
        STEPS
        + """
def die():
    fault()
    os.kill(os.getpid(), signal.SIGKILL)
step(die if world.rank == 1 else lambda: None)
"""
    )


def test_a_rank_that_exits_during_the_walk_ends_the_job(run_broken):
    job = run_broken(
        STEPS
        + """
def leave():
    fault()
    sys.exit(0)
step(leave if world.rank == 1 else lambda: None)
"""
    )

    assert "RemoteRankError: rank 1 left by sys.exit(0)" in job.by_rank(0)


def test_a_rank_that_hangs_during_the_walk_is_named_at_the_deadline(run_broken):
    job = run_broken(
        STEPS.replace("dist.init()", "dist.init(timeout=1.5, grace=0.5)")
        + """
def hang():
    fault()
    time.sleep(30)
step(hang if world.rank == 1 else lambda: None)
"""
    )

    assert job.waited(0) >= 1.5
    assert "not arrived: rank 1" in job.by_rank(0)


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_job_with_overlap_ends_well(run_job, ranks):
    job = run_job(STEPS, ranks)

    assert job.returncode == 0, job.stderr
    assert job.stderr == ""

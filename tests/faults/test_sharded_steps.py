"""A rank that raises, dies, leaves or hangs within a sharded step: the others end with an error."""

import pytest

JOB = """
world = dist.init(timeout=float(os.environ.get("PATIENCE", "20")), grace=1)
stage, place, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
steps = 0

def fails(here):
    if world.rank != 1 or steps != 2 or here != place:
        return
    fault()
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "exit":
        sys.exit(0)
    raise ValueError(f"planted in the {here}")

@dg.custom_gradient
def passing(x):
    def gradient(g):
        fails("walk")
        return g
    return x, gradient

rng = np.random.default_rng(0)
kernels = [dg.Variable(rng.normal(size=(20, 20)) / 5, name=f"kernel{n}") for n in range(3)]
overlap = sys.argv[4] == "overlapped"
options = {"bucket_bytes": 4000, "overlap": overlap}
optimizer = dist.ShardedOptimizer(dg.optimizers.Adam(0.01), stage, **options)

def layer(x):
    fails("forward")
    return dg.tanh(x @ kernels[0])

first = optimizer.block(layer, [kernels[0]]) if stage == 3 else layer
optimizer.build(kernels)

def breaking(owner, name, here):
    whole = getattr(owner, name)

    def broken(*arguments, **keywords):
        fails(here)
        return whole(*arguments, **keywords)

    setattr(owner, name, broken)

breaking(world, "reduce_scatter", "reduction")
breaking(optimizer._work.holdings, "spread", "gathering after the step")
for _ in range(4):
    steps += 1
    x = dg.asarray(np.random.default_rng(world.rank).normal(size=(4, 20)))
    with dg.GradientTape() as tape:
        loss = dg.mean(dg.square(passing(first(x) @ kernels[1]) @ kernels[2]))
    optimizer.minimize(loss, kernels, tape, examples=4)
with optimizer.gathered():
    dist.DivergenceAudit(kernels).check()
assert ("overlapped" in dist.last_report().algorithm) == overlap
print("trained", flush=True)
"""


HOW = ["together", "overlapped"]


@pytest.mark.parametrize("stage", [2, 3])
def test_a_rank_that_raises_while_gradients_travel_is_heard_of_by_all(run_broken, stage):
    job = run_broken(JOB, 3, stage, "walk", "raise", "overlapped")

    for rank in (0, 2):
        assert "RemoteRankError: rank 1 raised ValueError: planted in the walk" in job.by_rank(rank)
    assert "trained" not in job.stdout
    assert job.returncode == 1


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        (1, "walk"),
        (2, "walk"),
        (3, "walk"),
        (3, "forward"),
        (2, "reduction"),
        (3, "reduction"),
        (1, "gathering after the step"),
        (3, "gathering after the step"),
    ],
)
def test_a_rank_that_raises_in_a_sharded_step_is_heard_of_by_all(run_broken, stage, place):
    job = run_broken(JOB, 3, stage, place, "raise", "together")

    assert f"ValueError: planted in the {place}" in job.by_rank(1)
    for rank in (0, 2):
        said = job.by_rank(rank)
        assert f"RemoteRankError: rank 1 raised ValueError: planted in the {place}" in said
        assert "in fails" in said  # with its traceback
    assert "trained" not in job.stdout
    assert job.returncode == 1


@pytest.mark.parametrize(
    ("stage", "place"), [(1, "walk"), (2, "reduction"), (3, "forward"), (3, "reduction")]
)
def test_a_rank_that_is_killed_in_a_sharded_step_ends_the_job(run_broken, stage, place):
    job = run_broken(JOB, 3, stage, place, "kill", "together")

    assert "trained" not in job.stdout


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("stage", [2, 3])
def test_a_rank_that_leaves_in_a_sharded_step_is_named(run_broken, stage, how):
    job = run_broken(JOB, 3, stage, "walk", "exit", how)

    for rank in (0, 2):
        assert "RemoteRankError: rank 1 left by sys.exit(0)" in job.by_rank(rank)
    assert "trained" not in job.stdout


@pytest.mark.parametrize("how", HOW)
def test_a_rank_that_hangs_in_a_sharded_step_is_named(run_broken, how):
    job = run_broken(JOB, 3, 3, "walk", "stop", how, PATIENCE="1.5")

    for rank in (0, 2):
        assert "StallError" in job.by_rank(rank)
        assert "not arrived: rank 1" in job.by_rank(rank)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("stage", [2, 3])
def test_without_a_fault_the_job_trains(run_job, stage, how):
    job = run_job(JOB, 3, stage, "nowhere", "raise", how)

    assert job.returncode == 0, job.stderr
    assert job.stdout.count("trained") == 3

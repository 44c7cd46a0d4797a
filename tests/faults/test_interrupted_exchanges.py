"""Who catches an exception in the middle of an exchange and goes on hears so; nobody's sums mix."""

import pytest

LOOP = """
world = dist.init(timeout=10.0, grace=0.5)
for step in range(6):
    if step == 2 and world.rank == 0:
        interrupt = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        interrupt.start()
    if step == 2 and world.rank == 1:
        time.sleep(0.8)
    try:
        {call}
    except KeyboardInterrupt:
        fault()
os.write(1, b"went on")
"""

AVERAGE = """
    model = [dg.Variable(np.ones(length, np.float32), name=f"layer{length}") for length in (3, 5)]
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        loss = sum(dg.sum(variable * (1.0 + step)) for variable in model)
    for found in tape.gradient(loss, model, examples=1):
        assert (found.numpy() == 1.0 + step).all(), found
"""

BETWEEN = """
from distgrad.distributed.averaging import buckets
world = dist.init(timeout=10.0, grace=0.5)
pack = buckets.Bucket.pack
def failing(*arguments):
    if step == 2 and world.rank == 0:
        fault()
        raise MemoryError("planted")
    return pack(*arguments)
buckets.Bucket.pack = failing
def average():
    {average}
for step in range(6):
    try:
        {call}
    except MemoryError:
        pass
os.write(1, b"went on")
"""


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("world.allreduce(np.ones(3))", "allreduce (sum) of float64[3]"),
        ("world.allreduce(np.ones(2**20))", "allreduce (sum) of float64[1048576]"),
        ("dist.allgather(np.ones(3))", "allgather (all axes but the first)"),
    ],
)
@pytest.mark.parametrize("ranks", [2, 3])
def test_an_interrupt_in_a_wait_that_a_program_survives_ends_the_next_operation(
    run_broken, call, what, ranks
):
    job = run_broken(LOOP.format(call=call), ranks)

    said = job.by_rank(0)
    assert f"CommunicationError: rank 0: KeyboardInterrupt interrupted {what}" in said
    assert "RemoteRankError" in job.by_rank(1)
    assert "went on" not in job.stdout


@pytest.mark.parametrize(
    ("call", "operation"),
    [
        ("average()", "gradient (average='examples')"),
        ("dist.average(np.ones(3), 1.0)", "average"),
    ],
)
def test_an_error_between_two_messages_that_a_program_survives_ends_the_next_one(
    run_broken, call, operation
):
    job = run_broken(BETWEEN.format(average=AVERAGE.replace("\n", "\n    "), call=call), 3)

    assert f"rank 0: MemoryError interrupted {operation}, and the other" in job.by_rank(0)
    assert "AssertionError" not in job.stderr
    assert "went on" not in job.stdout


@pytest.mark.parametrize("stage", [2, 3])
def test_an_error_in_the_walk_of_a_sharded_step_ends_the_next_operation(run_broken, stage):
    job = run_broken(
        f"""
world = dist.init(timeout=10.0, grace=0.5)
@dg.custom_gradient
def passing(x):
    def gradient(g):
        if step == 1 and world.rank == 0:
            fault()
            raise dg.errors.ShapeError("planted")
        return g
    return x, gradient
a, b = [dg.Variable(np.ones(50), name=name) for name in "ab"]
optimizer = dist.ShardedOptimizer(dg.optimizers.SGD(0.1), {stage}, bucket_bytes=100)
optimizer.build([a, b])
for step in range(4):
    try:
        with dg.GradientTape() as tape:
            loss = dg.sum(passing(a * 1.0)) + dg.sum(b)
        optimizer.minimize(loss, [a, b], tape, examples=1)
    except dg.errors.ShapeError:
        pass
os.write(1, b"went on")
""",
        3,
    )

    assert "rank 0: ShapeError interrupted ShardedOptimizer.backward" in job.by_rank(0)
    assert "went on" not in job.stdout


def test_after_an_error_that_all_ranks_raise_they_go_on(run_job):
    job = run_job(
        """
world = dist.init(timeout=10.0)
for step in range(3):
    try:
        dist.average(1.0, 0.0)
    except dist.BatchError:
        pass
    try:
        dist.allreduce(np.ones(3 + world.rank))
    except dist.DesyncError:
        pass
    assert dist.allreduce(1.0) == world.size
os.write(1, b"went on")
"""
    )

    assert job.returncode == 0, job.stderr
    assert job.stdout.count("went on") == 2

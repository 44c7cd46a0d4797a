"""Ranks that would mix up their data stop before, and say which variable on which rank."""

import pytest

TRAIN = """
world = dist.init()
odd = world.rank == 1
width = 4 if odd and "shape" in sys.argv else 3
dtype = np.float64 if odd and "dtype" in sys.argv else np.float32
kernel = dg.Variable(np.ones((5, width), np.float32), name="kernel")
bias = dg.Variable(np.zeros(3, dtype), name="bias")
sources = [kernel, bias]
if odd and "order" in sys.argv:
    sources = sources[::-1]
if odd and "missing" in sys.argv:
    sources = sources[:1]
with dist.DistributedGradientTape(dg.GradientTape()) as tape:
    loss = dg.sum(kernel) + dg.sum(dg.square(bias))
fault()
tape.gradient(loss, sources)
print("mixed up")
"""


@pytest.mark.parametrize(
    ("difference", "says"),
    [
        ("shape", "rank 1 sends kernel float32[5, 4], ranks 0, 2 send kernel float32[5, 3]"),
        ("dtype", "rank 1 sends bias float64[3], ranks 0, 2 send bias float32[3]"),
        ("order", "rank 1 sends bias float32[3], ranks 0, 2 send kernel float32[5, 3]"),
        ("missing", "rank 1 sends nothing, ranks 0, 2 send bias float32[3]"),
    ],
)
def test_sources_that_differ_end_the_job_before_they_are_mixed(run_broken, difference, says):
    job = run_broken(TRAIN, 3, difference)

    for rank in range(3):
        assert "DesyncError" in job.by_rank(rank)
        assert says in job.by_rank(rank)
    assert "mixed up" not in job.stdout


def test_one_rank_in_another_operation_ends_the_job_instead_of_hanging_it(run_broken):
    job = run_broken(
        """
world = dist.init()
fault()
if world.rank == 1:
    dist.broadcast_variables([dg.Variable(1.0)])
else:
    dist.barrier()
"""
    )

    for rank in (0, 1):
        assert "DesyncError: ranks do different things: rank 1 does broadcast_variables" in (
            job.by_rank(rank)
        )


@pytest.mark.parametrize("make", ["world.split(0)", "world.duplicate()"])
def test_one_rank_that_makes_no_communicator_ends_the_job(run_broken, make):
    job = run_broken(
        f"""
world = dist.init()
fault()
if world.rank == 1:
    dist.barrier()
else:
    {make}
""",
        3,
    )

    assert "rank 1 does barrier (operation 1)" in job.by_rank(0)


def test_a_rank_that_left_is_not_waited_for_where_communicators_are_made(run_broken):
    job = run_broken(
        """
world = dist.init()
dist.barrier()
fault()
if world.rank == 1:
    sys.exit(0)
world.split(0)
""",
        3,
    )

    assert "rank 1 left by sys.exit(0)" in job.by_rank(0)

"""The whole path over MPI: broadcast, shard, tape, average, and what goes wrong on the way."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import DesyncError

pytestmark = pytest.mark.mpi

EXAMPLES, STEPS = 11, 4  # divided by no number of ranks here


def data(dtype):
    rng = np.random.default_rng(3)
    return rng.normal(size=(EXAMPLES, 4)).astype(dtype), rng.integers(0, 3, EXAMPLES)


def train(comm, dtype, seed):
    """Return the losses of a few steps of gradient descent, and the last variables."""
    rng = np.random.default_rng(seed)
    kernel = dg.Variable(rng.normal(size=(4, 3)).astype(dtype), name="kernel")
    bias = dg.Variable(np.zeros(3, dtype), name="bias")
    dist.broadcast_variables([kernel, bias], comm=comm)
    x, labels = data(dtype)
    losses = []
    for _ in range(STEPS):
        own_x, own_labels = dist.shard((x, labels), comm)
        with dist.DistributedGradientTape(dg.GradientTape(), comm) as tape:
            logits = dg.matmul(own_x, kernel) + bias
            one_hot = np.eye(3, dtype=dtype)[own_labels]
            loss = dg.mean(-dg.sum(one_hot * dg.log_softmax(logits), axis=-1))
        gradients = tape.gradient(loss, [kernel, bias])
        for variable, gradient in zip((kernel, bias), gradients, strict=True):
            variable.assign_sub(0.5 * gradient)
        losses.append(float(dist.average(loss, comm=comm)))
    return losses, kernel.numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_the_loss_curve_is_that_of_one_rank(dtype, tolerance):
    # Rank 0's variables count: the others start elsewhere on purpose.
    losses, kernel = train(dist.world(), dtype, seed=dist.world().rank)

    expected_losses, expected_kernel = train(dist.SerialCommunicator(), dtype, seed=0)
    np.testing.assert_allclose(losses, expected_losses, rtol=0, atol=tolerance)
    np.testing.assert_allclose(kernel, expected_kernel, rtol=0, atol=tolerance)


def test_all_ranks_hold_the_same_bits_after_training():
    _, kernel = train(dist.world(), "float32", seed=dist.world().rank)

    rows = dist.world().allgather(kernel)
    assert all(row.tobytes() == kernel.tobytes() for row in rows)


def test_a_rank_without_examples_gets_the_same_gradient():
    world = dist.world()
    x = dg.Variable([1.0, 2.0])
    part = dist.shard(np.array([[3.0, 4.0]]))  # one example for all ranks
    with np.errstate(all="ignore"), dist.DistributedGradientTape(dg.GradientTape()) as tape:
        loss = dg.mean(dg.sum(part * x, axis=-1))

    assert tape.gradient(loss, x).tolist() == [3.0, 4.0]
    assert len(dist.allgather(part)) == 1
    assert world.size > 1 or len(part) == 1


def test_a_branch_on_the_rank_is_filled_with_zeros():
    world = dist.world()
    used, unused = dg.Variable(2.0), dg.Variable(2.0)
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        y = used * used if world.rank == 0 else used * 1.0

    gradient, none = tape.gradient(y, [used, unused], examples=1)

    assert float(gradient) == pytest.approx((4 + world.size - 1) / world.size)
    assert none is None


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (lambda a, b, c: [b, a], {"a", "b"}),
        (lambda a, b, c: [a], {"b"}),
        (lambda a, b, c: [a, c], {"b"}),
    ],
    ids=["other order", "one missing", "other dtype"],
)
def test_sources_that_differ_are_named_on_every_rank_and_the_job_goes_on(sources, names):
    world = dist.world()
    a, b = dg.Variable(np.ones(2), name="a"), dg.Variable(np.ones(2), name="b")
    c = dg.Variable(np.ones(2, np.float32), name="b")
    last = world.size - 1
    with dist.DistributedGradientTape(dg.GradientTape(persistent=True)) as tape:
        y = dg.sum(a * b) + dg.sum(c)

    with pytest.raises(DesyncError) as raised:
        tape.gradient(y, sources(a, b, c) if world.rank == last else [a, b])

    assert set(raised.value.names) == names
    # Of two ranks that differ, the first counts as the rule.
    assert raised.value.ranks == (last,)
    assert f"rank {last} sends" in str(raised.value)
    assert tape.gradient(y, a, examples=1).tolist() == [1.0, 1.0]


@pytest.mark.mpi(min_size=2)
def test_another_operation_on_one_rank_is_named_instead_of_hanging():
    world = dist.world()
    operation = dist.barrier if world.rank == 1 else lambda: dist.allreduce(np.ones(3))

    with pytest.raises(DesyncError, match=r"rank 1 does barrier \(operation \d+\)"):
        operation()

    assert dist.allreduce(1) == world.size


def test_metrics_are_those_of_all_examples():
    values = np.arange(7.0)
    part = dist.shard(values)
    mean = part.mean() if len(part) else np.nan

    assert dist.average(mean) == pytest.approx(3.0, rel=1e-15)
    np.testing.assert_array_equal(dist.allgather(part), values)
    assert dist.broadcast(dist.world().rank, root=0) == 0

"""Buckets that travel by a thread over MPI: the same averages, and traffic beside them."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import DesyncError

pytestmark = pytest.mark.mpi(min_size=2)


def gradients(model, order, overlap):
    world = dist.world()
    tape = dist.DistributedGradientTape(dg.GradientTape(), bucket_bytes=4000, overlap=overlap)
    with tape:
        y = dg.asarray(np.full((2, 40), world.rank + 1, np.float64))
        for variable in model:
            y = dg.tanh(y @ variable)
        loss = dg.mean(y)
    found = tape.gradient(loss, [model[n] for n in order], examples=world.rank + 1)
    return [gradient.numpy() for gradient in found]


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    return [dg.Variable(rng.normal(size=(40, 40)) / 6, name=f"layer{n}") for n in range(6)]


def test_averages_are_those_without_overlap_step_after_step(model):
    order = range(6)
    expected = gradients(model, order, False)

    for _ in range(20):
        for mine, other in zip(gradients(model, order, True), expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-15)
        # Another communicator's operations in between are nobody's business.
        assert dist.allreduce(1) == dist.world().size
    assert dist.last_report().algorithm == "overlapped allreduce"
    assert dist.last_report().buckets == 6


def test_another_order_on_one_rank_is_named_also_when_buckets_overlap(model):
    world = dist.world()
    gradients(model, range(6), True)
    gradients(model, range(6), True)
    order = [0, 1, 2, 3, 5, 4] if world.rank == 1 else range(6)

    with pytest.raises(DesyncError) as raised:
        gradients(model, order, True)

    assert set(raised.value.names) == {"layer4", "layer5"}
    gradients(model, range(6), True)  # the job goes on

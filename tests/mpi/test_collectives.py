"""Collectives on tensors over MPI: values, both modes and second order, as on one process."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import CommunicationError
from distgrad.testing.collectives import CASES, assert_same, on_one_process, on_this_rank, target


@pytest.mark.mpi
@pytest.mark.parametrize("name", CASES)
def test_both_modes_and_second_order_are_those_of_the_whole(name):
    world = dist.world()
    expected = on_one_process(CASES[name], world.size)

    found = on_this_rank(CASES[name], world)

    assert_same(found, expected[world.rank], world.rank)


@pytest.mark.mpi
@pytest.mark.parametrize("name", CASES)
def test_a_traced_gradient_is_the_eager_one(name):
    world, case = dist.world(), CASES[name]
    x = dg.asarray(case.make(world.rank, world.size))

    eager = dg.grad(lambda x: target(case, x, world))(x)
    traced = dg.function(dg.grad(lambda x: target(case, x, world)))(x)

    np.testing.assert_array_equal(traced.numpy(), eager.numpy())


@pytest.mark.mpi
def test_a_value_that_one_rank_does_not_watch_is_an_error_on_all():
    world = dist.world()
    x = dg.asarray([1.0, 2.0])

    with dg.GradientTape() as tape:
        if world.rank:
            tape.watch(x)
        with pytest.raises(dist.DesyncError, match="not on rank 0, which would not take part"):
            dist.allreduce(x)


@pytest.mark.mpi
def test_arrays_of_another_byte_order_travel_as_numbers():
    world = dist.world()
    # Only rank 0 has swapped bytes: what the others get must not be taken for their order.
    dtype = np.dtype("f4").newbyteorder("S" if world.rank == 0 else "=")
    x = np.arange(1.0, 2 * world.size + 1).astype(dtype)
    plain = x.astype("f4")

    np.testing.assert_array_equal(dist.allreduce(x), world.size * plain)
    np.testing.assert_array_equal(dist.allreduce(x, "max"), plain)
    np.testing.assert_array_equal(dist.allreduce(x, "mean"), plain)
    np.testing.assert_array_equal(dist.broadcast(x), plain)
    np.testing.assert_array_equal(dist.allgather(x), np.tile(plain, world.size))
    own = plain[2 * world.rank : 2 * world.rank + 2]
    np.testing.assert_array_equal(dist.reduce_scatter(x), world.size * own)
    np.testing.assert_array_equal(dist.alltoall(x), np.tile(own, world.size))
    np.testing.assert_allclose(dist.average(x), plain)
    np.testing.assert_array_equal(world.allreduce(x), world.size * plain)


@pytest.mark.parametrize("colour", [None, "a", -1, 0.5])
def test_a_colour_that_is_no_number_is_refused_before_anything_is_sent(colour):
    with pytest.raises(CommunicationError, match=f"split: colour is {colour!r}; expected a number"):
        dist.world().split(colour)

    assert dist.allreduce(1) == dist.world().size

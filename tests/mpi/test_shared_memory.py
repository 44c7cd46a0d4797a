"""Long messages of two ranks are added up in memory of both: the bits of slices, or by slices."""

import os

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.verbs import shared_memory
from distgrad.distributed.verbs.communicator import exchange_json

pytestmark = pytest.mark.mpi(min_size=2)

LENGTHS = (2**12, 2**16, 2**16 + 1, 3 * 2**18 + 7)  # of float32: a part of a chunk, one, many


def another():
    """Return a communicator of all ranks that has not met in memory yet."""
    from mpi4py import MPI

    return dist.MPICommunicator(MPI.COMM_WORLD, dist.world().guard)


def by_slices():
    """Return a communicator that shares no memory."""
    comm = another()
    comm._sums._may_join = False
    return comm


def numbers(length, dtype="float32"):
    drawn = np.random.default_rng(dist.world().rank).normal(size=length) * 100
    return (drawn * (1 + 2j) if np.dtype(dtype).kind == "c" else drawn).astype(dtype)


def can_share():
    world = dist.world()
    cores = len(os.sched_getaffinity(0))
    return world.size == 2 and cores >= 2 and shared_memory._is_possible(2)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "complex64"])
@pytest.mark.parametrize("length", LENGTHS)
def test_sums_have_the_bits_of_slices_on_every_rank(dtype, length):
    comm, own = another(), numbers(length, dtype)
    expected = by_slices().allreduce(own)

    for _ in range(3):  # chunks of messages before lie in the same places
        found = comm.allreduce(own)

        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(own, numbers(length, dtype))
    assert len(set(exchange_json(comm, found.tobytes().hex()[-4000:]))) == 1
    if can_share():
        assert comm._sums.is_in_memory


@pytest.mark.parametrize("length", [*LENGTHS, 1000])
def test_a_factor_gives_the_bits_of_a_product_before_the_sum(length):
    factor = 0.1 + dist.world().rank
    expected = by_slices().allreduce(numbers(length) * factor)
    comm, message = another(), numbers(length).reshape(-1, 1)

    comm.add_up_weighed(message, factor)

    np.testing.assert_array_equal(message[:, 0], expected)
    assert comm.started == 1


def test_messages_of_many_lengths_and_dtypes_may_follow_each_other():
    comm, world = another(), dist.world()
    lengths = np.random.default_rng(3).integers(2**15, 2**19, 20)

    for number, length in enumerate(lengths.tolist()):
        dtype = ("float64", "float32", "int64")[number % 3]
        found = comm.allreduce(np.full(length, world.rank + number, dtype))

        assert found.dtype == dtype
        assert np.all(found == sum(range(world.size)) + number * world.size)


@pytest.mark.parametrize("broken", ["no memory", "no permission", "switched off", "foreign"])
def test_where_one_rank_cannot_all_go_on_without(monkeypatch, broken):
    world = dist.world()
    if broken == "no memory":

        def refuse(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", refuse)
    elif broken == "no permission":
        monkeypatch.setattr(shared_memory, "_open", lambda *_: None)
    elif broken == "foreign":  # another machine's process of that number has other files
        find = shared_memory._open
        monkeypatch.setattr(shared_memory, "_open", lambda process, *about: find(1, *about))
    elif world.rank == 1:
        monkeypatch.setenv(shared_memory.SWITCH, "0")
    comm, descriptors = another(), os.listdir("/proc/self/fd")

    found = comm.allreduce(np.full(2**17, world.rank + 1.0))

    assert np.all(found == world.size * (world.size + 1) / 2)
    assert not comm._sums.is_in_memory
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


def test_what_is_shared_has_no_name_that_could_be_left_behind():
    if not can_share():
        pytest.skip("takes two ranks with a core each")
    comm, descriptors = another(), os.listdir("/proc/self/fd")

    for _ in range(3):
        comm.allreduce(np.ones(2**18, np.float32))

    assert len(os.listdir("/proc/self/fd")) == len(descriptors) + 1  # the one that mmap keeps
    with open("/proc/self/maps") as maps:
        assert any(line.endswith("/memfd:distgrad (deleted)\n") for line in maps)


def test_averages_of_large_gradients_are_those_of_all_examples():
    world = dist.world()
    weights = dg.Variable(np.ones((700, 700), np.float32), name="weights")

    for step in range(3):
        with dist.DistributedGradientTape(dg.GradientTape(), overlap=False) as tape:
            loss = dg.sum(weights * weights) * (world.rank + step)
        found = tape.gradient(loss, weights, examples=world.rank + 1)

        counts = np.arange(1, world.size + 1)
        expected = np.sum(counts * 2 * (counts - 1 + step)) / counts.sum()
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    if can_share():
        assert world._sums.is_in_memory

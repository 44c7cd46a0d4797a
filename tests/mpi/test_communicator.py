"""The verbs over MPI: results, dtypes, sizes, order, and traffic of others beside ours."""

import os
import threading
import time

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.verbs import mpi
from distgrad.distributed.verbs.communicator import exchange_json

pytestmark = pytest.mark.mpi


@pytest.fixture
def world():
    return dist.world()


def test_the_world_is_that_of_mpi(world):
    from mpi4py import MPI

    assert (world.rank, world.size) == (MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size)
    assert world.local_rank == world.rank  # the tests run on one machine
    assert dist.init() is world


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "int8", "int64"])
@pytest.mark.parametrize("shape", [(), (3, 5), (0, 2)])
def test_allreduce_adds_every_dtype_and_shape(world, dtype, shape):
    array = np.full(shape, world.rank + 1, dtype)

    result = world.allreduce(array)

    np.testing.assert_array_equal(result, np.full(shape, sum(range(1, world.size + 1)), dtype))
    assert (result.dtype, result.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(array, np.full(shape, world.rank + 1, dtype))


def test_bfloat16_is_added_up(world):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16

    result = world.allreduce(np.full(3, 1.5, bfloat16))

    assert result.dtype == bfloat16
    np.testing.assert_array_equal(result.astype(np.float32), np.full(3, 1.5 * world.size))


def test_half_precision_is_added_up_in_single(world):
    # 2048 + 1 is 2048 in float16: added up there, the ones would be lost.
    mine = np.array([2048.0 if world.rank == 0 else 1.0], np.float16)

    result = world.allreduce(mine)

    assert result[0] == np.float16(2048 + world.size - 1)


@pytest.mark.parametrize(("op", "of"), [("prod", np.prod), ("min", np.min), ("max", np.max)])
def test_other_reductions(world, op, of):
    result = world.allreduce(np.array([world.rank + 1.0, -world.rank]), op)

    rows = np.array([[rank + 1.0, -rank] for rank in range(world.size)])
    np.testing.assert_array_equal(result, of(rows, axis=0))


def test_bits_are_joined(world):
    result = world.allreduce(np.array([1 << world.rank], np.uint64), "bor")

    assert result[0] == (1 << world.size) - 1


def test_truth_values_have_a_minimum_and_maximum(world):
    mine = np.array([world.rank == 0, True])

    assert world.allreduce(mine, "min").tolist() == [False, True]
    assert world.allreduce(mine, "max").tolist() == [True, True]


@pytest.mark.parametrize("order", ["C", "F"])
def test_layout_in_memory_does_not_matter(world, order):
    array = np.asarray(np.arange(12.0).reshape(3, 4) + world.rank, order=order)[::2]
    expected = world.size * np.arange(12.0).reshape(3, 4)[::2] + sum(range(world.size))

    np.testing.assert_array_equal(world.allreduce(array), expected)
    np.testing.assert_array_equal(world.broadcast(array, 0), np.arange(12.0).reshape(3, 4)[::2])
    np.testing.assert_array_equal(world.allgather(array)[world.rank], array)


@pytest.mark.parametrize("array", [np.ones((2, 3)), np.ones((2, 3), np.float16), np.ones((3, 2)).T])
def test_allreduce_in_place(world, array):
    mine = array.copy(order="K")

    result = world.allreduce(mine, out=mine)

    assert result is mine
    np.testing.assert_array_equal(mine, np.full((2, 3), world.size))


def test_broadcast_from_each_root(world):
    for root in range(world.size):
        result = world.broadcast(np.full((2, 2), world.rank + 0.5), root)
        np.testing.assert_array_equal(result, np.full((2, 2), root + 0.5))


def test_allgather_stacks_in_the_order_of_ranks(world):
    result = world.allgather(np.array([world.rank, 10 * world.rank], np.int32))

    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, [[rank, 10 * rank] for rank in range(world.size)])


def test_values_of_different_lengths_are_exchanged(world):
    everyone = exchange_json(world, ["x" * world.rank, None])

    assert everyone == [["x" * rank, None] for rank in range(world.size)]


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_messages_cut_at_a_limit_give_the_same(world, monkeypatch, limit):
    monkeypatch.setattr(mpi, "MESSAGE_ELEMENTS", limit)
    array = np.arange(15.0).reshape(3, 5)

    np.testing.assert_array_equal(world.allreduce(array), world.size * array)
    np.testing.assert_array_equal(world.broadcast(array + world.rank, 0), array)
    np.testing.assert_array_equal(world.allgather(array), [array] * world.size)


def test_a_message_of_a_megabyte(world):
    array = np.full(2**18, world.rank + 1, np.float32)

    result = world.allreduce(array)

    assert (result == sum(range(1, world.size + 1))).all()


def test_a_barrier_holds_until_the_last_has_come(world):
    begun = time.monotonic()
    if world.rank == world.size - 1:
        time.sleep(0.3)
    world.barrier()

    assert time.monotonic() - begun > 0.25


def test_the_number_of_operations_is_the_same_on_all_ranks(world):
    counts = world.allgather(np.array(world.started))

    assert len(set(counts.tolist())) == 1


def test_the_programs_own_messages_do_not_mix_with_ours(world):
    from mpi4py import MPI

    own = np.empty(world.size, np.int64)
    request = MPI.COMM_WORLD.Iallgather(np.array([world.rank]), own)
    ours = world.allreduce(np.array([1.0]))
    request.Wait()

    assert own.tolist() == list(range(world.size))
    assert ours[0] == world.size


def test_two_threads_use_two_communicators(world):
    from mpi4py import MPI

    second = dist.MPICommunicator(MPI.COMM_WORLD, world.guard)
    found = {}

    def work():
        found["second"] = [second.allreduce(np.array([i]))[0] for i in range(50)]

    thread = threading.Thread(target=work)
    thread.start()
    first = [world.allreduce(np.array([2 * i]))[0] for i in range(50)]
    thread.join()

    assert found["second"] == [world.size * i for i in range(50)]
    assert first == [2 * world.size * i for i in range(50)]


def test_a_part_of_the_ranks_is_a_communicator_too(world):
    from mpi4py import MPI

    half = MPI.COMM_WORLD.Split(world.rank % 2, -world.rank)
    part = dist.MPICommunicator(half, world.guard)
    half.Free()

    members = part.allgather(np.array(world.rank)).tolist()

    assert members == sorted(range(world.rank % 2, world.size, 2), reverse=True)
    assert members[part.rank] == world.rank


def test_more_parts_than_mpi_has_communicators_are_used_one_after_the_other(world):
    long = np.ones(2**14)  # which two ranks add up in memory that they share
    files = len(os.listdir("/proc/self/fd"))
    for turn in range(2100):  # MPICH has 2048
        part = world.split(0)
        if turn < 50:
            part.allreduce(long)

    assert len(os.listdir("/proc/self/fd")) < files + 10


def test_parts_of_parts_are_given_back_with_these(world):
    known = len(world.guard.begun)
    for turn in range(20):
        part = world.split(world.rank if turn % 2 else 0)
        of_part = part.split(0).duplicate()
        assert of_part.allreduce(np.array(1)) == part.size
        del part, of_part
    world.split(0)

    assert len(world.guard.begun) <= known + 1


def test_a_part_stays_for_the_ranks_that_hold_it(world):
    parts = [world.split(world.rank) for _ in range(3)]
    if world.rank == 0:
        del parts[1]
    world.split(0)

    for part in parts:
        assert part.allreduce(np.array(5)) == 5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overlap": True, "bucket_bytes": 1000},  # by a thread, from the second step on
        {"reduction": "hierarchical"},
        {"bucket_bytes": "auto"},
    ],
)
def test_parts_whose_gradients_were_averaged_are_given_back(world, options, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x, y = dg.Variable(np.ones(1000)), dg.Variable(np.ones(1000))
    threads, known = threading.active_count(), len(world.guard.begun)
    for _ in range(5):
        part = world.split(0)
        for _ in range(3):
            tape = dist.DistributedGradientTape(dg.GradientTape(), part, **options)
            with tape:
                loss = dg.sum(x * y)
            tape.gradient(loss, [x, y])
        del part, tape
    world.split(0)
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)

    assert threading.active_count() <= threads
    assert len(world.guard.begun) <= known + 3

"""Arrays of devices are reduced by messages of two ranks; NumPy stands for the devices' module."""

from hashlib import blake2b
from types import SimpleNamespace

import numpy as np
import pytest

import distgrad.distributed as dist
from distgrad.distributed.verbs import device_slices, mpi
from distgrad.distributed.verbs.communicator import exchange_json
from distgrad.distributed.verbs.device_line import Line
from distgrad.distributed.verbs.exchanging import parts

pytestmark = pytest.mark.mpi(min_size=2)

FUNCTIONS = {"sum": np.sum, "prod": np.prod, "min": np.min, "max": np.max}


@pytest.fixture
def module():
    """What is used of CuPy, and how often the device is waited for."""
    waits = []
    stream = SimpleNamespace(synchronize=lambda: waits.append(1))
    names = ("empty", "add", "multiply", "minimum", "maximum")
    made = SimpleNamespace(**{name: getattr(np, name) for name in names})
    made.cuda = SimpleNamespace(get_current_stream=lambda: stream)
    made.waits = waits
    return made


def numbers(rank, length, dtype):
    return np.random.default_rng(rank).integers(1, 5, length).astype(dtype)


@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("length", [1, 2, 1000, 70_001])
def test_results_are_those_of_all_ranks(op, length, module, monkeypatch):
    world = dist.world()
    monkeypatch.setattr(device_slices, "_PIECE", 2**17)
    array = numbers(world.rank, length, "int64")

    world.allreduce_on_device(array, module, op)

    rows = np.stack([numbers(rank, length, "int64") for rank in range(world.size)])
    np.testing.assert_array_equal(array, FUNCTIONS[op](rows, axis=0))


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_sums_have_the_same_bits_on_every_rank(dtype, module, monkeypatch):
    world = dist.world()
    monkeypatch.setattr(mpi, "MESSAGE_ELEMENTS", 999)
    drawn = np.random.default_rng(world.rank).normal(size=(37, 101)) * 100
    array = (drawn * (1 + 2j) if dtype == "complex128" else drawn).astype(dtype)
    expected = world.allreduce(array.copy())

    world.allreduce_on_device(array, module)

    np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-3)
    digests = exchange_json(world, blake2b(array.tobytes()).hexdigest())
    assert all(each == digests[0] for each in digests)


def test_the_device_is_waited_for_before_a_slice_is_sent(module):
    dist.world().allreduce_on_device(np.ones(64, np.float32), module)

    assert module.waits == [1]


@pytest.mark.parametrize("most", [2**28, 3])
@pytest.mark.parametrize("is_same_for_all", [False, True])
def test_ranks_get_what_others_have_for_them(most, is_same_for_all, monkeypatch):
    world = dist.world()
    rank, ranks = world.rank, np.arange(world.size)
    monkeypatch.setattr(mpi, "MESSAGE_ELEMENTS", most)
    counts = np.repeat(5 * ranks[:, None], world.size, axis=1)  # rank 0 has nothing
    names = np.broadcast_to(100 * ranks[:, None], counts.shape).copy()
    if not is_same_for_all:
        counts += 2 * ranks
        names += ranks
    expected = np.repeat(names[:, rank], counts[:, rank])
    own = (
        np.full(counts[rank, rank], 100 * rank)
        if is_same_for_all
        else np.repeat(names[rank], counts[rank])
    )
    slices = parts(counts, rank, everybody_gets_all=is_same_for_all)
    result = np.full(expected.size, -1)
    result[slices[rank][1]] = own[slices[rank][0]]

    world.exchange_on_device(own, result, slices, "exchange")

    np.testing.assert_array_equal(result, expected)


@pytest.fixture
def line(module):
    """The way by an MPI that takes device memory."""
    backend = SimpleNamespace(
        module=module, synchronize=lambda: None, to_host=np.asarray, asarray=np.asarray
    )
    return Line(dist.world(), backend, "mpi")


def test_verbs_on_devices_give_what_those_of_the_host_do(line):
    world = dist.world()
    rng = np.random.default_rng(world.rank)
    counts = np.add.outer(np.arange(world.size), np.arange(world.size))
    own = rng.normal(size=counts[world.rank].sum())
    lengths = [int(n) for n in counts[:, 0]]
    rows = rng.integers(-9, 9, (world.size, 2, 3)).astype("float16")

    assert line.can_exchange()
    exchanged = line.alltoallv(own, counts)
    gathered = line.allgatherv(own[: lengths[world.rank]], lengths)
    row = line.reduce_scatter(rows)

    np.testing.assert_array_equal(exchanged, world.alltoallv(own, counts))
    np.testing.assert_array_equal(gathered, world.allgatherv(own[: lengths[world.rank]], lengths))
    np.testing.assert_array_equal(row, world.reduce_scatter(rows))
    assert row.dtype == np.float16
    assert line.reduce_scatter(rows.astype(np.float32)).base is None  # a view would keep all rows
    assert line.counts == {"mpi": 4}


def test_arrays_on_devices_need_not_be_one_line(line):
    world = dist.world()
    counts = np.add.outer(np.arange(world.size), np.arange(world.size))
    twice = np.repeat(np.random.default_rng(world.rank).normal(size=counts[world.rank].sum()), 2)
    same = np.broadcast_to(np.float64(world.rank), 3)

    backwards = line.alltoallv(twice[::-2], counts)
    gathered = line.allgatherv(same, [3] * world.size)

    np.testing.assert_array_equal(backwards, world.alltoallv(twice[::-2].copy(), counts))
    np.testing.assert_array_equal(gathered, np.repeat(np.arange(world.size), 3))

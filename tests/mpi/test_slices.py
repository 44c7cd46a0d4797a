"""Long messages of few ranks are added up by slices: the sums of MPI, the same bits everywhere."""

from hashlib import blake2b

import numpy as np
import pytest

import distgrad.distributed as dist
from distgrad.distributed.verbs import mpi, shared_memory, slices
from distgrad.distributed.verbs.communicator import exchange_json

pytestmark = pytest.mark.mpi(min_size=2)


@pytest.fixture(autouse=True)
def _no_shared_memory(monkeypatch):
    monkeypatch.setattr(shared_memory, "_RANKS", 0)


def numbers(rank, length, dtype):
    drawn = np.random.default_rng(rank).normal(size=length) * 100
    return (drawn * (1 + 2j) if np.dtype(dtype).kind == "c" else drawn).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "complex64", "float16"])
@pytest.mark.parametrize("length", [2**18 + 1, 3 * 2**20 + 7])
def test_sums_are_those_of_all_ranks_and_equal_on_each(dtype, length):
    world = dist.world()
    own = numbers(world.rank, length, dtype)
    kept = own.copy()

    found = world.allreduce(own)

    rows = [numbers(rank, length, dtype) for rank in range(world.size)]
    wide = np.result_type(dtype, np.float64)
    expected = np.sum([row.astype(wide) for row in rows], axis=0)
    tolerance = 4e-3 if dtype == "float16" else 1e-5
    assert found.dtype == own.dtype
    np.testing.assert_allclose(found.astype(wide), expected, rtol=tolerance, atol=1e-2)
    np.testing.assert_array_equal(own, kept)
    digests = exchange_json(world, blake2b(found.tobytes()).hexdigest())
    assert all(each == digests[0] for each in digests)


def test_short_pieces_give_the_same_sums(monkeypatch):
    world = dist.world()
    own = numbers(world.rank, 2**17 + 3, "float32")
    expected = world.allreduce(own)

    monkeypatch.setattr(mpi, "MESSAGE_ELEMENTS", 10_001)
    found = world.allreduce(own.copy())
    out = own.copy()
    assert world.allreduce(out, out=out) is out

    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(out, found)


def test_slices_and_mpis_own_sums_agree(monkeypatch):
    world = dist.world()
    own = numbers(world.rank, 2**20, "float64")
    by_slices = world.allreduce(own)
    monkeypatch.setattr(slices, "_RANKS", 1)

    by_mpi = world.allreduce(own)

    np.testing.assert_allclose(by_slices, by_mpi, rtol=1e-12, atol=1e-10)


def test_extrema_and_short_messages_are_left_to_mpi():
    assert not slices.is_worth_it(2, 1000)
    assert not slices.is_worth_it(64, 2**24)
    assert slices.is_worth_it(2, 2**24)
    world = dist.world()

    highest = world.allreduce(np.full(2**17, world.rank, np.float32), "max")

    assert np.all(highest == world.size - 1)

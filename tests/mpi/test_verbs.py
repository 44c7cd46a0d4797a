"""The verbs that cut arrays up among the ranks, over MPI: results, empty parts, many messages."""

import numpy as np
import pytest

import distgrad.distributed as dist
from distgrad.distributed.verbs import mpi

pytestmark = pytest.mark.mpi


@pytest.fixture(params=[2**28, 40], ids=["one message", "many messages"])
def world(request, monkeypatch):
    # Elements or bytes of a message: so few that a rank's part takes several.
    monkeypatch.setattr(mpi, "MESSAGE_ELEMENTS", request.param)
    return dist.world()


def elements(rank, target, count):
    """Return what a rank has for another: different for every pair and place."""
    return 10_000.0 * rank + 100.0 * target + np.arange(count)


def test_alltoall_hands_rows_over(world):
    size, rank = world.size, world.rank
    rows = np.stack([elements(rank, target, 6).reshape(2, 3) for target in range(size)])

    received = world.alltoall(rows)

    expected = np.stack([elements(source, rank, 6).reshape(2, 3) for source in range(size)])
    np.testing.assert_array_equal(received, expected)


def test_alltoallv_hands_over_as_many_as_the_counts_say(world):
    size, rank = world.size, world.rank
    # Some pairs exchange nothing.
    counts = np.array(
        [[(7 * s + 3 * t) % 23 * (s != t + 1) for t in range(size)] for s in range(size)]
    )
    own = np.concatenate([elements(rank, target, counts[rank, target]) for target in range(size)])

    received = world.alltoallv(own, counts)

    expected = [elements(source, rank, counts[source, rank]) for source in range(size)]
    np.testing.assert_array_equal(received, np.concatenate(expected))


@pytest.mark.parametrize("dtype", ["float32", "complex128", "int8"])
def test_allgatherv_puts_parts_of_different_lengths_end_to_end(world, dtype):
    counts = [(5 * rank + 11) % 13 for rank in range(world.size)]
    own = elements(world.rank, 0, counts[world.rank]).astype(dtype)
    out = np.empty(sum(counts), dtype)

    received = world.allgatherv(own, counts)
    returned = world.allgatherv(own, counts, out=out)

    expected = [elements(rank, 0, count).astype(dtype) for rank, count in enumerate(counts)]
    np.testing.assert_array_equal(received, np.concatenate(expected))
    assert returned is out
    np.testing.assert_array_equal(out, received)


@pytest.mark.parametrize("op", ["sum", "max"])
@pytest.mark.parametrize("dtype", ["float16", "float64", "int64"])
def test_reduce_scatter_gives_each_rank_its_row(world, dtype, op):
    rows = np.arange(world.size * 30).reshape(world.size, 5, 6).astype(dtype) % 50

    row = world.reduce_scatter(rows + np.dtype(dtype).type(world.rank), op)

    added = sum(range(world.size)) + rows[world.rank] * world.size
    expected = added if op == "sum" else rows[world.rank] + world.size - 1
    np.testing.assert_array_equal(row, expected.astype(dtype))
    assert row.dtype == dtype


def test_empty_parts_go_through(world):
    none = np.zeros((world.size, world.size), np.int64)

    assert world.alltoallv(np.empty(0), none).shape == (0,)
    assert world.allgatherv(np.empty(0), [0] * world.size).shape == (0,)
    assert world.reduce_scatter(np.empty((world.size, 0))).shape == (0,)
    assert world.alltoall(np.empty((world.size, 0))).shape == (world.size, 0)

"""Sums over logical shards have the same bits, however many ranks share the shards."""

import numpy as np
import pytest

from distgrad.distributed.averaging.ordered import OrderedSum, own_range, subtrees

RANKS = (1, 2, 3, 4, 5, 6, 8, 11)


def rows_of(count, length=13):
    rng = np.random.default_rng(5)
    # Of all magnitudes, so that every other order gives other bits.
    return (rng.normal(size=(count, length)) * 10.0 ** rng.integers(-4, 5, (count, length))).astype(
        np.float32
    )


def total_on(on_ranks, ranks, count, length=13):
    rows = rows_of(count, length)

    def work(comm):
        total = OrderedSum(comm, count)
        for shard in own_range(count, comm.size, comm.rank):
            total.add(rows[shard].copy())
        return total.total(length, np.dtype(np.float32)), comm.verbs

    return on_ranks(ranks, work)


@pytest.mark.parametrize("count", [1, 4, 7, 24])
@pytest.mark.parametrize("length", [0, 1, 13])
def test_the_bits_are_the_same_for_any_number_of_ranks(on_ranks, count, length):
    found = {
        total.tobytes() for ranks in RANKS for total, _ in total_on(on_ranks, ranks, count, length)
    }

    assert len(found) == 1
    np.testing.assert_allclose(
        np.frombuffer(found.pop(), np.float32),
        rows_of(count, length).sum(axis=0, dtype=np.float64),
        rtol=1e-4,
    )


def test_the_order_matters_for_these_rows():
    rows = rows_of(24)

    assert np.add.reduce(rows).tobytes() != np.add.reduce(rows[::-1]).tobytes()


def test_two_messages_carry_a_sum(on_ranks):
    for _, verbs in total_on(on_ranks, 3, 24):
        assert verbs == ["alltoallv", "allgatherv"]


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 24])
def test_a_rank_sends_one_row_where_its_shards_are_a_subtree(ranks):
    runs = [own_range(24, ranks, rank) for rank in range(ranks)]

    assert [len(subtrees(24, run.start, run.stop)) for run in runs] == [1] * ranks


@pytest.mark.parametrize("ranks", [3, 5, 6, 7, 30])
def test_subtrees_make_up_the_run_and_are_few(ranks):
    for rank in range(ranks):
        run = own_range(24, ranks, rank)
        nodes = subtrees(24, run.start, run.stop)

        assert [shard for start, stop in nodes for shard in range(start, stop)] == list(run)
        assert len(nodes) <= 4  # of up to 8 shards


def test_every_shard_has_one_owner():
    for ranks in RANKS:
        owned = [shard for rank in range(ranks) for shard in own_range(24, ranks, rank)]

        assert owned == list(range(24))

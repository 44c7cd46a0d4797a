"""Sparse gradients over MPI: the rows of all ranks, and a table that is trained by them."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist

pytestmark = pytest.mark.mpi

WORDS, WIDTH, EXAMPLES, STEPS = 500, 4, 11, 4  # no number of ranks here divides the examples


def train(comm, seed):
    """Return the last table and bias of a few steps on random words, by rows where they can be."""
    rng = np.random.default_rng(seed)
    table = dg.Variable(rng.normal(size=(WORDS, WIDTH)), name="table")
    bias = dg.Variable(np.zeros(WIDTH), name="bias")
    dist.broadcast_variables([table, bias], comm=comm)
    words = np.random.default_rng(1).integers(0, 20, (EXAMPLES, 3))
    for _ in range(STEPS):
        own = dist.shard(words, comm)
        with (
            np.errstate(all="ignore"),
            dist.DistributedGradientTape(dg.GradientTape(), comm) as tape,
        ):
            loss = dg.mean(dg.square(dg.mean(dg.embedding(table, own), axis=1) + bias))
        of_table, of_bias = tape.gradient(loss, [table, bias])
        assert isinstance(of_table, dg.IndexedSlices)
        table.assign_sub(0.5 * of_table)
        bias.assign_sub(0.5 * of_bias)
    return table.numpy(), bias.numpy()


def test_training_a_table_by_rows_is_that_of_one_rank():
    table, bias = train(dist.world(), seed=dist.world().rank)

    expected_table, expected_bias = train(dist.SerialCommunicator(), seed=0)
    np.testing.assert_allclose(table, expected_table, rtol=0, atol=1e-12)
    np.testing.assert_allclose(bias, expected_bias, rtol=0, atol=1e-12)
    assert all(row.tobytes() == table.tobytes() for row in dist.world().allgather(table))


def test_ranks_may_have_rows_a_dense_gradient_or_none():
    world = dist.world()
    table = dg.Variable(np.ones((WORDS, WIDTH)), name="table")
    other = dg.Variable(1.0, name="other")
    for shares in (("rows", "none"), ("rows", "dense"), ("none", "dense"), ("rows", "rows")):
        mine = shares[world.rank] if world.rank < 2 else "none"
        with dist.DistributedGradientTape(dg.GradientTape(), average="sum") as tape:
            if mine == "rows":
                y = dg.sum(dg.gather(table, [world.rank, 7])) + 0.0 * other
            else:
                y = dg.sum(table) * 1.0 if mine == "dense" else other * 1.0
        given = tape.gradient(y, table)

        expected = np.full((WORDS, WIDTH), float("dense" in shares))
        for rank, share in enumerate(shares):
            if share == "rows":
                expected[[rank, 7]] += 1.0
        assert isinstance(given, dg.IndexedSlices) == ("dense" not in shares)
        np.testing.assert_array_equal(given.numpy(), expected)

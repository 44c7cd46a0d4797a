"""Iterators of uneven length are gone through together, and nobody's missing batch counts."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import BatchError, DesyncError


def batches_of(rank):
    """Return a rank's batches: 3, 1 or 2 of them, of uneven lengths."""
    rng = np.random.default_rng(rank)
    return [
        {"x": rng.normal(size=(n, 2)), "y": rng.normal(size=n)}
        for n in ((4, 3, 1), (2,), (5, 5))[rank]
    ]


def test_every_rank_takes_as_many_steps_as_the_one_with_most(on_ranks):
    def work(comm):
        return [len(batch["x"]) for batch in dist.join(batches_of(comm.rank), comm)]

    assert on_ranks(3, work) == [[4, 3, 1], [2, 0, 0], [5, 5, 0]]


def test_an_empty_batch_is_like_the_last(on_ranks):
    def work(comm):
        return list(dist.join(batches_of(comm.rank), comm))[-1]

    last = on_ranks(3, work)[1]

    assert last["x"].shape == (0, 2)
    assert last["y"].shape == (0,)


def test_training_is_that_of_one_process_on_what_there_is(on_ranks):
    def train(steps, comm):
        w = dg.Variable([0.5, -0.5], dtype="float64", name="w")
        losses = []
        for batch in steps:
            tape = dist.DistributedGradientTape(dg.GradientTape(), comm)
            with tape:
                error = dg.asarray(batch["x"]) @ w - batch["y"]
                loss = dg.sum(error**2) / max(len(batch["y"]), 1)
            w.assign_sub(0.1 * tape.gradient(loss, w))
            losses.append(float(dist.average(loss, comm=comm)))
        return [*w.tolist(), *losses]

    everyone = [batches_of(rank) for rank in range(3)]
    together = [
        {
            name: np.concatenate([own[step][name] for own in everyone if step < len(own)])
            for name in ("x", "y")
        }
        for step in range(3)
    ]
    expected = train(together, dist.SerialCommunicator())

    for found in on_ranks(3, lambda comm: train(dist.join(everyone[comm.rank], comm), comm)):
        assert found == pytest.approx(expected, rel=1e-12)


def test_a_rank_without_any_batch_is_named_unless_it_is_shown_one(on_ranks):
    def work(comm, like=None):
        own = [] if comm.rank == 1 else [np.ones((3, 2))]
        return [batch.shape for batch in dist.join(own, comm, like=like)]

    for error in on_ranks(3, work):
        assert isinstance(error, BatchError)
        assert "join: rank 1 had no batch at all while others did" in str(error)
    shown = on_ranks(3, lambda comm: work(comm, np.zeros((7, 2))))
    assert shown == [[(3, 2)], [(0, 2)], [(3, 2)]]


def test_nobody_having_a_batch_is_the_end(on_ranks):
    assert on_ranks(2, lambda comm: list(dist.join([], comm))) == [[], []]


def test_a_rank_that_does_something_else_in_between_is_told(on_ranks):
    def work(comm):
        for _ in dist.join([np.ones(2), np.ones(2)], comm):
            if comm.rank == 1:
                dist.barrier(comm)

    for error in on_ranks(2, work):
        assert isinstance(error, DesyncError)
        assert "rank 1 does barrier" in str(error)
        assert "rank 0 does join (next batch)" in str(error)


def test_leaves_of_unlike_length_are_refused():
    batch = {"x": np.ones((3, 2)), "y": np.ones(2)}

    with pytest.raises(BatchError, match="expected the same first axis"):
        list(dist.join([batch], dist.SerialCommunicator()))

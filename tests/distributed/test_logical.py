"""Logical shards: cut by their own number, not by that of the ranks."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import (
    DistributedGradientTape,
    GradientAccumulator,
    RecordedCommunicator,
    SerialCommunicator,
    logical_shards,
    shard,
    sum_logical_shards,
)
from distgrad.errors import BatchError, DesyncError, TapeError

RANKS = (1, 2, 3, 5)


def parts_on(ranks, batch, count=24):
    return [
        list(logical_shards(batch, RecordedCommunicator(ranks, rank), count=count))
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("examples", [0, 1, 7, 24, 97])
def test_the_parts_are_the_same_whoever_owns_them(examples):
    batch = np.arange(examples)
    expected = [part.tolist() for part in parts_on(1, batch)[0]]

    for ranks in (2, 3, 5, 8, 30):
        assert [part.tolist() for parts in parts_on(ranks, batch) for part in parts] == expected
    assert [place for part in expected for place in part] == list(range(examples))
    assert all(expected)


def test_a_rank_has_the_examples_of_shard_where_the_ranks_divide_the_shards():
    batch = np.arange(97)

    for rank, parts in enumerate(parts_on(4, batch)):
        expected = shard(batch, RecordedCommunicator(4, rank))
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_less_than_one_shard_is_refused():
    with pytest.raises(BatchError, match="count is 0"):
        logical_shards(np.arange(3), SerialCommunicator(), count=0)


def test_sums_of_figures_have_the_same_bits_on_any_ranks(on_ranks):
    values = np.random.default_rng(2).normal(size=(11, 2)) * 10.0 ** np.arange(11)[:, None]

    def work(comm):
        figures = [part.sum(axis=0) for part in logical_shards(values, comm)]
        return sum_logical_shards(figures, comm).tobytes()

    found = {total for ranks in (*RANKS, 24, 25) for total in on_ranks(ranks, work)}

    assert len(found) == 1
    np.testing.assert_allclose(np.frombuffer(found.pop()), values.sum(axis=0))


def test_figures_of_different_shapes_are_named(on_ranks):
    def work(comm):
        figures = [np.zeros(2 + comm.rank) for _ in logical_shards(np.arange(24), comm)]
        sum_logical_shards(figures, comm)

    for error in on_ranks(2, work):
        assert isinstance(error, DesyncError)
        assert "rank 1 sends values float64[3]" in str(error)


def test_a_figure_too_few_is_refused():
    comm = SerialCommunicator()
    list(logical_shards(np.arange(5), comm))

    with pytest.raises(BatchError, match="4 values for 5 logical shards"):
        sum_logical_shards([1.0] * 4, comm)


# --- gradients ------------------------------------------------------------------------------------


def model():
    rng = np.random.default_rng(11)
    return [
        dg.Variable(rng.normal(size=(3, 2)).astype(np.float32), name="kernel"),
        dg.Variable(np.zeros(2, np.float32), name="bias"),
        dg.Variable(np.zeros(2, np.float32), name="unused"),
        dg.Variable(np.zeros((4, 2), np.float32), name="table"),
    ]


def data(examples):
    rng = np.random.default_rng(7)
    return rng.normal(size=(examples, 3)).astype(np.float32), rng.integers(0, 4, examples)


def mean_loss(variables, x, places):
    kernel, bias, _, table = variables
    return dg.mean(dg.square(dg.tanh(x @ kernel) + bias - 1 + dg.gather(table, places)))


def by_accumulator(comm, examples):
    variables = model()
    accumulator = GradientAccumulator(variables, comm, deterministic=True)
    for x, places in logical_shards(data(examples), comm):
        with dg.GradientTape() as tape:
            loss = mean_loss(variables, x, places)
        accumulator.add(tape.gradient(loss, variables))
    return accumulator.gradients()


def by_tape(comm, examples):
    variables = model()
    tape = dg.GradientTape(persistent=True)
    with DistributedGradientTape(tape, comm, deterministic=24) as averaging:
        losses = [mean_loss(variables, *part) for part in logical_shards(data(examples), comm)]
    return averaging.gradient(losses, variables)


@pytest.mark.parametrize("examples", [1, 5, 97])
def test_gradients_have_the_same_bits_on_any_ranks_by_tape_and_by_accumulator(on_ranks, examples):
    results = [
        gradients
        for ranks in (*RANKS, 8)
        for way in (by_accumulator, by_tape)
        for gradients in on_ranks(ranks, lambda comm, way=way: way(comm, examples))
    ]

    variables = model()
    with dg.GradientTape() as tape:
        loss = mean_loss(variables, *data(examples))
    kernel, bias, unused, table = tape.gradient(loss, variables)
    assert unused is None
    whole = kernel, bias, None, table
    for found in results:
        assert [g is None for g in found] == [False, False, True, False]
        for mine, first, expected in zip(found, results[0], whole, strict=True):
            if expected is not None:
                assert mine.numpy().tobytes() == first.numpy().tobytes()
                np.testing.assert_allclose(mine.numpy(), expected.numpy(), rtol=0, atol=1e-6)


def test_a_step_is_three_messages_whatever_the_number_of_shards():
    recorded = RecordedCommunicator(size=2)
    by_accumulator(recorded, 97)

    assert [call.verb for call in recorded.calls] == ["allreduce", "alltoallv", "allgatherv"]


def test_weights_may_be_given_for_each_shard():
    comm, x = SerialCommunicator(), dg.Variable(1.0)
    tape = dg.GradientTape(persistent=True)
    with DistributedGradientTape(tape, comm, deterministic=2) as averaging:
        losses = [x * float(part[0]) for part in logical_shards(np.array([1, 3]), comm, count=2)]

    assert float(averaging.gradient(losses, x, examples=[3, 1])) == 1.5


def test_a_tape_that_forgets_is_refused_for_several_shards():
    comm, x = SerialCommunicator(), dg.Variable(1.0)
    with DistributedGradientTape(dg.GradientTape(), comm, deterministic=True) as tape:
        losses = [x * float(part[0]) for part in logical_shards(np.arange(3), comm)]

    with pytest.raises(TapeError, match="persistent=True"):
        tape.gradient(losses, x)


def test_one_loss_for_several_shards_is_refused():
    comm, x = SerialCommunicator(), dg.Variable(1.0)
    list(logical_shards(np.arange(3), comm))
    with DistributedGradientTape(dg.GradientTape(), comm, deterministic=True) as tape:
        loss = x * x

    with pytest.raises(BatchError, match="1 targets for 3 logical shards"):
        tape.gradient(loss, x)


def test_deterministic_without_logical_shards_is_refused():
    comm, x = SerialCommunicator(), dg.Variable(1.0)
    with DistributedGradientTape(dg.GradientTape(), comm, deterministic=True) as tape:
        loss = x * x

    with pytest.raises(BatchError, match=r"take the batch by dist.logical_shards"):
        tape.gradient([loss], x)


@pytest.mark.parametrize("deterministic", [0, -3])
def test_a_senseless_number_of_shards_is_refused(deterministic):
    if deterministic:
        with pytest.raises(ValueError, match="deterministic is -3"):
            GradientAccumulator([], deterministic=deterministic)
    else:
        with pytest.raises(ValueError, match="deterministic is 0"):
            DistributedGradientTape(dg.GradientTape(), deterministic=deterministic)

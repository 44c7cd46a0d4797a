"""The verbs for users: kinds of values, checks, and weights."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import BatchError, CommunicationError, DesyncError, TapeError


@pytest.mark.parametrize(
    ("op", "expected"), [("sum", 6), ("mean", 2.0), ("prod", 6), ("min", 1), ("max", 3)]
)
def test_allreduce_reduces_over_ranks(on_ranks, op, expected):
    assert on_ranks(3, lambda comm: dist.allreduce(comm.rank + 1, op, comm)) == [expected] * 3


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2, int),
        (2.5, float),
        (np.float32(2.5), np.float32),
        (np.ones((2, 3)), np.ndarray),
        (dg.asarray([1.0, 2.0]), dg.Tensor),
        (dg.Variable([1.0, 2.0]), dg.Tensor),
    ],
)
def test_a_result_is_of_the_kind_of_its_argument(value, kind):
    recorded = dist.RecordedCommunicator(size=2)

    total = dist.allreduce(value, comm=recorded)

    assert type(total) is kind
    assert getattr(total, "dtype", None) == getattr(value, "dtype", None)
    np.testing.assert_array_equal(
        np.asarray(total), 2 * np.asarray(getattr(value, "numpy", lambda: value)())
    )


def test_broadcast_gives_all_the_value_of_the_root(on_ranks):
    def work(comm):
        return dist.broadcast(np.full(3, comm.rank), root=2, comm=comm).tolist()

    assert on_ranks(3, work) == [[2, 2, 2]] * 3


@pytest.mark.parametrize("examples", [0, 2, 7])
def test_allgather_puts_together_what_shard_took_apart(on_ranks, examples):
    batch = np.arange(3.0 * examples).reshape(examples, 3)

    results = on_ranks(3, lambda comm: dist.allgather(dist.shard(batch, comm), comm))

    for result in results:
        np.testing.assert_array_equal(result, batch)


def test_allgather_of_numbers_is_an_array_of_one_a_rank(on_ranks):
    results = on_ranks(3, lambda comm: dist.allgather(comm.rank * 1.5, comm).tolist())

    assert results == [[0.0, 1.5, 3.0]] * 3


def test_average_weighs_by_the_examples_of_the_last_shard(on_ranks):
    values = np.arange(7.0)

    def work(comm):
        part = dist.shard(values, comm)
        return dist.average({"mean": part.mean(), "count": 1}, comm=comm)

    for result in on_ranks(3, work):
        assert result["mean"] == pytest.approx(values.mean(), rel=1e-15)
        assert result["count"] == 1.0


def test_average_leaves_out_ranks_without_examples(on_ranks):
    def work(comm):
        loss = dg.asarray(np.nan if comm.rank == 0 else 4.0)
        return float(dist.average(loss, examples=3 * comm.rank, comm=comm))

    assert on_ranks(2, work) == [4.0, 4.0]


def test_average_without_any_example_is_an_error(on_ranks):
    errors = on_ranks(2, lambda comm: dist.average(1.0, examples=0, comm=comm))

    assert all(isinstance(error, BatchError) for error in errors)


def test_average_keeps_dtypes_and_makes_floats_of_integers():
    recorded = dist.RecordedCommunicator(size=2)

    single, integer, number = dist.average(
        [dg.asarray(np.float32(0.1)), np.array([1, 2]), 0.1j], comm=recorded
    )

    assert single.dtype == np.float32
    assert float(single) == float(np.float32(0.1))
    assert integer.dtype == np.float64
    assert number == 0.1j


def test_different_shapes_are_found_before_data_travel(on_ranks):
    errors = on_ranks(2, lambda comm: dist.allreduce(np.ones(3 + comm.rank), comm=comm))

    for error in errors:
        assert isinstance(error, DesyncError)
        assert "rank 1 sends x float64[4], rank 0 sends x float64[3]" in str(error)


def test_different_operations_are_found_instead_of_hanging(on_ranks):
    def work(comm):
        return dist.barrier(comm) if comm.rank else dist.broadcast(1.0, comm=comm)

    errors = on_ranks(3, work)

    for error in errors:
        assert isinstance(error, DesyncError)
        assert "rank 0 does broadcast (root=0)" in str(error)
        assert "ranks 1, 2 do barrier" in str(error)


@pytest.mark.parametrize("make", [lambda: dg.Variable([1.0]), lambda: dg.Variable([1.0]) * 2])
def test_average_refuses_a_watched_value_instead_of_losing_its_gradient(make):
    recorded = dist.RecordedCommunicator(size=2)

    with dg.GradientTape(), pytest.raises(TapeError, match="average: a tape watches"):
        dist.average(make(), comm=recorded)


def test_stop_gradient_lets_a_watched_value_travel():
    with dg.GradientTape():
        x = dg.Variable([1.0]) * 2
        mean = dist.average(dg.stop_gradient(x), comm=dist.RecordedCommunicator(size=2))

    assert mean.tolist() == [2.0]


def test_reduce_scatter_gives_the_part_that_shard_gives(on_ranks):
    values = np.arange(14.0).reshape(7, 2)

    def work(comm):
        return dist.reduce_scatter(values, comm=comm), dist.shard(values, comm)

    for part, mine in on_ranks(3, work):
        np.testing.assert_array_equal(part, 3 * mine)


def test_alltoall_sends_rows_where_they_belong(on_ranks):
    def work(comm):
        rows = np.array([10 * comm.rank + other for other in range(comm.size)])
        return dist.alltoall(rows, comm=comm).tolist()

    assert on_ranks(3, work) == [[0, 10, 20], [1, 11, 21], [2, 12, 22]]


def test_alltoall_with_counts_sends_as_many_rows_as_they_say(on_ranks):
    def work(comm):
        counts = [comm.rank + other for other in range(comm.size)]
        return dist.alltoall(np.full((sum(counts), 2), comm.rank), counts, comm)[:, 1].tolist()

    assert on_ranks(3, work) == [[1, 2, 2], [0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 2, 2, 2, 2]]


@pytest.mark.parametrize("op", ["sum", "mean"])
@pytest.mark.parametrize("verb", [dist.allreduce, dist.reduce_scatter])
def test_truth_is_not_added_up_and_the_error_names_what_was_asked_for(verb, op):
    with pytest.raises(CommunicationError, match=f"^{verb.__name__}: op='{op}' .* dtype bool"):
        verb(np.ones(4, bool), op, dist.RecordedCommunicator(size=2))


@pytest.mark.parametrize("counts", [[1.5, 2.5], [[2], [2]], [None, 4], 4, [1, 2], [5, -1], [4]])
def test_counts_that_are_not_those_of_the_rows_are_refused(counts):
    with pytest.raises(CommunicationError, match=r"alltoall: counts are .*one whole number"):
        dist.alltoall(np.ones(4), counts, dist.RecordedCommunicator(size=2))


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([None])])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(CommunicationError, match="expected an array of numbers"):
        dist.broadcast(value, comm=dist.SerialCommunicator())

"""Sparse gradients of many ranks average to that of the whole batch, whatever each rank has."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import DistributedGradientTape
from distgrad.distributed.averaging.slices import added_up, is_worth_it
from distgrad.errors import BatchError, DesyncError

ROWS, WIDTH = 400, 3
IDS = [[7, 7, 1], [399], [], [1, 5, 5, 5]]  # by rank; a rank has none, two have the same


def table(dtype="float64"):
    values = np.random.default_rng(7).normal(size=(ROWS, WIDTH)).astype(dtype)
    return dg.Variable(values, name="table")


def mean_of_cubes(w, ids):
    return dg.mean(dg.gather(w, np.array(ids, np.int64)) ** 3)


def expected_mean(ids, dtype="float64"):
    """Return the gradient of the mean over all positions, dense."""
    values = table(dtype).numpy()
    expected = np.zeros_like(values)
    np.add.at(expected, ids, 3 * values[ids] ** 2 / (WIDTH * len(ids)))
    return expected


def averaged(on_ranks, size, loss, sources=None, **options):
    """Return each rank's averaged gradients of a loss of (comm, variable)."""

    def work(comm):
        w = table(options.pop("dtype", "float64"))
        with (
            np.errstate(all="ignore"),
            DistributedGradientTape(
                dg.GradientTape(), comm, average=options.get("average", "examples")
            ) as tape,
        ):
            target, examples = loss(comm, w)
        return tape.gradient(target, sources(w) if sources else w, examples=examples)

    return on_ranks(size, work)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_with_different_rows_get_the_mean_over_all_examples(on_ranks, size):
    results = averaged(
        on_ranks,
        size,
        lambda comm, w: (mean_of_cubes(w, IDS[comm.rank]), len(IDS[comm.rank])),
    )

    together = [position for ids in IDS[:size] for position in ids]
    for given in results:
        assert isinstance(given, dg.IndexedSlices)
        assert given.indices.tolist() == sorted(set(together))
        np.testing.assert_allclose(given.numpy(), expected_mean(together), rtol=1e-12, atol=1e-15)


def test_all_ranks_get_the_same_bits_in_the_dtype_of_the_table(on_ranks):
    def work(comm):
        w = table("float32")
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = mean_of_cubes(w, [comm.rank, 5, 5])
        return tape.gradient(y, w)

    first, *others = on_ranks(4, work)

    assert first.dtype == np.float32
    assert first.indices.tolist() == [0, 1, 2, 3, 5]
    for other in others:
        assert other.numpy().tobytes() == first.numpy().tobytes()


def test_half_precision_is_added_up_in_single(on_ranks):
    def work(comm):
        w = dg.Variable(np.ones((50, 1), np.float16))
        with DistributedGradientTape(dg.GradientTape(), comm, average="sum") as tape:
            y = dg.sum(dg.gather(w, [3]) * 30000.0) / 1.0
        return tape.gradient(y, w)

    for given in on_ranks(2, work):
        assert given.dtype == np.float16
        assert given.values.tolist() == [[60000.0]]


@pytest.mark.parametrize(("average", "divisor"), [("ranks", 2), ("sum", 1)])
def test_other_averages_weigh_ranks_alike(on_ranks, average, divisor):
    results = averaged(
        on_ranks,
        3,
        lambda comm, w: (dg.sum(dg.gather(w, np.array(IDS[comm.rank], int))), len(IDS[comm.rank])),
        average=average,
    )

    for given in results:
        assert isinstance(given, dg.IndexedSlices)
        assert given.numpy()[7].tolist() == [2.0 / divisor] * WIDTH
        assert given.numpy()[399].tolist() == [1.0 / divisor] * WIDTH


def test_a_rank_without_examples_contributes_nothing_even_if_it_is_nan(on_ranks):
    def loss(comm, w):
        if comm.rank:
            return dg.sum(dg.gather(w, [3])) * np.nan, 0
        return dg.sum(dg.gather(w, [5])), 4

    for given in averaged(on_ranks, 2, loss):
        assert given.indices.tolist() == [5]
        assert given.values.tolist() == [[1.0] * WIDTH]


def test_where_one_rank_has_a_dense_gradient_all_get_a_dense_one(on_ranks):
    def loss(comm, w):
        if comm.rank == 1:
            return dg.sum(w * 1.0), 1
        return dg.sum(dg.gather(w, [comm.rank])), 1

    results = averaged(on_ranks, 3, loss)

    expected = np.full((ROWS, WIDTH), 1 / 3)
    expected[[0, 2]] += 1 / 3
    for given in results:
        assert isinstance(given, dg.Tensor)
        np.testing.assert_allclose(given.numpy(), expected, rtol=1e-12)


def test_where_a_rank_has_no_gradient_the_rest_decide(on_ranks):
    def loss(comm, w):
        other = dg.Variable(1.0)
        return (dg.sum(dg.gather(w, [9])) if comm.rank else other * 1.0), 1

    for given in averaged(on_ranks, 2, loss):
        assert isinstance(given, dg.IndexedSlices)
        assert given.values.tolist() == [[0.5] * WIDTH]


def test_rows_of_more_bytes_than_the_table_travel_dense(on_ranks):
    everything = np.arange(ROWS)

    def loss(comm, w):
        return dg.sum(dg.gather(w, everything)), 1

    for given in averaged(on_ranks, 3, loss):
        assert isinstance(given, dg.Tensor)
        np.testing.assert_array_equal(given.numpy(), np.ones((ROWS, WIDTH)))


def test_sparse_dense_and_missing_gradients_travel_together(on_ranks):
    def work(comm):
        w, v, b, unused = table(), table("float32"), dg.Variable(np.ones(WIDTH)), table()
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = dg.mean((dg.gather(w, [comm.rank]) + b) * dg.gather(v, [7]))
        found = tape.gradient(y, {"w": w, "v": v, "b": b, "unused": unused})
        return found, comm.verbs

    results = on_ranks(3, work)

    for found, verbs in results:
        assert isinstance(found["w"], dg.IndexedSlices)
        assert isinstance(found["v"], dg.IndexedSlices)
        assert (found["w"].dtype, found["v"].dtype) == (np.float64, np.float32)
        assert isinstance(found["b"], dg.Tensor)
        assert found["unused"] is None
        # One to agree; the numbers of rows; values and positions, for each dtype; the dense rest.
        assert verbs == ["allreduce", *["allgather"] * 5, "allreduce"]
        values = table("float32").numpy()[7] / WIDTH
        np.testing.assert_allclose(found["w"].values.numpy(), np.stack([values] * 3) / 3, rtol=1e-6)
        np.testing.assert_allclose(found["b"].numpy(), values, rtol=1e-6)


def test_dense_gradients_alone_cost_no_more_messages(on_ranks):
    def work(comm):
        w = table()
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = dg.mean(w * w)
        tape.gradient(y, w)
        return comm.verbs

    for verbs in on_ranks(2, work):
        assert verbs == ["allreduce", "allreduce"]


def test_a_batch_without_examples_is_refused(on_ranks):
    def work(comm):
        w = table()
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = dg.sum(dg.gather(w, [1]))
        with pytest.raises(BatchError, match="no rank of 2 has an example"):
            tape.gradient(y, w, examples=0)
        return True

    assert on_ranks(2, work) == [True, True]


def test_tables_of_other_shapes_are_refused(on_ranks):
    def work(comm):
        w = dg.Variable(np.ones((10 + comm.rank, 2)), name="table")
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = dg.sum(dg.gather(w, [1]))
        with pytest.raises(DesyncError, match="table"):
            tape.gradient(y, w)
        return True

    assert on_ranks(2, work) == [True, True]


def test_one_rank_gets_the_tapes_own_rows():
    w = table()
    with DistributedGradientTape(dg.GradientTape()) as tape:
        y = dg.sum(dg.gather(w, [3, 3]))

    given = tape.gradient(y, w)

    assert given.indices.tolist() == [3, 3]


def test_rows_are_added_up_in_the_order_in_which_they_stand():
    big = np.float32(2.0**24)
    values = np.array([[big], [1.0], [1.0], [-big]], np.float32)

    found = added_up(values, np.array([4, 4, -1, 4]), 5)

    assert found.indices.tolist() == [4]
    assert found.values.tolist() == [[0.0]]  # 1 is lost beside 2**24, in this order


@pytest.mark.parametrize(
    ("counts", "worth"), [([0, 0], True), ([10, 0], True), ([99, 0], True), ([400, 1], False)]
)
def test_rows_are_worth_it_while_they_are_fewer_bytes(counts, worth):
    assert is_worth_it(np.array(counts), (400, 3), 8) is worth

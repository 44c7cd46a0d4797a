"""Units cut variables over ranks: each element lies on one rank, and messages add up."""

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import SerialCommunicator, ShardedOptimizer
from distgrad.distributed.averaging.buffers import Buffers
from distgrad.distributed.averaging.ordered import OrderedSum, own_range
from distgrad.distributed.sharded.exact_sums import exact_sum
from distgrad.distributed.sharded.layout import Unit, plan_units
from distgrad.distributed.sharded.report import formulas_of


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 40])
@pytest.mark.parametrize("sizes", [(35, 7, 0, 21, 1), (1,), (0,), (5, 5), ()])
def test_each_element_lies_on_one_rank(sizes, ranks):
    unit = Unit(np.dtype("float32"), tuple(range(len(sizes))), sizes, ranks)

    flat = np.arange(sum(sizes))
    variables = np.split(flat, np.cumsum(sizes)[:-1]) if sizes else []
    rows = []
    for rank, pieces in enumerate(unit.pieces):
        row = np.full(unit.row, -1)
        for piece in pieces:
            length = piece.stop - piece.start
            row[piece.at : piece.at + length] = variables[piece.position][piece.start : piece.stop]
        assert unit.counts[rank] == np.count_nonzero(row >= 0)
        assert unit.counts[rank] <= -(-len(flat) // ranks)
        rows.append(row[: unit.counts[rank]])
    np.testing.assert_array_equal(np.concatenate(rows), flat)


def test_units_are_of_one_dtype_and_backend_and_the_last_come_first():
    dtypes = [np.dtype(name) for name in ("f4", "f4", "f8", "f4", "f4")]
    kinds = ["numpy", "numpy", "numpy", "other", "numpy"]
    shapes = [(10,), (10,), (3,), (4,), (10,)]
    units = plan_units(dtypes, kinds, shapes, range(5), 2, 80)

    assert [unit.positions for unit in units] == [(1, 4), (3,), (2,), (0,)]


def test_a_message_has_a_row_for_each_rank_that_begins_with_the_weight():
    unit = Unit(np.dtype("float16"), (0, 1), (3, 4), 3)
    rows = unit.message(2.0)
    unit.put(rows, 0, np.array([1, 2, 3], "float16"), 2.0)
    unit.put(rows, 1, np.array([[4, 5], [6, 60000]], "float16"), 2.0)

    assert rows.dtype == np.float32  # 60000 times 2 is infinite in half precision
    assert rows.tolist() == [[2, 2, 4, 6], [2, 8, 10, 12], [2, 120000, 0, 0]]


def test_a_message_of_weight_zero_holds_zeros_whatever_the_gradient():
    unit = Unit(np.dtype("float32"), (0,), (2,), 2)
    rows = unit.message(0.0)
    unit.put(rows, 0, np.array([np.nan, np.inf], "float32"), 0.0)

    assert not rows.any()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_a_part_of_an_ordered_sum_has_the_bits_of_the_whole(on_ranks, ranks):
    rows = np.random.default_rng(0).normal(size=(24, 10)).astype("float32")
    bounds = [min(4 * rank, 10) for rank in range(ranks)] + [10]

    def total(comm, part):
        adding = OrderedSum(comm, 24)
        for shard in own_range(24, comm.size, comm.rank):
            adding.add(rows[shard].copy())
        if part:
            return adding.part(bounds, np.dtype("float32"))
        return adding.total(10, np.dtype("float32"))

    whole = on_ranks(1, lambda comm: total(comm, part=False))[0]
    parts = on_ranks(ranks, lambda comm: total(comm, part=True))
    np.testing.assert_array_equal(np.concatenate(parts)[: len(whole)], whole)


def test_a_pool_knows_its_views():
    pool = Buffers()
    lent = pool.take(6, np.dtype("float32"))

    assert pool.lent(lent[1:].reshape(5, 1))
    assert not pool.lent(lent.copy())
    assert not pool.lent(3.0)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_an_exact_sum_does_not_know_how_numbers_lie_on_ranks(on_ranks, ranks):
    rng = np.random.default_rng(5)
    numbers = rng.uniform(size=1001) * 10.0 ** rng.integers(-300, 300, size=1001)
    numbers[:3] = 0.0, 5e-324, 1e308
    expected = math.fsum(numbers)

    found = on_ranks(
        ranks, lambda comm: exact_sum(comm, np.array_split(numbers[comm.rank :: comm.size], 2))
    )

    assert found == [expected] * ranks


@pytest.mark.parametrize("wrong", [np.inf, np.nan])
def test_an_exact_sum_of_what_is_not_finite_is_not_finite(on_ranks, wrong):
    found = on_ranks(2, lambda comm: exact_sum(comm, [np.array([1.0, wrong if comm.rank else 2])]))

    np.testing.assert_array_equal(found, [wrong] * 2)


def test_formulas_are_those_of_the_paper():
    for stage, expected in ((1, (4, 4, 0.5)), (2, (4, 0.25, 0.5)), (3, (0.25, 0.25, 0.5))):
        found = formulas_of(stage, 16, 1000, 4000, 4000, 8000)
        assert [nbytes / 1000 for _, nbytes in found.values()] == list(expected)


# --- what others are asked for --------------------------------------------------------------------


def test_a_tape_lets_go_of_a_gradient_that_was_taken():
    x, y = dg.Variable([1.0, 2.0]), dg.Variable([3.0, 4.0])
    taken = []

    def ready(place, gradient):
        if place == 0:
            taken.append(gradient.tolist())
        return place == 0

    with dg.GradientTape() as tape:
        z = x * y
        loss = dg.sum(z * x)
    gradients = tape.gradient(loss, [x, y, z], on_ready=ready)

    assert taken == [[6.0, 16.0]]
    assert gradients[0] is None
    assert [each.tolist() for each in gradients[1:]] == [[1.0, 4.0], [1.0, 2.0]]


def test_what_was_computed_on_the_tape_goes_on_after_it_was_taken():
    x = dg.Variable([1.0, 2.0])
    with dg.GradientTape() as tape:
        z = x * x
        loss = dg.sum(z * 3.0)
    gradients = tape.gradient(loss, [z, x], on_ready=lambda place, gradient: place == 0)

    assert [each.tolist() for each in gradients] == [[3.0, 3.0], [6.0, 12.0]]


@pytest.mark.parametrize("stage", [1, 3])
def test_a_checkpoint_of_a_sharded_optimizer_comes_back(tmp_path, stage):
    def made():
        x = dg.Variable(np.ones((3, 5), "float16"), name="x")
        none = dg.Variable(np.ones((0, 2)), name="x/none")  # a name that begins with the other's
        adam = dg.optimizers.Adam(0.5)
        optimizer = ShardedOptimizer(adam, stage, SerialCommunicator())
        optimizer.build([x, none])
        return x, none, optimizer

    x, none, optimizer = made()
    gradients = [np.full((3, 5), 2.0, "float16"), np.ones((0, 2))]
    optimizer.apply(gradients, [x, none])
    dg.checkpoint.save(tmp_path, {"optimizer": optimizer}, step=1, comm=SerialCommunicator())
    fresh_x, fresh_none, fresh = made()
    dg.checkpoint.load(tmp_path, {"optimizer": fresh}, comm=SerialCommunicator())

    assert fresh.iterations == 1
    for own, other in zip(fresh.variables, optimizer.variables, strict=True):
        assert own.name == other.name
        np.testing.assert_array_equal(own.numpy(), other.numpy())
    if stage == 3:
        with fresh.gathered():
            np.testing.assert_array_equal(fresh_x.numpy(), np.full((3, 5), 0.5, "float16"))
            assert fresh_none.shape == (0, 2)


def test_a_sharded_optimizer_without_state_is_not_saved(tmp_path):
    optimizer = ShardedOptimizer(dg.optimizers.Adam(0.5), 1, SerialCommunicator())

    with pytest.raises(ValueError, match=r"call optimizer\.build"):
        dg.checkpoint.save(tmp_path, {"optimizer": optimizer}, step=1)

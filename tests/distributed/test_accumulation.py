"""Gradients of several tapes are averaged by one communication."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed import (
    GradientAccumulator,
    RecordedCommunicator,
    SerialCommunicator,
    logical_shards,
    micro_batches,
)
from distgrad.errors import BatchError, ShapeError


def data(examples, dtype="float64"):
    rng = np.random.default_rng(7)
    return rng.normal(size=(examples, 3)).astype(dtype), rng.normal(size=examples).astype(dtype)


def gradients_on(comm, examples, pieces, average="examples"):
    w = dg.Variable(np.array([1.0, -2.0, 0.5]))
    accumulator = GradientAccumulator({"w": w}, comm, average=average)
    for x, y in micro_batches(data(examples), pieces, comm):
        with dg.GradientTape() as tape:
            losses = dg.square(x @ w - y)
            loss = dg.sum(losses) if average == "sum" else dg.mean(losses)
        accumulator.add({"w": tape.gradient(loss, w)})
    return accumulator.gradients()["w"].numpy()


@pytest.mark.parametrize("pieces", [1, 2, 3, 50, 10**15])
@pytest.mark.parametrize(("ranks", "examples"), [(1, 7), (2, 8), (3, 10), (4, 3)])
@pytest.mark.parametrize("average", ["examples", "sum"])
def test_pieces_give_the_gradient_of_the_whole_batch(on_ranks, ranks, examples, pieces, average):
    found = on_ranks(ranks, lambda comm: gradients_on(comm, examples, pieces, average))

    x, y = data(examples)
    expected = 2 * x.T @ (x @ np.array([1.0, -2.0, 0.5]) - y)
    if average == "examples":
        expected /= examples
    for gradient in found:
        np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_it_communicates_once_for_all_pieces():
    recorded = RecordedCommunicator(size=2)
    gradients_on(recorded, 20, 5)

    assert [call.verb for call in recorded.calls] == ["allreduce", "allreduce"]
    assert recorded.calls[1].nbytes == 8 * 3


def test_it_starts_again_from_nothing():
    comm, x = SerialCommunicator(), dg.Variable(2.0)
    accumulator = GradientAccumulator(x, comm)

    found = []
    for value in (3.0, 5.0):
        accumulator.add(dg.asarray(value), examples=2)
        found.append(float(accumulator.gradients()))

    assert found == [3.0, 5.0]


def test_sparse_gradients_stay_sparse_and_mix_with_dense_ones():
    comm = SerialCommunicator()
    table = dg.Variable(np.zeros((6, 2), np.float32))
    accumulator = GradientAccumulator(table, comm)
    slices = dg.IndexedSlices(np.ones((1, 2), np.float32), [4], (6, 2))
    accumulator.add(slices, examples=1)
    accumulator.add(slices, examples=3)
    sparse = accumulator.gradients()
    accumulator.add(slices, examples=1)
    accumulator.add(dg.ones((6, 2)), examples=1)
    dense = accumulator.gradients()

    assert isinstance(sparse, dg.IndexedSlices)
    np.testing.assert_array_equal(sparse.numpy()[4], [1, 1])
    np.testing.assert_array_equal(dense.numpy()[:, 0], [0.5, 0.5, 0.5, 0.5, 1.0, 0.5])


def test_half_precision_is_added_up_in_single():
    comm, x = SerialCommunicator(), dg.Variable(np.float16(1.0))
    accumulator = GradientAccumulator(x, comm)
    for _ in range(3):
        accumulator.add(dg.asarray(np.float16(60000)), examples=1000)

    gradient = accumulator.gradients()
    assert gradient.dtype == "float16"
    assert float(gradient) == 60000


def test_rows_in_half_precision_are_added_up_in_single(on_ranks):
    def rows(comm):
        table = dg.Variable(np.zeros((30, 2), np.float16))
        accumulator = GradientAccumulator(table, comm)
        for _ in range(2):
            with dg.GradientTape() as tape:
                loss = dg.sum(dg.embedding(table, [1, 2]) * 900.0)
            accumulator.add(tape.gradient(loss, table), examples=100)
        return accumulator.gradients()

    for found in [rows(SerialCommunicator()), *on_ranks(2, rows)]:
        assert found.dtype == "float16"
        assert np.all(found.to_dense().numpy()[1:3] == 900)


def test_pieces_without_examples_count_for_nothing():
    comm, x = SerialCommunicator(), dg.Variable(2.0)
    accumulator = GradientAccumulator(x, comm)
    accumulator.add(dg.asarray(np.float32(np.nan)), examples=0)
    accumulator.add(dg.asarray(4.0), examples=2)

    assert float(accumulator.gradients()) == 4.0


def test_nothing_at_all_is_refused():
    with pytest.raises(BatchError, match="nothing with an example"):
        GradientAccumulator(dg.Variable(2.0), SerialCommunicator()).gradients()


def test_a_gradient_of_another_structure_is_refused():
    accumulator = GradientAccumulator({"a": dg.Variable(2.0)}, SerialCommunicator())

    with pytest.raises(
        ValueError, match=r"gradients has the structure \[\*\]; expected .* sources, \{'a': \*\}"
    ):
        accumulator.add([dg.asarray(1.0)], examples=1)


@pytest.mark.parametrize("cut", [micro_batches, logical_shards])
@pytest.mark.parametrize("count", [0, -1, 2.5, None, "2", True])
def test_a_number_of_pieces_that_is_none_is_refused(cut, count):
    with pytest.raises(BatchError, match=rf"count is {count!r}; expected an integer, 1 or more"):
        cut(np.arange(3), comm=SerialCommunicator(), count=count)


@pytest.mark.parametrize("shape", [(3,), (1,), ()])
def test_a_gradient_of_another_shape_than_its_source_is_refused(shape):
    accumulator = dist.GradientAccumulator([dg.Variable([1.0, 2.0])], dist.SerialCommunicator())

    with pytest.raises(ShapeError, match=r"gradient 0 has shape .*, its source \(2,\); expected"):
        accumulator.add([dg.ones(shape)], examples=1)


def test_what_is_no_source_is_refused():
    with pytest.raises(TypeError, match="GradientAccumulator: source 0 is a str; expected"):
        dist.GradientAccumulator(["w"], dist.SerialCommunicator())

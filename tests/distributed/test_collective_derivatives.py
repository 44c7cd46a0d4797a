"""Collectives are differentiated as the function from all inputs to all outputs that they are."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import DesyncError
from distgrad.testing.collectives import CASES, assert_same, on_one_process, on_this_rank, target


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_both_modes_and_second_order_are_those_of_the_whole(on_ranks, name, size):
    expected = on_one_process(CASES[name], size)

    found = on_ranks(size, lambda comm: on_this_rank(CASES[name], comm))

    for rank in range(size):
        assert_same(found[rank], expected[rank], rank)


@pytest.mark.parametrize("name", CASES)
def test_a_traced_function_has_the_same_value_and_gradient(on_ranks, name):
    case = CASES[name]

    def work(comm):
        def value_and_gradient(x):
            with dg.GradientTape() as tape:
                tape.watch(x)
                loss = target(case, x, comm)
            return loss, tape.gradient(loss, x)

        x = dg.asarray(case.make(comm.rank, comm.size))
        traced = dg.function(value_and_gradient)
        outside = dg.function(lambda x: target(case, x, comm))
        return value_and_gradient(x), traced(x), traced(x), dg.grad(outside)(x)

    for eager, first, again, outside in on_ranks(2, work):
        for found in (first, again):
            assert float(found[0]) == float(eager[0])
            assert found[1].tolist() == eager[1].tolist()
        assert outside.tolist() == eager[1].tolist()


@pytest.mark.parametrize("name", CASES)
def test_vmap_takes_all_examples_through_one_collective(on_ranks, name):
    case = CASES[name]

    def work(comm):
        x = dg.asarray(case.make(comm.rank, comm.size))
        batch = dg.stack([x, 2 * x, x - 1], axis=0)
        one = dg.value_and_grad(lambda x: target(case, x, comm))
        together = dg.vmap(one)(batch)
        begun = comm.started
        dg.vmap(lambda x: case.collective(x, comm))(batch)
        count = comm.started - begun
        return together, [one(each) for each in batch], count

    for (values, gradients), alone, count in on_ranks(2, work):
        np.testing.assert_allclose(values.numpy(), [float(v) for v, _ in alone], rtol=1e-12)
        np.testing.assert_allclose(gradients.numpy(), [g.numpy() for _, g in alone], rtol=1e-12)
        assert count <= 4  # the agreement on shapes, lengths, the fingerprint, the values


def test_a_persistent_tape_differentiates_its_own_gradient_of_a_collective(on_ranks):
    def work(comm):
        x = dg.Variable(float(comm.rank + 1), dtype="float64")
        with dg.GradientTape(persistent=True) as tape:
            y = dist.allreduce(x * x, comm=comm) ** 2
        return float(tape.gradient(tape.gradient(y, x), x))

    # L = 2 (a² + b²)², d/da = 8a(a² + b²); the targets of the second walk are both ranks' slopes.
    a, b = 1.0, 2.0
    slopes = [24 * a * a + 8 * b * b + 16 * a * b, 24 * b * b + 8 * a * a + 16 * a * b]
    assert on_ranks(2, work) == slopes


def test_a_loss_that_all_ranks_share_counts_once_a_rank(on_ranks):
    def work(comm):
        x = dg.Variable(3.0)
        with dg.GradientTape() as tape:
            loss = dist.allreduce(x, "mean", comm) * 2
        return float(tape.gradient(loss, x))

    assert on_ranks(3, work) == [2.0] * 3


def test_a_float32_gradient_stays_float32(on_ranks):
    def work(comm):
        x = dg.Variable([1.0, 2.0], dtype="float32")
        with dg.GradientTape() as tape:
            y = dg.sum(dist.allgather(x, comm) ** 2)
        return tape.gradient(y, x)

    for gradient in on_ranks(2, work):
        assert gradient.dtype == np.float32
        assert gradient.tolist() == [4.0, 8.0]


def test_a_complex_product_is_differentiated(on_ranks):
    values = [1 + 2j, 3 - 1j]

    def work(comm):
        z = dg.asarray(values[comm.rank])
        return dg.grad(lambda z: dg.real(dist.allreduce(z, "prod", comm)))(z).item()

    # Of Re(ab) the steepest ascent in a is the conjugate of b; both ranks have it as their target.
    assert on_ranks(2, work) == [2 * values[1].conjugate(), 2 * values[0].conjugate()]


def test_a_value_that_only_some_ranks_watch_is_found_before_the_backward_pass_hangs(on_ranks):
    def work(comm):
        x = dg.Variable([1.0, 2.0]) if comm.rank else dg.asarray([1.0, 2.0])
        with dg.GradientTape():
            dist.broadcast(x, comm=comm)

    for error in on_ranks(3, work):
        assert isinstance(error, DesyncError)
        assert "not on rank 0, which would not take part in the backward pass" in str(error)
        assert error.ranks == (0,)


def test_equal_collectives_in_another_order_on_the_way_back_are_told_apart(on_ranks):
    def work(comm):
        x = dg.Variable([1.0, 2.0])
        with dg.GradientTape(persistent=True) as tape:
            first = dg.sum(dist.allreduce(x, comm=comm) ** 2)
            second = dg.sum(dist.allreduce(x, comm=comm) ** 3)
        for y in (first, second) if comm.rank else (second, first):
            tape.gradient(y, x)

    for error in on_ranks(2, work):
        assert isinstance(error, DesyncError)
        assert "rank 1 does gradient of allreduce (op='sum'), of call 1," in str(error)
        assert "rank 0 does gradient of allreduce (op='sum'), of call 2," in str(error)


def test_alltoall_refuses_counts_that_are_not_those_of_the_rows():
    ranks = dist.RecordedCommunicator(size=2)

    with pytest.raises(dist.CommunicationError, match=r"counts are \[1, 1\]; .* 3 in all"):
        dist.alltoall(np.ones(3), [1, 1], ranks)


@pytest.mark.parametrize("verb", [dist.reduce_scatter, dist.alltoall])
def test_what_has_no_axis_cannot_be_shared(verb):
    with pytest.raises(dist.CommunicationError, match=f"{verb.__name__}: x has no axis"):
        verb(1.0, comm=dist.SerialCommunicator())


def test_an_unknown_reduction_is_refused():
    with pytest.raises(dist.CommunicationError, match="unknown op 'median'"):
        dist.allreduce(1.0, "median", dist.SerialCommunicator())
    with pytest.raises(dist.CommunicationError, match="reduce_scatter: op is 'max'"):
        dist.reduce_scatter(np.ones(2), "max", dist.SerialCommunicator())

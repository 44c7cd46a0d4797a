"""Ranks that are about to exchange different things find out, and say who differs in what."""

import numpy as np
import pytest

from distgrad.distributed import RecordedCommunicator
from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.errors import DesyncError

KERNEL = Entry("dense/kernel", "float32", (5, 3))
BIAS = Entry("dense/bias", "float32", (3,))
PLAN = Plan("gradient", (KERNEL, BIAS))


def test_equal_plans_cost_one_message_of_32_bytes_and_16_a_rank():
    recorded = RecordedCommunicator(size=4)

    assert agree(recorded, PLAN, [True, False]) == [True, False]
    assert [call.nbytes for call in recorded.calls] == [32 + 4 * 16]


def test_many_ranks_get_no_slots_in_the_comparison():
    recorded = RecordedCommunicator(size=10_000)

    agree(recorded, PLAN)
    assert [call.nbytes for call in recorded.calls] == [32]


def test_one_rank_sends_nothing():
    recorded = RecordedCommunicator(size=1)

    agree(recorded, PLAN)

    assert recorded.calls == []


def test_what_any_rank_has_all_have(on_ranks):
    present = {0: [True, False, False], 1: [False, False, True], 2: [False, False, False]}
    plan = Plan("gradient", (KERNEL, BIAS, Entry("scale", "float64", ())))

    results = on_ranks(3, lambda comm: agree(comm, plan, present[comm.rank]))

    assert results == [[True, False, True]] * 3


def errors_of(on_ranks, size, plans):
    """Return the error of each rank where rank r announces plans[r], or else the common plan."""
    errors = on_ranks(size, lambda comm: agree(comm, plans.get(comm.rank, PLAN)))
    assert all(isinstance(error, DesyncError) for error in errors), errors
    assert len({str(error) for error in errors}) == 1  # every rank says the same
    return errors


def test_a_different_shape_is_named_with_the_rank_and_both_shapes(on_ranks):
    wider = Plan("gradient", (Entry("dense/kernel", "float32", (5, 4)), BIAS))

    error = errors_of(on_ranks, 3, {2: wider})[0]

    assert "rank 2 sends dense/kernel float32[5, 4]" in str(error)
    assert "ranks 0, 1 send dense/kernel float32[5, 3]" in str(error)
    assert "same configuration?" in str(error)
    assert error.ranks == (2,)
    assert error.names == ("dense/kernel",)


def test_a_different_dtype_is_named(on_ranks):
    doubled = Plan("gradient", (KERNEL, Entry("dense/bias", "float64", (3,))))

    error = errors_of(on_ranks, 2, {1: doubled})[0]

    assert "rank 1 sends dense/bias float64[3], rank 0 sends dense/bias float32[3]" in str(error)
    assert error.names == ("dense/bias",)


def test_another_order_is_recognised_as_such(on_ranks):
    error = errors_of(on_ranks, 2, {1: Plan("gradient", (BIAS, KERNEL))})[0]

    assert "the same in another order" in str(error)
    assert set(error.names) == {"dense/kernel", "dense/bias"}


def test_a_missing_variable_is_named(on_ranks):
    error = errors_of(on_ranks, 3, {0: Plan("gradient", (KERNEL,))})[0]

    assert "rank 0 sends nothing, ranks 1, 2 send dense/bias float32[3]" in str(error)
    assert error.ranks == (0,)


def test_another_operation_is_named_with_its_number(on_ranks):
    error = errors_of(on_ranks, 3, {1: Plan("barrier")})[0]

    assert "rank 1 does barrier (operation 1)" in str(error)
    assert "ranks 0, 2 do gradient (operation 1)" in str(error)


def test_a_rank_that_is_one_operation_behind_is_found(on_ranks):
    def step(comm):
        comm.started += comm.rank == 2
        return agree(comm, PLAN)

    errors = on_ranks(3, step)

    assert all(isinstance(error, DesyncError) for error in errors)
    assert "rank 2 does gradient (operation 2)" in str(errors[0])


def test_many_ranks_and_variables_make_a_short_message(on_ranks):
    plans = {
        rank: Plan("gradient", tuple(Entry(f"v{i}", "float32", (rank,)) for i in range(50)))
        for rank in range(1, 8)
    }

    error = errors_of(on_ranks, 8, plans)[0]

    assert error.ranks == tuple(range(1, 8))
    assert "and 47 more on rank 1" in str(error)
    assert "and ranks 4-7" in str(error)
    assert len(str(error)) < 2000


def test_ranks_go_on_after_a_disagreement(on_ranks):
    def steps(comm):
        with pytest.raises(DesyncError):
            agree(comm, Plan("gradient", (Entry(f"v{comm.rank}", "float32", ()),)))
        agree(comm, PLAN)
        return comm.allreduce(np.array([1.0]))[0]

    assert on_ranks(3, steps) == [3.0, 3.0, 3.0]

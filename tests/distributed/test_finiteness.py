"""Averages that are not finite: one decision on all ranks, and a word on whose gradient it was."""

import tracemalloc

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.averaging.finiteness import are_finite, is_finite
from distgrad.errors import DesyncError, NonFiniteGradientError
from distgrad.testing.faults import injected


def gradient_of(comm, policy, worst=float("nan"), examples=None, at=1, average="examples"):
    """Return the gradients of a kernel and a bias; that of the bias is `worst` on one rank."""
    kernel, bias = dg.Variable([[1.0, 2.0]], name="kernel"), dg.Variable([0.5, 1.0], name="bias")
    factor = worst if comm.rank == at else 1.0
    with dg.GradientTape() as tape:
        loss = dg.sum(kernel) + dg.sum(bias * [factor, 1.0])
    tape = dist.DistributedGradientTape(tape, comm, nonfinite=policy, average=average)
    found = tape.gradient(loss, {"kernel": kernel, "bias": bias}, examples=examples)
    return found, tape.skipped


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_error_names_rank_and_variable_and_is_the_same_everywhere(on_ranks, size):
    at = size - 1

    errors = on_ranks(size, lambda comm: gradient_of(comm, "raise", at=at))

    assert {type(error) for error in errors} == {NonFiniteGradientError}
    assert len({str(error) for error in errors}) == 1
    assert f"not finite on rank {at}: bias (1 NaN of 2)" in str(errors[0])
    assert (errors[0].ranks, errors[0].names) == ((at,), ("bias",))


@pytest.mark.filterwarnings("ignore:invalid value")  # the threads that stand for MPI say so
def test_infinities_of_both_signs_are_found_though_they_add_up_to_nan(on_ranks):
    errors = on_ranks(
        2, lambda comm: gradient_of(comm, "raise", [np.inf, -np.inf][comm.rank], 1, comm.rank)
    )

    assert "rank 0: bias (1 infinite of 2); rank 1: bias (1 infinite of 2)" in str(errors[0])


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_sum_that_overflows_is_told_from_a_gradient_that_is_not_finite(on_ranks):
    errors = on_ranks(2, lambda comm: gradient_of(comm, "raise", 3e38, 1, comm.rank, "sum"))

    assert "their sum overflows in bias" in str(errors[0])
    assert errors[0].ranks == ()


def test_the_average_of_large_gradients_does_not_overflow_on_the_way(on_ranks):
    results = on_ranks(2, lambda comm: gradient_of(comm, "raise", 3e38, 5, comm.rank))

    assert [found["bias"].numpy()[0] for found, _ in results] == [np.float32(3e38)] * 2


def test_skipping_returns_nothing_on_every_rank(on_ranks):
    results = on_ranks(3, lambda comm: gradient_of(comm, "skip"))

    assert results == [({"kernel": None, "bias": None}, True)] * 3


def test_finite_averages_pass_every_policy(on_ranks):
    kept, raised, skipped = (
        on_ranks(2, lambda comm, p=policy: gradient_of(comm, p, 7.0))
        for policy in ("keep", "raise", "skip")
    )

    for (one, _), (two, _), (three, was_skipped) in zip(kept, raised, skipped, strict=True):
        assert one["bias"].tolist() == two["bias"].tolist() == three["bias"].tolist() == [4.0, 1.0]
        assert not was_skipped


def test_a_rank_without_examples_is_not_at_fault(on_ranks):
    results = on_ranks(2, lambda comm: gradient_of(comm, "raise", examples=1 - comm.rank))

    assert [found["bias"].tolist() for found, _ in results] == [[1.0, 1.0]] * 2


def test_ranks_with_different_policies_are_told_instead_of_hanging(on_ranks):
    def work(comm):
        gradient_of(comm, "raise" if comm.rank else "keep")
        dist.barrier(comm)

    errors = on_ranks(2, work)

    assert {type(error) for error in errors} == {DesyncError}
    assert "search for gradients that are not finite" in str(errors[0])


@pytest.mark.parametrize("deterministic", [False, 4])
def test_accumulated_gradients_are_judged_as_well(on_ranks, deterministic):
    data = np.arange(1.0, 9.0)

    def work(comm):
        x, y = dg.Variable(1.0, name="x"), dg.Variable(1.0, name="y")
        accumulator = dist.GradientAccumulator(
            [x, y], comm, deterministic=deterministic, nonfinite="raise"
        )
        pieces = (
            dist.logical_shards(data, comm, count=4)
            if deterministic
            else dist.micro_batches(data, 2, comm)
        )
        for piece in pieces:
            with dg.GradientTape() as tape:
                loss = dg.mean(x + y * np.where(piece == 6, np.inf, piece))
            accumulator.add(tape.gradient(loss, [x, y]))
        return accumulator.gradients()

    errors = on_ranks(2, work)

    assert {str(error) for error in errors} == {str(errors[0])}
    assert "not finite on rank 1: y (" in str(errors[0])
    assert errors[0].names == ("y",)


def test_the_fault_kit_is_found_out_with_overlapping_messages(on_ranks):
    def work(comm):
        variables = [dg.Variable(np.ones(40), name=f"v{n}") for n in range(4)]
        for _ in range(3):
            tape = dist.DistributedGradientTape(
                dg.GradientTape(), comm, nonfinite="raise", bucket_bytes=200
            )
            with tape:
                loss = dg.sum(sum((v * v for v in variables[1:]), variables[0]))
            tape.gradient(loss, variables)

    with injected("nan:rank=1,step=2,variable=v2"):
        errors = on_ranks(3, work)

    assert all("not finite on rank 1: v2 (40 NaN of 40)" in str(error) for error in errors)


def test_an_unknown_policy_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="nonfinite is 'ignore'; expected one of 'keep', 'raise'"):
        dist.GradientAccumulator(dg.Variable(1.0), nonfinite="ignore")


def test_large_numbers_whose_sum_overflows_are_finite():
    assert is_finite(np.full(9, 3e38, np.float32))
    assert not is_finite(np.array([1.0, np.inf]))


def test_gradients_of_half_precision_are_widened_one_after_the_other():
    gradients = [dg.ones(2**18, dtype="bfloat16") for _ in range(8)]
    tracemalloc.start()
    try:
        assert are_finite([*gradients, None])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 2.5 * 4 * 2**18
    assert not are_finite([*gradients, dg.asarray([1.0, np.nan], dtype="bfloat16")])

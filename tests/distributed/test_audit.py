"""Variables that differ in silence are found, named, and repaired where a majority is right."""

import warnings

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import DesyncError, DivergenceError
from distgrad.testing.faults import injected


def variables_of(comm, odd=()):
    """Return three variables; `odd` has a value of the second for some ranks."""
    kernel = np.arange(12.0).reshape(4, 3)
    bias = np.array([0.5, -0.5])
    if comm.rank in dict(odd):
        bias[1] = dict(odd)[comm.rank]
    return [
        dg.Variable(kernel, name="kernel"),
        dg.Variable(bias, name="bias"),
        dg.Variable(3, name="count", trainable=False),
    ]


def test_equal_variables_cost_one_message_of_16_bytes(on_ranks):
    recorded = dist.RecordedCommunicator(size=5)

    found = dist.DivergenceAudit(variables_of(recorded), comm=recorded).check()

    assert found is None
    assert [(call.verb, call.op, call.nbytes) for call in recorded.calls] == [
        ("allreduce", "max", 16)
    ]


@pytest.mark.parametrize(
    ("size", "odd", "groups", "says"),
    [
        (2, {1: 7.0}, ((0,), (1,)), "rank 0 has one value, rank 1 differs in 1 of 2 elements"),
        (3, {0: 7.0}, ((1, 2), (0,)), "ranks 1, 2 agree, rank 0 differs in 1 of 2 elements"),
        (5, {1: 7.0, 3: 7.0, 4: 8.0}, ((0, 2), (1, 3), (4,)), "ranks 1, 3 differ in 1 of 2"),
    ],
)
def test_the_error_names_the_variable_and_the_groups_of_ranks(on_ranks, size, odd, groups, says):
    errors = on_ranks(
        size, lambda comm: dist.DivergenceAudit(variables_of(comm, odd), comm=comm).check()
    )

    assert {type(error) for error in errors} == {DivergenceError}
    assert {str(error) for error in errors} == {str(errors[0])}
    assert "different values of bias float64[2]" in str(errors[0])
    assert says in str(errors[0])
    assert "first at [1]: 7.0 in place of -0.5" in str(errors[0])
    assert (errors[0].names, errors[0].groups) == (("bias",), groups)


def test_a_flipped_bit_is_found_within_so_many_steps(on_ranks):
    def work(comm):
        kernel = dg.Variable([[1.0, 2.0]], name="kernel")
        audit = dist.DivergenceAudit(kernel, every=3, comm=comm)
        for step in range(10):
            with dist.DistributedGradientTape(dg.GradientTape(), comm) as tape:
                loss = dg.sum(kernel**2)
            kernel.assign_sub(0.01 * tape.gradient(loss, kernel))
            try:
                audit.step()
            except DivergenceError as error:
                return step + 1, error.names, error.groups
        return None

    with injected("bitflip:rank=2,step=4"):
        found = on_ranks(3, work)

    assert found == [(6, ("kernel",), ((0, 1), (2,)))] * 3


@pytest.mark.filterwarnings("ignore:ranks hold different values")
def test_the_majority_repairs_those_that_differ(on_ranks):
    def work(comm):
        variables = variables_of(comm, {1: 7.0})
        if comm.rank == 2:
            variables[0].assign(np.zeros((4, 3)))
        found = dist.DivergenceAudit(variables, repair="majority", comm=comm).check()
        again = dist.DivergenceAudit(variables, comm=comm).check()
        return found.names, found.repaired, again, [v.numpy().tolist() for v in variables]

    results = on_ranks(5, work)

    whole = [np.arange(12.0).reshape(4, 3).tolist(), [0.5, -0.5], 3]
    assert results == [(("kernel", "bias"), True, None, whole)] * 5


def test_a_repair_is_told(on_ranks):
    heard = []

    def work(comm):
        dist.DivergenceAudit(variables_of(comm, {1: 7.0}), repair="majority", comm=comm).check()

    with warnings.catch_warnings():  # of the process, not of a thread
        warnings.showwarning = lambda message, kind, *_: heard.append((kind, str(message)))
        warnings.simplefilter("always")
        on_ranks(3, work)

    assert len(heard) == 1  # what all ranks know, rank 0 says
    assert heard[0][0] is RuntimeWarning
    assert "all ranks have the majority's values now" in heard[0][1]


def test_two_ranks_have_no_majority(on_ranks):
    def work(comm):
        variables = variables_of(comm, {1: 7.0})
        dist.DivergenceAudit(variables, repair="majority", comm=comm).check()

    errors = on_ranks(2, work)

    assert all(isinstance(error, DivergenceError) for error in errors)
    assert "No value of bias is that of more than half of 2 ranks" in str(errors[0])


def test_nan_equals_itself_and_negative_zero_is_not_zero(on_ranks):
    def work(comm, value):
        variable = dg.Variable([np.nan, value[comm.rank]], name="x")
        return dist.DivergenceAudit(variable, comm=comm).check()

    assert on_ranks(2, lambda comm: work(comm, [0.0, 0.0])) == [None, None]
    assert "first at [1]: -0.0 in place of 0.0" in str(
        on_ranks(2, lambda comm: work(comm, [0.0, -0.0]))[0]
    )


def test_ranks_that_audit_different_variables_are_told(on_ranks):
    errors = on_ranks(
        2,
        lambda comm: dist.DivergenceAudit(variables_of(comm)[: 2 + comm.rank], comm=comm).check(),
    )

    assert {type(error) for error in errors} == {DesyncError}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"every": 0}, ValueError, "every is 0; expected 1 or more"),
        ({"repair": "average"}, ValueError, "repair is 'average'; expected 'none' or 'majority'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, says):
    with pytest.raises(error, match=says):
        dist.DivergenceAudit(dg.Variable(1.0), **options)
    with pytest.raises(TypeError, match="item 0 is a Tensor; expected a Variable"):
        dist.DivergenceAudit([dg.asarray(1.0)])

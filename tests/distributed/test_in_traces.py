"""What ranks may do while a function is only being traced."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import TraceError


def test_a_rank_that_traces_anew_alone_is_named_before_anything_travels(on_ranks):
    def work(comm, collective):
        traced = dg.function(lambda x: collective(x, comm=comm))
        traced(dg.ones((3, 2)))
        return traced(dg.ones((3 + 2 * comm.rank, 2)))

    for collective in (dist.allgather, dist.alltoall):
        for error in on_ranks(2, lambda comm, verb=collective: work(comm, verb)):
            assert isinstance(error, dist.DesyncError)
            assert "being traced" in str(error)
            assert "traced with lengths" in str(error)


@pytest.mark.parametrize("what", [dist.allgather, dist.alltoall, dist.sync_moments])
def test_traces_of_other_lengths_are_named_before_anything_travels(on_ranks, what):
    def work(comm):
        traced = dg.function(lambda x: what(x, comm=comm))
        traced(dg.ones((3, 2)))
        traced(dg.ones((4 + comm.rank, 2)))
        return traced(dg.ones((3 + 2 * comm.rank, 2)))

    for error in on_ranks(2, work):
        assert isinstance(error, dist.DesyncError)
        assert "traced with lengths [3, 3]" in str(error) or "[[1, 2], [1, 2]]" in str(error)


def test_a_traced_allgather_takes_the_lengths_of_each_trace(on_ranks):
    def work(comm):
        traced = dg.function(lambda x: dist.allgather(x, comm))
        batches = [np.full(count + comm.rank, float(comm.rank)) for count in (1, 3, 1)]
        return [traced(dg.asarray(batch)).numpy().tolist() for batch in batches]

    short, long = [0.0, 1.0, 1.0], [0.0] * 3 + [1.0] * 4
    assert on_ranks(2, work) == [[short, long, short]] * 2


def gradient(x, comm):
    with dg.GradientTape() as tape:
        tape.watch(x)
        y = dg.sum(x**2)
    return dist.DistributedGradientTape(tape, comm).gradient(y, x)


def ordered_gradient(x, comm):
    with dg.GradientTape(persistent=True) as tape:
        y = dg.sum(x**2)
    return dist.DistributedGradientTape(tape, comm, deterministic=True).gradient([y], [x])


def accumulate(x, comm):
    variable = dg.Variable(1.0)
    dist.GradientAccumulator([variable], comm).add([dg.sum(x)])


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("gradient", gradient),
        ("gradient", ordered_gradient),
        ("GradientAccumulator.add", accumulate),
        ("average", lambda x, comm: dist.average(x, comm=comm)),
        ("barrier", lambda x, comm: dist.barrier(comm)),
        ("join", lambda x, comm: next(dist.join([x], comm))),
    ],
)
def test_what_a_trace_would_fix_or_leave_out_is_refused(name, call):
    comm = dist.RecordedCommunicator(size=2)

    with pytest.raises(TraceError, match=rf"^{name}: within dg\.function"):
        dg.function(lambda x: call(x, comm))(dg.ones(3))

    assert comm.calls == []


def test_variables_are_broadcast_outside_of_a_trace_which_would_do_so_at_each_call():
    variable, comm = dg.Variable([1.0, 2.0]), dist.RecordedCommunicator(size=2, rank=1)

    @dg.function
    def step(x):
        dist.broadcast_variables([variable], comm=comm)
        return x + variable

    with pytest.raises(TraceError, match=r"^broadcast_variables: within dg\.function"):
        step(dg.ones(2))


def test_one_rank_may_differentiate_within_a_trace():
    found = dg.function(lambda x: gradient(x, dist.SerialCommunicator()))(dg.asarray([3.0, 4.0]))

    assert found.numpy().tolist() == [6.0, 8.0]

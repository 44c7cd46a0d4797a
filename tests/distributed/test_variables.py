"""Variables are made equal on all ranks, or not touched at all."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import RecordedCommunicator, SerialCommunicator, broadcast_variables
from distgrad.errors import CommunicationError, DesyncError


def variables_of(rank):
    return {
        "kernel": dg.Variable(np.full((2, 3), rank, np.float32), name="kernel"),
        "steps": dg.Variable(np.array(10 * rank, np.int64), name="steps", trainable=False),
        "odd": dg.Variable(np.full(3, rank, np.float16), name="odd"),
        "scale": dg.Variable(np.array(rank, np.complex128), name="scale"),
    }


@pytest.mark.parametrize("root", [0, 2])
def test_all_ranks_get_the_values_of_the_root(on_ranks, root):
    def work(comm):
        variables = variables_of(comm.rank)
        broadcast_variables(variables, root, comm)
        return variables

    for variables in on_ranks(3, work):
        for name, expected in variables_of(root).items():
            np.testing.assert_array_equal(variables[name].numpy(), expected.numpy())
            assert variables[name].dtype == expected.dtype


def test_all_dtypes_share_one_message():
    recorded = RecordedCommunicator(size=2)

    broadcast_variables(variables_of(0), comm=recorded)

    assert [call.verb for call in recorded.calls] == ["allreduce", "broadcast"]
    assert recorded.calls[1].nbytes == 24 + 8 + 6 + 16


def test_a_different_model_is_named_and_nothing_is_assigned(on_ranks):
    def work(comm):
        variables = variables_of(comm.rank)
        if comm.rank == 1:
            variables["odd"] = dg.Variable(np.ones(4, np.float16), name="odd")
        with pytest.raises(DesyncError) as raised:
            broadcast_variables(variables, comm=comm)
        return str(raised.value), raised.value.names, float(variables["kernel"].numpy()[0, 0])

    for rank, (message, names, value) in enumerate(on_ranks(3, work)):
        assert "rank 1 sends odd float16[4], ranks 0, 2 send odd float16[3]" in message
        assert names == ("odd",)
        assert value == rank


def test_a_missing_variable_is_named(on_ranks):
    def work(comm):
        broadcast_variables(list(variables_of(0).values())[: 4 - comm.rank], comm=comm)

    for error in on_ranks(2, work):
        assert "rank 1 sends nothing, rank 0 sends scale complex128[]" in str(error)


def test_a_tensor_is_refused_because_it_cannot_be_assigned_to():
    with pytest.raises(TypeError, match="item 1 is a Tensor; expected a Variable"):
        broadcast_variables([dg.Variable(1.0), dg.asarray(2.0)], comm=SerialCommunicator())


def test_a_root_that_is_no_rank_is_refused():
    with pytest.raises(CommunicationError, match="root 3 is not a rank"):
        broadcast_variables([dg.Variable(1.0)], 3, RecordedCommunicator(size=3))


def test_a_rank_without_any_variable_is_named(on_ranks):
    def work(comm):
        broadcast_variables(list(variables_of(0).values())[: 4 * comm.rank], comm=comm)

    for error in on_ranks(2, work):
        assert "rank 1 sends" in str(error)
        assert "rank 0 sends nothing" in str(error)

"""The communicators without processes, and what all communicators share."""

import numpy as np
import pytest

from distgrad.distributed import RecordedCommunicator, SerialCommunicator
from distgrad.distributed.verbs import mpi
from distgrad.distributed.verbs.communicator import Communicator, exchange_json, wire_dtype
from distgrad.distributed.verbs.exchanging import pieces
from distgrad.errors import CommunicationError


@pytest.mark.parametrize("make", [SerialCommunicator, RecordedCommunicator])
def test_communicators_keep_the_protocol(make):
    assert isinstance(make(), Communicator)


def test_the_serial_communicator_returns_copies():
    serial = SerialCommunicator()
    array = np.arange(3.0)

    results = [serial.allreduce(array), serial.broadcast(array), serial.allgather(array)[0]]

    for result in results:
        np.testing.assert_array_equal(result, array)
        assert not np.shares_memory(result, array)


def test_the_serial_communicator_counts_operations():
    serial = SerialCommunicator()
    serial.barrier()
    serial.allreduce(np.ones(2))

    assert serial.started == 2


def test_a_result_can_be_written_over_the_argument():
    recorded = RecordedCommunicator(size=3)
    array = np.arange(4.0)

    result = recorded.allreduce(array, out=array)

    assert result is array
    np.testing.assert_array_equal(array, [0, 3, 6, 9])


def test_the_recorded_communicator_notes_what_would_travel():
    recorded = RecordedCommunicator(size=4, rank=2)
    recorded.allreduce(np.ones((2, 3), np.float32), "max")
    recorded.broadcast(np.ones(5, np.int64), root=3)

    first, second = recorded.calls

    assert (first.verb, first.op, first.shape, first.dtype) == (
        "allreduce",
        "max",
        (2, 3),
        "float32",
    )
    assert (second.verb, second.nbytes) == ("broadcast", 40)


@pytest.mark.parametrize(
    ("op", "expected"), [("sum", [3, 6]), ("prod", [1, 8]), ("min", [1, 2]), ("max", [1, 2])]
)
def test_the_recorded_communicator_reduces_equal_ranks(op, expected):
    result = RecordedCommunicator(size=3).allreduce(np.array([1, 2]), op)

    np.testing.assert_array_equal(result, expected)


def test_ranks_exchange_values_of_different_lengths(on_ranks):
    results = on_ranks(
        3, lambda comm: exchange_json(comm, {"rank": comm.rank, "x": "é" * comm.rank})
    )

    expected = [{"rank": 0, "x": ""}, {"rank": 1, "x": "é"}, {"rank": 2, "x": "éé"}]
    assert results == [expected] * 3


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "int8", "uint64"])
def test_numbers_travel_in_their_dtype_but_halves_in_floats(dtype):
    expected = "float32" if dtype == "float16" else dtype

    assert wire_dtype(np.dtype(dtype), "sum") == np.dtype(expected)


@pytest.mark.parametrize(
    ("dtype", "op"),
    [
        ("bool", "sum"),
        ("complex64", "max"),
        ("float32", "bor"),
        ("float32", "average"),
        ("object", "sum"),
        ("U3", "max"),
        ("datetime64[s]", "max"),
    ],
)
def test_reductions_without_meaning_are_refused(dtype, op):
    with pytest.raises(CommunicationError):
        wire_dtype(np.dtype(dtype), op)


@pytest.mark.parametrize("colour", [-1, 2**31, "a", None, 0.5])
def test_a_colour_that_is_no_number_from_0_on_is_refused(colour):
    with pytest.raises(CommunicationError, match=f"colour is {colour!r}; expected a number from 0"):
        SerialCommunicator().split(colour)


def test_the_only_rank_is_a_part_of_its_own():
    part = SerialCommunicator().split(3)

    assert (part.rank, part.size, part.started) == (0, 1, 0)


@pytest.mark.parametrize("root", [-1, 1, "0", None])
def test_a_root_that_is_no_rank_is_refused(root):
    with pytest.raises(CommunicationError, match=f"root {root!r} is not a rank"):
        SerialCommunicator().broadcast(np.ones(2), root)


@pytest.mark.parametrize("elements", [0, 1, 9, 10, 11, 25])
def test_messages_are_cut_below_the_limit_and_lose_nothing(elements):
    array = np.arange(elements)

    cut = list(pieces(array, 10))

    assert all(0 < piece.size <= 10 for piece in cut)
    np.testing.assert_array_equal(np.concatenate([array[:0], *cut]), array)


def test_the_limit_of_a_message_is_below_the_counts_of_mpi():
    assert mpi.MESSAGE_ELEMENTS < 2**31 - 1

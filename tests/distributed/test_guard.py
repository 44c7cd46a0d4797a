"""Who is needed and who is not: the guard's judgement, without processes."""

import time

import pytest

from distgrad.distributed.safety.guard import Failure, Guard
from distgrad.distributed.safety.loss import Losses
from distgrad.distributed.safety.waiting import Waiting
from distgrad.errors import RemoteRankError


@pytest.fixture
def guard():
    """Return rank 0's guard; rank 2 has left after 5 operations of communicator 1."""
    guard = object.__new__(Guard)  # MPI is needed to make one, not to ask it
    guard.rank, guard.size, guard.grace, guard.failure = 0, 3, 2.0, None
    guard.losses = Losses(None, None)
    guard.doomed = []
    guard.doom = lambda seconds, code: guard.doomed.append((seconds, code))
    guard._departed = {2: {"what": "left by sys.exit(0) in train.py, line 7", "begun": {"1": 5}}}
    return guard


def waiting(communicator=1, number=6, members=(0, 1, 2)):
    return Waiting(communicator, number, members, lambda: "allreduce (sum) of float32[3]")


def test_a_rank_that_left_before_an_operation_is_missed(guard):
    with pytest.raises(RemoteRankError) as raised:
        guard.check(waiting())

    message = str(raised.value)
    assert message.startswith(
        "rank 2 left by sys.exit(0) in train.py, line 7 after 5 collective operations, but rank 0 "
        "waits for it in allreduce (sum) of float32[3] (operation 6)"
    )
    assert raised.value.rank == 2
    assert guard.doomed == [(2.0, 1)]


def test_an_operation_of_some_ranks_is_told_with_them(guard):
    with pytest.raises(RemoteRankError, match=r"\(operation 6 among ranks 0, 2\)"):
        guard.check(waiting(members=(2, 0)))


def test_a_rank_that_left_after_its_part_is_not_missed(guard):
    guard.check(waiting(number=5))

    assert guard.doomed == []


def test_a_rank_that_left_is_not_missed_by_those_who_are_among_themselves(guard):
    guard.check(waiting(members=(0, 1)))


def test_a_rank_that_left_without_any_operation_of_a_communicator_is_missed_there(guard):
    with pytest.raises(RemoteRankError, match="after 0 collective operations"):
        guard.check(waiting(communicator=4, number=1))


def test_a_failed_rank_is_told_with_its_traceback(guard):
    guard.failure = Failure(3, "raised ValueError: boom", "Traceback ...\nValueError: boom", 1)

    with pytest.raises(RemoteRankError) as raised:
        guard.check(waiting(members=(0, 1)))

    assert "rank 3 raised ValueError: boom, while rank 0 was in allreduce" in str(raised.value)
    assert str(raised.value).endswith(
        "--- traceback of rank 3 ---\nTraceback ...\nValueError: boom"
    )
    assert raised.value.remote_traceback == "Traceback ...\nValueError: boom"


def test_what_a_rank_sent_before_it_failed_still_arrives(guard):
    guard.failure = Failure(3, "exits with code 3", "", 3)
    guard.receive = lambda: None
    guard.timeout, begun = 60.0, time.monotonic()

    guard.wait(lambda: time.monotonic() - begun > 0.05, waiting(number=5))  # after several looks

    with pytest.raises(RemoteRankError, match="rank 3 exits"):
        guard.wait(lambda: False, waiting(number=5))

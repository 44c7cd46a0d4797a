"""A metered communicator does what the inner one does, and adds up what it costs."""

import threading
import time

import numpy as np
import pytest

from distgrad.distributed import Communicator, RecordedCommunicator, SerialCommunicator
from distgrad.distributed.safety.fingerprint import Entry, Plan, agree
from distgrad.errors import RemoteRankError
from distgrad.training import MeteredCommunicator


class SlowCommunicator(RecordedCommunicator):
    """Each allreduce takes a while."""

    def allreduce(self, array, op="sum", *, out=None):
        time.sleep(0.05)
        return super().allreduce(array, op, out=out)


def test_it_is_a_communicator_like_the_inner_one():
    inner = RecordedCommunicator(size=3, rank=2)
    metered = MeteredCommunicator(inner)

    metered.allreduce(np.ones(3), "max")
    metered.broadcast(np.ones(4), root=1)
    metered.allgather(np.ones(5))
    metered.barrier()

    assert isinstance(metered, Communicator)
    assert (metered.rank, metered.size, metered.local_rank) == (2, 3, 2)
    assert [call.verb for call in inner.calls] == ["allreduce", "broadcast", "allgather", "barrier"]
    assert inner.calls[0].op == "max"
    assert metered.started == inner.started


def test_results_are_the_inner_ones():
    metered = MeteredCommunicator(RecordedCommunicator(size=3))
    out = np.zeros(2)

    assert metered.allreduce(np.ones(2), out=out) is out
    np.testing.assert_array_equal(out, 3)
    np.testing.assert_array_equal(metered.allgather(np.ones(2)), np.ones((3, 2)))


def test_names_for_the_next_verb_reach_the_inner_one():
    class Named(RecordedCommunicator):
        names = ()

        def name_next(self, what):
            self.names = (*self.names, what())

    metered = MeteredCommunicator(Named(size=2))
    agree(metered, Plan("sums", (Entry("w", "float32", (3,)),)))

    assert metered._inner.names == ("sums of w float32[3], which ranks compare first",)
    assert not hasattr(MeteredCommunicator(RecordedCommunicator(size=2)), "name_next")


def test_bytes_are_those_given_to_others():
    metered = MeteredCommunicator(RecordedCommunicator(size=2, rank=0))

    metered.allreduce(np.ones(3, np.float32))
    metered.allgather(np.ones(2, np.float64))
    metered.broadcast(np.ones(5, np.uint8), root=0)
    metered.broadcast(np.ones(7, np.uint8), root=1)  # comes from the other rank

    assert metered.read().bytes_sent == 3 * 4 + 2 * 8 + 5


def test_time_in_a_verb_is_measured_and_exposed():
    metered = MeteredCommunicator(SlowCommunicator(size=2))

    metered.allreduce(np.ones(3))
    cost = metered.read()

    assert 0.05 <= cost.seconds < 1
    assert cost.exposed_seconds == cost.seconds


def test_reading_starts_again_from_zero():
    metered = MeteredCommunicator(RecordedCommunicator(size=2))
    metered.allreduce(np.ones(3))
    metered.read()

    cost = metered.read()

    assert (cost.seconds, cost.bytes_sent) == (0, 0)


def test_a_part_of_a_single_process_is_measured_with_it():
    whole = MeteredCommunicator(SerialCommunicator())

    part = whole.split(0)

    assert (part.rank, part.size) == (0, 1)
    assert not hasattr(whole, "machine")
    assert part.allreduce(np.ones(2)).tolist() == [1.0, 1.0]


def test_a_single_process_communicates_nothing():
    metered = MeteredCommunicator(SerialCommunicator())
    metered.allreduce(np.ones(3))

    cost = metered.read()

    assert (cost.seconds, cost.exposed_seconds, cost.bytes_sent) == (0, 0, 0)


def test_waits_for_devices_hear_what_the_inner_communicator_hears():
    class Guarded(RecordedCommunicator):
        def wait_for(self, done):
            raise RemoteRankError("rank 1 raised", 1)

        def allreduce_on_device(self, array, module, op="sum"):
            array *= self.size

    metered = MeteredCommunicator(Guarded(size=2))
    array = np.ones(3)

    with pytest.raises(RemoteRankError):
        metered.wait_for(threading.Event())
    metered.allreduce_on_device(array, np)

    assert array.tolist() == [2, 2, 2]
    assert metered.read().bytes_sent == array.nbytes

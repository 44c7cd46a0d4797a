"""Buckets that travel during the walk back give what those after it do, in the plan's order."""

import threading
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import (
    DistributedGradientTape,
    RecordedCommunicator,
    SerialCommunicator,
    last_report,
)
from distgrad.distributed.averaging.buckets import plan_buckets
from distgrad.errors import CommunicationError
from distgrad.training import MeteredCommunicator

FLOAT = np.dtype(np.float32)
LAYERS, WIDTH, DELAY = 6, 10, 0.03


class SlowCommunicator(RecordedCommunicator):
    """Every message of gradients takes a while, as on a slow network."""

    def duplicate(self):
        other = SlowCommunicator(self.size, self.rank)
        other.calls = self.calls
        return other

    def allreduce(self, array, op="sum", *, out=None):
        if op == "sum":
            time.sleep(DELAY)
        return super().allreduce(array, op, out=out)


def slow_identity(x):
    """Return x; on the way back it takes as long as a message."""

    @dg.custom_gradient
    def identity(x):
        def gradient(g):
            time.sleep(DELAY)
            return g

        return x, gradient

    return identity(x)


def layers():
    rng = np.random.default_rng(3)
    return [
        dg.Variable(rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 3, name=f"layer{n}")
        for n in range(LAYERS)
    ]


def step(comm, variables, *, overlap=True, slow=False, used=LAYERS):
    """Return the gradients of one step; a bucket holds one layer."""
    tape = DistributedGradientTape(
        dg.GradientTape(), comm, bucket_bytes=4 * WIDTH * WIDTH, overlap=overlap
    )
    with tape:
        y = dg.ones((1, WIDTH))
        for variable in variables[:used]:
            y = y @ variable
            y = slow_identity(y) if slow else dg.tanh(y)
        loss = dg.mean(y)
    return tape.gradient(loss, variables)


def same(some, others):
    return [g is not None and g.numpy().tobytes() for g in some] == [
        g is not None and g.numpy().tobytes() for g in others
    ]


def test_gradients_are_those_without_overlap():
    variables, comm = layers(), RecordedCommunicator(3)

    found = [step(comm, variables) for _ in range(3)]

    assert last_report(comm).algorithm == "overlapped allreduce"
    expected = step(RecordedCommunicator(3), variables, overlap=False)
    assert all(same(each, expected) for each in found)


def test_buckets_leave_from_the_last_source_to_the_first_at_every_step():
    comm = RecordedCommunicator(2)
    variables = [dg.Variable(np.full((n + 1, 1), 1.0, np.float32)) for n in range(4)]
    lengths = []
    for _ in range(3):
        comm.calls.clear()
        with DistributedGradientTape(dg.GradientTape(), comm, bucket_bytes=4, overlap=True) as tape:
            # Used in another order than given: the plan's order counts.
            loss = sum(dg.sum(variables[n]) for n in (2, 0, 3, 1))
        tape.gradient(loss, variables)
        lengths.append([call.shape[0] for call in comm.calls if call.op == "sum"])

    assert lengths == [[4, 3, 2, 1]] * 3


def test_messages_travel_while_the_walk_goes_on():
    variables, comm = layers(), SlowCommunicator(2)
    step(comm, variables, slow=True)
    plain = last_report(comm)

    step(comm, variables, slow=True)
    report = last_report(comm)

    assert plain.overlap < 0.1
    assert plain.exposed_seconds > LAYERS * DELAY
    assert report.buckets == LAYERS
    assert report.bytes == 4 * LAYERS * WIDTH * WIDTH
    assert report.seconds > LAYERS * DELAY
    # The last bucket is full when the walk ends; the rest was hidden.
    assert DELAY * 0.9 < report.exposed_seconds < 0.5 * report.seconds
    assert report.overlap > 0.5


def test_the_meter_counts_what_is_waited_for_as_exposed():
    metered = MeteredCommunicator(SlowCommunicator(2))
    variables = layers()
    step(metered, variables, slow=True)
    metered.read()

    step(metered, variables, slow=True)
    cost = metered.read()

    assert cost.seconds > LAYERS * DELAY
    assert cost.exposed_seconds < 0.5 * cost.seconds
    assert cost.bytes_sent >= 4 * LAYERS * WIDTH * WIDTH


def test_sources_that_come_and_go_are_averaged_all_the_same():
    variables, comm = layers(), RecordedCommunicator(2)

    for used in (LAYERS, 3, LAYERS, 4, 4):
        found = step(comm, variables, used=used)

        assert same(found, step(RecordedCommunicator(2), variables, overlap=False, used=used))
        assert [g is not None for g in found] == [True] * used + [False] * (LAYERS - used)


def test_gradients_that_become_sparse_or_dense_are_averaged_all_the_same():
    comm = RecordedCommunicator(2)
    table, w = dg.Variable(np.ones((50, 4), np.float32)), layers()[0]
    for sparse in (False, True, True, False):
        with DistributedGradientTape(dg.GradientTape(), comm, bucket_bytes=8, overlap=True) as tape:
            rows = dg.gather(table, [1, 1]) if sparse else dg.square(table)
            loss = dg.mean(rows) + dg.mean(w) + dg.mean(w * w)
        found, other = tape.gradient(loss, [table, w])

        expected = np.zeros((50, 4), np.float32) if sparse else np.full((50, 4), 2 / 200)
        expected[1] = 2 / 8 if sparse else expected[1]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
        np.testing.assert_allclose(other.numpy(), (1 + 2 * w.numpy()) / 100, rtol=1e-5)


def test_an_error_in_the_thread_is_raised_where_the_gradient_is_asked_for():
    class Broken(RecordedCommunicator):
        def duplicate(self):
            return Broken(self.size, self.rank)

        def allreduce(self, array, op="sum", *, out=None):
            if op == "sum" and threading.current_thread() is not threading.main_thread():
                raise CommunicationError("the cable is cut")
            return super().allreduce(array, op, out=out)

    variables, comm = layers(), Broken(2)
    step(comm, variables)

    with pytest.raises(CommunicationError, match="the cable is cut"):
        step(comm, variables)


def test_a_walk_that_failed_in_the_middle_is_told_at_the_next_step():
    variables, comm = layers(), RecordedCommunicator(2)
    step(comm, variables)

    @dg.custom_gradient
    def failing(x):
        def gradient(g):
            raise RuntimeError("boom")

        return x, gradient

    tape = DistributedGradientTape(
        dg.GradientTape(), comm, bucket_bytes=4 * WIDTH * WIDTH, overlap=True
    )
    with tape:
        loss = dg.mean(failing(variables[0]) @ variables[1])
    with pytest.raises(RuntimeError, match="boom"):
        tape.gradient(loss, variables)

    with pytest.raises(CommunicationError, match="interrupted by an exception"):
        step(comm, variables)


def test_a_single_process_reports_nothing():
    comm = SerialCommunicator()
    step(comm, layers())

    assert last_report(comm).seconds == 0


@pytest.mark.parametrize("overlap", [False, True])
def test_the_slowest_rank_is_the_one_that_computes_longest(on_ranks, overlap):
    def work(comm):
        variables = layers()
        step(comm, variables, overlap=overlap)
        before = comm.verbs.copy()
        if comm.rank == 1:
            time.sleep(0.2)
        step(comm, variables, overlap=overlap)
        return last_report(comm), before, comm.verbs[len(before) :]

    for report, first, second in on_ranks(3, work):
        rank, seconds = report.slowest_rank()
        assert rank == report.straggler == 1
        assert 0.1 < seconds < 2
        assert report.imbalance > 1.2
        assert len(report.rank_seconds) == 3
        assert second == first, "asking who was slow must not take a message of its own"


def test_nobody_is_slowest_before_there_were_two_steps(on_ranks):
    def work(comm):
        step(comm, layers(), overlap=False)
        return last_report(comm)

    for report in on_ranks(2, work):
        assert report.straggler is None
        assert report.imbalance == 1
        assert report.slowest_rank() == (-1, 0.0)


# --- buckets --------------------------------------------------------------------------------------


def runs(lengths, bucket_bytes):
    shapes = tuple((length,) for length in lengths)
    dtypes = (FLOAT,) * len(lengths)
    found = plan_buckets(dtypes, shapes, tuple(range(len(lengths))), bucket_bytes)
    return [bucket.positions for bucket in found]


def test_few_bytes_are_one_bucket():
    assert runs([10, 20, 30], 25 * 2**20) == [(0, 1, 2)]


def test_buckets_are_no_longer_than_asked_unless_one_array_is():
    assert runs([1, 5, 1, 1, 2, 9, 1], 16) == [(6,), (5,), (2, 3, 4), (1,), (0,)]


def test_the_first_and_the_last_bucket_are_small():
    quarter = 2**16  # elements of 256 KiB

    assert runs([quarter] * 40, 4 * 2**20) == [
        (36, 37, 38, 39),
        tuple(range(20, 36)),
        tuple(range(4, 20)),
        (0, 1, 2, 3),
    ]


def test_buckets_of_no_length_are_refused():
    with pytest.raises(ValueError, match="bucket_bytes is 0"):
        DistributedGradientTape(dg.GradientTape(), bucket_bytes=0)


@pytest.mark.parametrize("overlap", ["x", 0, 1.0])
def test_an_option_that_says_neither_yes_nor_no_is_refused(overlap):
    with pytest.raises(ValueError, match=r"overlap is .*; expected True, False, or None"):
        DistributedGradientTape(dg.GradientTape(), SerialCommunicator(), overlap=overlap)

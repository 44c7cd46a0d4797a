"""That the emulated device is late: defects that a device shows only where work is done later."""

import os
import threading

import numpy as np
import pytest

cupy = pytest.importorskip("cupy")

pytestmark = pytest.mark.skipif(
    "DISTGRAD_EMULATOR" not in os.environ, reason="about the emulated device alone"
)


@pytest.fixture
def aside():
    """A stream that the default one does not wait for."""
    return cupy.cuda.Stream(non_blocking=True)


def pinned(*numbers):
    """Return an array in pinned memory."""
    made = np.frombuffer(cupy.cuda.alloc_pinned_memory(8 * len(numbers)), np.float64, len(numbers))
    made[...] = numbers
    return made


def read(array, stream):
    """Return an array's numbers, by a copy on a stream."""
    return array.get(stream=stream).tolist()


def zeros():
    """Return zeros that are there."""
    made = cupy.zeros(2)
    cupy.cuda.Device().synchronize()
    return made


@pytest.mark.parametrize(("order", "found"), [("late", [7, 7]), ("at once", [1, 2])])
def test_pinned_memory_that_is_overwritten_before_its_copy_is_seen(order, found, work_in, aside):
    work_in(order)
    x, source = zeros(), pinned(1, 2)

    x.data.copy_from_host_async(source.ctypes.data, x.nbytes, aside)
    source[...] = 7

    assert read(x, aside) == found


@pytest.mark.parametrize("order", ["late", "aside first", "at once"])
def test_memory_that_is_not_pinned_may_be_overwritten(order, work_in, aside):
    work_in(order)
    x, source = zeros(), np.array([1.0, 2.0])

    x.data.copy_from_host_async(source.ctypes.data, x.nbytes, aside)
    source[...] = 7

    assert read(x, aside) == [1, 2]


@pytest.mark.parametrize(("order", "found"), [("late", [0, 0]), ("at once", [1, 2])])
def test_pinned_memory_that_is_read_too_early_is_seen(order, found, work_in, aside):
    work_in(order)
    with aside:
        x, target = cupy.arange(2.0) + 1, pinned(0, 0)

        x.data.copy_to_host_async(target.ctypes.data, x.nbytes, aside)
        early = target.tolist()
        aside.synchronize()

    assert early == found
    assert target.tolist() == [1, 2]


@pytest.mark.parametrize("first", ["the reader", "the writer"])
@pytest.mark.parametrize("order", ["late", "aside first", "at once"])
def test_a_stream_that_does_not_wait_for_another_is_seen(order, first, work_in, aside):
    work_in(order)
    x = zeros()

    x += 3
    with aside:
        y = x * 2
    if first == "the writer":  # such as by a number that is read of it
        cupy.cuda.Stream.null.synchronize()

    is_seen = order == "aside first" or (order == "late" and first == "the reader")
    assert read(y, aside) == ([0, 0] if is_seen else [6, 6])


@pytest.mark.parametrize("order", ["late", "aside first", "at once"])
def test_a_stream_that_waits_for_an_event_finds_what_was_recorded_then(order, work_in, aside):
    work_in(order)
    x, event = zeros(), cupy.cuda.Event(disable_timing=True)

    x += 3
    event.record()
    aside.wait_event(event)
    event.record()  # what waits already keeps to the first time
    with aside:
        y = x * 2

    assert read(y, aside) == [6, 6]


@pytest.mark.parametrize(("order", "found"), [("late", [5, 5]), ("at once", [0, 0])])
def test_memory_that_is_used_again_before_another_stream_has_read_it_is_seen(
    order, found, work_in, aside
):
    work_in(order)
    x = zeros()
    where = x.data.ptr

    with aside:
        y = cupy.empty(2)
        y.data.copy_from_device_async(x.data, x.nbytes, aside)
    del x
    again = [cupy.full(2, 5.0) for _ in range(64)]
    cupy.cuda.Stream.null.synchronize()

    assert where in [each.data.ptr for each in again]
    assert read(y, aside) == found


@pytest.mark.parametrize("order", ["late", "aside first", "at once"])
def test_blocking_streams_and_the_default_one_wait_for_each_other(order, work_in):
    work_in(order)
    x, blocking = zeros(), cupy.cuda.Stream()

    x += 3
    with blocking:
        x *= 2
    x += 1

    assert read(x, cupy.cuda.Stream.null) == [7, 7]


def test_who_asks_often_enough_hears_that_work_is_done(work_in, aside):
    work_in("late")
    with aside:
        x = cupy.arange(2.0)
        event = aside.record()

    assert not event.done
    assert not aside.done
    while not (event.done and aside.done):
        pass
    assert read(x, aside) == [0, 1]


def test_what_another_thread_waits_for_is_done_though_nobody_asks(work_in, aside):
    work_in("late")
    came = threading.Event()

    aside.launch_host_func(lambda _: came.set(), None)

    assert came.wait(timeout=30)


def test_events_keep_to_the_device_of_a_stream(aside):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    refused = cupy.cuda.runtime.CUDARuntimeError

    with cupy.cuda.Device(1), pytest.raises(refused):
        cupy.cuda.Event().record(aside)

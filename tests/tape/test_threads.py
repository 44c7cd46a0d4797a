"""A tape hears its own thread; gradients may be asked for in any."""

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import distgrad as dg
from distgrad.core import LISTENERS


def in_another_thread(function, *arguments):
    """Return what a function returns when a thread of its own runs it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result(timeout=30)


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_operations_in_another_thread_are_not_recorded():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = in_another_thread(lambda: x * x)

    assert float(y) == 9.0
    assert tape.gradient(y, x) is None


def test_a_thread_that_takes_the_context_along_is_heard():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        context = contextvars.copy_context()
        y = in_another_thread(context.run, lambda: x * x)

    assert float(tape.gradient(y, x)) == 6.0


def test_gradients_may_be_asked_for_in_another_thread():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y = x * x * x

    assert float(in_another_thread(tape.gradient, y, x)) == 27.0
    first = tape.gradient(y, x)
    assert float(in_another_thread(tape.gradient, first, x)) == 18.0


def test_threads_record_on_tapes_of_their_own():
    x = dg.Variable(3.0)
    barrier = threading.Barrier(3)

    def work(power):
        with dg.GradientTape() as tape:
            y = x
            for _ in range(power - 1):
                barrier.wait(timeout=30)
                y = y * x
            for _ in range(4 - power):
                barrier.wait(timeout=30)
        return float(tape.gradient(y, x))

    with ThreadPoolExecutor(3) as pool:
        slopes = list(pool.map(work, [2, 3, 4]))

    assert slopes == [6.0, 27.0, 108.0]


def test_a_gradient_asked_for_elsewhere_does_not_leave_a_plain_tape_listening():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
        first = in_another_thread(tape.gradient, y, x)
        for _ in range(3):
            y = y * x

    assert float(first) == 6.0
    assert LISTENERS.get() == ()
    assert tape.records == []

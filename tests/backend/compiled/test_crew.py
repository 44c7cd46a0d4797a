"""A crew does every piece of a kernel once, whoever takes it, and survives forks and exits."""

import ctypes
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from distgrad_numpy import threads
from distgrad_numpy.compiled import compiler, crew, library
from distgrad_numpy.compiled.library import address

COUNTING = """
#include "crew.hpp"
static void count(const Piece& piece, index_t* times, index_t* workers, index_t* spans) {
    for (index_t i = piece.begin; i < piece.end; ++i) ++times[i];
    workers[piece.number] = piece.worker;
    spans[piece.number] = piece.end - piece.begin;
}
SHARED(count)
static void wait_and_add(index_t begin, index_t end, index_t turns, double* to) {
    for (index_t i = begin; i < end; ++i) {
        volatile double sum = 0;
        for (index_t n = 0; n < turns; ++n) sum = sum + 1;
        to[i] += sum;
    }
}
SHARED(wait_and_add)
"""


@pytest.fixture
def kernels():
    """The functions of the source above."""
    try:
        compiler.compiler_name()
    except compiler.CompilerError as error:
        pytest.skip(str(error))
    found = library.from_source("counting", COUNTING)
    count = crew.shared_of(found, "count", (ctypes.c_void_p,) * 3)
    wait = crew.shared_of(found, "wait_and_add", (ctypes.c_longlong, ctypes.c_void_p))
    return count, wait


def use(monkeypatch, workers):
    monkeypatch.setattr(threads, "available", lambda: workers)


def printed_by(script):
    """Return what a script prints in a process of its own, which has to end well."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize(("length", "each"), [(1, 1), (7, 3), (33, 1), (100, 7), (8, 100)])
def test_every_number_is_in_one_piece(kernels, monkeypatch, workers, length, each):
    use(monkeypatch, workers)
    pieces = -(-length // each)
    times, helpers, spans = (np.zeros(n, np.int64) for n in (length, pieces, pieces))

    for turn in range(1, 101):
        kernels[0](length, each, address(times), address(helpers), address(spans))

        assert (times == turn).all()
        assert spans.tolist() == [min(each, length - n * each) for n in range(pieces)]
        assert helpers.min() >= 0
        assert helpers.max() < workers


def test_helpers_take_part_awake_and_asleep(kernels, monkeypatch):
    use(monkeypatch, 2)
    times, helpers, spans = (np.zeros(64, np.int64) for _ in range(3))
    sums = np.zeros(64)
    for pause in (0.0, 0.02):  # longer than a helper looks for work before it sleeps
        helped = 0
        for _ in range(200):
            time.sleep(pause)
            kernels[1](64, 1, 10_000, address(sums))
            kernels[0](64, 1, address(times), address(helpers), address(spans))
            helped += int(helpers.max())
            if helped:
                break

        assert helped, f"no helper came, {pause} s after the last work"
    assert (sums % 10_000 == 0).all()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are not placed here")
def test_helpers_may_run_on_every_processor_again_once_they_are_awake(kernels, monkeypatch):
    use(monkeypatch, 3)
    sums, allowed = np.zeros(64), frozenset(os.sched_getaffinity(0))
    for _ in range(20):
        time.sleep(0.01)  # they sleep, and are sent elsewhere as they wake
        kernels[1](64, 1, 10_000, address(sums))
    helpers = [each for each in threading.enumerate() if each.name.startswith("distgrad-crew")]

    until = time.monotonic() + 30
    while {frozenset(os.sched_getaffinity(each.native_id)) for each in helpers} != {allowed}:
        assert time.monotonic() < until, "a helper is kept from a processor"
        time.sleep(0.01)
    assert len(helpers) >= 2


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are not placed here")
def test_a_crew_with_one_processor_gets_its_work_done(kernels):
    script = ONE_PROCESSOR.format(processor=min(os.sched_getaffinity(0)))
    assert printed_by(script) == "alike\n"


ONE_PROCESSOR = """
import os, time
import numpy as np
os.sched_setaffinity(0, {{{processor}}})
from distgrad_numpy import threads
from distgrad_numpy.compiled import rows
threads.available = lambda: 2
x = np.random.default_rng(0).standard_normal((999, 512), dtype=np.float32)
before = rows.OFFERS["softmax"](x, axis=-1)
for _ in range(20):
    time.sleep(0.005)
    assert (rows.OFFERS["softmax"](x, axis=-1) == before).all()
print("alike")
"""


def test_callers_on_several_threads_do_not_mix(kernels, monkeypatch):
    use(monkeypatch, 3)
    results = [np.zeros(50) for _ in range(4)]

    def call(own):
        for _ in range(100):
            kernels[1](50, 4, 100, address(own))

    callers = [threading.Thread(target=call, args=(own,)) for own in results]
    for each in callers:
        each.start()
    for each in callers:
        each.join()

    for own in results:
        assert (own == 100 * 100).all()


def test_a_piece_of_work_from_python_has_its_thread_alone(kernels, monkeypatch):
    use(monkeypatch, 2)
    found = []

    threads.run(lambda _: found.append((crew.place(), crew.workers())), range(4))

    assert found == [(None, 1)] * 4
    assert crew.place() is not None
    assert crew.workers() == 2


SCRIPT = """
import os, sys
import numpy as np
from distgrad_numpy import threads
from distgrad_numpy.compiled import crew, rows
threads.available = lambda: 2
x = np.random.default_rng(0).standard_normal((999, 512), dtype=np.float32)
before = rows.OFFERS["softmax"](x, axis=-1)
assert crew.place() is not None
child = os.fork()
after = rows.OFFERS["softmax"](x, axis=-1)
assert (after == before).all()
if child == 0:
    sys.exit(0)
_, status = os.waitpid(child, 0)
print("child", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_helpers_of_its_own_and_both_end(kernels):
    assert printed_by(SCRIPT) == "child 0\n"

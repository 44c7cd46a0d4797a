"""Plans as CUDA graphs, on a module that stands for CuPy: what is captured, copied, and refused."""

import gc
import importlib.util
import logging
import sys
import threading
import weakref

import numpy as np
import pytest

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad.core.under_way import forget_wait, note_wait
from distgrad.dtypes import as_dtype
from distgrad.errors import StallError
from distgrad.graph.compiling import Compiles
from distgrad_cupy.capturing import Graphs
from distgrad_cupy.products import Products


@pytest.fixture
def device(cupy_stand_in):
    """The module that stands for CuPy."""
    return cupy_stand_in.Device()


@pytest.fixture
def graphs(device, monkeypatch):
    monkeypatch.delenv("DISTGRAD_CUDA_GRAPHS", raising=False)
    return Graphs(device, Products(device, None))


class Program:
    """An executor that counts its runs: (x + y) / 2, y as it is, and x turned round."""

    def __init__(self, device):
        self.device = device
        self.runs = 0
        self.before = lambda: None

    def __call__(self, arrays):
        self.runs += 1
        x, y = arrays
        self.before()
        mean = self.device.kernel(lambda a, b: (a + b) / 2, x, y)
        turned = self.device.kernel(lambda a: a + 0, x).T
        return [mean, y, turned]


def operands(device, number):
    x = np.arange(6.0).reshape(2, 3) + number
    return [device.asarray(x), device.asarray(np.ones((2, 3)) * number)]


def assert_right(found, arrays):
    x, y = arrays
    np.testing.assert_array_equal(found[0], (x + y) / 2)
    assert found[1] is y
    np.testing.assert_array_equal(found[2], x.T)


def test_after_some_runs_the_graph_is_launched_in_place_of_the_executor(device, graphs):
    program, replay = Program(device), graphs("f")
    assert replay.way == "operation by operation; a CUDA graph after 2 runs"

    for number in range(3):
        arrays = operands(device, number)
        assert_right(replay(program, arrays), arrays)
    runs = program.runs
    for number in range(3, 7):
        arrays = operands(device, number)
        assert_right(replay(program, arrays), arrays)

    assert replay.way == "as one CUDA graph"
    assert program.runs == runs == 5  # three for the calls, one for the memory, one captured
    (graph,) = device.cuda.graphs
    assert graph.launches == [7] * 5  # one is the check
    assert replay.way == "as one CUDA graph"


def test_a_rank_that_is_lost_before_a_capture_is_no_reason_to_refuse_the_plan(device, graphs):
    def lost():
        raise StallError("rank 1 has not come")

    program, replay = Program(device), graphs("f")
    for number in range(2):
        replay(program, operands(device, number))
    note_wait(lost)
    try:
        with pytest.raises(StallError):
            replay(program, operands(device, 2))
    finally:
        forget_wait(lost)
    replay(program, operands(device, 3))

    assert replay.way == "as one CUDA graph"


def ready(device, graphs, program):
    """Return what launches a graph from now on."""
    replay = graphs("f")
    for number in range(3):
        replay(program, operands(device, number))
    assert replay.way == "as one CUDA graph"
    return replay


def test_a_call_copies_in_by_one_launch_and_out_by_another(device, graphs):
    program = Program(device)
    replay = ready(device, graphs, program)
    before = device.copies

    replay(program, operands(device, 5))

    assert device.copies == before + 2


def test_results_stay_what_they_are_when_the_graph_runs_again(device, graphs):
    program = Program(device)
    replay = ready(device, graphs, program)
    given = [operands(device, number) for number in range(3)]

    found = [replay(program, arrays) for arrays in given]

    for each, arrays in zip(found, given, strict=True):
        assert_right(each, arrays)
    assert not any(np.shares_memory(a, b) for a in found[0] for b in found[1])


def test_operands_may_lie_in_any_order(device, graphs):
    program = Program(device)
    replay = ready(device, graphs, program)
    x = device.asarray(np.arange(6.0).reshape(3, 2)).T
    wide = device.asarray(np.arange(12.0).reshape(2, 6))[:, ::2]

    assert_right(replay(program, [x, wide]), [x, wide])


def test_what_a_graph_reads_and_writes_lies_in_its_own_pool(device, graphs):
    program, pools = Program(device), set()
    program.before = lambda: pools.add(device.cuda.pool)

    replay = ready(device, graphs, program)

    assert len(pools) == 2  # the ordinary one, and the graph's
    assert device.cuda.pool is None
    assert all(each.pool is None for each in replay(program, operands(device, 1)))


def test_products_are_cublas_own_while_a_graph_is_prepared(device, graphs):
    program, own = Program(device), []
    program.before = lambda: own.append(graphs.tools.products.are_own)

    ready(device, graphs, program)

    assert own == [False, False, False, True, True]
    assert not graphs.tools.products.are_own


def test_the_current_stream_waits_for_the_last_launch_on_another(device, graphs):
    program = Program(device)
    replay = ready(device, graphs, program)
    other = device.cuda.Stream(non_blocking=True)

    with other:
        replay(program, operands(device, 1))
        replay(program, operands(device, 2))
    assert len(other.waited) == 1
    replay(program, operands(device, 3))

    assert device.cuda.stream.waited[-1] is other.waited[0]
    assert other.waited[0].recorded[-3:] == [other.ptr, other.ptr, 7]


# --- where arrays lie -----------------------------------------------------------------------------


def lasting(device, graphs, program, y, runs=3):
    """Return what launches a graph that reads y where it lies."""
    replay = graphs("f", [1])
    for number in range(runs):
        replay(program, [operands(device, number)[0], y])
    assert replay.way == "as one CUDA graph"
    return replay


def test_an_array_that_stays_is_read_where_it_lies_and_may_change(device, graphs):
    program, y = Program(device), operands(device, 1)[1]
    replay = lasting(device, graphs, program, y)
    runs = program.runs

    for number in range(3):
        y[...] = number
        arrays = [operands(device, number)[0], y]
        assert_right(replay(program, arrays), arrays)

    assert program.runs == runs
    assert len(device.cuda.graphs) == 1


def test_only_the_others_are_copied(device, graphs, monkeypatch):
    program, (x, y) = Program(device), operands(device, 1)
    replay = lasting(device, graphs, program, y)
    copied = []
    monkeypatch.setattr(
        "distgrad_cupy.captured.copy_all", lambda run, given, to: copied.append(list(given))
    )

    replay(program, [x, y])

    into, out = copied
    assert len(into) == 1
    assert into[0] is x
    assert len(out) == 2  # y is handed through


def test_a_graph_holds_the_memory_and_not_the_array(device, graphs):
    program, y = Program(device), operands(device, 1)[1]
    before = sys.getrefcount(y)

    replay = lasting(device, graphs, program, y)

    assert sys.getrefcount(y) == before
    del replay


def test_where_an_array_has_moved_the_plan_is_captured_again_and_in_the_end_copies_it(
    device, graphs
):
    program, y = Program(device), operands(device, 1)[1]
    replay = lasting(device, graphs, program, y)
    kept = []

    for number in range(5):
        kept.append(operands(device, number))  # each lies elsewhere
        assert_right(replay(program, kept[-1]), kept[-1])

    assert replay.way == "as one CUDA graph"
    assert len(device.cuda.graphs) == 3  # read in two places, then copied
    assert len(device.cuda.graphs[-1].launches) == 1 + 3


def test_memory_of_a_graph_whose_array_has_moved_is_given_back_before_the_next(device, graphs):
    program, y = Program(device), operands(device, 1)[1]
    replay = lasting(device, graphs, program, y)
    (pool,) = device.cuda.pools
    device.cuda.graphs.clear()
    program.before = lambda: released.append(pool.releases)
    released = []

    replay(program, operands(device, 2))

    assert released[0] == 1


@pytest.mark.parametrize("whole", [np.ones((2, 6)), np.ones((3, 2))], ids=["parts", "turned"])
def test_an_array_that_is_not_one_line_is_copied(whole, device, graphs):
    y = device.asarray(whole)
    y = y[:, ::2] if len(y) == 2 else y.T
    program = Program(device)
    replay = lasting(device, graphs, program, y)

    arrays = [operands(device, 4)[0], y]
    assert_right(replay(program, arrays), arrays)

    assert len(device.cuda.graphs) == 1


def test_results_are_written_into_targets_once_there_is_a_graph(device, graphs):
    program, y = Program(device), operands(device, 1)[1]
    replay = graphs("f", [1])
    target = device.asarray(np.zeros((2, 3)))

    for number in range(5):
        arrays = [operands(device, number)[0], y]
        found = replay(program, arrays, {0: target})
        assert_right(found, arrays)
        assert (found[0] is target) == (number >= 3)


def test_an_array_that_is_read_may_be_a_target(device, graphs):
    def program(arrays):
        return [device.kernel(lambda a, b: a + b, *arrays)]

    total, replay = device.asarray(np.zeros(2)), graphs("f", [1])

    for number in range(6):
        (found,) = replay(program, [device.asarray(np.ones(2)), total], {0: total})
        assert (found is total) == (number >= 3)
        total[...] = found

    np.testing.assert_array_equal(total, [6, 6])


def test_targets_that_do_not_fit_are_left(device, graphs):
    program, y = Program(device), operands(device, 1)[1]
    replay = lasting(device, graphs, program, y)
    others = [
        device.asarray(np.zeros((3, 2))),
        device.asarray(np.zeros((2, 3), np.float32)),
        device.asarray(np.zeros((2, 6)))[:, ::2],
    ]

    for target in others:
        arrays = [operands(device, 4)[0], y]
        found = replay(program, arrays, {0: target})
        assert_right(found, arrays)
        assert found[0] is not target
        assert not target.any()


def test_what_is_handed_through_is_no_target(device, graphs):
    program, y = Program(device), operands(device, 1)[1]
    replay = lasting(device, graphs, program, y)
    arrays = [operands(device, 4)[0], y]

    found = replay(program, arrays, {0: y})  # which is the second result, as it was

    assert_right(found, arrays)
    np.testing.assert_array_equal(y, 1)


def test_nothing_is_written_into_targets_where_results_are_views_of_what_is_read(device, graphs):
    def program(arrays):
        return [device.kernel(lambda a, b: a + b, *arrays), arrays[1][1:]]

    total, replay = device.asarray(np.arange(3.0)), graphs("f", [1])

    for _ in range(6):
        found, rest = replay(program, [device.asarray(np.ones(3)), total], {0: total})
        assert found is not total
        np.testing.assert_array_equal(rest, [1, 2])
    assert replay.way == "as one CUDA graph"


REFUSED = {
    "it waits for the device": lambda d: d.cuda.stream.synchronize(),
    "it copies from the host": lambda d: d.cuda.alloc_pinned_memory(8),
    "it has no kernel for graphs": lambda d: d.cuda.stream.is_capturing() and 1 / 0,
}


@pytest.mark.parametrize("break_it", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_captured_runs_by_the_executor_and_says_so_once(
    break_it, device, graphs, caplog
):
    program, replay = Program(device), graphs("step")
    program.before = lambda: break_it(device)

    with caplog.at_level(logging.DEBUG, "distgrad"):
        for number in range(8):
            arrays = operands(device, number)
            assert_right(replay(program, arrays), arrays)

    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage().startswith(
        "step: not captured as a CUDA graph, runs operation by operation ("
    )
    assert replay.way.startswith("operation by operation; no CUDA graph: ")
    assert program.runs == 10
    assert not any(stream.is_capturing() for stream in device.cuda.streams)


def test_after_a_capture_pinned_memory_comes_from_where_it_came_from(device, graphs):
    before = device.cuda.alloc_pinned_memory

    ready(device, graphs, Program(device))

    assert device.cuda.alloc_pinned_memory is before


def test_behind_a_users_own_allocator_nothing_is_captured_and_it_stays(device, graphs):
    def own(nbytes):
        return before(nbytes)

    before = device.cuda.alloc_pinned_memory
    device.cuda.set_pinned_memory_allocator(own)
    program, replay = Program(device), graphs("f")

    for number in range(4):
        arrays = operands(device, number)
        assert_right(replay(program, arrays), arrays)

    assert "pinned memory comes from a function of your own" in replay.way
    assert device.cuda.alloc_pinned_memory is own


def test_a_graph_that_gives_other_numbers_is_not_used(device, graphs):
    replay, drawn = graphs("f"), iter(range(100))

    def program(arrays):
        number = next(drawn)  # at the time of the capture, not of the launch
        return [device.kernel(lambda a: a + number, arrays[0])]

    found = [replay(program, operands(device, 0)) for _ in range(5)]

    assert "other numbers than the executor" in replay.way
    assert [float(each[0][0, 0]) for each in found[:3]] == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex128", "int64", "bool"])
def test_numbers_that_differ_by_rounding_or_are_nan_are_the_same(dtype, device, graphs):
    replay, calls = graphs("f"), []
    rounding = {"float32": 1e-6, "bfloat16": 1e-2}.get(dtype, 0)
    dtype = as_dtype(dtype)

    def program(arrays):
        calls.append(1)
        moved = 1 + rounding * len(calls) if rounding else 1
        return [device.kernel(lambda a: (a * moved).astype(dtype), arrays[0])]

    x = np.array([0.0, 1, 5] if dtype.kind in "ib" else [0, np.nan, np.inf, -2, 1])
    with np.errstate(invalid="ignore"):  # of infinities, which the device says nothing of
        for _ in range(4):
            replay(program, [device.asarray(x.astype(dtype))])

    assert replay.way == "as one CUDA graph"


def test_on_another_device_the_executor_runs(device, graphs):
    program = Program(device)
    replay = ready(device, graphs, program)
    runs = program.runs
    arrays = operands(device, 1)
    for each in arrays:
        each.device_id = 1

    assert_right(replay(program, arrays), arrays)
    device.cuda.device = 1
    assert_right(replay(program, arrays), arrays)

    assert program.runs == runs + 2


def test_within_a_graph_of_somebody_else_the_executor_runs(device, graphs):
    program, replay = Program(device), graphs("f")
    replay(program, operands(device, 0))
    replay(program, operands(device, 0))

    device.cuda.stream.begin_capture()
    replay(program, operands(device, 0))
    device.cuda.stream.end_capture()
    assert replay.way == "operation by operation; a CUDA graph after 2 runs"
    replay(program, operands(device, 0))

    assert replay.way == "as one CUDA graph"


def test_a_plan_met_while_another_is_captured_is_part_of_it(device, graphs):
    inner_program = Program(device)
    inner = ready(device, graphs, inner_program)
    outer = graphs("outer")

    def program(arrays):
        return inner(inner_program, arrays)

    for number in range(4):
        arrays = operands(device, number)
        assert_right(outer(program, arrays), arrays)

    assert outer.way == inner.way == "as one CUDA graph"
    assert len(device.cuda.graphs[1].works) == 3  # the kernels themselves, one to turn a result


def test_threads_that_call_one_plan_get_each_its_own_results(device, graphs):
    program = Program(device)
    replay = ready(device, graphs, program)
    wrong = []

    def work(number):
        for _ in range(50):
            arrays = operands(device, number)
            found = replay(program, arrays)
            if not np.array_equal(found[0], (arrays[0] + arrays[1]) / 2):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert wrong == []


def test_an_interrupt_ends_the_capture_and_goes_on(device, graphs):
    program, replay = Program(device), graphs("f")

    def interrupt():
        if device.cuda.stream.is_capturing():
            raise KeyboardInterrupt

    for number in range(2):
        replay(program, operands(device, number))
    program.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        replay(program, operands(device, 3))

    assert not any(stream.is_capturing() for stream in device.cuda.streams)
    assert not graphs.are_busy
    assert not graphs.transfers.are_refused


def test_graphs_can_be_switched_off(graphs, monkeypatch):
    monkeypatch.setenv("DISTGRAD_CUDA_GRAPHS", "0")

    assert graphs("f") is None


def test_the_backend_offers_graphs_as_its_way_to_compile():
    from distgrad_cupy.backend import GRAPHS, CuPyBackend

    backend = CuPyBackend.__new__(CuPyBackend)
    backend.compile = GRAPHS

    assert isinstance(backend, Compiles)
    assert backend.compile("f").way.startswith("operation by operation")


# --- memory, plans of transforms, and other people's streams --------------------------------------


def test_within_somebody_elses_capture_a_graph_that_is_there_is_not_launched(device, graphs):
    program = Program(device)
    replay = ready(device, graphs, program)
    runs, (graph,) = program.runs, device.cuda.graphs
    launches, waited = len(graph.launches), len(device.cuda.stream.waited)

    device.cuda.stream.begin_capture()
    replay(program, operands(device, 1))
    device.cuda.stream.end_capture()

    assert program.runs == runs + 1
    assert len(graph.launches) == launches
    assert len(device.cuda.stream.waited) == waited


def test_a_new_stream_waits_though_it_has_the_number_of_the_last_one(device, graphs):
    program = Program(device)
    replay = ready(device, graphs, program)
    first, second = (device.cuda.Stream(non_blocking=True) for _ in range(2))
    second.ptr = first.ptr

    for stream in (first, second):
        with stream:
            replay(program, operands(device, 1))

    assert len(second.waited) == 1


def test_threads_default_streams_wait_for_each_other(device, graphs):
    program = Program(device)
    replay = ready(device, graphs, program)
    stream = device.cuda.Stream(non_blocking=True)
    stream.ptr = 2  # of every thread its own

    with stream:
        replay(program, operands(device, 1))
        replay(program, operands(device, 2))

    assert len(stream.waited) == 2


def test_memory_of_a_graph_that_goes_away_is_given_back(device, graphs):
    replay = ready(device, graphs, Program(device))
    (pool,) = device.cuda.pools
    assert not pool.releases

    device.cuda.graphs.clear()
    del replay

    assert pool.releases == 1
    assert pool.left == 0


@pytest.mark.parametrize("break_it", REFUSED.values(), ids=REFUSED)
def test_memory_of_a_capture_that_failed_is_given_back_at_once(break_it, device, graphs):
    program, replay = Program(device), graphs("f")
    program.before = lambda: break_it(device)

    gc.disable()  # no collector of garbage is needed
    try:
        for number in range(3):
            replay(program, operands(device, number))
        (pool,) = device.cuda.pools
        assert pool.releases == 1
        assert pool.left == 0
    finally:
        gc.enable()


def test_memory_that_is_given_back_during_a_capture_ends_it(device, graphs):
    program, replay = Program(device), graphs("f")

    def take():
        if device.cuda.pools:
            pool = device.cuda.pools[0]
            if device.cuda.stream.is_capturing():
                pool.bytes = 0  # there was no more, so that what was free went
            pool.grow(512)

    program.before = take
    for number in range(4):
        arrays = operands(device, number)
        assert_right(replay(program, arrays), arrays)

    assert replay.way.endswith("the device has not the memory for a graph of its own")


def test_a_graph_may_take_more_memory_while_it_is_captured(device, graphs):
    program = Program(device)
    program.before = lambda: device.cuda.pools and device.cuda.pools[0].grow(512)

    ready(device, graphs, program)


def test_plans_of_transforms_are_the_graphs_own_and_stay_with_it(device, graphs):
    program, made = Program(device), []

    class Plan:
        pass

    def transform():
        for key in range(20):  # more than CuPy keeps
            if key not in device.plans.plans:
                device.plans[key] = Plan()
                made.append(weakref.ref(device.plans.plans[key]))

    device.plans["own"] = "the program's"
    program.before = transform
    replay, number = graphs("f"), 0
    while "CUDA graph after" in replay.way:
        before = len(made)
        replay(program, operands(device, number))
        number += 1

    assert replay.way == "as one CUDA graph"
    own = [each() for each in made[before + 20 :]]
    assert len(own) == 20
    assert None not in own
    assert not set(own) & set(device.plans.plans.values())
    assert (device.plans.size, device.plans.memsize) == (16, -1)
    assert len(device.plans.plans) == 16

    del replay, own
    assert not any(each() for each in made[before + 20 :])

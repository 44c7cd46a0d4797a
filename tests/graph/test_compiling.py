"""A backend may run plans its own way: which ones it is offered, and how to do without."""

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import ArrayModuleBackend
from distgrad.graph.compiling import Compiles


class Counting:
    """What runs a plan, and counts."""

    way = "counted"

    def __init__(self, name, lasting):
        self.name = name
        self.lasting = lasting
        self.runs = 0
        self.arrays, self.targets = [], []
        self.writes = False

    def __call__(self, run, arrays, targets):
        self.runs += 1
        # Not the arrays: who holds them is one who sees what they are.
        self.arrays, self.targets = [*map(id, arrays)], list(targets)
        found = run(arrays)
        for number in targets if self.writes else ():
            targets[number][...] = found[number]
            found[number] = targets[number]
        return found


class CountingBackend(ArrayModuleBackend):
    """A backend that offers to run plans."""

    def __init__(self):
        super().__init__("counting", array_api_strict)
        self.plans = []

    def compile(self, name, lasting):
        if name == "left_alone":
            return None
        self.plans.append(Counting(name, lasting))
        return self.plans[-1]


@pytest.fixture
def backend():
    return CountingBackend()


def array(backend, values):
    return dg.asarray(np.asarray(values, np.float32), backend=backend)


def test_calls_of_a_traced_function_run_the_backends_way(backend):
    assert isinstance(backend, Compiles)
    f = dg.function(lambda x: dg.sin(x) * x, name="f")
    x = array(backend, [1.0, 2.0])

    first, second = f(x), f(x + 1)

    np.testing.assert_allclose(first.numpy(), np.sin(x.numpy()) * x.numpy(), rtol=1e-6)
    np.testing.assert_allclose(second.numpy(), np.sin(x.numpy() + 1) * (x.numpy() + 1), rtol=1e-6)
    assert [(plan.name, plan.runs) for plan in backend.plans] == [("f", 2)]


def test_forward_and_backward_passes_do_too(backend):
    f = dg.function(lambda x: dg.sum(x * x * x), name="f")
    x = array(backend, [1.0, 2.0])

    for _ in range(3):
        with dg.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        gradient = tape.gradient(y, x)

    np.testing.assert_allclose(gradient.numpy(), [3, 12], rtol=1e-6)
    assert sum(plan.runs for plan in backend.plans) == 6


def test_second_derivatives_are_right_the_backends_way(backend):
    f = dg.function(lambda x: dg.sum(x * x * x))
    x = array(backend, [1.0, 2.0])

    with dg.GradientTape() as outer:
        outer.watch(x)
        with dg.GradientTape() as inner:
            inner.watch(x)
            y = f(x)
        gradient = dg.sum(inner.gradient(y, x))

    np.testing.assert_allclose(outer.gradient(gradient, x).numpy(), [6, 12], rtol=1e-6)


def test_it_is_told_which_arrays_are_variables_and_captured_tensors(backend):
    v, captured = dg.Variable([1.0, 2.0], backend=backend), array(backend, [3.0, 4.0])
    x = array(backend, [1.0, 2.0])
    f = dg.function(lambda x: dg.sum(x * captured * v * v))

    for _ in range(2):
        with dg.GradientTape() as tape:
            tape.watch([x, captured])
            y = f(x)
        tape.gradient(y, [x, v])

    for plan in backend.plans:
        if plan.runs:
            lasting = {plan.arrays[place] for place in plan.lasting}
            assert lasting == {id(v.array), id(captured.array)}


def test_it_may_write_into_variables_to_whose_arrays_nobody_else_refers(backend):
    alone, seen = (dg.Variable([1.0, 2.0], backend=backend) for _ in range(2))
    held = seen.read()

    @dg.function
    def step(x):
        alone.assign_add(x)
        seen.assign_add(x)
        return x + 1

    step(array(backend, [1.0, 2.0]))

    (plan,) = backend.plans
    assert plan.targets == [1]  # the first result is returned, the third one's place is seen
    np.testing.assert_array_equal(alone.numpy(), [2, 4])
    np.testing.assert_array_equal(held.numpy(), [1, 2])


def test_what_it_wrote_into_a_variable_is_its_value(backend):
    v = dg.Variable([1.0, 2.0], backend=backend)

    @dg.function
    def step(x):
        v.assign_add(x)

    x = array(backend, [1.0, 2.0])
    step(x)
    backend.plans[0].writes = True
    place = id(v.array)
    for _ in range(3):
        step(x)

    assert id(v.array) == place
    np.testing.assert_array_equal(v.numpy(), [5, 10])


def test_a_function_may_ask_for_the_executor(backend):
    @dg.function(compiled=False)
    def f(x):
        return dg.sum(x * x)

    x = array(backend, [1.0, 2.0])
    with dg.GradientTape() as tape:
        tape.watch(x)
        y = f(x)

    np.testing.assert_allclose(tape.gradient(y, x).numpy(), [2, 4])
    assert backend.plans == []


def test_a_method_may_too(backend):
    class Model:
        @dg.function(compiled=False)
        def double(self, x):
            return x + x

    assert Model().double(array(backend, [1.0])).tolist() == [2]
    assert backend.plans == []


def test_a_backend_may_leave_a_plan_to_the_executor(backend):
    f = dg.function(lambda x: x + 1, name="left_alone")

    assert f(array(backend, [1.0])).tolist() == [2]
    assert backend.plans == []
    assert "not fused" in str(f.explain())


def test_a_plan_that_speaks_with_other_ranks_is_not_offered(backend):
    x = array(backend, [1.0, 2.0])
    f = dg.function(lambda x: dg.distributed.allreduce(x) * 2)

    assert f(x).tolist() == [2, 4]
    assert backend.plans == []


def test_a_plan_with_a_loop_is_not_offered(backend):
    x = array(backend, [1.0, 2.0])
    f = dg.function(lambda x: dg.while_loop(lambda v: dg.sum(v) < 20, lambda v: v * 2, x))

    assert f(x).tolist() == [8, 16]
    assert backend.plans == []


def test_a_plan_that_cuts_a_gradient_is_offered(backend):
    x = array(backend, [1.0, 2.0])
    f = dg.function(lambda x: dg.stop_gradient(x) * x)

    assert f(x).tolist() == [1, 4]
    assert [plan.runs for plan in backend.plans] == [1]


def test_who_looks_for_nans_sees_each_operation(backend):
    f = dg.function(lambda x: dg.log(x) * 0)

    with dg.debug_nans(), np.errstate(divide="ignore"), pytest.raises(dg.errors.NonFiniteError):
        f(array(backend, [0.0]))

    assert backend.plans[0].runs == 0


def test_it_is_told_how_a_trace_runs(backend):
    f = dg.function(lambda x: x + 1, name="f")
    f(array(backend, [1.0]))

    text = str(f.explain())

    assert f.explain().traces[0].way == "counted"
    assert "  runs counted\n" in text
    assert "not fused" not in text

"""What counts as the same call of a traced function, and what is held for how long."""

import dataclasses
import gc
import threading
import time
import warnings
import weakref

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import ArrayModuleBackend
from distgrad.errors import MixedBackendError, TraceError

X = dg.asarray([1.0, 2.0])


def counted(f):
    """Return a function that notes when it runs, and the list of its runs."""
    runs = []

    def noted(*args, **kwargs):
        runs.append(1)
        return f(*args, **kwargs)

    return noted, runs


# --- signatures -----------------------------------------------------------------------------------


def test_defaults_and_names_are_one_call_however_it_is_spelled():
    runs = []

    @dg.function
    def f(x, n=2, *, scale=1.0):
        runs.append(1)
        return x * n * scale

    for result in (f(X), f(X, 2), f(X, n=2), f(x=X), f(X, scale=1.0), f(n=2, x=X)):
        np.testing.assert_array_equal(result.numpy(), [2.0, 4.0])
    assert len(runs) == 1


def test_a_wrong_call_says_what_python_says():
    f = dg.function(lambda x, y: x * y, name="product")

    with pytest.raises(TypeError, match=r"product\(\) missing a required argument: 'y'"):
        f(X)
    with pytest.raises(TypeError, match=r"product\(\) got an unexpected keyword argument 'z'"):
        f(X, X, z=1)


@pytest.mark.parametrize(
    ("first", "second"), [(0.0, -0.0), (1, True), (1, 1.0), (2.0, 2 + 0j), ((0.0,), (-0.0,))]
)
def test_static_values_that_compare_equal_and_differ_are_two_calls(first, second):
    f, runs = counted(lambda x, n: x * 1.0)
    traced = dg.function(f)
    traced(X, first)
    traced(X, second)

    assert len(runs) == 2


def test_the_sign_of_a_static_zero_is_kept():
    f = dg.function(lambda x, zero: x * zero)

    assert not np.signbit(f(X, 0.0).numpy()).any()
    assert np.signbit(f(X, -0.0).numpy()).all()


def test_numpy_scalars_and_foreign_arrays_are_arrays():
    f, runs = counted(lambda x: x * 2.0)
    traced = dg.function(f)

    assert float(traced(np.float32(3.0))) == 6.0
    assert float(traced(np.float32(4.0))) == 8.0
    assert len(runs) == 1
    assert traced(array_api_strict.asarray([1.0])).tolist() == [2.0]


def test_dataclasses_dicts_and_tuples_are_nests():
    @dataclasses.dataclass
    class Batch:
        x: object
        label: str

    f = dg.function(lambda batch, rest: Batch(batch.x * rest["a"][0], batch.x))

    result = f(Batch(X, "train"), {"a": (dg.asarray(3.0), None)})

    np.testing.assert_array_equal(result.x.numpy(), [3.0, 6.0])
    np.testing.assert_array_equal(result.label.numpy(), [1.0, 2.0])


def test_the_default_dtype_is_part_of_a_signature():
    f = dg.function(lambda n: dg.ones(2) * n)
    assert f(2).dtype == dg.float32
    dg.set_default_dtype("float64")
    try:
        assert f(2).dtype == dg.float64
    finally:
        dg.set_default_dtype("float32")


def test_each_backend_has_a_trace_of_its_own():
    strict = ArrayModuleBackend("strict", array_api_strict)
    f, runs = counted(lambda x: dg.sum(dg.cond(dg.sum(x) > 0, lambda: x * 2.0, lambda: x)))
    traced = dg.function(f)
    there = dg.asarray([1.0, 2.0], backend=strict)
    result, slope = traced(there), dg.grad(traced)(there)

    assert result.backend is strict
    assert slope.backend is strict
    assert float(result) == float(traced(X)) == 6.0
    np.testing.assert_array_equal(slope.numpy(), [2.0, 2.0])
    assert len(runs) == 2
    with pytest.raises((TraceError, MixedBackendError), match="strict"):
        dg.function(lambda x, y: x + y)(X, there)


def test_nothing_but_static_values_runs_on_the_backend_in_force():
    strict = ArrayModuleBackend("strict", array_api_strict)
    f = dg.function(dg.ones)

    assert f(2).backend.name == "numpy"
    with dg.use_backend(strict):
        assert f(2).backend is strict


def test_a_function_in_a_function_and_one_that_calls_itself():
    @dg.function
    def power(x, n):
        return x if n == 0 else power(x, n - 1) * x

    outer = dg.function(lambda x: power(x, 3) + 1.0)

    np.testing.assert_array_equal(outer(X).numpy(), [2.0, 17.0])


def test_a_function_that_calls_itself_without_end_is_refused():
    @dg.function
    def down(x):
        return dg.cond(x > 0, lambda: down(x - 1.0), lambda: x)

    with pytest.raises(TraceError, match="down: it calls itself without end"):
        down(dg.asarray(3.0))


# --- captured values ------------------------------------------------------------------------------


@pytest.mark.parametrize("called_before", [False, True])
def test_a_captured_tensor_that_a_tape_follows_gets_its_gradient(called_before):
    w = dg.asarray(3.0)
    f = dg.function(lambda x: dg.sum(x * w * w))
    if called_before:
        f(X)
    with dg.GradientTape() as tape:
        tape.watch(w)
        y = f(X)

    assert float(tape.gradient(y, w)) == 18.0
    assert float(f(X)) == 27.0


def test_functions_inside_of_transformations_may_capture_their_values():
    outer = dg.vmap(lambda w: dg.function(lambda x: dg.sum(x * w))(X))
    slope = dg.grad(lambda w: dg.function(lambda x: dg.sum(x * w**2))(X))

    np.testing.assert_array_equal(outer(np.array([1.0, 2.0])).numpy(), [3.0, 6.0])
    assert float(slope(2.0)) == 12.0


def test_a_value_of_another_trace_is_refused_with_the_line():
    kept = []
    dg.function(lambda x: kept.append(x) or x)(X)

    with pytest.raises(TraceError, match=r"test_signatures\.py:\d+ a symbolic value"):
        dg.function(lambda x: x + kept[0])(X)


# --- variables that are created -------------------------------------------------------------------


class Scale:
    """A layer that makes its variable when it is called for the first time."""

    def __init__(self):
        self.weight = None

    @dg.function
    def __call__(self, x):
        if self.weight is None:
            self.weight = dg.Variable(dg.ones(x.shape[-1:]) * 3.0, name="weight")
        return dg.sum(x * self.weight)


def test_a_variable_may_be_created_at_the_first_call():
    layer = Scale()
    with dg.GradientTape() as tape:
        y = layer(X)

    assert float(y) == 9.0
    np.testing.assert_array_equal(layer.weight.numpy(), [3.0, 3.0])
    np.testing.assert_array_equal(tape.gradient(y, layer.weight).numpy(), [1.0, 2.0])
    layer.weight.assign([1.0, 1.0])
    assert float(layer(X)) == 3.0


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: x * dg.Variable(1.0), "creates a variable and does not keep it"),
        (lambda x: kept.append(dg.Variable(x)) or x, "depends on the arguments"),
        (lambda x: dg.cond(dg.sum(x) > 0, lambda: x * dg.Variable(1.0), lambda: x), "is created"),
    ],
)
def test_other_variables_are_refused(f, message):
    with pytest.raises(TraceError, match=message):
        dg.function(f)(X)


kept: list = []


def test_a_variable_created_at_a_later_call_is_refused():
    f = dg.function(lambda x, n: x * n if n < 2 else kept.append(dg.Variable(1.0)) or x)
    f(X, 1)

    with pytest.raises(TraceError, match="for the first time only"):
        f(X, 2)


def test_a_variable_in_a_mapped_function_is_refused():
    with pytest.raises(TypeError, match="belongs to a transformation"):
        dg.vmap(lambda x: dg.Variable(x) * 1.0)(X)


# --- lifetimes ------------------------------------------------------------------------------------


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("differentiated", [False, True])
def test_an_object_and_its_variables_go_when_the_object_does(differentiated):
    layer = Scale()
    if differentiated:
        with dg.GradientTape() as tape:
            y = layer(X)
        tape.gradient(y, layer.weight)
        del tape, y
    else:
        layer(X)
    alive = weakref.ref(layer), weakref.ref(layer.weight)
    del layer

    assert [each() for each in alive] == [None, None]


@pytest.mark.usefixtures("no_collector")
def test_the_trace_of_a_variable_that_is_no_more_is_dropped():
    f = dg.function(lambda v: v * 2.0)
    for value in (1.0, 2.0):
        v = dg.Variable(value)
        assert float(f(v)) == 2 * value
        del v

    assert f.explain().traces == ()


def test_methods_keep_their_object_while_they_are_held():
    method = Scale().__call__

    assert float(method(X)) == 9.0
    assert "multiply" in str(method.graph(X))
    assert len(method.explain().traces) == 1


# --- threads --------------------------------------------------------------------------------------


def test_threads_that_call_at_once_trace_once():
    runs = []

    @dg.function
    def f(x):
        runs.append(1)
        time.sleep(0.05)  # long enough for the others to arrive
        return dg.sum(dg.sin(x) * x)

    results, errors = [], []
    barrier = threading.Barrier(5)

    def work():
        try:
            barrier.wait()
            for _ in range(20):
                with dg.GradientTape() as tape:
                    tape.watch(X)
                    y = f(X)
                results.append((float(y), tuple(tape.gradient(y, X).tolist())))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert len(runs) == 1
    assert len(set(results)) == 1
    assert len(results) == 100


def test_the_warning_of_many_traces_points_at_the_users_line():
    f = dg.function(lambda x, n: x * n)
    f(X, 1)
    f(X, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        f(X, 3)

    assert "n: 2 became 3" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_call_that_raised_does_not_count_as_a_trace():
    @dg.function
    def f(x, fails):
        if fails:
            raise KeyError(fails)
        return x + 1

    for _ in range(4):  # a warning would be an error
        with pytest.raises(KeyError):
            f(dg.ones(3), True)
    f(dg.ones(3), False)

    assert f.explain().traced == 1

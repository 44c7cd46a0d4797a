"""`debug_nans` names the operation that makes a NaN or an infinity; `trace_lines` notes lines."""

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import ArrayModuleBackend
from distgrad.core import LISTENERS
from distgrad.errors import NonFiniteError


def test_forward_operation_is_named_with_its_line():
    x = dg.Variable([1.0, -1.0])
    with dg.debug_nans(), pytest.raises(NonFiniteError) as caught:
        dg.sqrt(x)  # the line

    assert caught.value.operation == "sqrt"
    assert "sqrt made a NaN, at test_debug.py:" in str(caught.value)
    assert "dg.sqrt(x)  # the line" in caught.value.line
    assert caught.value.gradient_of is None


@pytest.mark.parametrize(
    ("f", "operation"),
    [
        (lambda x: dg.log(x - 1.0), "log"),
        (lambda x: 1.0 / (x - 1.0), "divide"),
        (lambda x: dg.exp(x * 1000.0), "exp"),
        (lambda x: (x * np.inf) - (x * np.inf), "subtract"),
    ],
)
def test_operation_that_makes_it_is_named_and_not_one_that_passes_it_on(f, operation):
    with dg.debug_nans(), pytest.raises(NonFiniteError) as caught:
        f(dg.asarray([1.0, 2.0]))

    assert caught.value.operation == operation


def test_infinities_that_come_in_are_passed_on():
    with dg.debug_nans():
        x = dg.asarray([0.5, 2.0])
        masked = dg.where(x > 1.0, x, -np.inf)
        found = dg.softmax(masked)
        dg.max(masked * 2.0)

    np.testing.assert_array_equal(found.numpy(), [0.0, 1.0])


@pytest.mark.parametrize("persistent", [False, True])
def test_backward_pass_names_the_operation_whose_gradient_it_is_and_its_line(persistent):
    x = dg.Variable([0.0, 1.0])
    with dg.debug_nans(), dg.GradientTape(persistent=persistent) as tape:
        root = dg.sqrt(x)  # forward is fine
        y = dg.sum(root)
        with pytest.raises(NonFiniteError) as caught:
            tape.gradient(y, x)  # backward is not

    assert caught.value.gradient_of == "sqrt"
    assert "in the gradient of sqrt, which ran at test_debug.py:" in str(caught.value)
    assert "root = dg.sqrt(x)  # forward is fine" in str(caught.value)
    assert "tape.gradient(y, x)  # backward is not" in str(caught.value)


def test_jacobian_and_forward_mode_are_looked_at():
    x = dg.Variable([0.0, 1.0])
    with dg.debug_nans():
        with dg.GradientTape() as tape:
            y = dg.sqrt(x)
        with pytest.raises(NonFiniteError, match="in the gradient of sqrt"):
            tape.jacobian(y, x)
        with (
            pytest.raises(NonFiniteError, match="made an infinity"),
            dg.ForwardAccumulator(x, [1.0, 1.0]),
        ):
            dg.sqrt(x)


def test_nothing_is_checked_outside_of_the_block():
    before = LISTENERS.get()
    with dg.debug_nans():
        pass

    assert LISTENERS.get() == before
    with pytest.warns(RuntimeWarning, match="sqrt"):  # NumPy's own
        assert np.isnan(dg.sqrt(dg.asarray(-1.0)).numpy())


def test_block_that_raises_is_left():
    with pytest.raises(NonFiniteError), dg.debug_nans():
        dg.log(dg.asarray(0.0))

    assert LISTENERS.get() == ()


def test_integers_and_other_backends_are_looked_at_as_well():
    strict = ArrayModuleBackend("strict", array_api_strict)
    with dg.debug_nans():
        assert dg.sum(dg.asarray([1, 2])).item() == 3
        with pytest.raises(NonFiniteError, match="log made"):
            dg.log(dg.asarray([0.0], backend=strict))


def test_gradients_are_the_same_under_debugging():
    x = dg.Variable([0.5, 1.5])

    def slope():
        with dg.GradientTape() as tape:
            y = dg.sum(dg.sqrt(x) * dg.tanh(x) + x / 3.0)
        return tape.gradient(y, x).numpy()

    with dg.debug_nans():
        found = slope()

    np.testing.assert_array_equal(found, slope())


def test_lines_are_noted_for_every_value():
    with dg.debug.trace_lines() as lines:
        x = dg.asarray([1.0]) * 2.0  # made here

    assert "x = dg.asarray([1.0]) * 2.0  # made here" in lines.by_key[x.key]
    assert LISTENERS.get() == ()


# --- inside of traced functions -------------------------------------------------------------------


def test_operation_inside_a_traced_function_is_named_with_the_line_where_it_was_traced():
    @dg.function
    def f(x):
        shifted = x - 1.0
        return dg.sum(dg.sqrt(shifted) * 2.0)  # the traced line

    f(dg.asarray([4.0]))
    with dg.debug_nans(), pytest.raises(NonFiniteError) as caught:
        f(dg.asarray([0.5]))

    assert caught.value.operation == "sqrt"
    assert "sqrt made a NaN, at test_debug.py:" in str(caught.value)
    assert "dg.sqrt(shifted) * 2.0)  # the traced line" in str(caught.value)
    assert "(%2 of the traced function 'f')" in str(caught.value)


@pytest.mark.parametrize("differentiated_before", [False, True])
def test_backward_pass_of_a_traced_function_names_the_forward_operation(differentiated_before):
    @dg.function
    def f(x):
        return dg.sum(dg.sqrt(x) * 3.0)  # forward is fine

    if differentiated_before:
        dg.grad(f)(dg.asarray([1.0]))
    x = dg.Variable([0.0])
    with dg.debug_nans(), dg.GradientTape() as tape:
        y = f(x.value())
        with pytest.raises(NonFiniteError) as caught:
            tape.gradient(y, x)  # backward is not

    assert caught.value.operation == "divide"
    assert caught.value.gradient_of == "sqrt"
    assert "which ran at test_debug.py" in str(caught.value)
    assert "dg.sqrt(x) * 3.0)  # forward is fine" in str(caught.value)
    assert "tape.gradient(y, x)  # backward is not" in str(caught.value)


def test_tape_inside_a_traced_function_names_both_lines():
    @dg.function
    def step(x):
        with dg.GradientTape() as tape:
            tape.watch(x)
            y = dg.sqrt(x)  # the root
        return tape.gradient(y, x)  # its slope

    with dg.debug_nans(), pytest.raises(NonFiniteError) as caught:
        step(dg.asarray([0.0]))

    assert caught.value.gradient_of == "sqrt"
    assert "y = dg.sqrt(x)  # the root" in str(caught.value)
    assert "tape.gradient(y, x)  # its slope" in str(caught.value)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: dg.while_loop(lambda s: dg.sum(s) > -5.0, lambda s: dg.log(s) - 1.0, x),
        lambda x: dg.scan(lambda c, v: (dg.log(c - v), c), x, dg.asarray([1.0, 1.0, 1.0]))[0],
        lambda x: dg.cond(dg.sum(x) > 0, lambda: dg.log(x - 2.0), lambda: x),
    ],
    ids=["while_loop", "scan", "cond"],
)
@pytest.mark.parametrize("run", [dg.function, lambda f: lambda x: dg.vmap(f)(x[None])])
def test_bodies_of_control_flow_are_looked_into(f, run):
    traced = run(f)
    with dg.debug_nans(), pytest.raises(NonFiniteError) as caught:
        traced(dg.asarray([2.0]))

    assert caught.value.operation == "log"
    assert "test_debug.py" in caught.value.line
    assert "dg.log(" in caught.value.line


def test_what_a_traced_function_computes_at_once_is_looked_at():
    table = dg.asarray([0.0, 1.0])

    with dg.debug_nans(), pytest.raises(NonFiniteError, match="log made an infinity"):
        dg.function(lambda x: x * dg.log(table))(dg.asarray([1.0, 1.0]))


def test_traced_results_are_the_same_under_debugging():
    f = dg.function(lambda x: dg.sum(dg.sqrt(x) * dg.tanh(x)))
    x = dg.asarray([0.5, 1.5])
    with dg.debug_nans():
        found = f(x), dg.grad(f)(x)

    assert float(found[0]) == float(f(x))
    np.testing.assert_array_equal(found[1].numpy(), dg.grad(f)(x).numpy())

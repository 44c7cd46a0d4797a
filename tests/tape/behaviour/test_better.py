"""Where TensorFlow 2.21 is wrong, silent or slow, and we are not.

What is one of these and a row elsewhere in this folder is tested there, under both names.
"""

import contextvars
import threading

import numpy as np
import pytest

import distgrad as dg

row = pytest.mark.row

# NumPy says that a logarithm or quotient at zero is infinite; the gradient is what matters here.
infinite_inside = pytest.mark.filterwarnings(
    "ignore:divide by zero encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning"
)


@row("B4", differs="TensorFlow returns None and says nothing")
def test_missing_gradient_is_explained_at_once_and_on_request(lib):
    x = lib.constant(2.0)
    with lib.GradientTape(persistent=True) as tape:
        y = x * x

    with pytest.warns(UserWarning, match="None for every source") as seen:
        assert tape.gradient(y, x) is None
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="jacobian: None for every source") as seen:
        assert tape.jacobian(y, x) is None
    assert seen[0].filename == __file__
    assert "never watched: call tape.watch(x)" in str(tape.explain(y, x))
    with pytest.raises(ValueError, match="never watched"):
        tape.gradient(y, x, unconnected_gradients="error")


@row("V33", "B10", differs="TensorFlow gives NaN")
def test_power_zero_at_zero_has_slope_zero(lib):
    x = lib.constant([0.0, 2.0])
    exponent = lib.constant([0.0, 0.0])

    assert lib.gradient_of(lambda v: v**0.0, x).numpy().tolist() == [0.0, 0.0]
    assert lib.gradient_of(lambda v: v**exponent, x).numpy().tolist() == [0.0, 0.0]
    found = lib.gradient_of(lambda e: x**e, exponent)
    np.testing.assert_allclose(found.numpy(), [0.0, np.log(2.0)], rtol=1e-6)


@row("B10", differs="TensorFlow gives NaN")
def test_norm_at_zero_has_slope_zero(lib):
    norms = (
        [lib.linalg.vector_norm]
        if lib.native
        else [lib.norm, lib.linalg.norm, lib.math.reduce_euclidean_norm]
    )

    for norm in norms:
        zero, other = lib.constant([0.0, 0.0]), lib.constant([3.0, 4.0])
        assert lib.gradient_of(norm, zero).numpy().tolist() == [0.0, 0.0]
        np.testing.assert_allclose(lib.gradient_of(norm, other).numpy(), [0.6, 0.8], rtol=1e-6)
        by_rows = lib.constant([[0.0, 0.0], [3.0, 4.0]])
        found = lib.gradient_of(lambda v, norm=norm: norm(v, axis=1), by_rows).numpy()
        np.testing.assert_allclose(found, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)


@row("V34", "B10", differs="TensorFlow, PyTorch, JAX and autograd give NaN")
@infinite_inside
@pytest.mark.parametrize(
    "name", ["log", "x log x", "root", "quotient", "root of the negative", "power", "exp"]
)
def test_branch_that_is_not_taken_has_slope_zero_even_where_its_own_is_infinite(lib, name):
    functions = {
        "log": (lib.log, [0.0, 2.0], [0.0, 0.5]),
        "x log x": (lambda v: v * lib.log(v), [0.0, 2.0], [0.0, 1 + np.log(2.0)]),
        "root": (lib.sqrt, [0.0, 4.0], [0.0, 0.25]),
        "quotient": (lambda v: 1.0 / v, [0.0, 2.0], [0.0, -0.25]),
        "root of the negative": (lambda v: lib.sqrt(v) * 2.0, [-1.0, 4.0], [0.0, 0.5]),
        "power": (lambda v: v**0.5, [0.0, 4.0], [0.0, 0.25]),
        "exp": (lambda v: lib.exp(1.0 / v), [0.0, 1.0], [0.0, -np.e]),
    }
    function, at, expected = functions[name]

    def masked(v):
        return lib.where(v > 0.0, function(v), lib.zeros((2,)))

    found = lib.gradient_of(masked, lib.constant(at))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@row("V34", "B10", differs="TensorFlow, PyTorch, JAX and autograd give NaN")
@infinite_inside
def test_branch_that_is_not_taken_has_finite_second_derivatives_too(lib):
    x = lib.constant([0.0, 2.0])
    with lib.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with lib.GradientTape() as inner:
            inner.watch(x)
            y = lib.where(x > 0.0, x * lib.log(x), 0.0)
        slope = inner.gradient(y, x)

    np.testing.assert_allclose(outer.gradient(slope, x).numpy(), [0.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(outer.jacobian(slope, x).numpy(), [[0, 0], [0, 0.5]], rtol=1e-6)


@row("V34", "B10", differs="TensorFlow, PyTorch, JAX and autograd give NaN")
@infinite_inside
def test_branch_that_is_not_taken_has_slope_zero_in_a_traced_function_too(lib):
    @lib.function
    def masked(v):
        return lib.where(v > 0.0, v * lib.log(v), 0.0)

    @lib.function
    def slope(v):
        return lib.gradient_of(masked, v)

    x = lib.constant([0.0, 2.0])
    with lib.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = masked(x)

    expected = [0.0, 1 + np.log(2.0)]
    np.testing.assert_allclose(tape.gradient(y, x).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(tape.jacobian(y, x).numpy(), np.diag(expected), rtol=1e-6)
    np.testing.assert_allclose(slope(x).numpy(), expected, rtol=1e-6)


@row("V34", "B10")
def test_rules_of_the_users_own_work_behind_a_mask(lib):
    w = lib.constant([3.0, 4.0])

    @lib.custom_gradient
    def doubled(v):
        return v * 2.0, lambda dy: dy * w

    def masked(v):
        return lib.where(v > 0.0, lib.recompute_grad(lambda u: doubled(u) * 2.0)(v), v)

    found = lib.gradient_of(masked, lib.constant([1.0, -1.0]))
    assert found.numpy().tolist() == [6.0, 1.0]


def second_order(lib, function, at):
    """Return the first and the second derivative by nested tapes."""
    x = lib.constant(at)
    with lib.GradientTape() as outer:
        outer.watch(x)
        with lib.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
        first = inner.gradient(y, x)
    return first.numpy(), outer.gradient(first, x).numpy()


@row("B12")
def test_gradient_function_with_a_rule_of_its_own_chains(lib):
    @lib.custom_gradient
    def cube(x):
        def grad(dy):
            @lib.custom_gradient
            def slope(dy, x):
                return dy * 3.0 * x**2, lambda ddy: (ddy * 3.0 * x**2, ddy * dy * 6.0 * x)

            return slope(dy, x)

        return x**3, grad

    assert second_order(lib, cube, 3.0) == (27.0, 18.0)
    assert second_order(lib, lambda x: cube(x) ** 2, 2.0) == (6 * 2.0**5, 30 * 2.0**4)


@row("B12")
def test_gradient_function_that_is_itself_decorated_chains_through_what_it_holds(lib):
    @lib.custom_gradient
    def cube(x):
        @lib.custom_gradient
        def slope(dy):
            return dy * 3.0 * x**2, lambda ddy: ddy * 3.0 * x**2

        return x**3, slope

    assert second_order(lib, cube, 3.0) == (27.0, 18.0)


@row("B12", differs="TensorFlow leaves out what the inner rule holds: 288 for 480")
def test_gradient_function_that_is_decorated_and_holds_an_argument_chains_behind_more(lib):
    @lib.custom_gradient
    def cube(x):
        @lib.custom_gradient
        def slope(dy):
            return dy * 3.0 * x**2, lambda ddy: ddy * 3.0 * x**2

        return x**3, slope

    assert second_order(lib, lambda x: cube(x) ** 2, 2.0) == (6 * 2.0**5, 30 * 2.0**4)


@row("B13b", differs="TensorFlow crashes here with variables that are not its own")
def test_zeros_for_unconnected_variables_of_a_class_of_the_users_own(lib):
    class Parameter(lib.Variable):
        """A variable with something of its own, as a framework's layers make them."""

        role = "kernel"

    used, unused = Parameter([1.0, 2.0]), Parameter([[3.0]])
    with lib.GradientTape() as tape:
        y = lib.reduce_sum(used * used)
    found = tape.gradient(y, {"used": used, "unused": unused}, unconnected_gradients="zero")

    assert found["used"].numpy().tolist() == [2.0, 4.0]
    assert found["unused"].numpy().tolist() == [[0.0]]


@row("B14", differs="TensorFlow drops the operations of other threads")
def test_thread_that_takes_the_context_along_is_heard_and_one_that_does_not_is_explained(lib):
    x = lib.Variable(3.0)
    results = {}
    with dg.debug.trace_lines(), lib.GradientTape(persistent=True) as tape:
        context = contextvars.copy_context()

        def along():
            results["along"] = context.run(lambda: x * x)

        def alone():
            results["alone"] = x * x

        for work in (along, alone):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    assert tape.gradient(results["along"], x).numpy() == 6.0
    assert "another thread" in str(tape.explain(results["alone"], x))

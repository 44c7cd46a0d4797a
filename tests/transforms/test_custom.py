"""Rules that users write: custom gradients, straight-through, recomputation, to any order."""

import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError, TraceError


@dg.custom_gradient
def log1pexp(x):
    e = dg.exp(x)
    return dg.log(1 + e), lambda upstream: upstream * (1 - 1 / (1 + e))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_rule_is_used_where_the_formula_would_overflow():
    with np.errstate(over="ignore"):
        assert float(dg.grad(log1pexp)(1000.0)) == 1.0


def test_higher_orders_pass_through_values_that_the_function_computed():
    s = sigmoid(0.4)
    x = dg.asarray(0.4, dtype="float64")

    assert float(dg.grad(dg.grad(log1pexp))(x)) == pytest.approx(s * (1 - s))
    assert float(dg.grad(dg.grad(dg.grad(log1pexp)))(x)) == pytest.approx(s * (1 - s) * (1 - 2 * s))


def test_forward_mode_transposes_the_rule():
    s = sigmoid(0.4)
    x = dg.asarray(0.4, dtype="float64")

    assert float(dg.jvp(log1pexp, (x,), (2.0,))[1]) == pytest.approx(2 * s)
    assert float(dg.jvp(dg.grad(log1pexp), (x,), (1.0,))[1]) == pytest.approx(s * (1 - s))


@dg.custom_gradient
def fixed_point(w):
    """Return z = tanh(w z + 1), whose rule solves u = g + w tanh'(w z + 1) u by iteration."""

    def change(pair):
        return dg.max(dg.abs(pair[0] - pair[1])) > 1e-12

    def step(z):
        return dg.tanh(w * z + 1.0)

    z = dg.while_loop(change, lambda pair: (step(pair[0]), pair[0]), (w * 0.0, w * 0.0 + 1.0))[0]

    def grad(g):
        slope = 1.0 - step(z) ** 2

        def again(pair):
            return g + w * slope * pair[0], pair[0]

        u = dg.while_loop(change, again, (g, g * 0.0 + 1.0))[0]
        return u * slope * z

    return z, grad


def push_by_accumulator(f, x, t):
    with dg.ForwardAccumulator(x, t) as pushed:
        y = f(x)
    return pushed.jvp(y)


@pytest.mark.parametrize(
    "push",
    [
        lambda f, x, t: dg.jvp(f, (x,), (t,))[1],
        lambda f, x, t: dg.function(lambda x: dg.jvp(f, (x,), (t,))[1])(x),
        push_by_accumulator,
        lambda f, x, t: dg.vmap(lambda x, t: dg.jvp(f, (x,), (t,))[1])(x, t),
        lambda f, x, t: dg.jvp(dg.function(f), (x,), (t,))[1],
    ],
)
def test_forward_mode_lets_a_rule_that_iterates_converge(push):
    w = dg.asarray([0.7, -0.4, 0.9], dtype="float64")
    t = dg.asarray([1.0, 2.0, 0.5], dtype="float64")

    found = push(fixed_point, w, t)
    curved = push(dg.grad(lambda w: dg.sum(fixed_point(w) ** 3)), w, t)

    step = 1e-6
    ahead, behind = w + step * t, w - step * t
    slope = (fixed_point(ahead) - fixed_point(behind)) / (2 * step)
    np.testing.assert_allclose(found.numpy(), slope.numpy(), rtol=1e-7)
    cubed = dg.grad(lambda w: dg.sum(fixed_point(w) ** 3))
    curvature = (cubed(ahead) - cubed(behind)) / (2 * step)
    np.testing.assert_allclose(curved.numpy(), curvature.numpy(), rtol=1e-7)


def test_forward_mode_does_not_clip_where_a_rule_clips_cotangents():
    @dg.custom_gradient
    def clipped(x):
        return x * 2.0, lambda g: dg.clip(2.0 * g, -1.0, 1.0)

    assert dg.jvp(clipped, (dg.ones(3),), (dg.ones(3),))[1].tolist() == [2.0] * 3


def test_a_gradient_function_with_a_custom_gradient_of_its_own_chains():
    # TensorFlow gives None for the second order here (its issue 34503).
    @dg.custom_gradient
    def cube(x):
        @dg.custom_gradient
        def slope(x, upstream):
            def rule(u):
                return u * upstream * 6 * x, u * 3 * x * x

            return upstream * 3 * x * x, rule

        return x * x * x, lambda upstream: slope(x, upstream)

    assert float(dg.grad(dg.grad(cube))(2.0)) == 12.0


# --- what the function holds on to ----------------------------------------------------------------


@dg.custom_gradient
def cube(x):
    @dg.custom_gradient
    def slope(upstream):  # holds on to x
        return upstream * 3 * x**2, lambda u: u * 3 * x**2

    return x**3, slope


def sixth_power(x):
    return cube(x) ** 2


ONE = dg.asarray(1.0, dtype="float64")
SECOND = {
    "reverse over reverse": dg.grad(dg.grad(sixth_power)),
    "forward over reverse": lambda x: dg.jvp(dg.grad(sixth_power), (x,), (ONE,))[1],
    "reverse over forward": dg.grad(lambda x: dg.jvp(sixth_power, (x,), (ONE,))[1]),
    "forward over forward": lambda x: dg.jvp(
        lambda x: dg.jvp(sixth_power, (x,), (ONE,))[1], (x,), (ONE,)
    )[1],
    "hessian": dg.hessian(sixth_power),
    "jacrev of jacrev": dg.jacrev(dg.jacrev(sixth_power)),
    "traced": dg.function(dg.grad(dg.grad(sixth_power))),
    "over a batch": lambda x: dg.vmap(dg.grad(dg.grad(sixth_power)))(dg.stack([x, x]))[0],
    "batch inside": lambda x: dg.grad(
        lambda x: dg.sum(dg.grad(lambda x: dg.sum(dg.vmap(sixth_power)(x)))(x))
    )(dg.stack([x, x]))[1],
}


@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND.keys())
def test_a_rule_that_holds_on_to_an_argument_is_differentiated_through_it(second):
    assert float(second(dg.asarray(2.0, dtype="float64"))) == pytest.approx(480.0)


def test_the_third_order_passes_through_what_a_rule_holds():
    third = dg.grad(dg.grad(dg.grad(sixth_power)))

    assert float(third(dg.asarray(2.0, dtype="float64"))) == pytest.approx(960.0)


def test_one_persistent_tape_passes_through_what_a_rule_holds_of_a_variable():
    x = dg.Variable(2.0, dtype="float64")
    with dg.GradientTape(persistent=True) as tape:
        y = sixth_power(x)
        first = tape.gradient(y, x)

    assert float(tape.gradient(first, x)) == pytest.approx(480.0)


def test_a_second_derivative_of_what_a_trace_has_left_says_what_to_do():
    with pytest.raises(TraceError, match="pass the value as an argument"):
        dg.grad(dg.grad(dg.function(sixth_power)))(2.0)


def test_a_captured_tensor_has_the_gradient_of_the_function_and_an_argument_that_of_the_rule():
    def product(x, w):
        @dg.custom_gradient
        def f(x):
            return x * w * w, lambda upstream: 100.0 * upstream

        return f(x)

    x, w = dg.asarray(2.0), dg.asarray(5.0)

    to_x, to_w = dg.grad(product, argnums=(0, 1))(x, w)
    assert (float(to_x), float(to_w)) == (100.0, 20.0)
    assert float(dg.grad(product, argnums=1)(x, w)) == 20.0
    assert float(dg.jvp(product, (x, w), (1.0, 1.0))[1]) == 120.0


def test_a_captured_tensor_that_is_the_result_passes_its_gradient_on():
    def both(x, w):
        return sum(dg.custom_gradient(lambda x: ((x, w), lambda u, v: 7.0 * u))(x))

    to_x, to_w = dg.grad(both, argnums=(0, 1))(dg.asarray(2.0), dg.asarray(5.0))

    assert (float(to_x), float(to_w)) == (7.0, 1.0)


def test_captured_variables_get_the_gradients_that_the_rule_returns():
    w = dg.Variable(3.0, name="w")

    @dg.custom_gradient
    def f(x):
        def rule(upstream, variables):
            assert [v.name for v in variables] == ["w"]
            return upstream * 100.0, [upstream * 7.0]

        return x * w, rule

    x = dg.Variable(2.0)
    with dg.GradientTape() as tape:
        y = f(x)
    to_x, to_w = tape.gradient(y, [x, w])

    assert float(to_x) == 100.0
    assert float(to_w) == 7.0


def test_methods_keywords_and_several_outputs_work():
    class Model:
        @dg.custom_gradient
        def split(self_x, *, scale):
            return (self_x * scale, self_x + scale), lambda a, b: a * scale + b

    first, second = Model.split(dg.asarray(2.0), scale=3.0)
    gradient = dg.grad(lambda x: sum(Model.split(x, scale=3.0)))(2.0)

    assert (float(first), float(second)) == (6.0, 5.0)
    assert float(gradient) == 4.0


def test_a_method_is_bound_and_its_object_has_no_gradient():
    class Scaled:
        def __init__(self, scale):
            self.scale = scale

        @dg.custom_gradient
        def __call__(self, x, mode):
            return x * self.scale, lambda u: u * (self.scale if mode == "right" else 0.0)

        @dg.recompute_grad
        def again(self, x):
            return dg.sin(x) * self.scale

    model, x = Scaled(3.0), dg.asarray(2.0)

    assert float(dg.grad(lambda x: model(x, "right"))(x)) == 3.0
    assert float(dg.grad(lambda x: model(x, "wrong"))(x)) == 0.0
    assert float(dg.grad(model.again)(x)) == pytest.approx(3 * np.cos(2.0), rel=1e-6)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda u: (u, u), ValueError, "expected to return 1 gradients, but returned 2"),
        (lambda u: np.ones(5, np.float32), ShapeError, r"shape \(5,\), its argument \(2,\)"),
        (lambda u: u * 1j, DTypeError, "expected a real gradient"),
    ],
)
def test_a_rule_that_returns_nonsense_is_refused(returned, error, message):
    f = dg.custom_gradient(lambda x: (x * 1.0, returned))
    x = dg.Variable([1.0, 2.0])
    with dg.GradientTape() as tape:
        y = f(x)

    with pytest.raises(error, match=message):
        tape.gradient(y, x)


def test_a_rule_that_forgets_captured_variables_is_refused():
    w = dg.Variable(3.0, name="forgotten")

    with pytest.raises(TypeError, match=r"must accept keyword argument 'variables'.*forgotten"):
        dg.custom_gradient(lambda x: (x * w, lambda u: u))(dg.asarray(1.0))


def test_straight_through_passes_the_gradient_and_keeps_the_value():
    f = dg.grad_pass_through(dg.round)

    value, gradient = dg.value_and_grad(lambda x: dg.sum(f(x) * x))(np.array([1.2, 2.7]))

    assert float(value) == pytest.approx(1.2 + 3 * 2.7)
    np.testing.assert_allclose(gradient.numpy(), [1.2 + 1, 2.7 + 3], rtol=1e-6)


def block(x, w):
    return dg.tanh(x * w) * x


def test_recomputation_gives_the_same_derivatives_to_second_order():
    again = dg.recompute_grad(block)
    x, w = dg.asarray(0.6, dtype="float64"), dg.asarray(1.3, dtype="float64")
    for order in (lambda f: f, dg.grad, lambda f: dg.grad(dg.grad(f))):
        assert float(order(again)(x, w)) == pytest.approx(float(order(block)(x, w)), rel=1e-13)

    forward = dg.jvp(dg.grad(again), (x, w), (1.0, 0.0))[1]
    assert float(forward) == pytest.approx(float(dg.grad(dg.grad(block))(x, w)), rel=1e-13)


@pytest.mark.parametrize(
    "derivative",
    [
        dg.grad,
        lambda f: dg.grad(dg.grad(f)),
        lambda f: dg.jacfwd(dg.jacfwd(f)),
        lambda f: dg.jacfwd(dg.grad(f)),
        lambda f: lambda x: dg.vmap(dg.grad(f))(dg.stack([x, x]))[0],
        lambda f: dg.function(dg.grad(dg.grad(f))),
    ],
)
def test_recomputation_of_a_value_that_is_passed_twice_counts_each_place_once(derivative):
    def cube(wrap):
        return lambda x: wrap(lambda a, b: a * b * a)(x, x)

    x = dg.asarray(2.0)

    assert float(derivative(cube(dg.recompute_grad))(x)) == float(derivative(cube(lambda f: f))(x))


@pytest.mark.parametrize(
    "derivative",
    [
        dg.grad,
        lambda f: dg.grad(dg.grad(f)),
        lambda f: dg.jacfwd(dg.jacfwd(f)),
        lambda f: dg.jacfwd(dg.grad(f)),
        lambda f: dg.function(dg.grad(dg.grad(f))),
    ],
)
def test_recomputation_differentiates_an_argument_that_is_captured_as_well(derivative):
    def cube(wrap):
        return lambda x: wrap(lambda a, b: a * x * b)(x, x)

    x = dg.asarray(2.0)

    assert float(derivative(cube(dg.recompute_grad))(x)) == float(derivative(cube(lambda f: f))(x))


@pytest.mark.parametrize("around", ["plain", "vmap", "function"])
def test_recomputation_differentiates_a_variable_that_is_passed_and_captured(around):
    v = dg.Variable(2.0)
    cube = dg.recompute_grad(lambda a, x: a * v * a * x)

    def total(x):
        return {
            "plain": lambda: dg.sum(cube(v, x)),
            "vmap": lambda: dg.sum(dg.vmap(lambda x: cube(v, x))(x)),
            "function": lambda: dg.sum(dg.function(lambda x: cube(v, x))(x)),
        }[around]()

    with dg.GradientTape() as outer:
        with dg.GradientTape() as tape:
            y = total(dg.asarray([1.0, 2.0]))
        slope = tape.gradient(y, v)
    with dg.ForwardAccumulator(v, 1.0) as pushed:
        y = total(dg.asarray([1.0, 2.0]))

    assert float(slope) == float(pushed.jvp(y)) == 3 * 3 * 4
    assert float(outer.gradient(slope, v)) == 3 * 6 * 2


def test_recomputation_reaches_captured_variables():
    w = dg.Variable(1.3)
    again = dg.recompute_grad(lambda x: block(x, w))
    with dg.GradientTape() as tape:
        y = again(dg.asarray(0.6))

    assert float(tape.gradient(y, w)) == pytest.approx(0.36 / np.cosh(0.78) ** 2, rel=1e-5)


MATRIX = np.array([[1.0, 2.0], [3.0, 4.0]])


def holding(wrap):
    """Return a function of a matrix, through a function within that holds on to it."""

    def inner(matrix, x):
        return dg.sin(matrix @ x) * dg.sum(matrix)

    return lambda matrix: dg.sum(wrap(lambda x: inner(matrix, x))(dg.asarray([0.5, -1.0])))


@pytest.mark.parametrize(
    "derivative",
    [
        dg.grad,
        dg.hessian,
        lambda f: dg.jacfwd(dg.jacfwd(f)),
        lambda f: dg.jacrev(dg.jacrev(f)),
        lambda f: dg.function(dg.grad(f)),
        lambda f: dg.grad(dg.function(f)),
        lambda f: lambda x: dg.jvp(f, (x,), (dg.ones_like(x),))[1],
        lambda f: dg.grad(lambda x: dg.recompute_grad(lambda y: y * f(x))(dg.sum(x))),
        lambda f: dg.grad(lambda x: dg.recompute_grad(lambda: f(x))()),
    ],
    ids=[
        *("gradient", "hessian", "forward twice", "reverse twice", "traced gradient"),
        *("gradient of a trace", "forward", "within another", "within another without inputs"),
    ],
)
def test_recomputation_reaches_captured_tensors(derivative):
    found = derivative(holding(dg.recompute_grad))(dg.asarray(MATRIX))

    expected = derivative(holding(lambda f: f))(dg.asarray(MATRIX))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-13)


def test_recomputation_reaches_what_was_computed_before_and_is_returned_as_it_is():
    v = dg.Variable([1.0, 2.0])
    with dg.GradientTape(persistent=True) as tape:
        squares = v * v
        weighed = dg.recompute_grad(lambda s: dg.sum(squares * s))(3.0 * v)
        same, total = dg.recompute_grad(lambda: (squares, dg.sum(squares)))()
        alone = dg.recompute_grad(lambda: squares)()

    assert tape.gradient(weighed, v).numpy().tolist() == [9.0, 36.0]
    assert tape.gradient(weighed, squares).numpy().tolist() == [3.0, 6.0]
    assert tape.gradient(same, v).numpy().tolist() == [2.0, 4.0]
    assert tape.gradient(alone, v).numpy().tolist() == [2.0, 4.0]
    assert tape.gradient(total, v).numpy().tolist() == [2.0, 4.0]


def test_recomputation_keeps_no_value_of_the_function():
    seen = []

    @dg.recompute_grad
    def f(x):
        inside = dg.exp(x)  # exp keeps its output on a tape
        seen.append(weakref.ref(inside.array))
        return dg.sum(inside)

    x = dg.Variable(np.ones(7))
    with dg.GradientTape() as tape:
        y = f(x)
    dead = seen[0]() is None

    np.testing.assert_allclose(tape.gradient(y, x).numpy(), np.exp(np.ones(7)))
    assert dead
    assert len(seen) == 2


@pytest.mark.usefixtures("only_references_count")
def test_tape_that_is_dropped_lets_go_of_what_a_rule_kept():
    kept = []

    @dg.custom_gradient
    def f(x):
        y = dg.exp(x)
        kept.append(weakref.ref(y.array))
        return 2 * y, lambda upstream: upstream * y

    x = dg.Variable(np.ones(7))
    with dg.GradientTape():
        f(x)

    assert kept[0]() is None

"""Rules that users write are heeded by whoever differentiates, from inside and from outside."""

import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import ShapeError, TraceError

X = np.array([0.3, -0.8, 1.7])


@dg.custom_gradient
def marked(x):
    e = dg.exp(x)  # the rule reads a value from inside
    return dg.log(1 + e), lambda u: u * 10.0 * e


MARKED = 10 * np.exp(X)

AROUND = {
    "plain": lambda f: f,
    "function": dg.function,
    "vmap": dg.vmap,
    "function of vmap": lambda f: dg.function(dg.vmap(f)),
    "vmap of function": lambda f: dg.vmap(dg.function(f)),
    "function of function": lambda f: dg.function(dg.function(f)),
    "recomputed": dg.recompute_grad,
    "function of recomputed": lambda f: dg.function(dg.recompute_grad(f)),
    "recomputed vmap": lambda f: dg.recompute_grad(dg.vmap(f)),
    "in a condition": lambda f: dg.function(lambda x: dg.cond(x[0] > 0, f, dg.negative, x)),
    "in a loop": lambda f: dg.function(lambda x: dg.scan(lambda c, v: (c, f(v)), 0.0, x)[1]),
}


@pytest.mark.parametrize("around", AROUND)
def test_custom_gradient_counts_from_outside(around):
    f, x = AROUND[around](marked), dg.asarray(X)

    np.testing.assert_allclose(f(x).numpy(), np.log(1 + np.exp(X)))
    np.testing.assert_allclose(dg.grad(lambda x: dg.sum(f(x)))(x).numpy(), MARKED)
    np.testing.assert_allclose(dg.jvp(f, (x,), (dg.asarray(X),))[1].numpy(), MARKED * X)
    second = dg.grad(lambda x: dg.sum(dg.grad(lambda x: dg.sum(f(x)))(x)))(x)
    np.testing.assert_allclose(second.numpy(), MARKED)
    np.testing.assert_allclose(dg.jacrev(f)(x).numpy(), np.diag(MARKED), atol=1e-15)


@pytest.mark.parametrize("around", ["function", "vmap", "function of vmap"])
def test_custom_gradient_counts_from_inside(around):
    slope = AROUND[around](dg.grad(lambda x: dg.sum(marked(x))))

    np.testing.assert_allclose(slope(dg.asarray(X)).numpy(), MARKED)


@pytest.mark.parametrize("around", AROUND)
def test_stop_gradient_cuts_from_outside(around):
    f, x = AROUND[around](lambda x: dg.stop_gradient(x) * x), dg.asarray(X)

    np.testing.assert_allclose(dg.grad(lambda x: dg.sum(f(x)))(x).numpy(), X)
    np.testing.assert_allclose(dg.jvp(f, (x,), (dg.ones_like(x),))[1].numpy(), X)


@pytest.mark.parametrize("around", AROUND)
def test_straight_through_counts_from_outside(around):
    f, x = AROUND[around](dg.grad_pass_through(lambda v: dg.round(v) * 3.0)), dg.asarray(X)

    np.testing.assert_allclose(f(x).numpy(), np.round(X) * 3)
    np.testing.assert_allclose(dg.grad(lambda x: dg.sum(f(x) * x))(x).numpy(), np.round(X) * 3 + X)
    np.testing.assert_allclose(dg.jvp(f, (x,), (x,))[1].numpy(), X)


@pytest.mark.parametrize("around", AROUND)
def test_recomputation_counts_from_outside(around):
    f = AROUND[around](dg.recompute_grad(lambda x: dg.sin(x) * x))
    x = dg.asarray(X)

    slope = np.cos(X) * X + np.sin(X)
    np.testing.assert_allclose(dg.grad(lambda x: dg.sum(f(x)))(x).numpy(), slope)
    np.testing.assert_allclose(dg.jvp(f, (x,), (x,))[1].numpy(), slope * X)
    second = dg.grad(lambda x: dg.sum(dg.grad(lambda x: dg.sum(f(x)))(x)))(x)
    np.testing.assert_allclose(second.numpy(), 2 * np.cos(X) - X * np.sin(X))


# --- captured variables, in traced functions ------------------------------------------------------


@pytest.mark.parametrize("around", ["plain", "function", "vmap", "function of vmap"])
def test_captured_variables_get_the_gradients_of_the_rule(around):
    w = dg.Variable(3.0, dtype="float64")

    @dg.custom_gradient
    def f(x):
        return x * w, lambda u, variables: (u * 100.0, [7.0 * dg.sum(u)])

    g, x = AROUND[around](f), dg.Variable(X)
    with dg.GradientTape() as tape:
        y = dg.sum(g(dg.positive(x)))
    to_x, to_w = tape.gradient(y, [x, w])

    np.testing.assert_allclose(to_x.numpy(), np.full(3, 100.0))
    assert float(to_w) == 21.0


@pytest.mark.parametrize("around", ["plain", "function", "vmap", "function of vmap"])
def test_recomputation_reaches_captured_variables(around):
    w, frozen = dg.Variable(1.3, dtype="float64"), dg.Variable(2.0, trainable=False)
    f = AROUND[around](dg.recompute_grad(lambda x: dg.tanh(x * w) * frozen))
    x = dg.Variable(X)
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = dg.sum(f(dg.positive(x)))
        to_x, to_w = inner.gradient(y, [x, w])
        total = dg.sum(to_x) + to_w
    second = outer.gradient(total, w)

    slope = 2 / np.cosh(1.3 * X) ** 2
    np.testing.assert_allclose(to_x.numpy(), 1.3 * slope)
    assert float(to_w) == pytest.approx((X * slope).sum())
    bend = -2 * np.tanh(1.3 * X) * slope
    assert float(second) == pytest.approx((slope + (1.3 * X + X * X) * bend).sum())


def test_a_traced_function_that_assigns_between_calls_reads_what_was_then():
    w = dg.Variable(2.0)

    @dg.function
    def f(x):
        y = dg.recompute_grad(lambda x: x * x * w)(x)
        w.assign(w + 1.0)
        return y

    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = f(x)

    assert float(w) == 3.0
    assert float(tape.gradient(y, x)) == 12.0


def test_a_variable_that_only_a_rule_reads_has_its_value_in_the_backward_graph():
    w = dg.Variable(5.0)
    f = dg.function(dg.custom_gradient(lambda x: (x * 1.0, lambda u: u * w.value())))
    x = dg.Variable(1.0)
    found = []
    for value in (5.0, 6.0):
        w.assign(value)
        with dg.GradientTape() as tape:
            y = f(x)
        found.append(float(tape.gradient(y, x)))

    assert found == [5.0, 6.0]


# --- values of the transformation, captured by a closure ------------------------------------------


def test_a_captured_example_is_refused_where_it_could_be_taken_for_another():
    def outer(x, y):
        @dg.custom_gradient
        def f(x):
            return x * y, lambda u: u * y

        return f(x)

    y = dg.asarray(2 * X)

    def total(x):
        return dg.vmap(outer)(x, y)

    # At the same level the batch is the same one.
    np.testing.assert_allclose(dg.grad(lambda x: dg.sum(total(x)))(dg.asarray(X)).numpy(), 2 * X)
    with pytest.raises(TraceError, match="holds on to a value of the vmap in which it was called"):
        dg.jacrev(total)(dg.asarray(X))


def test_a_captured_symbol_is_refused():
    def outer(x, y):
        @dg.custom_gradient
        def f(x):
            return x * y, lambda u: u * y

        return dg.sum(f(x))

    inside = dg.function(dg.grad(outer))(dg.asarray(X), dg.asarray(2 * X))
    np.testing.assert_allclose(inside.numpy(), 2 * X)
    with pytest.raises(TraceError, match="f: the function holds on to a value of the traced"):
        dg.grad(dg.function(outer))(dg.asarray(X), dg.asarray(2 * X))


# --- recomputation --------------------------------------------------------------------------------


def test_recomputation_differentiates_keyword_arguments_and_leaves_numbers_alone():
    @dg.recompute_grad
    def f(x, power, *, scale, axis=0):
        return dg.sum(scale * x**power, axis=axis)

    x, scale = dg.Variable(X), dg.Variable(2.0, dtype="float64")
    with dg.GradientTape() as tape:
        y = f(x, 2, scale=scale, axis=0)
    to_x, to_scale = tape.gradient(y, [x, scale])

    np.testing.assert_allclose(to_x.numpy(), 4 * X)
    assert float(to_scale) == pytest.approx((X**2).sum())


def test_recomputation_nests():
    runs = []

    def inner(x):
        runs.append("inner")
        return dg.sin(x)

    def outer(x):
        runs.append("outer")
        return dg.recompute_grad(inner)(x) * x

    found = dg.grad(lambda x: dg.sum(dg.recompute_grad(outer)(x)))(X)

    np.testing.assert_allclose(found.numpy(), np.cos(X) * X + np.sin(X))
    assert runs == ["outer", "inner", "outer", "inner", "inner"]


def test_third_order_goes_through_recomputation():
    third = dg.grad(dg.grad(dg.grad(dg.recompute_grad(lambda x: dg.sin(x) * x))))

    assert float(third(dg.asarray(0.7, dtype="float64"))) == pytest.approx(
        -3 * np.sin(0.7) - 0.7 * np.cos(0.7)
    )


def test_a_method_is_recomputed():
    class Model:
        def __init__(self):
            self.w = dg.Variable(2.0, dtype="float64")

        @dg.recompute_grad
        def __call__(self, x):
            return dg.sum(dg.sin(x * self.w))

    model = Model()
    with dg.GradientTape() as tape:
        y = model(dg.asarray(X))

    assert float(tape.gradient(y, model.w)) == pytest.approx((X * np.cos(2 * X)).sum())


def test_randomness_from_an_argument_is_the_same_when_it_runs_again():
    @dg.recompute_grad
    def dropout(x, seed):
        mask = np.random.default_rng(seed).random(3) < 0.5
        return dg.where(mask, x * x, 0.0)

    x = dg.Variable(X)
    for seed in range(4):
        with dg.GradientTape() as tape:
            y = dropout(x, seed)
        found = tape.gradient(y, x).numpy()
        np.testing.assert_allclose(found, np.where(y.numpy() != 0, 2 * X, 0))


def test_integers_in_and_out_have_no_gradient():
    @dg.recompute_grad
    def f(x, n):
        return x * n, dg.floor(x).astype("int32")

    x, n = dg.Variable(X), dg.asarray(2)
    with dg.GradientTape() as tape:
        y, whole = f(x, n)
        z = dg.sum(y * whole)

    np.testing.assert_allclose(tape.gradient(z, x).numpy(), 2 * np.floor(X))
    tangent = dg.jvp(lambda x: f(x, n)[0], (X,), (X,))[1]
    np.testing.assert_allclose(tangent.numpy(), 2 * X)


def test_a_recomputed_part_of_a_traced_function_keeps_its_arguments_alone():
    size = 10_000

    def deep(x):
        for _ in range(6):
            x = dg.tanh(dg.sin(x))
        return x

    def kept(f):
        compiled, x = dg.function(lambda x: dg.sum(f(dg.sin(x)))), dg.Variable(np.ones(size))
        with dg.GradientTape() as tape:
            y = compiled(x)
        nbytes = tape.summary().nbytes
        return nbytes, tape.gradient(y, x).numpy()

    plain, expected = kept(deep)
    again, found = kept(dg.recompute_grad(deep))

    assert plain > 6 * size * 8
    assert again <= 2 * size * 8  # x, and sin(x)
    np.testing.assert_allclose(found, expected, rtol=1e-13)  # fused otherwise, rounded otherwise


def test_a_custom_rule_holds_neither_arguments_nor_results():
    seen = []

    @dg.custom_gradient
    def f(x):
        y = x * 2.0
        seen.extend([weakref.ref(x.array), weakref.ref(y.array)])
        return y, lambda u: u * 2.0

    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        z = dg.sum(f(x + 1.0))
    dead = [reference() is None for reference in seen]

    assert dead == [True, True]
    np.testing.assert_array_equal(tape.gradient(z, x).numpy(), np.full(3, 2.0))


# --- straight through -----------------------------------------------------------------------------


def test_straight_through_has_the_very_value_of_the_function():
    x = dg.Variable(1e10, dtype="float32")
    with dg.GradientTape() as tape:
        y = dg.grad_pass_through(lambda x: x * 0.0 + 1e-9)(x)

    assert float(y) == pytest.approx(1e-9)  # x + (f(x) - x) would be 0
    assert float(tape.gradient(y, x)) == 1.0


def test_straight_through_takes_several_arguments():
    f = dg.grad_pass_through(lambda x, y, *, step: (dg.round(x / step) * step, dg.sign(y)))
    x, y = dg.Variable(X), dg.Variable(2 * X)
    with dg.GradientTape() as tape:
        first, second = f(x, y, step=0.5)
        z = dg.sum(first * 3.0 + second * 5.0)
    to_x, to_y = tape.gradient(z, [x, y])

    np.testing.assert_array_equal(to_x.numpy(), np.full(3, 3.0))
    np.testing.assert_array_equal(to_y.numpy(), np.full(3, 5.0))


def test_straight_through_refuses_results_of_another_shape():
    with pytest.raises(ShapeError, match=r"results have shapes \[\(\)\], the arguments \[\(3,\)\]"):
        dg.grad_pass_through(dg.sum)(X)


def test_variables_inside_of_straight_through_get_no_gradient():
    w, x = dg.Variable(2.0), dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = dg.grad_pass_through(lambda x: x * w)(x)

    assert tape.gradient(y, [x, w])[1] is None


@pytest.mark.parametrize("around", ["plain", "function", "vmap", "function of vmap"])
def test_of_a_call_on_constants_the_inside_is_differentiated(around):
    # The rule says nothing about values that the function holds: they are not cut off either.
    def f(w):
        held = dg.custom_gradient(lambda x: (x * w, lambda u: u * 0.0))
        return held(dg.asarray(5.0, dtype="float64"))

    g, w = AROUND[around](f), dg.asarray(X)

    np.testing.assert_allclose(dg.grad(lambda w: dg.sum(g(w)))(w).numpy(), np.full(3, 5.0))
    np.testing.assert_allclose(dg.jvp(g, (w,), (w,))[1].numpy(), 5 * X)


def _custom_product(x):
    @dg.custom_gradient
    def rule(x):
        return dg.sin(x) * x, lambda upstream: upstream * (dg.cos(x) * x + dg.sin(x))

    return rule(x)


@pytest.mark.parametrize(
    "call",
    [
        dg.function(lambda x: dg.sin(x) * x),
        dg.recompute_grad(lambda x: dg.sin(x) * x),
        _custom_product,
        dg.function(lambda x: dg.cond(dg.sum(x) > 0, lambda: dg.sin(x) * x, lambda: x)),
        dg.function(lambda x: dg.scan(lambda c, v: (c, dg.sin(v) * v), 0.0, x)[1]),
    ],
    ids=["function", "recompute", "custom", "cond", "scan"],
)
def test_a_real_result_that_meets_complex_numbers_has_a_real_cotangent(call):
    x = dg.asarray([0.3, 0.8, 1.7], dtype="float64")

    def through(f):
        gradient = dg.grad(lambda x: dg.sum(dg.real((f(x) * (1 + 0.5j)) ** 2)))
        return gradient(x).numpy(), dg.jvp(gradient, (x,), (x,))[1].numpy()

    first, second = through(call)
    expected_first, expected_second = through(lambda x: dg.sin(x) * x)

    np.testing.assert_allclose(first, expected_first)
    np.testing.assert_allclose(second, expected_second)
    assert second.dtype == np.float64


@pytest.mark.parametrize("run", [dg.vmap, dg.function], ids=["batch", "trace"])
@pytest.mark.parametrize("shared", [dg.softmax, lambda x: dg.concat([x, x])[1:4], lambda x: x])
def test_a_pullback_of_numbers_goes_through_values_of_a_transformation(run, shared):
    weights = dg.asarray([[2.0, 3.0, 5.0], [7.0, 0.0, 1.0]])
    x, ones = dg.asarray([0.5, -1.0, 2.0]), dg.ones(3)

    def pulled(w):
        return dg.vjp(lambda x: shared(x) * w, x)[1](ones)[0]

    found = run(pulled)(weights if run is dg.vmap else weights[0])
    expected = [dg.vjp(shared, x)[1](w)[0].numpy() for w in weights]

    np.testing.assert_allclose(
        found.numpy(), expected if run is dg.vmap else expected[0], rtol=1e-6
    )

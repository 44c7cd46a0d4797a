"""Control flow on values: what a plain function does, a traced one does too, to second order."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import ShapeError, TraceError

BOTH = pytest.mark.parametrize("run", [lambda f: f, dg.function], ids=["plain", "traced"])


def at(value):
    return dg.asarray(value, dtype="float64")


@BOTH
@pytest.mark.parametrize(
    ("value", "result", "slope", "curvature"), [(2.0, 8.0, 12.0, 12.0), (-3.0, -9.0, 6.0, -2.0)]
)
def test_cond_takes_the_branch_and_its_derivatives(run, value, result, slope, curvature):
    f = run(lambda x: dg.cond(x > 0, lambda v: v**3, lambda v: -v * x, x))
    x = at(value)

    assert float(f(x)) == result
    assert float(dg.grad(f)(x)) == slope
    assert float(dg.grad(dg.grad(f))(x)) == curvature
    assert float(dg.jvp(f, (x,), (2.0,))[1]) == 2 * slope
    assert float(dg.jvp(dg.grad(f), (x,), (1.0,))[1]) == curvature


@BOTH
def test_while_loop_reaches_captured_variables(run):
    w = dg.Variable(1.5, dtype="float64")

    @run
    def f(x):
        return dg.while_loop(lambda s: s[0] < 4, lambda s: (s[0] + 1, s[1] * w), (at(0), x))[1]

    x = at(2.0)
    with dg.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    to_x, to_w = tape.gradient(y, [x, w])

    assert float(y) == 2 * 1.5**4
    assert float(to_x) == 1.5**4
    assert float(to_w) == 2 * 4 * 1.5**3
    assert float(dg.grad(dg.grad(lambda x: f(x) ** 2))(x)) == 2 * 1.5**8


@BOTH
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_hands_the_carry_on_and_stacks_the_rest(run, reverse):
    xs = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    @run
    def f(start):
        def step(carry, x):
            carry = carry * 2 + dg.sum(x) * start
            return carry, {"carry": carry, "x": x}

        return dg.scan(step, start, xs, reverse=reverse)

    carry, ys = f(at(1.0))
    sums = np.array([3.0, 7.0, 11.0])[:: -1 if reverse else 1]
    states = np.cumsum(sums * [0.5, 0.25, 0.125]) * [2, 4, 8] + [2, 4, 8]
    states = states[:: -1 if reverse else 1]

    np.testing.assert_allclose(ys["carry"].numpy(), states)
    np.testing.assert_array_equal(ys["x"].numpy(), xs)
    assert float(carry) == states[0 if reverse else -1]
    slope = dg.grad(lambda s: dg.sum(f(s)[1]["carry"] ** 2))(at(1.0))
    assert float(slope) == pytest.approx(2 * np.sum(states**2))


@BOTH
def test_a_recurrence_agrees_with_its_unrolled_form(run):
    rng = np.random.default_rng(0)
    w, xs = rng.normal(size=(3, 3)), rng.normal(size=(5, 3))

    @run
    def scanned(w):
        step = lambda h, x: (dg.tanh(h @ w + x),) * 2  # noqa: E731
        return dg.sum(dg.scan(step, np.zeros(3), xs)[1] ** 2)

    def unrolled(w):
        h, total = dg.zeros(3, dtype="float64"), 0.0
        for x in xs:
            h = dg.tanh(h @ w + x)
            total = total + dg.sum(h**2)
        return total

    np.testing.assert_allclose(
        dg.grad(scanned)(w).numpy(), dg.grad(unrolled)(w).numpy(), rtol=1e-12
    )
    product = dg.hvp(scanned, (w,), (w,))[1][0].numpy()
    np.testing.assert_allclose(product, dg.hvp(unrolled, (w,), (w,))[1][0].numpy(), rtol=1e-11)


def test_control_flow_nests_in_a_traced_function():
    @dg.function
    def collatz_steps(n):
        def step(state):
            n, count = state
            following = dg.cond(n % 2 == 0, lambda n: n // 2, lambda n: 3 * n + 1, n)
            return following, count + 1

        return dg.while_loop(lambda s: s[0] > 1, step, (n, dg.asarray(0)))[1]

    assert int(collatz_steps(dg.asarray(27))) == 111
    assert len(collatz_steps._compiled) == 1


def test_a_branch_that_computes_only_with_captured_values_runs_only_when_taken():
    f = dg.function(lambda x: dg.cond(x > 0, lambda: dg.log(x), lambda: x * 2.0))

    assert float(f(at(-3.0))) == -6.0  # no warning of an invalid logarithm
    assert float(dg.grad(f)(at(0.0))) == 2.0  # no 0 * inf from the branch not taken
    assert float(dg.grad(f)(at(4.0))) == 0.25


def test_a_tape_inside_a_traced_function_hears_captured_values():
    @dg.function
    def slope(v):
        with dg.GradientTape() as tape:
            tape.watch(v)
            y = dg.cond(dg.sum(v) > 0, lambda: v * v, lambda: v * 1.0)
        return tape.gradient(y, v)

    np.testing.assert_array_equal(slope(dg.asarray([1.0, 2.0])).numpy(), [2.0, 4.0])
    np.testing.assert_array_equal(slope(dg.asarray([-1.0, -2.0])).numpy(), [1.0, 1.0])


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: dg.cond(x > 0, lambda: x, lambda: (x, x)), "true_fn is .* false_fn is"),
        (lambda x: dg.cond(x > 0, lambda: x, lambda: dg.astype(x, "int32")), "int32"),
        (lambda x: dg.while_loop(lambda s: s > 0, lambda s: s[None], x), "body_fn is"),
        (lambda x: dg.scan(lambda c, v: (c[None], v), x, np.ones(3)), "carry is"),
    ],
)
def test_bodies_that_do_not_fit_are_refused(f, message):
    with pytest.raises(TraceError, match=message):
        dg.function(f)(at(1.0))


def test_an_assignment_in_a_body_is_refused_by_name():
    v = dg.Variable(1.0, name="counter", dtype="float64")

    with pytest.raises(TraceError, match="assigns 'counter'"):
        dg.function(lambda x: dg.cond(x > 0, lambda: v.assign(x).value(), lambda: x))(at(1.0))


@pytest.mark.parametrize("traced", [False, True])
def test_a_step_of_scan_that_returns_no_pair_is_refused(traced):
    def f(xs):
        return dg.scan(lambda c, x: dg.stack([c, x]), xs[0], xs)  # of length 2, but no pair

    with pytest.raises(TypeError, match=r"scan: .* expected \(carry, y\)"):
        (dg.function(f) if traced else f)(dg.asarray([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("xs", [(np.ones(2), np.ones(3)), (), 1.0])
def test_scan_over_unequal_lengths_or_no_array_is_refused(xs):
    with pytest.raises(ShapeError, match="expected one length"):
        dg.scan(lambda c, x: (c, x), 1.0, xs)


def scanned_over_nothing(w, start):
    def step(c, x):
        return c + w * x["a"], (c * x["a"], x["b"] > 0)

    return dg.scan(step, start, {"a": np.ones((0, 3)), "b": np.ones((0, 2), np.int8)})


@pytest.mark.parametrize("run", [lambda f: f, dg.function], ids=["eager", "traced"])
def test_scan_over_nothing_hands_the_first_carry_back(run):
    w, start = np.ones(3), np.arange(3.0)

    last, (products, signs) = run(scanned_over_nothing)(w, start)
    to_start = run(dg.grad(lambda c: dg.sum(scanned_over_nothing(w, c)[0] ** 2)))(start)
    to_w = run(dg.grad(lambda v: dg.sum(scanned_over_nothing(v, start)[1][0])))(w)
    batched = run(dg.vmap(lambda c: scanned_over_nothing(w, c)))(np.ones((4, 3)))

    np.testing.assert_array_equal(last, start)
    assert (products.shape, products.dtype) == ((0, 3), np.float64)
    assert (signs.shape, signs.dtype) == ((0, 2), np.bool_)
    np.testing.assert_array_equal(to_start, 2 * start)
    np.testing.assert_array_equal(to_w, np.zeros(3))
    np.testing.assert_array_equal(batched[0], np.ones((4, 3)))
    assert batched[1][0].shape == (4, 0, 3)


def test_second_derivatives_with_respect_to_a_computed_scalar_are_not_lost_in_a_trace():
    def loop(x, y):
        done = dg.while_loop(lambda s: s[1] < 2, lambda s: (s[0] * y, s[1] + 1), (2.0 * x, 0))
        return done[0]  # 2 x y^2

    def branch(x, y):
        doubled = 2.0 * x
        return dg.cond(doubled > 0, lambda: doubled * y**2, lambda: doubled)

    for f in (loop, branch):
        mixed = dg.function(dg.grad(dg.grad(f, argnums=1)))
        pushed = dg.function(dg.grad(lambda x, f=f: dg.jvp(f, (x, at(5.0)), (at(0.0), at(1.0)))[1]))

        assert float(mixed(at(3.0), at(5.0))) == 20.0
        assert float(pushed(at(3.0))) == 20.0

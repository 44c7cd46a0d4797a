"""Control flow over batches gives what a loop over the examples gives, in every nesting."""

import warnings

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import ShapeError, TraceError

XS = np.array([4.0, -4.0, 9.0, -1.0, 0.5])  # 3 of 5 take the one branch
W = dg.Variable(np.array(1.5))


def branches(x):
    return dg.cond(x > 0, dg.sqrt, lambda v: v * v * W, x)


def with_captured(x):
    return dg.cond(x > 0, lambda: dg.log(x), lambda: x * x * W)


def nested(x):
    return dg.cond(x > 0, lambda: dg.cond(x > 1, lambda: x**3, lambda: dg.sqrt(x)), lambda: x * W)


def squares(x):
    return dg.while_loop(lambda s: dg.abs(s) < 20.0, lambda s: s * s * W + 1.0, x)


def counted(x):
    """Return a loop whose number of steps is another one for each example."""
    start = (dg.asarray(0), x, dg.astype(dg.abs(x), "int64"))
    return dg.while_loop(
        lambda s: s[0] < s[2], lambda s: (s[0] + 1, dg.sin(s[1]) * W, s[2]), start
    )[1]


def recurrence(x):
    def step(carry, row):
        carry = dg.cond(carry > row, lambda: dg.tanh(carry * W), lambda: carry + x * row)
        return carry, carry * x

    last, rows = dg.scan(step, x, np.array([0.3, -0.2, 0.7]))
    return last + dg.sum(rows)


def branch_in_loop(x):
    step = lambda s: dg.cond(s > 1, lambda: s * 2.0 * W, lambda: s + dg.exp(x * 0.01))  # noqa: E731
    return dg.while_loop(lambda s: s < 10, step, x)


PROGRAMS = pytest.mark.parametrize(
    "f",
    [branches, with_captured, nested, squares, counted, recurrence, branch_in_loop],
    ids=lambda f: f.__name__,
)


def loop(f, *arrays):
    return np.stack([f(*(dg.asarray(a[i]) for a in arrays)).numpy() for i in range(len(arrays[0]))])


@PROGRAMS
@pytest.mark.parametrize(
    "derive",
    [
        lambda f: f,
        dg.grad,
        lambda f: dg.grad(dg.grad(f)),
        lambda f: lambda x: dg.jvp(f, (x,), (2.0,))[1],
        lambda f: lambda x: dg.jvp(dg.grad(f), (x,), (2.0,))[1],
        lambda f: dg.grad(lambda x: dg.jvp(f, (x,), (2.0,))[1]),
        lambda f: dg.grad(dg.function(f)),
    ],
    ids=["value", "grad", "grad grad", "jvp", "jvp grad", "grad jvp", "grad function"],
)
def test_vmap_of_derivatives(f, derive):
    expected = loop(derive(f), XS)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no invalid logarithm, nothing one by one
        found = dg.vmap(derive(f))(XS).numpy()
        traced = dg.function(dg.vmap(derive(f)))(XS).numpy()

    np.testing.assert_allclose(found, expected, rtol=1e-11)
    np.testing.assert_allclose(traced, expected, rtol=1e-11)


@PROGRAMS
@pytest.mark.parametrize("run", [lambda f: f, dg.function], ids=["plain", "traced"])
def test_derivatives_of_vmap(f, run):
    mapped = run(dg.vmap(f))
    slopes, curvatures = loop(dg.grad(f), XS), loop(dg.grad(dg.grad(f)), XS)

    np.testing.assert_allclose(dg.jacrev(mapped)(XS).numpy(), np.diag(slopes), rtol=1e-11)
    np.testing.assert_allclose(dg.jacfwd(mapped)(XS).numpy(), np.diag(slopes), rtol=1e-11)
    second = dg.hessian(lambda x: dg.sum(mapped(x)))(XS).numpy()
    np.testing.assert_allclose(second, np.diag(curvatures), rtol=1e-10, atol=1e-12)
    product = dg.hvp(lambda x: dg.sum(mapped(x)), (XS,), (XS,))[1][0].numpy()
    np.testing.assert_allclose(product, curvatures * XS, rtol=1e-10)


@PROGRAMS
def test_a_tape_outside_reaches_variables_in_bodies(f):
    def slope(g):
        with dg.GradientTape() as tape:
            y = dg.sum(g())
        return tape.gradient(y, W).numpy()

    expected = slope(lambda: dg.stack([f(dg.asarray(x)) for x in XS]))

    np.testing.assert_allclose(slope(lambda: dg.vmap(f)(XS)), expected, rtol=1e-12)
    np.testing.assert_allclose(slope(lambda: dg.function(dg.vmap(f))(XS)), expected, rtol=1e-12)


@PROGRAMS
def test_batches_of_batches(f):
    grid = np.array([[4.0, -4.0, 0.5], [-1.0, 2.0, 3.0]])
    slope = dg.grad(f)
    expected = np.stack([loop(slope, row) for row in grid])

    np.testing.assert_allclose(dg.vmap(dg.vmap(slope))(grid).numpy(), expected, rtol=1e-11)
    traced = dg.function(dg.vmap(dg.vmap(slope)))(grid)
    np.testing.assert_allclose(traced.numpy(), expected, rtol=1e-11)
    rows = dg.vmap(dg.jacrev(dg.function(dg.vmap(f))))(grid).numpy()
    np.testing.assert_allclose(rows, np.stack([np.diag(row) for row in expected]), rtol=1e-11)
    columns = dg.vmap(dg.jacfwd(dg.vmap(f)))(grid).numpy()
    np.testing.assert_allclose(columns, np.stack([np.diag(row) for row in expected]), rtol=1e-11)


def test_three_batches_in_each_other():
    cube = np.linspace(-3.0, 5.0, 24).reshape(2, 3, 4)
    f = dg.grad(squares)

    found = dg.vmap(dg.vmap(dg.vmap(f)))(cube).numpy()

    np.testing.assert_allclose(found.ravel(), loop(f, cube.ravel()), rtol=1e-12)


@pytest.mark.parametrize("inner", [(0, None), (None, 0)])
def test_one_batch_may_hold_the_condition_and_the_other_the_operand(inner):
    def f(x, limit):
        low = dg.cond(x > limit, lambda: dg.sqrt(dg.abs(x)) * limit, lambda: x * x)
        return dg.while_loop(lambda s: s < limit, lambda s: s * 1.5 + 1.0, low)

    slope = dg.grad(f, argnums=(0, 1))
    limits = np.array([0.3, 2.5, 6.0])
    outer = inner[::-1]
    expected = np.array(
        [[[float(d) for d in slope(dg.asarray(x), dg.asarray(y))] for y in limits] for x in XS]
    )  # of x and then of limit

    found = np.stack(
        [each.numpy() for each in dg.vmap(dg.vmap(slope, in_axes=inner), in_axes=outer)(XS, limits)]
    )

    order = (1, 2, 0) if inner == (None, 0) else (2, 1, 0)
    np.testing.assert_allclose(np.transpose(found, order), expected, rtol=1e-12)


def test_jacobian_of_a_loop_runs_the_loop_once_for_all_rows():
    steps = []

    def body(s):
        steps.append(1)
        return dg.tanh(s * 0.7)

    f = lambda x: dg.while_loop(lambda s: dg.sum(s * s) > 0.5, body, x)  # noqa: E731
    x = np.array([0.5, 0.8, 0.9])
    f(dg.asarray(x))
    once = len(steps)
    steps.clear()
    jacobian = dg.jacrev(f)(x)

    assert len(steps) == once
    assert jacobian.shape == (3, 3)


def test_each_branch_meets_only_its_own_examples():
    zeros = np.array([0.0, 4.0, 0.0, 9.0])  # where a selected sum would have 0 * inf

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = lambda x: dg.cond(x > 0, dg.sqrt, lambda v: v * 3.0, x)  # noqa: E731
        values, slopes = dg.vmap(f)(zeros), dg.vmap(dg.grad(f))(zeros)
        traced = dg.function(dg.vmap(dg.grad(f)))(zeros)

    np.testing.assert_allclose(values.numpy(), [0.0, 2.0, 0.0, 3.0])
    np.testing.assert_allclose(slopes.numpy(), [3.0, 0.25, 3.0, 1 / 6])
    np.testing.assert_allclose(traced.numpy(), slopes.numpy())


def test_a_condition_that_all_examples_share_stays_pythons():
    runs = []

    def f(x, flag):
        return dg.cond(flag > 0, lambda: runs.append("yes") or x * 2.0, lambda: x)

    found = dg.vmap(f, in_axes=(0, None))(XS, 1.0)

    assert runs == ["yes"]
    np.testing.assert_array_equal(found.numpy(), 2 * XS)
    np.testing.assert_array_equal(dg.vmap(lambda x: x if dg.asarray(W) > 0 else -x)(XS).numpy(), XS)


def test_finished_examples_keep_their_values():
    calls = []

    def f(x):
        def body(s):
            calls.append(1)
            return 1.0 / (s - 3.0)  # beyond its end an example would divide by zero

        return dg.while_loop(lambda s: s > 3.5, body, x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dg.vmap(f)(np.array([3.0, 4.0, 5.0, 3.25])).numpy()

    np.testing.assert_allclose(found, [3.0, 1.0, 0.5, 3.25])
    assert len(calls) == 1  # traced once, run for those that go on


def test_batches_without_examples():
    empty = np.empty((0,))

    assert dg.vmap(branches)(empty).shape == (0,)
    assert dg.vmap(squares)(empty).shape == (0,)
    assert dg.vmap(dg.grad(branches))(empty).shape == (0,)


def test_nests_and_integers_go_through():
    def f(x, n):
        state = {"n": n, "x": (x, x * 2.0)}
        body = lambda s: {"n": s["n"] - 1, "x": (s["x"][0] + s["x"][1], s["x"][1])}  # noqa: E731
        return dg.while_loop(lambda s: s["n"] > 0, body, state)

    found = dg.vmap(f)(XS, np.arange(5))

    np.testing.assert_array_equal(found["n"].numpy(), np.zeros(5))
    np.testing.assert_allclose(found["x"][0].numpy(), XS * (1 + 2 * np.arange(5)))


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_chunks_change_nothing(chunk_size):
    f = dg.grad(squares)

    found = dg.vmap(f, chunk_size=chunk_size)(XS)

    np.testing.assert_allclose(found.numpy(), loop(f, XS))


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda x: dg.cond(x > 0, lambda: x, lambda: (x, x)), TraceError, "true_fn is"),
        (lambda x: dg.cond(dg.stack([x, x]) > 0, lambda: x, lambda: x), ShapeError, "a scalar"),
        (
            lambda x: dg.while_loop(lambda s: dg.stack([s, s]) > 0, lambda s: s - 1, x),
            ShapeError,
            "cond_fn's result has shape",
        ),
        (lambda x: dg.cond(x > 0, lambda: W.assign(x).value(), lambda: x), TraceError, "assigns"),
    ],
)
def test_what_does_not_fit_is_refused(f, error, message):
    with pytest.raises(error, match=message):
        dg.vmap(f)(XS)


def test_one_value_as_two_arguments_is_differentiated_once_for_each():
    product = dg.function(lambda a, b: a * b)
    x = dg.asarray([3.0, 5.0], dtype="float64")

    def square(x):
        return product(x, x)

    expected = np.diag([6.0, 10.0])

    np.testing.assert_array_equal(dg.jacrev(square)(x).numpy(), expected)
    np.testing.assert_array_equal(dg.jacfwd(square)(x).numpy(), expected)
    np.testing.assert_array_equal(dg.hessian(lambda x: dg.sum(square(x)))(x).numpy(), 2 * np.eye(2))
    with dg.GradientTape() as tape:
        tape.watch(x)
        y = square(x)
    np.testing.assert_array_equal(tape.jacobian(y, x).numpy(), expected)

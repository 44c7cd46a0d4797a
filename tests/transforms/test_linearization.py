"""linearize: the derivative as a function is what jvp gives, and the value is computed once."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError, TraceError

RNG = np.random.default_rng(5)
X, V = RNG.normal(size=4), RNG.normal(size=4)
W = dg.Variable(RNG.normal(size=(4, 3)))


def network(x):
    return {"out": dg.tanh(x @ W) * dg.sum(x), "norm": dg.sum(x**2)}


@pytest.mark.parametrize("run", [lambda f: f, dg.function], ids=["plain", "traced"])
def test_value_and_tangents_are_those_of_jvp(run):
    value, push = dg.linearize(run(network), X)

    for direction in (V, 2.0 * V, np.zeros(4)):
        expected_value, expected = dg.jvp(network, (X,), (direction,))
        found = push(direction)
        for name in ("out", "norm"):
            np.testing.assert_allclose(value[name].numpy(), expected_value[name].numpy())
            np.testing.assert_allclose(found[name].numpy(), expected[name].numpy(), rtol=1e-12)


def test_nothing_of_the_value_is_computed_again(monkeypatch):
    from distgrad.ops.elementwise.transcendental import TANH

    kernels = dg.asarray(X).kernels
    runs, kernel = [], kernels.table[TANH]
    monkeypatch.setitem(kernels.table, TANH, lambda a: runs.append(1) or kernel(a))
    _, push = dg.linearize(network, X)
    for _ in range(3):
        push(V)

    assert len(runs) == 1


def test_several_nested_arguments():
    def f(a, nest):
        return a * nest["b"] + nest["c"]

    args = (2.0, {"b": 3.0, "c": 4.0})
    value, push = dg.linearize(f, *args)

    assert float(value) == 10.0
    assert float(push(1.0, {"b": 0.5, "c": 2.0})) == 3.0 + 1.0 + 2.0


def test_all_directions_at_once_are_the_jacobian():
    _, push = dg.linearize(lambda x: network(x)["out"], X)

    columns = dg.vmap(push)(np.eye(4)).numpy()

    np.testing.assert_allclose(columns.T, dg.jacfwd(lambda x: network(x)["out"])(X).numpy())


def test_both_results_are_differentiated_again():
    def pushed(x):
        return dg.sum(dg.linearize(lambda y: y**3, x)[1](V))

    np.testing.assert_allclose(dg.grad(pushed)(X).numpy(), 6 * X * V, rtol=1e-12)
    np.testing.assert_allclose(
        dg.jvp(dg.grad(pushed), (X,), (V,))[1].numpy(), 6 * V * V, rtol=1e-12
    )
    with dg.GradientTape() as tape:
        value, push = dg.linearize(network, X)
        both = dg.sum(value["out"]) + dg.sum(push(V)["out"])
    with dg.GradientTape() as plain:
        first, second = dg.jvp(network, (X,), (V,))
        expected = dg.sum(first["out"]) + dg.sum(second["out"])
    np.testing.assert_allclose(
        tape.gradient(both, W).numpy(), plain.gradient(expected, W).numpy(), rtol=1e-11
    )


def test_it_works_inside_of_vmap_and_of_traced_functions():
    def slope(x):
        return dg.linearize(lambda y: dg.sin(y) * y, x)[1](1.0)

    expected = np.sin(X) + X * np.cos(X)

    np.testing.assert_allclose(dg.vmap(slope)(X).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(dg.function(dg.vmap(slope))(X).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(
        dg.function(lambda x: dg.linearize(dg.sin, x)[1](V))(X).numpy(), np.cos(X) * V
    )


def test_loops_and_conditions_go_through():
    def f(x):
        y = dg.while_loop(lambda s: s < 100, lambda s: s * s, x)
        return dg.cond(y > 1000, lambda: y, lambda: y * 2.0)

    value, push = dg.linearize(f, 3.0)

    assert float(value) == 3.0**8
    assert float(push(1.0)) == 8 * 3.0**7


@pytest.mark.parametrize(
    ("f", "args", "tangents", "error", "message"),
    [
        (lambda x: x if x > 0 else -x, (1.0,), None, TraceError, "take dg.where"),
        (lambda x: x * 2, (3,), None, DTypeError, "argument 0 has dtype"),
        (lambda x: W.assign(W * x).value(), (1.0,), None, TraceError, "assigns 'Variable'"),
        (dg.sin, (X,), (V[:2],), ShapeError, "tangent 0 has shape"),
        (dg.sin, (X,), (V, V), ValueError, "structure of the primals"),
    ],
)
def test_what_it_cannot_do_is_refused(f, args, tangents, error, message):
    def both():
        dg.linearize(f, *args)[1](*tangents)

    with pytest.raises(error, match=message):
        both()


def test_a_captured_value_may_be_the_result_itself():
    def at(x, y):
        return dg.linearize(lambda y: (x, y * y), y)

    values, tangents = dg.vmap(lambda x, y: (at(x, y)[0], at(x, y)[1](1.0)))(X, V)
    value, tangent = dg.jvp(lambda x: at(x, 3.0)[0][0], (X,), (V,))

    np.testing.assert_array_equal(values[0].numpy(), X)
    np.testing.assert_array_equal(tangents[0].numpy(), np.zeros(4))
    np.testing.assert_allclose(tangents[1].numpy(), 2 * V)
    np.testing.assert_array_equal(value.numpy(), X)
    np.testing.assert_array_equal(tangent.numpy(), V)

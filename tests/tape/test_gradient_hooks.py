"""gradient_hook: what it sees, what it may put in place, and that every transformation heeds it."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError

X = np.array([0.3, -0.8, 1.7])


def reversed_gradient(x):
    """Return x, with the gradient turned round: the layer of adversarial training."""
    return dg.gradient_hook(x, lambda g: -2.0 * g)


def test_a_hook_that_only_looks_sees_the_sum_of_all_uses():
    seen, x = [], dg.Variable(X)
    with dg.GradientTape() as tape:
        y = dg.gradient_hook(dg.sin(x), lambda g: seen.append(g.numpy()))
        z = dg.sum(y * y + 3.0 * y)
    found = tape.gradient(z, x)

    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], 2 * np.sin(X) + 3.0)
    np.testing.assert_allclose(found.numpy(), (2 * np.sin(X) + 3.0) * np.cos(X))


def test_a_hook_may_put_another_cotangent_in_place():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        z = dg.sum(x * reversed_gradient(x))

    np.testing.assert_allclose(tape.gradient(z, x).numpy(), X - 2.0 * X)


def test_values_stay_and_are_not_copied():
    x = dg.asarray(X)
    y = dg.gradient_hook(x, lambda g: g)

    assert y.array is x.array
    assert y.key != x.key


def test_hooks_chain_from_the_last_to_the_first():
    order, x = [], dg.Variable(X)
    with dg.GradientTape() as tape:
        y = dg.gradient_hook(x, lambda g: order.append("first"))
        y = dg.gradient_hook(y, lambda g: order.append("second"))
        z = dg.sum(y)
    tape.gradient(z, x)

    assert order == ["second", "first"]


def test_a_hook_is_not_called_where_there_is_no_cotangent():
    called, x = [], dg.Variable(X)
    with dg.GradientTape() as tape:
        dg.gradient_hook(x, called.append)
        z = dg.sum(x)
    tape.gradient(z, x)

    assert called == []


SECOND = 8 * 1.5**4 + (16 * 1.5**3) ** 2 * 2 * 1.5


def test_higher_orders_differentiate_the_hook():
    def f(x):
        return dg.gradient_hook(x * x, lambda g: g * g)

    x = dg.asarray(1.5, dtype="float64")
    assert float(dg.grad(lambda x: 3.0 * f(x))(x)) == pytest.approx(9 * 2 * 1.5)
    # f² has the gradient G = (2f)² 2x, which depends on x itself, and on f: there the cotangent
    # 8f 2x passes the hook once more.
    assert float(dg.grad(dg.grad(lambda x: f(x) ** 2))(x)) == pytest.approx(SECOND)


def test_a_persistent_tape_differentiates_the_hook():
    x = dg.Variable(1.5, dtype="float64")
    with dg.GradientTape(persistent=True) as tape:
        y = dg.gradient_hook(x * x, lambda g: g * g) ** 2

    assert float(tape.gradient(tape.gradient(y, x), x)) == pytest.approx(SECOND)


def test_forward_mode_passes_by():
    def refuse(g):
        raise AssertionError

    _, tangent = dg.jvp(lambda x: dg.gradient_hook(x, refuse) * 3.0, (X,), (X,))

    np.testing.assert_allclose(tangent.numpy(), 3 * X)


AROUND = {
    "function": dg.function,
    "vmap": dg.vmap,
    "vmap in function": lambda f: dg.function(dg.vmap(f)),
    "recomputed": dg.recompute_grad,
    "in a loop": lambda f: dg.function(lambda x: dg.scan(lambda c, v: (c, f(v)), 0.0, x)[1]),
}


@pytest.mark.parametrize("around", AROUND)
def test_whoever_differentiates_from_outside_passes_the_hook(around):
    f = AROUND[around](lambda x: reversed_gradient(x * x))

    found = dg.grad(lambda x: dg.sum(f(x)))(dg.asarray(X))
    np.testing.assert_allclose(found.numpy(), -4 * X)


def test_inside_a_batch_a_hook_sees_one_example():
    shapes = []

    def f(x):
        return dg.sum(dg.gradient_hook(x, lambda g: shapes.append(g.shape)) ** 2)

    x = dg.asarray(np.ones((4, 3)))
    inside = dg.vmap(dg.grad(f))(x)
    outside = dg.grad(lambda x: dg.sum(dg.vmap(f)(x)))(x)

    assert shapes == [(3,), (3,)]
    np.testing.assert_array_equal(inside.numpy(), outside.numpy())


def test_clipping_one_example_at_a_time_is_not_clipping_the_batch():
    def clipped(g):
        return g / dg.maximum(dg.sqrt(dg.sum(g * g)), 1.0)

    x = dg.asarray(np.array([[3.0, 4.0], [0.3, 0.4]]))
    found = dg.grad(
        lambda x: dg.sum(dg.vmap(lambda v: dg.sum(dg.gradient_hook(v, clipped) ** 2) / 2)(x))
    )(x)

    np.testing.assert_allclose(found.numpy(), [[0.6, 0.8], [0.3, 0.4]])


def test_a_traced_hook_runs_once_for_all_steps():
    calls = []

    @dg.function
    def f(x):
        return dg.sum(dg.gradient_hook(x, lambda g: calls.append(g.dtype) or 2.0 * g))

    for scale in (1.0, 2.0, 3.0):
        found = dg.grad(f)(dg.asarray(scale * X))
        np.testing.assert_allclose(found.numpy(), np.full(3, 2.0))

    assert len(calls) == 1


def test_a_wider_cotangent_is_brought_to_the_dtype_of_the_value():
    dtypes = []
    x = dg.Variable(np.ones(2, "float32"))
    with dg.GradientTape() as tape:
        y = dg.gradient_hook(x * 1.0, lambda g: dtypes.append(g.dtype))
        z = dg.sum(y * np.ones(2))  # float64
    found = tape.gradient(z, x)

    assert (dtypes, found.dtype) == ([np.float32], np.float32)


def test_complex_cotangents_pass():
    z = np.array([1 + 2j])
    found = dg.grad(lambda z: dg.sum(dg.real(dg.gradient_hook(z, lambda g: 1j * g) * (2 - 1j))))(z)

    np.testing.assert_allclose(found.numpy(), [1j * (2 + 1j)])


@pytest.mark.parametrize(
    ("hook", "error", "message"),
    [
        (lambda g: g[:2], ShapeError, r"returned shape \(2,\) for a cotangent of shape \(3,\)"),
        (lambda g: g.astype("float32"), DTypeError, "returned float32 for a cotangent of float64"),
    ],
)
def test_a_hook_that_returns_another_shape_or_dtype_is_refused(hook, error, message):
    with pytest.raises(error, match=message):
        dg.grad(lambda x: dg.sum(dg.gradient_hook(x, hook)))(X)


def test_what_is_no_function_or_has_no_gradient_is_refused():
    with pytest.raises(TypeError, match="hook is a NoneType; expected a function"):
        dg.gradient_hook(X, None)
    with pytest.raises(DTypeError, match="x has dtype int64, which has no gradient"):
        dg.gradient_hook(np.arange(3), lambda g: g)


def test_nothing_is_kept_for_a_hook():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        dg.gradient_hook(x, lambda g: g)

    assert tape.summary().nbytes == 0

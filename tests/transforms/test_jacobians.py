"""Jacobians and Hessians: both modes agree with each other and with differences."""

import tracemalloc

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError

RNG = np.random.default_rng(5)
W = RNG.normal(size=(3, 4))
X = RNG.normal(size=3)
JACOBIANS = pytest.mark.parametrize("jacobian", [dg.jacrev, dg.jacfwd])


def net(x):
    return dg.tanh(x @ dg.asarray(W))


def by_differences(f, x, step=1e-6):
    columns = [(f(x + d) - f(x - d)) / (2 * step) for d in step * np.eye(x.size)]
    return np.stack(columns, axis=-1)


@JACOBIANS
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_jacobian_agrees_with_differences(jacobian, chunk_size):
    found = jacobian(net, chunk_size=chunk_size)(X)

    expected = by_differences(lambda x: np.tanh(x @ W), X)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


@JACOBIANS
def test_axes_are_those_of_the_output_then_those_of_the_input(jacobian):
    matrix = RNG.normal(size=(2, 5))

    found = jacobian(lambda x: dg.sum(x, axis=0) * 3.0)(matrix)

    assert found.shape == (5, 2, 5)
    np.testing.assert_array_equal(found.numpy(), np.stack([3 * np.eye(5)] * 2, axis=1))


@JACOBIANS
def test_nests_of_outputs_and_arguments(jacobian):
    def f(model, x):
        return {"product": model["w"] * x, "sum": dg.sum(model["w"]) + dg.sum(x)}

    found = jacobian(f, argnums=(0, 1))({"w": np.array([1.0, 2.0])}, np.array([3.0, 4.0]))

    np.testing.assert_array_equal(found["product"][0]["w"].numpy(), np.diag([3.0, 4.0]))
    np.testing.assert_array_equal(found["product"][1].numpy(), np.diag([1.0, 2.0]))
    np.testing.assert_array_equal(found["sum"][0]["w"].numpy(), [1.0, 1.0])


@JACOBIANS
def test_the_rest_of_the_result_is_handed_through(jacobian):
    rows, rest = jacobian(lambda x: (x * 2.0, "notes"), has_aux=True)(X)

    np.testing.assert_array_equal(rows.numpy(), 2 * np.eye(3))
    assert rest == "notes"


def loss(x):
    return dg.sum(net(x) ** 2) * dg.sum(x)


def test_hessian_agrees_with_differences_of_the_gradient_in_every_order_of_modes():
    slope = dg.grad(loss)
    expected = by_differences(lambda x: slope(x).numpy(), X)

    for hessian in (
        dg.hessian(loss),
        dg.jacrev(slope),
        dg.jacrev(dg.jacrev(loss)),
        dg.jacrev(dg.jacfwd(loss)),
        dg.jacfwd(dg.jacfwd(loss)),
    ):
        np.testing.assert_allclose(hessian(X).numpy(), expected, atol=1e-8)


def test_the_rest_of_the_result_is_handed_through_a_hessian():
    found, rest = dg.hessian(lambda x: (x * x * x, {"twice": 2.0 * x}), has_aux=True)(3.0)

    assert float(found) == 18.0
    assert float(rest["twice"]) == 6.0


def test_a_tape_differentiates_a_jacobian():
    w = dg.Variable(W)
    with dg.GradientTape() as tape:
        rows = dg.jacrev(lambda x: dg.tanh(x @ w))(X)
        penalty = dg.sum(rows**2)
    found = tape.gradient(penalty, w).numpy()

    def value(flat):
        jacobian = by_differences(lambda x: np.tanh(x @ flat.reshape(3, 4)), X)
        return np.sum(jacobian**2)

    expected = by_differences(value, W.ravel(), step=1e-4).reshape(3, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@JACOBIANS
def test_complex_values_and_integers_are_refused(jacobian):
    with pytest.raises(DTypeError, match="complex128"):
        jacobian(lambda x: x * 1j)(X)
    with pytest.raises(DTypeError, match="int64"):
        jacobian(lambda x: x)(np.arange(3))


@JACOBIANS
def test_chunks_bound_the_memory_of_the_unit_arrays_too(jacobian):
    size = 3000
    narrow = (lambda x: dg.sum(x * x)) if jacobian is dg.jacfwd else (lambda x: x * np.ones(size))
    x = np.ones(size) if jacobian is dg.jacfwd else np.ones(())

    tracemalloc.start()
    try:
        jacobian(narrow, chunk_size=10)(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < size * size * 8 / 20  # a twentieth of the identity matrix


def test_a_hessian_passes_on_what_the_function_returns_beside_its_value():
    def f(x, y):
        return dg.sum(x**3 * y), {"sum": dg.sum(x)}

    x, y = dg.asarray([1.0, 2.0]), dg.asarray([3.0, 4.0])
    columns, rest = dg.hessian(f, argnums=1, has_aux=True)(y, x)
    expected = dg.hessian(lambda y, x: f(y, x)[0], argnums=1)(y, x)

    np.testing.assert_array_equal(columns.numpy(), expected.numpy())
    assert rest["sum"].numpy() == 7

"""Derivatives of functions: grad, vjp, jvp, hvp, by the conventions of JAX and torch.func."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError

X = np.array([0.3, -1.2, 2.0])
A = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -1.0], [0.0, -1.0, 3.0]])


def quadratic(x):
    return 0.5 * dg.sum(x * (dg.asarray(A) @ x))


def test_grad_of_a_quadratic_form_is_its_matrix_times_the_point():
    np.testing.assert_allclose(dg.grad(quadratic)(X).numpy(), A @ X)


def test_hvp_of_a_quadratic_form_is_its_matrix_times_the_direction():
    direction = np.array([1.0, -2.0, 0.5])

    (gradient,), (product,) = dg.hvp(quadratic, (X,), (direction,))

    np.testing.assert_allclose(gradient.numpy(), A @ X)
    np.testing.assert_allclose(product.numpy(), A @ direction)


def test_grad_nests_to_any_order():
    cube = dg.grad(dg.grad(dg.grad(lambda x: x**5)))

    assert float(cube(dg.asarray(2.0, dtype="float64"))) == pytest.approx(60 * 4)


def test_argnums_name_arguments_and_nests_keep_their_structure():
    def f(scale, model, *, shift):
        return scale * dg.sum(model["w"] * model["b"]) + shift

    model = {"w": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}
    to_scale, to_model = dg.grad(f, argnums=(0, 1))(2.0, model, shift=1.0)

    assert float(to_scale) == 11.0
    np.testing.assert_array_equal(to_model["w"].numpy(), [6, 8])
    np.testing.assert_array_equal(to_model["b"].numpy(), [2, 4])


def test_the_same_array_passed_twice_is_two_arguments():
    x = dg.asarray(3.0)

    to_first = dg.grad(lambda a, b: a * b * b)(x, x)

    assert float(to_first) == 9.0


def test_has_aux_hands_the_rest_through():
    value, gradient = dg.value_and_grad(lambda x: (x * x, "notes"), has_aux=True)(3.0)

    assert float(value[0]) == 9.0
    assert value[1] == "notes"
    assert float(gradient) == 6.0
    assert dg.grad(lambda x: (x * x, "notes"), has_aux=True)(3.0)[1] == "notes"


def test_an_argument_that_is_not_used_has_gradient_zero():
    assert float(dg.grad(lambda x, y: y * 2.0)(1.0, dg.asarray(5.0))) == 0.0


def test_vjp_can_be_pulled_back_again_and_again():
    value, pullback = dg.vjp(lambda x, y: (x * y, x + y), 2.0, 3.0)

    assert [float(v) for v in value] == [6.0, 5.0]
    assert [float(g) for g in pullback((1.0, 0.0))] == [3.0, 2.0]
    assert [float(g) for g in pullback((0.0, 1.0))] == [1.0, 1.0]


def test_jvp_and_vjp_agree_by_the_inner_product():
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=3), rng.normal(size=3)

    def f(x):
        return dg.tanh(dg.asarray(A) @ x) * x

    _, tangent = dg.jvp(f, (X,), (v,))
    _, pullback = dg.vjp(f, X)

    assert tangent.numpy() @ u == pytest.approx(pullback(u)[0].numpy() @ v, rel=1e-12)


def test_jvp_of_a_value_that_does_not_depend_on_the_primal_is_zero():
    value, tangent = dg.jvp(lambda x: (x * 2.0, dg.asarray([5.0])), (1.0,), (1.0,))

    assert float(value[0]) == 2.0
    assert float(tangent[0]) == 2.0
    np.testing.assert_array_equal(tangent[1].numpy(), [0.0])


def test_vjp_takes_a_number_among_the_results_as_jvp_does():
    value, pullback = dg.vjp(lambda x: (x * 2.0, 3.0), 1.0)

    assert [float(v) for v in value] == [2.0, 3.0]
    assert float(pullback((1.0, 1.0))[0]) == 2.0


def test_a_complex_tangent_of_a_real_primal_is_refused():
    with pytest.raises(DTypeError, match="expected a real tangent"):
        dg.jvp(lambda x: x * 2.0, (1.0,), (1j,))


def test_variables_inside_do_not_leak_into_the_gradient():
    w = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        slope = dg.grad(lambda x: w * x * x)(2.0)

    assert float(slope) == 12.0
    assert float(tape.gradient(slope, w)) == 4.0


@pytest.mark.parametrize(
    ("f", "args", "error", "message"),
    [
        (lambda x: x * 2.0, (np.ones(2),), ShapeError, r"returned shape \(2,\)"),
        (lambda x: 2.0, (1.0,), TypeError, "returned a float"),
        (lambda x: x * 1.0, (2,), DTypeError, "dtype int64"),
        (lambda x: x * 1j, (2.0,), DTypeError, "real scalar"),
        (lambda x: dg.sum(x > 1.0), (2.0,), DTypeError, "returned int64, which has no derivative"),
    ],
)
def test_what_cannot_be_differentiated_is_refused(f, args, error, message):
    with pytest.raises(error, match=message):
        dg.grad(f)(*args)


def test_an_argument_that_is_not_there_is_refused():
    with pytest.raises(TypeError, match="argnums names argument 2"):
        dg.grad(lambda x: x, argnums=2)(1.0)


def test_hvp_passes_on_what_the_function_returns_beside_its_value():
    x, v = dg.asarray([1.0, 2.0]), dg.asarray([3.0, 4.0])
    gradients, products, rest = dg.hvp(lambda x: (dg.sum(x**3), "kept"), (x,), (v,), has_aux=True)

    np.testing.assert_allclose(gradients[0].numpy(), [3, 12])
    np.testing.assert_allclose(products[0].numpy(), [18, 48])
    assert rest == "kept"

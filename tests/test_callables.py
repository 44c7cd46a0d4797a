"""Functions that are none, and functions that return no pair where one is expected."""

import numpy as np
import pytest

import distgrad as dg

TAKERS = {
    "grad": dg.grad,
    "value_and_grad": dg.value_and_grad,
    "jacrev": dg.jacrev,
    "jacfwd": dg.jacfwd,
    "hessian": dg.hessian,
    "vmap": dg.vmap,
    "function": dg.function,
    "custom_gradient": dg.custom_gradient,
    "custom_jvp": dg.custom_jvp,
    "recompute_grad": dg.recompute_grad,
    "grad_pass_through": dg.grad_pass_through,
    "vjp": lambda f: dg.vjp(f, 1.0),
    "jvp": lambda f: dg.jvp(f, (1.0,), (1.0,)),
    "hvp": lambda f: dg.hvp(f, (1.0,), (1.0,)),
    "linearize": lambda f: dg.linearize(f, 1.0),
    "cond": lambda f: dg.cond(True, f, f),
    "while_loop": lambda f: dg.while_loop(f, f, 1.0),
    "scan": lambda f: dg.scan(f, 1.0, np.ones(2)),
}


@pytest.mark.parametrize("name", TAKERS)
def test_the_result_of_a_function_is_not_taken_for_the_function(name):
    with pytest.raises(TypeError, match=rf"{name}: .* is of type Tensor; expected a function"):
        TAKERS[name](dg.asarray(1.0))


@pytest.mark.parametrize("transform", [dg.grad, dg.value_and_grad, dg.jacrev, dg.jacfwd])
def test_has_aux_wants_a_pair(transform):
    with pytest.raises(TypeError, match="returned a Tensor; expected with has_aux=True a pair"):
        transform(lambda x: dg.sum(x * x), has_aux=True)(np.ones(2))


def test_a_custom_gradient_wants_a_pair_and_not_a_tensor_of_length_two():
    with pytest.raises(TypeError, match=r"a Tensor; expected a pair \(result, grad_fn\)"):
        dg.custom_gradient(lambda x: x * 2)(np.ones(2))
    with pytest.raises(TypeError, match="grad_fn, the second value returned, is of type Tensor"):
        dg.custom_gradient(lambda x: (x * 2, x))(np.ones(2))


@pytest.mark.parametrize("product", [dg.jvp, dg.hvp], ids=lambda f: f.__name__)
def test_bare_primals_are_not_taken_apart(product):
    with pytest.raises(TypeError, match=r"primals is a ndarray; expected a tuple .* \(x,\)"):
        product(lambda x: dg.sum(x**3), np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="1 primals and 2 tangents"):
        product(lambda x: dg.sum(x**3), (np.ones(2),), (np.ones(2), np.ones(2)))


def test_argnums_are_positions():
    with pytest.raises(TypeError, match="grad: argnums is 'x'; expected the position"):
        dg.grad(lambda x: x, argnums="x")(1.0)

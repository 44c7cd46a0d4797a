"""recompute_grad within vmap: tensors of the batch that the function captures get gradients."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import UnsupportedOptionError

RNG = np.random.default_rng(7)
X, Y = (dg.asarray(RNG.normal(size=(4, 3))) for _ in range(2))
W = dg.asarray(RNG.normal(size=3))


def holding(wrap):
    """Return a function of x and y, of which a function of x within holds on to y."""
    return lambda x, y: dg.sum(wrap(lambda x: dg.sin(x * y) * dg.sum(y))(x))


def total(f):
    return lambda *args: dg.sum(dg.square(f(*args)))


SHARED_X = {"in_axes": (None, 0)}
DERIVATIVES = {
    "gradients of examples": lambda f: dg.vmap(dg.grad(f, argnums=1))(X, Y),
    "in chunks": lambda f: dg.vmap(dg.grad(f, argnums=1), chunk_size=3)(X, Y),
    "in the argument": lambda f: dg.vmap(dg.grad(f))(X, Y),
    "of a shared tensor": lambda f: dg.vmap(dg.grad(f, argnums=1), in_axes=(0, None))(X, Y[0]),
    "hessians": lambda f: dg.vmap(dg.hessian(f, argnums=(0, 1)))(X, Y)[0][1],
    "reverse within": lambda f: dg.vmap(dg.jacrev(f, argnums=1))(X, Y),
    "forward over reverse within": lambda f: dg.vmap(dg.jacfwd(dg.grad(f, 1), 1))(X, Y),
    "forward within": lambda f: dg.vmap(lambda x, y: dg.jvp(lambda y: f(x, y), (y,), (y,))[1])(
        X, Y
    ),
    "of the batch": lambda f: dg.grad(total(dg.vmap(f)), argnums=1)(X, Y),
    "of the batch, of a shared tensor": lambda f: dg.grad(
        total(dg.vmap(f, in_axes=(0, None))), argnums=1
    )(X, Y[0]),
    "of the batch, in the argument": lambda f: dg.jacrev(dg.vmap(f))(X, Y),
    "of the batch, twice": lambda f: dg.grad(total(dg.grad(total(dg.vmap(f)), 1)), 1)(X, Y),
    "of the batch, mixed": lambda f: dg.grad(total(dg.grad(total(dg.vmap(f)), 1)), 0)(X, Y),
    "reverse around": lambda f: dg.jacrev(dg.vmap(f), argnums=1)(X, Y),
    "forward around": lambda f: dg.jacfwd(dg.vmap(f), argnums=1)(X, Y),
    "around and within": lambda f: dg.grad(total(dg.vmap(dg.grad(f, argnums=1))), 1)(X, Y),
    "of two batches": lambda f: dg.grad(
        total(dg.vmap(dg.vmap(f, in_axes=(0, None)), **SHARED_X)), 1
    )(X, Y),
    "between two batches": lambda f: dg.vmap(
        dg.grad(total(dg.vmap(f, in_axes=(0, None))), argnums=1), **SHARED_X
    )(X, Y),
    "within two batches": lambda f: dg.vmap(
        dg.vmap(dg.grad(f, argnums=1), in_axes=(0, None)), **SHARED_X
    )(X, Y),
    "between two batches, in reverse": lambda f: dg.vmap(
        dg.jacrev(dg.vmap(f, in_axes=(0, None)), argnums=1), **SHARED_X
    )(X, Y),
    "traced": lambda f: dg.function(dg.vmap(dg.grad(f, argnums=1)))(X, Y),
    "of a trace": lambda f: dg.grad(total(dg.function(dg.vmap(f))), argnums=1)(X, Y),
    "of a trace within": lambda f: dg.vmap(dg.grad(dg.function(f), argnums=1))(X, Y),
    "traced around": lambda f: dg.function(dg.grad(total(dg.vmap(f)), argnums=1))(X, Y),
}


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_captured_tensors_of_a_batch_get_the_gradients_they_have_without(derivative):
    found = DERIVATIVES[derivative](holding(dg.recompute_grad))

    expected = DERIVATIVES[derivative](holding(lambda f: f))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("wrap", ["twice", "with a rule inside"])
@pytest.mark.parametrize("derivative", ["gradients of examples", "of the batch", "reverse around"])
def test_it_nests(wrap, derivative):
    square = dg.custom_gradient(lambda x: (x * x, lambda g: 2.0 * x * g))

    def nested(f):
        if wrap == "twice":
            return dg.recompute_grad(lambda x: dg.recompute_grad(f)(x) * x)
        return dg.recompute_grad(lambda x: square(f(x)) * x)

    def plain(f):
        if wrap == "twice":
            return lambda x: f(x) * x
        return lambda x: f(x) * f(x) * x

    found = DERIVATIVES[derivative](holding(nested))

    expected = DERIVATIVES[derivative](holding(plain))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("around", ["within", "outside"])
def test_shared_tensors_variables_and_keywords_beside_it_get_theirs(around):
    v = dg.Variable(RNG.normal(size=3))
    frozen = dg.Variable(RNG.normal(size=3), trainable=False)

    def loss(wrap):
        def example(x, y, w):
            def f(x, *, scale, by):
                return dg.sum(dg.tanh(x * y + w * v) * frozen) * scale, dg.argmax(y), y * by

            value, _, scaled = wrap(f)(x, scale=dg.sum(x), by=2.0)
            return value + dg.sum(dg.square(scaled))

        return example

    def gradients(wrap):
        axes = (0, 0, None)
        with dg.GradientTape() as tape:
            tape.watch([X, Y, W])
            if around == "outside":
                return tape.gradient(dg.vmap(loss(wrap), axes)(X, Y, W), [X, Y, W, v])
            each = dg.vmap(dg.grad(loss(wrap), argnums=(0, 1, 2)), axes)(X, Y, W)
        return [*each, *tape.gradient(list(each), [X, Y, W, v])]

    for found, expected in zip(gradients(dg.recompute_grad), gradients(lambda f: f), strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)


def test_what_is_captured_of_a_batch_may_be_an_argument_too():
    def example(wrap):
        return lambda x, y: dg.sum(wrap(lambda a, b: dg.sin(a * y) * b * b)(y, x * y))

    for derivative in ("gradients of examples", "of the batch, twice", "forward around"):
        found = DERIVATIVES[derivative](example(dg.recompute_grad))

        expected = DERIVATIVES[derivative](example(lambda f: f))
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)


def asking(x, y):
    """Return a number by way of a function that holds on to y and asks for a value of x."""
    return dg.sum(dg.recompute_grad(lambda x: x * y if float(dg.sum(x * x)) > 0 else x)(x))


def test_a_function_that_cannot_be_traced_is_refused_with_a_remedy():
    with pytest.raises(UnsupportedOptionError, match="pass the tensor as an argument"):
        dg.vmap(dg.grad(asking, argnums=1), in_axes=(None, 0))(X[0], Y)


def test_a_function_that_cannot_be_traced_may_hold_on_to_what_nobody_differentiates():
    found = dg.vmap(dg.grad(asking), in_axes=(None, 0))(X[0], Y)

    np.testing.assert_allclose(found.numpy(), Y.numpy(), rtol=1e-12)

"""What a traced function held goes with it at once, without the collector of cycles."""

import weakref

import numpy as np
import pytest

import distgrad as dg

pytestmark = pytest.mark.usefixtures("only_references_count")


def with_constant(body):
    """Return a function of an array that holds another one, and a weak reference to that."""
    constant = dg.asarray(np.ones(5, "float32"))
    return lambda x: body(x, constant), weakref.ref(constant.array)


def second_derivative(f, x):
    with dg.GradientTape(persistent=True) as tape:
        tape.watch(x)
        first = tape.gradient(f(x), x)
    return tape.gradient(first, x)


def forward_derivative(f, x):
    with dg.ForwardAccumulator(x, dg.ones(5)) as accumulator:
        y = f(x)
    return accumulator.jvp(y)


def gradient(f, x):
    with dg.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tape.gradient(y, x)


BODIES = {
    "operations": lambda x, k: dg.tanh(x * k),
    "cond": lambda x, k: dg.cond(dg.sum(x) > 0, lambda v: dg.tanh(v * k), lambda v: v, x),
    "while_loop": lambda x, k: dg.while_loop(lambda v: dg.sum(v) < 9, lambda v: v * v + k, x),
    "scan": lambda x, k: dg.scan(lambda c, each: (dg.tanh(c * k) + each, c), x, dg.ones(3))[0],
}


@pytest.mark.parametrize("use", [gradient, second_derivative, forward_derivative])
@pytest.mark.parametrize("body", BODIES)
def test_constants_of_a_graph_go_with_the_function(body, use):
    f, held = with_constant(BODIES[body])
    use(dg.function(f), dg.asarray(np.full(5, 0.5, "float32")))
    del f

    assert held() is None


@pytest.mark.parametrize("body", ["cond", "while_loop"])
def test_arguments_of_a_batch_go_with_its_results(body):
    f, held = with_constant(BODIES[body])
    x = dg.asarray(np.full((3, 5), 0.5, "float32"))
    batch = weakref.ref(x.array)
    dg.vmap(f)(x)
    dg.vmap(dg.vmap(f))(dg.expand_dims(x, axis=0))
    del x, f

    assert batch() is None
    assert held() is None


def raises(x, k):
    y = x * k
    raise KeyError(y.shape)


def assigns_in_a_branch(x, k):
    v = dg.Variable(np.ones(5, "float32"))
    return dg.cond(dg.sum(x) > 0, lambda: v.assign(x * k), lambda: x)


@pytest.mark.parametrize(
    ("body", "error"), [(raises, KeyError), (assigns_in_a_branch, dg.errors.TraceError)]
)
def test_trace_that_failed_holds_nothing(body, error):
    f, held = with_constant(body)
    with pytest.raises(error):
        dg.function(f)(dg.ones(5))
    del f

    assert held() is None

"""Random programs of several operations, differentiated as a whole."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import distgrad as dg
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values

# Bounded in value and slope, so that a chain of eight stays where differences are precise; without
# kinks; any shape.
UNARY = (
    dg.sin,
    dg.tanh,
    dg.sigmoid,
    dg.atan,
    dg.softplus,
    lambda x: dg.exp(-x * x / 4),
    lambda x: x / (1 + x * x),
    lambda x: dg.sqrt(1 + x * x),
    lambda x: x - 0.5,
    lambda x: 0.5 * x,
)
BINARY = (
    dg.add,
    dg.subtract,
    dg.logaddexp,
    lambda a, b: dg.multiply(dg.tanh(a), b),
    lambda a, b: dg.divide(a, 2 + dg.cos(b)),
    lambda a, b: dg.atan2(a, 3 + dg.sin(b)),
    lambda a, b: dg.where(dg.stop_gradient(a) > 0.1, a * 0.5, b),
)
STRUCTURAL = (
    lambda x: dg.reshape(x, -1),
    dg.flip,
    lambda x: dg.permute_dims(x, tuple(reversed(range(x.ndim)))),
    lambda x: dg.expand_dims(x, axis=0),
    lambda x: dg.mean(x, axis=-1, keepdims=True) if x.ndim else x,
    lambda x: dg.softmax(x) if x.ndim else x,
    lambda x: dg.logsumexp(x, axis=0) if x.ndim > 1 else x,
    lambda x: x[..., ::-1] if x.ndim else x,
    lambda x: dg.take(x, [0, -1, 0], axis=0) if x.ndim else x,
    lambda x: dg.cumulative_sum(x, axis=-1) / x.shape[-1] if x.ndim else x,
    lambda x: dg.concat([x, 0.5 * x], axis=-1) if x.ndim else x,
)
SHAPES = ((), (3,), (4, 3), (4, 1), (1, 3))


@st.composite
def programs(draw):
    """Draw sources and a list of steps: a function, and which earlier values it takes."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    steps = []
    for count in range(draw(st.integers(2, 8))):
        known = len(shapes) + count
        kind = draw(st.sampled_from((UNARY, BINARY, STRUCTURAL)))
        function = draw(st.sampled_from(kind))
        places = [draw(st.integers(0, known - 1)) for _ in range(2 if kind is BINARY else 1)]
        steps.append((function, places))
    return shapes, steps


def run(steps, sources):
    """Return all values that a program computes; operands that do not broadcast skip a step."""
    known = list(sources)
    for function, places in steps:
        try:
            np.broadcast_shapes(*(known[place].shape for place in places))
        except ValueError:
            known.append(known[places[0]])
        else:
            known.append(function(*(known[place] for place in places)))
    return known


@settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(programs())
def test_gradients_of_random_programs_agree_with_differences(program):
    shapes, steps = program
    sources = [
        dg.asarray(values(shape, -1.3, 1.1, seed=place)) for place, shape in enumerate(shapes)
    ]

    check_gradients(lambda *xs: run(steps, xs)[-2:], sources)


@settings(max_examples=120, derandomize=True, deadline=None, database=None)
@given(programs())
def test_persistent_and_spent_tapes_give_the_same_gradients(program):
    shapes, steps = program
    sources = [
        dg.asarray(values(shape, -1.3, 1.1, seed=place)) for place, shape in enumerate(shapes)
    ]

    def gradients(persistent):
        with dg.GradientTape(persistent=persistent) as tape:
            tape.watch(sources)
            target = run(steps, sources)[-1]
        return tape.gradient(target, sources, unconnected_gradients="zero")

    for once, kept in zip(gradients(False), gradients(True), strict=True):
        np.testing.assert_array_equal(once.numpy(), kept.numpy())

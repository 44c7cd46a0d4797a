"""The seam: every operation passes, whoever listens hears it, and nobody else is told."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.core import LISTENERS, Kind, Listener, Op, Spec, apply
from distgrad.errors import MissingKernelError


class Notebook:
    """A listener that writes down what it hears."""

    def __init__(self):
        self.heard = []
        self.reads = []

    def hear(self, op, keys, arrays, params, output, kernels):
        self.heard.append((op.name, tuple(keys), arrays, params, output, kernels))

    def hear_read(self, variable):
        self.reads.append(variable.name)

    def follows(self, key):
        return False


@pytest.fixture
def notebook():
    listener: Listener = Notebook()
    token = LISTENERS.set((*LISTENERS.get(), listener))
    yield listener
    LISTENERS.reset(token)


HALVE = Op(
    "halve_it",
    Kind.ELEMENTWISE,
    lambda x, by=2.0: Spec(x.shape, x.dtype),
    compose=lambda xp, x, by=2.0: xp.multiply(x, 1 / by),
)


def test_an_operation_without_a_kernel_is_composed_of_others():
    assert apply(HALVE, dg.asarray([2.0, 4.0])).tolist() == [1.0, 2.0]
    assert apply(HALVE, dg.asarray([2.0, 4.0]), by=4.0).tolist() == [0.5, 1.0]


def test_an_operation_with_neither_kernel_nor_composition_is_refused():
    lonely = Op("lonely_operation", Kind.OPAQUE, lambda x: x)

    with pytest.raises(MissingKernelError, match="lonely_operation: the backend 'numpy'"):
        apply(lonely, dg.asarray(1.0))


def test_a_listener_hears_inputs_metadata_and_result(notebook):
    x = dg.asarray([2.0, 4.0])
    y = apply(HALVE, x, by=4.0)
    name, keys, arrays, params, output, kernels = notebook.heard[0]

    assert len(notebook.heard) == 1
    assert name == "halve_it"
    assert keys == (x.key,)
    assert arrays[0] is x.array
    assert params == {"by": 4.0}
    assert output is y
    assert kernels.backend.name == "numpy"


def test_constants_are_heard_without_an_identity(notebook):
    x = dg.asarray([2.0, 4.0])
    _ = x * 3.0, 3.0 * x, x + np.ones(2, "float32"), dg.where(x > 0, x, 1.0)
    identities = [keys for name, keys, *_ in notebook.heard if name in ("multiply", "add", "where")]

    assert identities[:3] == [(x.key, 0), (0, x.key), (x.key, 0)]
    assert identities[3][1:] == (x.key, 0)


def test_a_listener_hears_of_variables_before_they_are_used(notebook):
    x, y = dg.Variable(2.0, name="x"), dg.Variable(3.0, name="y")
    _ = x * y

    assert notebook.reads == ["x", "y"]
    assert notebook.heard[0][1] == (x.key, y.key)


def test_listeners_are_told_in_the_order_in_which_they_came(notebook):
    order = []
    first, second = Notebook(), Notebook()
    first.hear = lambda *_: order.append("first")
    second.hear = lambda *_: order.append("second")
    token = LISTENERS.set((first, second))
    try:
        dg.asarray(1.0) + 1.0
    finally:
        LISTENERS.reset(token)

    assert order == ["first", "second"]
    assert notebook.heard == []


def test_an_operation_that_fails_is_not_heard(notebook):
    with pytest.raises(dg.errors.ShapeError):
        dg.asarray([1.0, 2.0]) + dg.asarray([1.0, 2.0, 3.0])

    assert notebook.heard == []


def test_several_outputs_are_tensors_with_identities_of_their_own(notebook):
    both = Op(
        "negative_and_double",
        Kind.OPAQUE,
        lambda x: (x, x),
        compose=lambda xp, x: (-x, x + x),
        outputs=2,
    )
    result = apply(both, dg.asarray([1.0, 2.0]))

    assert [t.tolist() for t in result] == [[-1.0, -2.0], [2.0, 4.0]]
    assert result[0].key != result[1].key
    assert notebook.heard[0][4] is result

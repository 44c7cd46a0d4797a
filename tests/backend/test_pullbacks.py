"""A backend's own pullbacks: asked first for elementwise operations, where they may answer."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import ArrayModuleBackend
from distgrad.ops import VOCABULARY


class Answering(ArrayModuleBackend):
    """A backend over NumPy that answers for `exp`, and for nothing else."""

    def __init__(self):
        super().__init__("answering", np)
        self.asked = []

    def pullback(self, op, g, y, xs, params, needs):
        self.asked.append(op.name)
        return [g * y] if op.name == "exp" else None


@pytest.fixture
def answering():
    return Answering()


def test_a_backend_answers_for_elementwise_operations_and_rules_for_the_rest(answering):
    with dg.use_backend(answering):
        x = dg.asarray([0.5, 1.5])
        found = dg.grad(lambda x: dg.sum(dg.exp(dg.sin(x))))(x)

    assert answering.asked == ["exp", "sin"]
    right = np.exp(np.sin([0.5, 1.5])) * np.cos([0.5, 1.5])
    np.testing.assert_allclose(found.numpy(), right, rtol=1e-6)


def test_rules_answer_where_somebody_listens_to_the_walk(answering):
    with dg.use_backend(answering), dg.GradientTape() as outer:
        x = dg.asarray(0.5)
        outer.watch(x)
        first = dg.grad(dg.exp)(x)
        assert not answering.asked
        second = outer.gradient(first, x)

    assert float(second) == pytest.approx(np.exp(0.5))


def test_rules_answer_behind_a_mask_where_zeros_must_stay(answering):
    with dg.use_backend(answering), np.errstate(all="ignore"):
        x = dg.asarray([0.0, 4.0])
        found = dg.grad(lambda x: dg.sum(dg.where(x > 0, dg.sqrt(x), 0.0)))(x)

    assert "sqrt" not in answering.asked
    assert found.tolist() == [0.0, 0.25]


def test_a_backend_that_names_its_operations_is_asked_for_no_others(answering):
    def pullback(op, g, y, xs, params, needs):
        answering.asked.append(op.name)

    pullback.operations = frozenset((VOCABULARY["matmul"],))
    answering.pullback = pullback
    with dg.use_backend(answering):
        x = dg.asarray([[0.5, 1.5], [1.0, 2.0]])
        found = dg.grad(lambda x: dg.sum(dg.exp(x @ x)))(x)

    assert answering.asked == ["matmul"]
    assert found.shape == (2, 2)

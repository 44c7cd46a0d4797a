"""What becomes of a kernel that a backend lacks or replaces."""

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import ArrayModuleBackend, Kernels
from distgrad.core import Kind, Op
from distgrad.errors import MissingKernelError
from distgrad.ops import VOCABULARY
from distgrad.testing import rules
from distgrad.testing.samples import samples

COMPOSED = [name for name, op in VOCABULARY.items() if op.compose is not None]


class Poor(ArrayModuleBackend):
    """A backend without some kernels."""

    def __init__(self, lacks):
        super().__init__("poor", array_api_strict)
        self.lacks = frozenset(lacks)

    def kernel(self, name):
        return None if name in self.lacks else super().kernel(name)


@pytest.mark.parametrize("name", sorted(set(COMPOSED) - {"transfer", "to_device"}))
def test_a_kernel_that_is_missing_is_composed_of_others(name):
    poor = Poor([name])

    for sample in samples(name):
        rules.check_agreement(sample, poor)


def test_all_composed_kernels_may_be_missing_at_once():
    poor = Poor(COMPOSED)

    with dg.use_backend(poor):
        x = dg.Variable([[1.0, -2.0, 0.5]], dtype="float64")
    with dg.GradientTape() as tape:
        y = dg.softmax_cross_entropy(labels=[2], logits=dg.relu(x) + dg.sigmoid(dg.square(x)))

    assert np.isfinite(tape.gradient(y, x).numpy()).all()


def test_a_kernel_that_cannot_be_composed_raises_when_it_is_called():
    poor = Poor(["sin"])

    with dg.use_backend(poor):
        x = dg.asarray([1.0])
        dg.cos(x)

        with pytest.raises(MissingKernelError, match="sin: the backend 'poor' has no kernel"):
            dg.sin(x)


def test_a_kernel_given_to_the_kit_takes_precedence():
    calls = []

    def squared(x):
        calls.append(x.shape)
        return x * x

    backend = ArrayModuleBackend("mine", array_api_strict, kernels={"square": squared})

    with dg.use_backend(backend):
        y = dg.square(dg.asarray([3.0]))

    assert float(y[0]) == 9
    assert calls == [(1,)]


def test_an_operation_from_outside_the_vocabulary_is_computed_by_its_composition():
    cube = Op(
        "cube",
        Kind.ELEMENTWISE,
        lambda x: x,
        vjp=lambda xp, g, y, xs, params, needs: (3 * g * xs[0] * xs[0],),
        compose=lambda xp, x: x * xp.square(x),
    )
    x = dg.Variable(2.0)

    with dg.GradientTape() as tape:
        y = dg.core.apply(cube, x)

    assert float(y) == 8
    assert float(tape.gradient(y, x)) == 12


def test_kernels_say_whose_they_are():
    assert repr(Kernels(Poor([]), VOCABULARY)) == "<kernels of poor>"

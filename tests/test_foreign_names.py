"""Methods of other libraries' tensors and optimizers, and what is said of them."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.foreign_names import Foreign, ForeignOptimizerMethods, ForeignTensorMethods
from distgrad.optimizers import SGD, Adam, Optimizer, chain, clipping

NAMES = {
    cls: [name for name, each in vars(cls).items() if isinstance(each, Foreign)]
    for cls in (ForeignTensorMethods, ForeignOptimizerMethods)
}


@pytest.mark.parametrize(
    ("make", "name", "remedy"),
    [
        (lambda: dg.asarray([1.0]), "detach", "'Tensor' .*'detach'; take dg.stop_gradient"),
        (lambda: dg.asarray([1.0]), "backward", "tape.gradient"),
        (lambda: dg.Variable([1.0]), "grad", "'Variable' .*'grad'; a tensor holds no gradient"),
        (lambda: SGD(0.1), "step", r"'SGD' .*'step'; take optimizer\.apply\("),
        (lambda: Adam(0.1), "minimize", "tape.gradient"),
        (lambda: Optimizer(chain(clipping(norm=1.0))), "apply_gradients", r"optimizer\.apply\("),
    ],
)
def test_the_error_says_what_to_use_instead(make, name, remedy):
    with pytest.raises(AttributeError, match=remedy):
        getattr(make(), name)


@pytest.mark.parametrize(
    "value", [dg.asarray([1.0]), dg.Variable([1.0]), SGD(0.1)], ids=lambda each: type(each).__name__
)
def test_foreign_names_are_neither_there_nor_listed(value):
    foreign = NAMES[
        ForeignOptimizerMethods if isinstance(value, Optimizer) else ForeignTensorMethods
    ]

    assert foreign
    assert not [name for name in foreign if hasattr(value, name)]
    assert not set(foreign) & set(dir(value))
    assert {"sum", "shape"} <= set(dir(value)) or "apply" in dir(value)


def test_protocols_are_asked_for_as_ever():
    t = dg.asarray([1.0, 2.0])

    assert not hasattr(t, "__array_interface__")
    assert not hasattr(t, "__cuda_array_interface__")
    assert hasattr(t, "__array_namespace__")
    np.testing.assert_array_equal(np.asarray(t), [1.0, 2.0])
    with pytest.raises(AttributeError, match="lies on cpu"):
        _ = t.__cuda_array_interface__
    assert not hasattr(type(t), "__getattr__")  # which would slow each of these


def test_a_subclass_may_have_such_a_name_of_its_own():
    class Stepping(SGD):
        def step(self):
            return "own"

    assert Stepping(0.1).step() == "own"
    assert "step" in dir(Stepping(0.1))

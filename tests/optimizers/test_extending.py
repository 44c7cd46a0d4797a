"""Optimizers take in variables that come later, and keep what they know of the others."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.optimizers import LAMB, SGD, Adam, Optimizer, accumulate, chain, clipping

KINDS = {
    "sgd": lambda: SGD(0.1, momentum=0.9),
    "adam": lambda: Adam(0.1, amsgrad=True),
    "lamb": lambda: LAMB(0.1),
    "chain": lambda: Optimizer(chain(clipping(value=1.0), SGD(0.5, momentum=0.5), Adam(0.1))),
    "accumulated": lambda: Optimizer(accumulate(2, Adam(0.1))),
}


def variables():
    return [
        dg.Variable(np.arange(3.0, dtype="float32"), name="x"),
        dg.Variable(np.ones((2, 2), np.float16), name="y"),
    ]


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_the_state_of_old_variables_goes_on(make):
    (x, y), (alone, _) = variables(), variables()
    optimizer, plain = make(), make()
    for step in range(6):
        if step == 3:
            slots = {each.name: each for each in optimizer.variables}
            optimizer.extend([x, y])
            assert all(
                slots[each.name] is each for each in optimizer.variables if each.name in slots
            )
        both = [x] if step < 3 else [x, y]
        optimizer.apply([each.value() * 0 + 0.1 for each in both], both)
        plain.apply([alone.value() * 0 + 0.1], [alone])

    np.testing.assert_array_equal(x.numpy(), alone.numpy())
    assert (y.numpy() != 1).all()
    assert optimizer.iterations == 6


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_the_names_are_those_of_building_for_all_at_once(make):
    (x, y), both = variables(), variables()
    optimizer, plain = make(), make()
    optimizer.build(x)
    optimizer.extend(y)
    plain.build(both)

    assert [each.name for each in optimizer.variables] == [each.name for each in plain.variables]
    plain.load_state_dict(optimizer.state_dict())


def test_extending_builds_what_was_not_built():
    x, y = variables()
    optimizer = Adam(0.1)
    optimizer.extend([x, y])
    optimizer.extend([x])
    optimizer.apply([None, dg.ones((2, 2), dtype="float16")], [x, y])

    assert "x/first_moment" in optimizer.state_dict()


def test_what_does_not_fit_is_refused():
    x, y = variables()

    class Together:
        """Keeps one vector for all elements."""

        def init(self, parameters):
            return {"all": dg.zeros(sum(each.array.size for each in parameters.values()))}

        def update(self, gradients, state, parameters):
            return gradients, state

    optimizer = Optimizer(Together())
    optimizer.build(x)
    with pytest.raises(ValueError, match=r"optimizer/all.*Together keeps it for all together"):
        optimizer.extend(y)
    with pytest.raises(ValueError, match="twice"):
        optimizer.extend([y, y])
    with pytest.raises(TypeError, match="extend: expected variables"):
        optimizer.extend([dg.ones(2)])
    with pytest.raises(ValueError, match=r"'y' is not among the 1.*optimizer\.extend"):
        optimizer.apply([dg.ones((2, 2))], [y])

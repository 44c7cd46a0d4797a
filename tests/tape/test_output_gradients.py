"""output_gradients: the cotangents to start from, checked and never guessed at."""

import numpy as np
import pytest

import distgrad as dg


def product_of(*factors):
    """Return a tape that has recorded a product, and the product."""
    with dg.GradientTape(persistent=True) as tape:
        result = factors[0]
        for factor in factors[1:]:
            result = result * factor
    return tape, result


def test_output_gradients_weigh_the_elements_of_the_target():
    x = dg.Variable([1.0, 2.0, 3.0])
    tape, y = product_of(x, x)
    weights = [1.0, 0.0, 2.0]

    for given in (weights, np.array(weights), dg.asarray(weights), dg.Variable(weights)):
        gradient = tape.gradient(y, x, output_gradients=given)
        assert gradient.numpy().tolist() == [2.0, 0.0, 12.0]
        assert gradient.dtype == np.float32


def test_output_gradients_follow_the_structure_of_the_target():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y, z = x * x, x * 10.0

    assert float(tape.gradient([y, z], x, output_gradients=[2.0, 3.0])) == 42.0
    assert float(tape.gradient({"y": y, "z": z}, x, output_gradients={"z": 3.0, "y": 2.0})) == 42.0


def test_none_among_output_gradients_stands_for_ones():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y, z = x * x, x * 10.0

    assert float(tape.gradient([y, z], x, output_gradients=[None, 3.0])) == 36.0
    assert float(tape.gradient([y, z], x, output_gradients=None)) == 16.0


def test_output_gradients_of_a_target_named_twice_add_up():
    x = dg.Variable(3.0)
    tape, y = product_of(x, x)

    assert float(tape.gradient([y, y], x, output_gradients=[2.0, 0.5])) == 15.0


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1)])
def test_output_gradients_of_another_shape_are_refused_even_if_they_broadcast(shape):
    x = dg.Variable([1.0, 2.0, 3.0])
    tape, y = product_of(x, x)

    with pytest.raises(dg.errors.ShapeError, match=r"output_gradients 0 has shape .*\(3,\)"):
        tape.gradient(y, x, output_gradients=np.ones(shape, "float32"))


@pytest.mark.parametrize("given", [[2.0], [2.0, 3.0, 4.0], (2.0, 3.0), {"y": 2.0}, 2.0])
def test_output_gradients_of_another_structure_are_refused(given):
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y, z = x * x, x * 10.0

    with pytest.raises(ValueError, match="output_gradients has not the structure of target"):
        tape.gradient([y, z], x, output_gradients=given)


def test_a_complex_cotangent_of_a_real_target_is_refused():
    x = dg.Variable(3.0)
    tape, y = product_of(x, x)

    with pytest.raises(TypeError, match=r"complex.*expected a real cotangent"):
        tape.gradient(y, x, output_gradients=1j)


def test_output_gradients_that_are_no_numbers_are_refused():
    x = dg.Variable(3.0)
    tape, y = product_of(x, x)

    with pytest.raises(TypeError, match="str"):
        tape.gradient(y, x, output_gradients="text")


def test_output_gradients_from_python_keep_the_precision_of_the_target():
    x = dg.Variable(np.ones(2))
    tape, y = product_of(x, 1.0)

    assert tape.gradient(y, x, output_gradients=[0.1, 0.2]).numpy().tolist() == [0.1, 0.2]


def test_a_gradient_does_not_share_memory_with_the_output_gradients_given():
    x = dg.Variable([1.0, 2.0, 3.0])
    with dg.GradientTape() as tape:
        y = x + 0.0
    weights = np.ones(3, "float32")
    gradient = tape.gradient(y, x, output_gradients=weights)
    weights[:] = 7.0

    assert gradient.numpy().tolist() == [1.0, 1.0, 1.0]


def test_output_gradients_in_lists_may_hold_tensors_that_are_differentiated():
    x, v = dg.Variable([1.0, 2.0]), dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y = x * x
        gradient = tape.gradient(y, x, output_gradients=[v, 1.0])

    assert gradient.numpy().tolist() == [6.0, 4.0]
    assert float(tape.gradient(gradient, v)) == 2.0

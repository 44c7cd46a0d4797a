"""The gradient check passes right rules, and names what is wrong with wrong ones."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.core import Kind, Op, apply
from distgrad.errors import GradientCheckError
from distgrad.testing.gradients import (
    check_gradients,
    difference,
    difference_step,
    difference_tolerance,
)
from distgrad.testing.inputs import values

X = values((3, 4), 0.5, 2.0)


def cube(vjp=None, jvp=None):
    """Return x**3 with rules that a test may have got wrong."""

    def right_vjp(xp, g, y, xs, params, needs):
        return (3 * g * xs[0] * xs[0],)

    def right_jvp(xp, tangents, y, xs, params):
        return 3 * tangents[0] * xs[0] * xs[0]

    op = Op(
        "cube",
        Kind.ELEMENTWISE,
        lambda x: x,
        vjp or right_vjp,
        jvp or right_jvp,
        compose=lambda xp, x: x * xp.square(x),
    )
    return lambda x: apply(op, x)


def test_right_rules_pass_in_every_mode_and_order():
    check_gradients(cube(), [X], order=3)


def test_a_wrong_vjp_is_found_in_reverse_mode_and_not_in_forward():
    wrong = cube(vjp=lambda xp, g, y, xs, params, needs: (2 * g * xs[0] * xs[0],))

    with pytest.raises(GradientCheckError, match=r"order 1, reverse: argument 0: worst at entry"):
        check_gradients(wrong, [X])
    check_gradients(wrong, [X], modes=("forward",))


def test_a_wrong_jvp_is_found_in_forward_mode_and_not_in_reverse():
    wrong = cube(jvp=lambda xp, tangents, y, xs, params: tangents[0] * xs[0])

    with pytest.raises(GradientCheckError, match=r"order 1, forward: argument 0"):
        check_gradients(wrong, [X])
    check_gradients(wrong, [X], modes="reverse")


def test_a_rule_right_only_to_first_order_is_found_at_the_second():
    def cut(xp, g, y, xs, params, needs):
        x = dg.stop_gradient(xs[0]) if isinstance(xs[0], dg.Tensor) else xs[0]
        return (3 * g * x * x,)

    wrong = cube(vjp=cut)

    check_gradients(wrong, [X], order=1)
    with pytest.raises(GradientCheckError, match=r"order 2, reverse over reverse"):
        check_gradients(wrong, [X], modes=("reverse",))


def test_the_worst_entry_is_named_with_both_numbers():
    def spoiled(xp, g, y, xs, params, needs):
        right = 3 * xs[0] * xs[0]
        return (g * (right + np.where(np.arange(12).reshape(3, 4) == 6, 0.25, 0)),)

    with pytest.raises(GradientCheckError) as caught:
        check_gradients(cube(vjp=spoiled), [X], order=1)

    assert "worst at entry (1, 2): the derivative is" in str(caught.value)
    given, expected = (float(part.split(" ")[0].rstrip(";")) for part in parts(str(caught.value)))
    assert abs(given - expected) > 1e-3 * abs(expected)


def parts(message):
    entry = message.partition("worst at entry (1, 2): the derivative is ")[2]
    given, _, rest = entry.partition(", by differences ")
    return given, rest


def test_the_argument_at_fault_is_named_by_its_path():
    def half_wrong(parameters):
        wrong = cube(vjp=lambda xp, g, y, xs, params, needs: (g,))
        return dg.sum(cube()(parameters["bias"]) * wrong(parameters["kernel"]))

    with pytest.raises(GradientCheckError, match=r"argument 0/kernel: worst"):
        check_gradients(half_wrong, [{"bias": X, "kernel": X}])


def test_a_gradient_of_the_wrong_shape_is_found():
    wrong = cube(vjp=lambda xp, g, y, xs, params, needs: (xp.sum(3 * g * xs[0] * xs[0], axis=0),))

    with pytest.raises(GradientCheckError, match=r"float64\(3, 4\) is float64\(4,\)"):
        check_gradients(wrong, [X])


def test_nan_is_found():
    wrong = cube(vjp=lambda xp, g, y, xs, params, needs: (g * float("nan"),))

    with pytest.raises(GradientCheckError, match="nan"):
        check_gradients(wrong, [X])


def test_nests_variables_and_several_outputs_are_differentiated():
    variable = dg.Variable(X)

    check_gradients(lambda a, b: {"first": a[0] * b, "rest": [a[1]]}, [(variable, X), X])


def test_integers_and_scalars_are_passed_on():
    check_gradients(lambda x, axis, index: dg.sum(x, axis=axis)[index], [X, 1, np.array([2, 0])])


@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128"])
def test_other_dtypes_are_checked_at_their_precision(dtype):
    check_gradients(lambda x: dg.sin(x) * x, [X.astype(dtype)])


def test_an_imaginary_part_at_fault_is_named():
    def cut(xp, g, y, xs, params, needs):
        return (xp.astype(xp.real(3 * g * xs[0] * xs[0]), dtype=xs[0].dtype),)

    with pytest.raises(GradientCheckError, match=r"entry \(\d, \d\)(, imaginary part)?: "):
        check_gradients(cube(vjp=cut), [X * np.exp(0.5j)])


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"modes is .*'sideways'.*expected one or both"):
        check_gradients(cube(), [X], modes=("reverse", "sideways"))


def test_an_order_below_one_is_refused():
    with pytest.raises(ValueError, match="order is 0; expected 1 or more"):
        check_gradients(cube(), [X], order=0)


def test_arguments_without_a_floating_array_are_refused():
    with pytest.raises(ValueError, match="hold no floating array"):
        check_gradients(cube(), [3, np.array([1, 2])])


def test_a_result_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="returned a float; expected Tensors"):
        check_gradients(lambda x: 3.0, [X])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_difference_is_as_precise_as_its_tolerance_says(dtype):
    one = np.dtype(dtype).type(0.7)
    given = difference(lambda h: np.exp(one + one.dtype.type(h)), difference_step(one.dtype))

    # 1000 is the allowance for large fifth derivatives; exp has small ones
    assert abs(given - np.exp(0.7)) < difference_tolerance(one.dtype) / 100


def test_a_bare_argument_is_refused_before_it_is_taken_apart():
    with pytest.raises(TypeError, match=r"args is a Tensor; expected a tuple or list .* \(x,\)"):
        check_gradients(dg.sum, dg.asarray([1.0, 2.0]))

"""tf.function: signatures, and Python's `if` and `while` on the value of a tensor."""

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf
from distgrad.errors import UnknownValueError


def test_a_function_whose_way_depends_on_values_runs_step_by_step_after_a_warning():
    @tf.function
    def f(x):
        if x > 0:
            return x * x
        return -x

    x = tf.Variable(3.0)
    with pytest.warns(UserWarning, match="f runs step by step from now on"), tf.GradientTape() as t:
        y = f(x)

    assert t.gradient(y, x).numpy() == 6.0
    assert f(tf.constant(-2.0)).numpy() == 2.0  # and does not warn again


def test_a_loop_until_a_value_is_reached_runs():
    @tf.function
    def doubled(x, bound):
        while x < bound:
            x = x * 2.0
        return x

    with pytest.warns(UserWarning, match="step by step"):
        assert doubled(tf.constant(3.0), np.float32(20.0)).numpy() == 24.0


def test_one_function_in_another_makes_both_run_step_by_step():
    @tf.function
    def inner(x):
        return x if x > 0 else -x

    @tf.function
    def outer(x):
        return inner(x) + 1.0

    with pytest.warns(UserWarning, match="step by step"):
        assert outer(tf.constant(-2.0)).numpy() == 3.0


def test_without_autograph_the_value_is_refused():
    f = tf.function(lambda x: x if x > 0 else -x, autograph=False)

    with pytest.raises(UnknownValueError, match="the value of a symbolic tensor is asked for"):
        f(tf.constant(1.0))


def test_an_input_signature_converts_numbers_and_refuses_other_tensors():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def f(x):
        return x * 2

    assert f([1, 2]).dtype == tf.float32
    assert f(np.ones(3)).numpy().tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(TypeError, match="Can not cast TensorSpec"):
        f(tf.constant([1, 2]))
    with pytest.raises(TypeError, match="Can not cast TensorSpec"):
        f(tf.constant(1.0))


def test_an_input_signature_of_a_method_leaves_the_object_out():
    class Model:
        def __init__(self):
            self.weight = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
        def call(self, x):
            return self.weight * x

    assert Model().call(3.0).numpy() == 6.0


def test_a_signature_says_how_many_arguments_there_are():
    f = tf.function(lambda *x: x[0], input_signature=[tf.TensorSpec([], tf.float32)])

    with pytest.raises(TypeError, match="1 entries, the call 2 arguments"):
        f(1.0, 2.0)


@pytest.mark.filterwarnings("ignore:tf.function")
@pytest.mark.parametrize("by_steps", [False, True])
def test_numbers_that_a_function_returns_become_tensors_of_tensorflows_dtypes(by_steps):
    @tf.function
    def numbers(x):
        if by_steps and x > 0:
            pass
        return {"whole": 2, "rest": [0.5, None, True], "host": np.arange(2)}

    found = numbers(tf.constant(1.0))

    assert (found["whole"].dtype, found["whole"].numpy()) == (tf.int32, 2)
    assert (found["rest"][0].dtype, found["rest"][1]) == (tf.float32, None)
    assert found["rest"][2].dtype == tf.bool
    assert found["host"].dtype == tf.int64

"""Which dtypes TensorFlow's functions take, in which dtype they answer, and what they refuse."""

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf

COMPLEX = tf.constant([1.0 + 2.0j, 3.0 - 1.0j])
TRUTH = tf.constant([True, False])


@pytest.mark.parametrize(
    "function",
    [tf.math.erf, tf.math.erfc, tf.math.softplus, tf.math.log_sigmoid, tf.floor, tf.math.is_nan]
    + [tf.nn.relu, tf.nn.elu, tf.nn.selu, tf.nn.gelu, tf.nn.softmax, tf.nn.l2_loss],
)
def test_functions_of_reals_refuse_complex_numbers(function):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Value for attr 'T' of complex64"):
        function(tf.cast(COMPLEX, tf.complex64))


@pytest.mark.parametrize(
    "function",
    [tf.add, tf.subtract, tf.multiply, tf.pow, tf.maximum, tf.less, tf.math.floormod]
    + [lambda a, b: a + b, lambda a, b: a < b, lambda a, b: a // b],
)
def test_arithmetic_and_order_refuse_truth_values(function):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Value for attr 'T' of bool"):
        function(TRUTH, TRUTH)


@pytest.mark.parametrize("function", [tf.less, tf.maximum, lambda a, b: a >= b])
def test_complex_numbers_have_no_order(function):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Value for attr 'T' of complex"):
        function(COMPLEX, COMPLEX)


def test_logic_takes_truth_values_alone():
    with pytest.raises(tf.errors.InvalidArgumentError, match="allowed values: bool"):
        tf.logical_and(tf.constant([1.0]), tf.constant([1.0]))


@pytest.mark.parametrize("function", [tf.divide, lambda a, b: a / b, tf.math.divide_no_nan])
def test_a_division_of_two_dtypes_is_tensorflows_type_error(function):
    with pytest.raises(TypeError):
        function(tf.constant(1.0), tf.constant(1.0, tf.float64))
    with pytest.raises(TypeError):
        function(TRUTH, TRUTH)


def test_the_product_of_truth_values_is_their_conjunction():
    assert (TRUTH * tf.constant([True, True])).numpy().tolist() == [True, False]


def test_angles_of_double_precision_are_precise():
    assert tf.math.angle(tf.constant(-1.0, tf.float64)).numpy() == np.pi


def test_a_weight_in_numbers_leaves_the_dtype_of_the_logits():
    logits = tf.constant([0.5, -1.0], tf.float16)

    loss = tf.nn.weighted_cross_entropy_with_logits(tf.constant([1, 0], tf.float16), logits, 2.0)

    assert loss.dtype == tf.float16


def test_the_mean_of_no_integers_is_zero():
    assert tf.reduce_mean(tf.zeros([2, 0], tf.int32), axis=1).numpy().tolist() == [0, 0]


def test_the_logarithm_of_a_complex_determinant_is_complex():
    sign, logarithm = tf.linalg.slogdet(tf.eye(2, dtype=tf.complex64))

    assert sign.dtype == logarithm.dtype == tf.complex64


def test_transposing_truth_values_keeps_them():
    assert tf.transpose(tf.constant([[True, False]]), conjugate=True).dtype == tf.bool

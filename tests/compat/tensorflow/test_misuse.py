"""Operands that do not fit, in TensorFlow's exception types and words, and names not offered.

Misuse of the tape is in `tests/tape/behaviour/test_misuse.py`, for all spellings.
"""

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda: tf.constant(1.0) * tf.constant(1.0, tf.float64), "cannot compute Mul as input #1"),
        (lambda: tf.constant(1.0) + tf.constant(1), "was expected to be a float tensor but is a"),
        (lambda: tf.constant(1) + 1.5, "expected to be a int32 tensor but is a float tensor"),
        (lambda: tf.ones([2]) + tf.ones([3]), "Incompatible shapes"),
        (lambda: tf.matmul(tf.ones([2, 3]), tf.ones([2, 3])), "Matrix size-incompatible"),
        (lambda: tf.sin(1), "Value for attr 'T' of int32 is not in the list of allowed values"),
        (lambda: tf.gather(tf.ones([2]), [5]), r"5 is not in \[0, 2\)"),
        (lambda: tf.gather(tf.ones([2]), [-1]), r"-1 is not in \[0, 2\)"),
        (lambda: tf.ones([2])[5], "out of bounds"),
        (lambda: tf.concat([tf.ones([1]), tf.ones([1], tf.float64)], 0), "ConcatV2"),
        (lambda: tf.reshape(tf.ones([2]), [3]), "reshape"),
        (lambda: tf.split(tf.ones([4]), 3), "should evenly divide"),
    ],
)
def test_operands_that_do_not_fit_are_invalid_arguments(operation, words):
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        operation()


def test_a_number_that_does_not_fit_is_also_a_type_error():
    with pytest.raises(TypeError, match=r"Cannot convert 1\.5 to EagerTensor of dtype int32"):
        1.5 + tf.constant(1)
    with pytest.raises(TypeError, match=r"Cannot convert 1\.5 to EagerTensor of dtype int32"):
        tf.constant(1.5, dtype=tf.int32)


@pytest.mark.parametrize("name", ["linalg.lu", "nn.local_response_normalization"])
def test_what_is_not_offered_yet_says_so(name):
    module = tf
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)

    with pytest.raises(AttributeError, match=rf"tf\.{name} is not offered yet"):
        getattr(module, last)


def test_what_tensorflow_does_not_have_is_an_ordinary_missing_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        tf.nn.nonsense  # noqa: B018
    with pytest.raises(tf.errors.UnimplementedError, match=r"output_type=.* is not offered"):
        tf.matmul(tf.ones([2, 2]), tf.ones([2, 2]), output_type=tf.float64)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x * x, "the function returned a Tensor; expected a pair"),  # of length 2
        (lambda x: (x, lambda dy: dy, 3), "the function returned 3 values; expected a pair"),
        (lambda x: None, "the function returned a NoneType; expected a pair"),
        (lambda x: (x * x, x), "grad_fn, the second value returned, is of type Tensor"),
    ],
)
def test_a_custom_gradient_says_what_its_function_has_to_return(function, words):
    with pytest.raises(TypeError, match=words):
        tf.custom_gradient(function)(tf.constant([1.0, 2.0]))


@pytest.mark.parametrize(
    "divided",
    [
        lambda: tf.constant([5, 3]) // tf.constant([2, 0]),
        lambda: 5 % tf.constant([0]),
        lambda: tf.constant([5], tf.uint8) // 0,
        lambda: tf.math.floordiv([5], 0),
        lambda: tf.math.floormod(5, tf.constant([0, 1])),
        lambda: tf.Variable([5]) // 0,
    ],
)
def test_integers_are_not_divided_by_zero(divided):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Integer division by zero"):
        divided()


def test_floats_are_divided_by_zero():
    with np.errstate(divide="ignore", invalid="ignore"):
        assert (tf.constant(5.0) // 0.0).numpy() == np.inf
        assert np.isnan((tf.constant([5.0]) % 0.0).numpy()[0])


def test_what_there_is_of_no_elements():
    assert np.isnan(tf.math.zero_fraction(tf.zeros([0])).numpy())
    assert tf.stack([]).shape == (0,)
    with pytest.raises(ValueError, match="axis 1"):
        tf.stack([], axis=1)

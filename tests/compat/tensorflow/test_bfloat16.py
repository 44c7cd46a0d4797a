"""Tensors of bfloat16 take Python's numbers, lists and defaults as those of other floats do."""

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf

ml_dtypes = pytest.importorskip("ml_dtypes")

X = [1.0, 2.0]


@pytest.fixture
def x():
    return tf.cast(tf.constant(X), tf.bfloat16)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tf.constant(X, tf.bfloat16),
        lambda: tf.constant([1, 2], tf.bfloat16),
        lambda: tf.convert_to_tensor(X, dtype_hint=tf.bfloat16),
        lambda: tf.Variable(X, dtype=tf.bfloat16),
        lambda: tf.Variable(tf.zeros([2], tf.bfloat16)).assign(X),
    ],
)
def test_pythons_numbers_enter(make):
    made = make()

    assert made.dtype == tf.bfloat16
    assert made.numpy().tolist() == X


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda x: x + 1, [2, 3]),
        (lambda x: 1.5 * x, [1.5, 3]),
        (lambda x: x + [1, 2.5], [2, 4.5]),
        (lambda x: x**2, [1, 4]),
        (lambda x: tf.maximum(1.5, x), [1.5, 2]),
        (lambda x: tf.where(x > 1, x, 0.0), [0, 2]),
        (lambda x: tf.clip_by_value(x, 1.0, 1.5), [1, 1.5]),
        (lambda x: tf.convert_to_tensor([x[0], 3.0]), [1, 3]),
    ],
)
def test_pythons_numbers_take_the_dtype_of_the_tensor_beside_them(x, operation, expected):
    y = operation(x)

    assert y.dtype == tf.bfloat16
    assert y.numpy().tolist() == expected


@pytest.mark.parametrize("draw", ["normal", "uniform", "truncated_normal"])
def test_random_numbers_are_drawn(draw):
    assert getattr(tf.random, draw)([3], dtype=tf.bfloat16).dtype == tf.bfloat16


def test_a_step_of_training_stays_in_it(x):
    v = tf.Variable(X, dtype=tf.bfloat16)

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(v * v * 2)
    gradient = tape.gradient(loss, v)
    tf.optimizers.SGD(0.25).apply_gradients([(gradient, v)])

    assert gradient.dtype == tf.bfloat16
    assert gradient.numpy().tolist() == [4, 8]
    assert v.numpy().tolist() == [0, 0]


def test_its_limits_are_known():
    assert float(tf.bfloat16.max) == float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    assert float(tf.bfloat16.min) == -float(tf.bfloat16.max)


def test_what_does_not_fit_is_refused_still(x):
    with pytest.raises(TypeError, match="Cannot convert 1j to EagerTensor of dtype bfloat16"):
        tf.constant(1j, tf.bfloat16)
    with pytest.raises(tf.errors.InvalidArgumentError, match="was expected to be a bfloat16"):
        x + tf.constant(np.float32(1))

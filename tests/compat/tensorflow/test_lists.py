"""Lists in place of tensors: what dtype they get, how they index, and what is made of them."""

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf

TENTH = 0.1  # no float32 number: by way of float32 it would be 0.10000000149


@pytest.mark.parametrize(
    "result",
    [
        lambda one: one * [TENTH],
        lambda one: [TENTH] * one,
        lambda one: tf.multiply([TENTH], one),
        lambda one: tf.reshape(tf.matmul([[TENTH]], one[None]), [1]),
        lambda one: tf.linalg.matvec(one[None], [TENTH]),
        lambda one: tf.tensor_scatter_nd_update(one, [[0]], [TENTH]),
    ],
)
def test_a_list_beside_a_double_keeps_all_digits(result):
    product = result(tf.constant([1.0], tf.float64))

    assert product.dtype == tf.float64
    assert product.numpy()[0] == TENTH


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([np.int64(3)], tf.int32),
        ([np.uint8(3)], tf.int32),
        ([np.int64(2**40)], tf.int64),
        ([np.array([1, 2]), [3, 4]], tf.int32),
        ([np.float32(1.5), 2.0], tf.float32),
        ([np.float16(1.5), 2.0], tf.float16),
        ([np.float64(1.5), np.float32(2)], tf.float64),
        ([2.0, np.float64(1.5)], tf.float32),
        ([np.int64(1), 2.5], tf.float32),
        ([[np.float32(1.5)], [2.0]], tf.float32),
        ([np.complex64(1)], tf.complex128),
        ([np.bool_(True)], tf.bool),
    ],
)
def test_the_first_number_of_a_list_decides_its_dtype(value, dtype):
    assert tf.constant(value).dtype == tf.stack(value).dtype == dtype


def test_an_array_is_stacked_as_it_is_and_unlike_lists_are_refused():
    assert tf.stack(np.arange(4).reshape(2, 2)).dtype == tf.int64
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.stack([[1.0, 2.0], [3.0]])


def test_a_list_that_does_not_fit_is_either_error_of_tensorflows():
    for error in (TypeError, tf.errors.InvalidArgumentError):
        with pytest.raises(error, match="Cannot convert"):
            tf.constant([1, 2]) + [1.5, 2.5]


def test_a_list_as_a_subscript_has_a_part_for_each_axis():
    x = tf.constant([[1.0, 2.0], [3.0, 4.0]])

    assert x[[0, 1]].numpy() == 2.0
    v = tf.Variable(x)
    assert v[[1, 0]].assign(9.0).numpy().tolist() == [[1.0, 2.0], [9.0, 4.0]]
    with pytest.raises(TypeError, match="valid indices"):
        x[[0.5]]


@pytest.mark.parametrize("kind", [tf.Variable, tf.identity])
def test_the_parts_of_what_a_tape_watches_are_tensors_of_this_layer(kind):
    x = kind([[2.0, 3.0], [5.0, 7.0]])

    with tf.GradientTape() as tape:
        tape.watch(x)
        first, second = x
        y = tf.reduce_sum(first * second)

    assert isinstance(first, tf.Tensor)
    assert first.dtype.is_floating
    np.testing.assert_array_equal(tape.gradient(y, x).numpy(), [[5.0, 7.0], [2.0, 3.0]])


def test_add_n_adds_up_the_parts_of_one_tensor():
    assert tf.add_n(tf.constant([[1.0, 2.0], [3.0, 4.0]])).numpy().tolist() == [4.0, 6.0]


def test_a_mask_may_be_numbers_and_its_axis_counted_from_the_end():
    x = tf.constant([[1, 2, 3], [4, 5, 6]])

    assert tf.boolean_mask(x, [1, 0, 2], axis=-1).numpy().tolist() == [[1, 3], [4, 6]]
    with pytest.raises(ValueError, match="incompatible"):
        tf.boolean_mask(x, [True, False, True], axis=-2)


def test_of_values_written_to_one_position_the_last_stays():
    x, new = tf.constant([1.0, 2.0]), tf.constant([5.0, 6.0])

    with tf.GradientTape() as tape:
        tape.watch([x, new])
        y = tf.tensor_scatter_nd_update(x, [[1], [1]], new)

    assert y.numpy().tolist() == [1.0, 6.0]
    of_x, of_new = tape.gradient(y, [x, new])
    assert of_x.numpy().tolist() == [1.0, 0.0]
    assert of_new.numpy().tolist() == [0.0, 1.0]


def test_truth_values_are_scattered():
    mask = tf.constant([True, True, False])

    assert tf.tensor_scatter_nd_update(mask, [[0]], [False]).numpy().tolist() == [
        False,
        True,
        False,
    ]
    twice = tf.scatter_nd([[0], [0], [2]], [True, True, False], [3])
    assert twice.dtype == tf.bool
    assert twice.numpy().tolist() == [True, False, False]


def test_an_adjoint_of_truth_values_stays_one():
    assert tf.linalg.adjoint([[True, False]]).dtype == tf.bool


@pytest.mark.parametrize(
    "call",
    [
        lambda: -tf.constant(True),
        lambda: tf.math.digamma(tf.constant(1j)),
        lambda: tf.math.lgamma(tf.constant(1j)),
    ],
)
def test_dtypes_that_an_operation_does_not_take_are_invalid_arguments(call):
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not in the list of allowed"):
        call()

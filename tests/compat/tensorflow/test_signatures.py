"""Names of arguments, and forms of values, as programs written for TensorFlow give them."""

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf


def test_the_arguments_have_tensorflows_names():
    assert tf.atan2(y=1.0, x=2.0).numpy() == tf.atan2(1.0, 2.0).numpy() < 0.5
    assert tf.math.atan2(x=2.0, y=1.0).numpy() < 0.5 < tf.math.atan2(x=1.0, y=2.0).numpy()
    assert tf.identity(input=1.0).numpy() == 1.0
    assert tf.math.real(input=1 + 2j).numpy() == 1.0
    assert tf.math.imag(input=1 + 2j).numpy() == 2.0
    assert tf.nn.softplus(features=0.0).numpy() == pytest.approx(np.log(2.0))


def test_bitwise_operators_take_integers_and_truth_values():
    a, b = tf.constant([6, 3]), tf.constant([3, 5])

    assert (a & b).numpy().tolist() == [2, 1]
    assert (a | b).numpy().tolist() == [7, 7]
    assert (a ^ b).numpy().tolist() == [5, 6]
    assert (~a).numpy().tolist() == [-7, -4]
    assert (~tf.constant([True, False])).numpy().tolist() == [False, True]
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected tensors of bool or of int"):
        tf.constant([1.0]) & tf.constant([2.0])


def test_lists_of_integers_join_lists_of_floats():
    assert tf.concat([[1.0, 2.0], [3]], 0).numpy().tolist() == [1.0, 2.0, 3.0]
    assert tf.concat([[1], [3]], 0).dtype == tf.int32


def test_an_index_that_is_no_position_is_a_type_error():
    with pytest.raises(TypeError, match=r"valid indices, got 1\.0"):
        tf.constant([1.0, 2.0])[1.0]


def test_variables_are_changed_at_positions():
    v = tf.Variable([1.0, 2.0, 3.0])
    slices = tf.IndexedSlices(tf.constant([7.0]), tf.constant([1]))

    assert v.scatter_update(slices) is v
    assert v.numpy().tolist() == [1.0, 7.0, 3.0]
    v.scatter_nd_update([[0], [2]], [4.0, 5.0])
    assert v.numpy().tolist() == [4.0, 7.0, 5.0]
    v.scatter_nd_add([[0], [0]], [1.0, 2.0])
    v.scatter_nd_sub([[1]], [3.0])
    assert v.numpy().tolist() == [7.0, 4.0, 5.0]
    table = tf.Variable(tf.zeros([2, 2]))
    table.scatter_nd_update([[0, 1]], [9.0])
    assert table.numpy().tolist() == [[0.0, 9.0], [0.0, 0.0]]


def test_lamb_has_kerass_numbers():
    optimizer, v = tf.optimizers.Lamb(0.1), tf.Variable([1.0, 2.0])
    for _ in range(3):
        optimizer.apply_gradients([(v * 2.0, v)])

    np.testing.assert_allclose(v.numpy(), [0.5702, 1.567], rtol=4e-4)  # Keras 3 gave these

"""Shapes that do not fit: TensorFlow's exception instead of a bare one, or of a wrong number."""

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf

REFUSED = {
    "triangular_solve": lambda: tf.linalg.triangular_solve(tf.eye(3), tf.ones((4, 2))),
    "cholesky_solve": lambda: tf.linalg.cholesky_solve(tf.eye(3), tf.ones((4, 2))),
    "eigh": lambda: tf.linalg.eigh(tf.ones((2, 3))),
    "diag_part": lambda: tf.linalg.diag_part(tf.ones(3)),
    "trace": lambda: tf.linalg.trace(tf.ones(3)),
    "band_part": lambda: tf.linalg.band_part(tf.ones(3), 0, 0),
    "set_diag": lambda: tf.linalg.set_diag(tf.eye(3), tf.ones(2)),
    "scatter_nd": lambda: tf.scatter_nd([[0], [1]], tf.ones((2, 3)), [4, 2]),
    "tensor_scatter_nd_update": lambda: tf.tensor_scatter_nd_update(
        tf.ones((4, 2)), [[0], [1]], tf.ones((2, 3))
    ),
    "segment_sum": lambda: tf.math.segment_sum(tf.ones((3, 2)), [0, 1]),
    "unsorted_segment_max": lambda: tf.math.unsorted_segment_max(tf.ones((3, 2)), [0, 1], 2),
    "split": lambda: tf.split(tf.ones(4), 2, axis=1),
    "roll": lambda: tf.roll(tf.ones(4), 1, axis=1),
    "slice": lambda: tf.slice(tf.ones((2, 3)), [0], [2]),
    "slice of fewer axes": lambda: tf.slice(tf.ones(2), [0, 0], [1, 1]),
    "zeros": lambda: tf.zeros([2, -1]),
    "fill": lambda: tf.fill([2, -1], 1.0),
    "clip_by_norm": lambda: tf.clip_by_norm(tf.ones(3), 1.0, axes=[1]),
    "gather_nd": lambda: tf.gather_nd(tf.ones(3), [[0, 1]]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_shapes_that_do_not_fit_are_invalid_arguments(name):
    with pytest.raises(tf.errors.InvalidArgumentError):
        REFUSED[name]()


def test_a_running_sum_of_a_number_has_no_axis():
    with pytest.raises(tf.errors.InvalidArgumentError, match="axis is 0"):
        tf.cumsum(tf.constant(1.0), exclusive=True)


def test_stacking_along_an_axis_that_there_is_not_is_a_value_error():
    with pytest.raises(ValueError, match="not in range"):
        tf.stack([tf.ones(2)], axis=2)


def test_a_mask_without_axes_is_a_value_error():
    with pytest.raises(ValueError, match="scalar"):
        tf.boolean_mask(tf.ones(3), tf.constant(True))


def test_a_misspelt_argument_of_an_optimizer_is_a_value_error():
    with pytest.raises(ValueError, match="not recognized: lr"):
        tf.optimizers.Adam(lr=0.1)


def test_positions_after_batch_axes_pick_from_each_example():
    params = np.arange(24.0).reshape(4, 3, 2)
    indices = np.array([[[0, 1]], [[2, 0]], [[1, 1]], [[0, 0]]])

    picked = tf.gather_nd(params, indices, batch_dims=1)

    expected = [[params[n, *indices[n, 0]]] for n in range(4)]
    assert picked.numpy().tolist() == expected


def test_positions_along_no_axis_repeat_the_whole():
    picked = tf.gather_nd(tf.ones((4, 3)), tf.zeros((2, 0), tf.int32))

    assert picked.shape == (2, 4, 3)


def test_batch_axes_counted_from_the_end_choose_the_axis_from_the_end():
    params, indices = np.arange(24.0).reshape(4, 3, 2), np.array([[0, 1]] * 4)

    picked = tf.gather(params, indices, batch_dims=-1)

    assert picked.shape == (4, 3, 2)


def test_the_diagonal_that_is_replaced_may_be_another_one():
    x = tf.Variable(tf.zeros((3, 3)))
    with tf.GradientTape() as tape:
        y = tf.linalg.set_diag(x, tf.constant([1.0, 2.0]), k=-1)

    assert y.numpy().tolist() == [[0, 0, 0], [1, 0, 0], [0, 2, 0]]
    assert tape.gradient(y, x).numpy().tolist() == [[1, 1, 1], [0, 1, 1], [1, 0, 1]]


def test_a_table_in_parts_is_looked_up_as_one():
    table = np.arange(12.0).reshape(4, 3)

    whole = tf.nn.embedding_lookup([tf.constant(table)], [0, 2])
    parted = tf.nn.embedding_lookup([tf.constant(table[:2]), tf.constant(table[2:])], [0, 2])

    assert whole.numpy().tolist() == parted.numpy().tolist() == table[[0, 2]].tolist()

"""Sparse gradients beside TensorFlow's own, where it is installed: rows, positions and kinds."""

import warnings

import numpy as np
import pytest

import distgrad.compat.tensorflow as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

TABLE = np.random.Generator(np.random.Philox(3)).normal(size=(5, 3)).astype(np.float32)
PER_EXAMPLE = [[1, 0], [0, 2], [2, 2], [1, 1], [0, 0]]


def doubled_rows(tf, w):
    return tf.reduce_sum(tf.gather(w, [2, 0]) * 2.0)


CASES = {
    "rows": lambda tf, w: tf.reduce_sum(tf.gather(w, [3, 0]) ** 2),
    "repeated rows": lambda tf, w: tf.reduce_sum(tf.gather(w, [1, 1, 3]) ** 2),
    "one row": lambda tf, w: tf.reduce_sum(tf.gather(w, 2) ** 2),
    "a table of rows": lambda tf, w: tf.reduce_sum(tf.gather(w, [[1, 4], [0, 1]]) ** 2),
    "long positions": lambda tf, w: tf.reduce_sum(tf.gather(w, tf.constant([3, 0], tf.int64)) ** 2),
    "columns": lambda tf, w: tf.reduce_sum(tf.gather(w, [2, 0, 2], axis=1) ** 2),
    "the last axis": lambda tf, w: tf.reduce_sum(tf.gather(w, [2, 0, 2], axis=-1) ** 2),
    "each example": lambda tf, w: tf.reduce_sum(tf.gather(w, PER_EXAMPLE, batch_dims=1) ** 2),
    "each example, axis given": lambda tf, w: tf.reduce_sum(
        tf.gather(w, PER_EXAMPLE, axis=1, batch_dims=-1) ** 2
    ),
    "two gathers": lambda tf, w: doubled_rows(tf, w) + tf.reduce_sum(tf.gather(w, [1]) ** 2),
    "gather and dense": lambda tf, w: doubled_rows(tf, w) + tf.reduce_sum(w * w),
    "dense and gather": lambda tf, w: tf.reduce_sum(w * w) + doubled_rows(tf, w),
    "through an operation": lambda tf, w: tf.reduce_sum(tf.gather(w * 2.0, [1, 1]) ** 2),
    "a slice": lambda tf, w: tf.reduce_sum(w[1:3] ** 2),
    "embedding": lambda tf, w: tf.reduce_sum(tf.nn.embedding_lookup(w, [[1, 4], [0, 1]]) ** 2),
    "embedding of a norm": lambda tf, w: tf.reduce_sum(
        tf.nn.embedding_lookup(w, [1, 4], max_norm=0.5) * [1.0, 2.0, 3.0]
    ),
    "a traced function": lambda tf, w: tf.function(
        lambda: tf.reduce_sum(tf.gather(w, [1, 1]) ** 2)
    )(),
}


def found(tf, case):
    w = tf.Variable(TABLE)
    with tf.GradientTape() as tape:
        y = CASES[case](tf, w)
    return y, tape.gradient(y, w)


def by_position(slices):
    """Return positions and rows in an order: several gathers are walked otherwise in TensorFlow."""
    order = np.argsort(slices.indices.numpy(), kind="stable")
    return slices.indices.numpy()[order], slices.values.numpy()[order]


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_of_tensorflows_kind_and_order(case):
    (y, given), (expected_y, expected) = found(ours, case), found(theirs, case)

    np.testing.assert_allclose(y.numpy(), expected_y.numpy(), rtol=1e-5)
    is_sparse = isinstance(expected, theirs.IndexedSlices)
    assert isinstance(given, ours.IndexedSlices) == is_sparse
    if is_sparse:
        assert given.dense_shape.dtype.name == expected.dense_shape.dtype.name
        assert given.dense_shape.numpy().tolist() == expected.dense_shape.numpy().tolist()
        for one, other in zip(by_position(given), by_position(expected), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_allclose(given.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def distinct(tf):
    rows = np.array([[3.0, -1.0], [0.5, 4.0]], np.float32)
    return tf.IndexedSlices(tf.constant(rows), tf.constant([2, 0]), tf.constant([3, 2]))


FUNCTIONS = {
    "convert_to_tensor": lambda tf, s: tf.convert_to_tensor(s),
    "negative": lambda tf, s: -s,
    "clip_by_value": lambda tf, s: tf.clip_by_value(s, -0.5, 2.0),
    "clip_by_norm": lambda tf, s: tf.clip_by_norm(s, 2.0),
    "clip_by_norm of axes": lambda tf, s: tf.clip_by_norm(s, 2.0, axes=[1]),
    "clip_by_global_norm": lambda tf, s: tf.clip_by_global_norm([s], 2.0)[0][0],
    "global_norm": lambda tf, s: tf.linalg.global_norm([s, tf.constant([2.0])]),
    "add_n": lambda tf, s: tf.add_n([s, s]),
    "square": lambda tf, s: tf.square(s),
    "reduce_sum": lambda tf, s: tf.reduce_sum(s, axis=0),
    "assign_sub": lambda tf, s: tf.Variable(tf.ones([3, 2])).assign_sub(s),
    "scatter_add": lambda tf, s: tf.Variable(tf.ones([3, 2])).scatter_add(s),
    "str": lambda tf, s: tf.constant([ord(c) for c in str(s)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_slices_are_tensorflows(name):
    given, expected = (
        FUNCTIONS[name](ours, distinct(ours)),
        FUNCTIONS[name](theirs, distinct(theirs)),
    )

    assert isinstance(given, ours.IndexedSlices) == isinstance(expected, theirs.IndexedSlices)
    if isinstance(given, ours.IndexedSlices):
        given, expected = ours.convert_to_tensor(given), theirs.convert_to_tensor(expected)
    np.testing.assert_allclose(given.numpy(), expected.numpy(), rtol=1e-5)

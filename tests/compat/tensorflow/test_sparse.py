"""tf.IndexedSlices: what TensorFlow gives for gathers, and the arithmetic that it lacks."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.compat.tensorflow as tf

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def gradient(f, table=TABLE):
    w = tf.Variable(table)
    with tf.GradientTape() as tape:
        y = f(w)
    return tape.gradient(y, w), w


def squares(picked):
    return tf.reduce_sum(picked**2)


def dense(given):
    return tf.convert_to_tensor(given).numpy()


@pytest.mark.parametrize("pick", [tf.gather, tf.nn.embedding_lookup])
def test_gathers_have_slices_for_gradients(pick):
    given, _ = gradient(lambda w: squares(pick(w, [1, 1, 3])))

    assert isinstance(given, tf.IndexedSlices)
    assert given.indices.numpy().tolist() == [1, 1, 3]
    assert given.indices.dtype == tf.int32
    np.testing.assert_array_equal(given.values.numpy(), 2 * TABLE[[1, 1, 3]])
    assert given.dense_shape.numpy().tolist() == [4, 3]
    assert given.dense_shape.dtype == tf.int32
    assert (given.shape, given.dtype) == ((4, 3), tf.float32)


def test_slices_print_as_tensorflows():
    given, _ = gradient(lambda w: tf.reduce_sum(tf.gather(w, [2])))

    expected = (
        "IndexedSlices(indices=tf.Tensor([2], shape=(1,), dtype=int32), "
        "values=tf.Tensor([[1. 1. 1.]], shape=(1, 3), dtype=float32), "
        "dense_shape=tf.Tensor([4 3], shape=(2,), dtype=int32))"
    )
    assert str(given) == f"{given}" == expected


def test_the_tutorials_update_works_after_a_gather():
    g, w = gradient(lambda w: squares(tf.gather(w, [1, 1, 3])))
    learning_rate = 0.1

    w.assign_sub(learning_rate * g)

    expected = TABLE.copy()
    np.subtract.at(expected, [1, 1, 3], 0.2 * TABLE[[1, 1, 3]])
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.5, np.float32(0.5), tf.constant(0.5), tf.Variable(0.5)])
def test_slices_scaled_by_scalars_stay_slices(rate):
    g, _ = gradient(lambda w: squares(tf.gather(w, [1, 1, 3])))

    for product in (rate * g, g * rate):
        assert isinstance(product, tf.IndexedSlices)
        np.testing.assert_allclose(dense(product), 0.5 * dense(g))
    np.testing.assert_allclose(np.divide(g, rate).values.numpy(), 2 * g.values.numpy())
    assert isinstance(g / rate, tf.IndexedSlices)
    np.testing.assert_allclose(dense(g / rate), 2 * dense(g))


def test_sums_of_slices_are_slices_and_with_tensors_dense():
    g, w = gradient(lambda w: squares(tf.gather(w, [1, 1, 3])))

    assert isinstance(g + g, tf.IndexedSlices)
    assert isinstance(sum([g, g]), tf.IndexedSlices)
    np.testing.assert_allclose(dense(g - 2.0 * g), -dense(g))
    np.testing.assert_allclose(dense(-g), -dense(g))
    for both in (g + w, w + g, g - TABLE, tf.constant(TABLE) * g):
        assert isinstance(both, tf.Tensor)
    np.testing.assert_allclose((w - g).numpy(), TABLE - dense(g))


def test_dtypes_do_not_mix():
    g, _ = gradient(lambda w: squares(tf.gather(w, [1])))

    with pytest.raises(tf.errors.InvalidArgumentError, match="float tensor but is a double"):
        g * tf.constant(2.0, tf.float64)
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.constant(2.0, tf.float64) * g
    with pytest.raises(tf.errors.InvalidArgumentError, match="Incompatible shapes"):
        g + tf.IndexedSlices(tf.ones([1, 3]), tf.constant([0]), [5, 3])


def test_an_outer_tape_differentiates_slices():
    w = tf.Variable(TABLE)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            y = tf.reduce_sum(tf.gather(w, [1, 1, 3]) ** 3)
        g = inner.gradient(y, [w])
    second = outer.gradient(g, w)

    expected = np.zeros_like(TABLE)
    np.add.at(expected, [1, 1, 3], 6 * TABLE[[1, 1, 3]])
    np.testing.assert_allclose(dense(second), expected)


def test_functions_take_slices_for_dense_tensors():
    g, _ = gradient(lambda w: squares(tf.gather(w, [1, 1, 3])))

    assert tf.is_tensor(g)
    assert float(tf.reduce_sum(g)) == dense(g).sum()
    np.testing.assert_array_equal(tf.square(g).numpy(), dense(g) ** 2)
    np.testing.assert_array_equal(tf.add_n([g, g]).numpy(), 2 * dense(g))
    assert tf.convert_to_tensor(g, tf.float32).shape == (4, 3)


def test_slices_without_a_shape_have_no_dense_tensor():
    given = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([3]))

    assert given.dense_shape is None
    with pytest.raises(ValueError, match="without dense_shape"):
        tf.convert_to_tensor(given)


def test_slices_compare_by_identity_as_tensorflows_do():
    g, _ = gradient(lambda w: squares(tf.gather(w, [1])))
    other = g + g

    assert g == g  # noqa: PLR0124  identity is the point
    assert g != other
    assert len({g, other}) == 2


def test_clipping_keeps_slices_and_adds_repeated_rows_up():
    g, _ = gradient(lambda w: squares(tf.gather(w, [1, 1, 3])))

    by_norm = tf.clip_by_norm(g, 2.0)
    (together, none), norm = tf.clip_by_global_norm([g, None], 2.0)
    by_value = tf.clip_by_value(g, 0.0, 17.0)

    length = np.linalg.norm(dense(g))
    assert none is None
    np.testing.assert_allclose(float(norm), length, rtol=1e-6)
    for clipped in (by_norm, together):
        assert isinstance(clipped, tf.IndexedSlices)
        np.testing.assert_allclose(dense(clipped), dense(g) * 2.0 / length, rtol=1e-6)
    assert isinstance(by_value, tf.IndexedSlices)
    np.testing.assert_array_equal(dense(by_value), np.clip(dense(g), 0.0, 17.0))


def test_variables_take_slices_by_every_name():
    slices = tf.IndexedSlices(tf.ones([2, 3]), tf.constant([1, 1]), [4, 3])
    w = tf.Variable(tf.zeros([4, 3]))

    assert w.assign_add(slices) is w
    w.scatter_add(slices)
    w.scatter_sub(slices)
    w.assign_sub(0.5 * slices)

    assert w.numpy()[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0]
    with pytest.raises(TypeError, match="sparse_delta is not IndexedSlices"):
        w.scatter_add(tf.ones([4, 3]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Shape mismatch"):
        w.assign_sub(tf.IndexedSlices(tf.ones([1, 3]), tf.constant([0]), [5, 3]))
    with pytest.raises(ValueError, match="requested dtype"):
        w.assign_sub(tf.IndexedSlices(tf.ones([1, 3], tf.float64), tf.constant([0]), [4, 3]))


def test_traced_functions_give_slices():
    w = tf.Variable(TABLE)

    @tf.function
    def step(ids):
        with tf.GradientTape() as tape:
            y = squares(tf.gather(w, ids))
        return tape.gradient(y, [w])

    (given,) = step(tf.constant([1, 1, 3]))

    assert isinstance(given, tf.IndexedSlices)
    np.testing.assert_array_equal(given.values.numpy(), 2 * TABLE[[1, 1, 3]])


def test_announced_gradients_are_tensorflows_slices():
    w = tf.Variable(TABLE)
    announced = {}
    with tf.GradientTape() as tape:
        y = squares(tf.gather(w, [1]))

    tape.gradient(y, [w], on_ready=announced.__setitem__)

    assert isinstance(announced[0], tf.IndexedSlices)
    assert isinstance(announced[0].native(), dg.IndexedSlices)


@pytest.mark.parametrize("ids", [[4], [-1]])
def test_positions_outside_are_refused(ids):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"is not in \[0, 4\)"):
        tf.gather(tf.Variable(TABLE), ids)

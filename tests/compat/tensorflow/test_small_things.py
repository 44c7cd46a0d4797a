"""Extrema of nothing, blocks without effect, and classes drawn: what small programs use as well."""

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (tf.float32, -np.inf, np.inf),
        (tf.float16, -np.inf, np.inf),
        (tf.int32, -(2**31), 2**31 - 1),
        (tf.uint8, 0, 255),
        (tf.int64, -(2**63), 2**63 - 1),
    ],
    ids=str,
)
def test_extrema_of_no_elements_are_the_ends_of_the_dtype(dtype, low, high):
    nothing = tf.zeros((2, 0, 3), dtype)

    assert tf.reduce_max(nothing).numpy() == low
    assert tf.reduce_min(nothing).numpy() == high
    along = tf.reduce_max(nothing, axis=1, keepdims=True)
    assert along.dtype == dtype
    np.testing.assert_array_equal(along.numpy(), np.full((2, 1, 3), low, dtype.as_numpy_dtype))
    assert tf.reduce_min(nothing, axis=0).shape == (0, 3)


def test_an_extremum_of_no_elements_has_a_gradient_of_none():
    v = tf.Variable(tf.zeros((2, 0)))

    with tf.GradientTape() as tape:
        y = tf.reduce_max(v)

    assert tape.gradient(y, v).shape == (2, 0)


def test_a_traced_extremum_of_no_elements_is_the_eager_one():
    assert tf.function(tf.reduce_min)(tf.zeros((0,))).numpy() == np.inf


def test_a_block_on_a_device_changes_nothing():
    with tf.device("/GPU:0"), tf.device(None):
        assert (tf.constant(1.0) + 1.0).numpy() == 2.0
    with pytest.raises(ValueError, match="string device name, got 3"), tf.device(3):
        pass


def test_scopes_nest_and_return_their_whole_name():
    outer = tf.name_scope("a")
    with outer as first, tf.name_scope("b") as second, tf.name_scope("c/") as third:
        pass

    assert (first, second, third, outer.name) == ("a/", "a/b/", "c/", "a")
    with outer as again:
        assert again == "a/"
    with pytest.raises(ValueError, match="must be a string, got None"):
        tf.name_scope(None)


def test_classes_are_drawn_with_their_probabilities():
    tf.random.set_seed(1)
    logits = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 1e-30]], np.float32))

    drawn = tf.random.categorical(logits, 20_000)

    assert drawn.shape == (2, 20_000)
    assert drawn.dtype == tf.int64
    shares = [np.bincount(row, minlength=3) / 20_000 for row in drawn.numpy()]
    # A standard deviation of a share is 0.0035 at most.
    np.testing.assert_allclose(shares, [[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], atol=0.02)


def test_a_seed_fixes_the_classes_also_in_a_graph():
    def draw():
        return tf.random.categorical(tf.zeros((1, 1000)), 8, dtype=tf.int32, seed=5)

    tf.random.set_seed(3)
    eager = [draw().numpy(), draw().numpy()]
    tf.random.set_seed(3)
    traced = tf.function(draw)
    again = [traced().numpy(), traced().numpy()]

    np.testing.assert_array_equal(eager, again)
    assert eager[0].dtype == np.int32
    assert not np.array_equal(*eager)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f([1.0, 2.0], 3), tf.errors.InvalidArgumentError, r"a matrix, got shape \[2\]"),
        (lambda f: f([[]], 3), tf.errors.InvalidArgumentError, r"got shape \[1, 0\]"),
        (lambda f: f([[1.0]], -3), tf.errors.InvalidArgumentError, "non-negative, got -3"),
        (lambda f: f([[1, 2]], 3), tf.errors.InvalidArgumentError, "int32"),
        (lambda f: f([[1.0]], 3, tf.float32), ValueError, "invalid value float32"),
    ],
)
def test_classes_that_cannot_be_drawn_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(tf.random.categorical)


def test_tensors_and_dtypes_say_what_they_are():
    x = tf.constant([[1.0, 2.0]])

    assert x.dtype.base_dtype == tf.float32
    assert x.get_shape() == tf.Variable(x).get_shape() == (1, 2)
    assert (x.shape.ndims, x.shape.rank) == (2, 2)
    assert tf.uint16.is_unsigned
    assert not any(dtype.is_unsigned for dtype in (tf.int16, tf.float32, tf.bool))


def test_a_generator_starts_over_from_a_seed_and_two_of_chance_differ():
    generator = tf.random.Generator.from_seed(3)
    first = generator.normal([4]).numpy()
    generator.reset_from_seed(3)

    np.testing.assert_array_equal(generator.normal([4]).numpy(), first)
    chance = [tf.random.Generator.from_non_deterministic_state().normal([4]) for _ in range(2)]
    assert not np.array_equal(*(each.numpy() for each in chance))

"""Dtypes, shapes, printing, control flow and random numbers under TensorFlow's names.

How derivatives pass through them is in `tests/tape/behaviour/test_values.py`, for all spellings.
"""

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf


def gradient_of(function, x, **options):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, **options)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1.0, tf.float32), (1, tf.int32), (True, tf.bool), (1j, tf.complex128), (2**40, tf.int64),
     (np.float64(1), tf.float64), (np.ones(2, np.float16), tf.float16), ([1, 2.5], tf.float32)],
)  # fmt: skip
def test_default_dtypes(value, dtype):
    assert tf.constant(value).dtype == dtype
    assert tf.Variable(value).dtype == dtype


def test_python_numbers_and_arrays_take_the_tensors_dtype():
    x = tf.constant([1.0, 2.0], tf.float16)

    for result in (
        x * 2,
        2.0 * x,
        x + np.ones(2),
        np.ones(2) - x,
        x**2,
        np.float64(3) / x,
        x + [1, 2],
    ):
        assert result.dtype == tf.float16
    assert (tf.constant(5) / 2).dtype == tf.float64


def test_an_array_that_is_changed_later_does_not_change_the_constant():
    host = np.array([1.0, 2.0])
    x = tf.constant(host)
    host[0] = 9.0

    assert x.numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("function", "at", "expected"),
    [
        (tf.reduce_max, [2.0, 2.0, 1.0], [0.5, 0.5, 0.0]),
        (lambda x: tf.maximum(x, tf.constant(2.0)), [2.0, 1.0], [1.0, 0.0]),
        (tf.nn.relu, [0.0, 1.0], [0.0, 1.0]),
        (tf.abs, [0.0, -1.0], [0.0, -1.0]),
        (lambda x: tf.clip_by_value(x, 0.0, 1.0), [1.0, 2.0], [1.0, 0.0]),
        (lambda x: x**0.0, [0.0, 1.0], [0.0, 0.0]),  # TensorFlow: NaN
        (tf.reduce_prod, [0.0, 2.0, 3.0], [6.0, 0.0, 0.0]),
    ],
)
def test_ties_and_kinks(function, at, expected):
    assert gradient_of(function, tf.constant(at)).numpy().tolist() == expected


@pytest.mark.parametrize("dtype", [tf.float16, tf.float64, tf.int8])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_the_lower_of_crossed_bounds_counts(dtype, as_tensors):
    bounds = [tf.constant(bound, dtype) if as_tensors else bound for bound in (1, -1)]

    clipped = tf.clip_by_value(tf.constant([-2, 0, 2], dtype), *bounds)

    assert clipped.dtype == dtype
    assert clipped.numpy().tolist() == [1, 1, 1]


def test_a_linspace_of_small_integers_is_single_and_of_none_is_empty():
    ends = [tf.constant(end, tf.int8) for end in (0, 10)]

    assert tf.linspace(*ends, 5).dtype == tf.float32
    assert tf.linspace(*ends, 5).numpy().tolist() == [0.0, 2.5, 5.0, 7.5, 10.0]
    assert tf.linspace(0.0, [1.0, 2.0], 0, axis=-1).shape == (2, 0)


def test_a_linspace_ends_where_it_is_told():
    ends = tf.Variable(0.1), tf.Variable([0.7, 3.0])
    with tf.GradientTape() as tape:
        y = tf.linspace(*ends, 5, axis=-1)
    gradients = tape.gradient(y, ends)

    assert y.numpy()[:, -1].tolist() == ends[1].numpy().tolist()
    assert [g.numpy().tolist() for g in gradients] == [5.0, [2.5, 2.5]]


@pytest.mark.parametrize(
    "refused",
    [
        lambda: tf.pow(2, -1),
        lambda: 2 ** tf.constant([1, -1]),
        lambda: tf.linspace(0.0, 1.0, -1),
        lambda: tf.range(0, 5, 0),
        lambda: tf.pad([1, 2], [[-1, 0]]),
    ],
)
def test_values_that_do_not_fit_are_invalid_arguments(refused):
    with pytest.raises(tf.errors.InvalidArgumentError):
        refused()


def test_a_function_is_traced_once_and_assigns_its_variables():
    traces = []

    class Counter:
        def __init__(self):
            self.total = tf.Variable(0.0)

        @tf.function
        def add(self, x):
            traces.append(x)
            self.total.assign_add(tf.reduce_sum(x))
            return self.total.read_value()

    counter = Counter()
    results = [counter.add(tf.constant([1.0, 2.0])).numpy() for _ in range(3)]

    assert results == [3.0, 6.0, 9.0]
    assert counter.total.numpy() == 9.0
    assert len(traces) == 1


def test_a_loop_runs_the_same_traced_and_not():
    def power(x):
        return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * x), (0, x))[1]

    x = tf.constant(2.0)
    assert power(x).numpy() == tf.function(power)(x).numpy() == 16.0
    (limited,) = tf.while_loop(lambda v: True, lambda v: v * 2.0, [x], maximum_iterations=4)
    assert limited.numpy() == 32.0


def test_the_jacobian_of_a_plain_tape_and_of_an_unconnected_source():
    x, other = tf.Variable([1.0, 2.0]), tf.Variable(1.0)
    with tf.GradientTape() as tape:
        y = tf.stack([x[0] * x[1], x[1]])
    found = tape.jacobian(y, {"x": x, "other": other})

    assert found["x"].numpy().tolist() == [[2.0, 1.0], [0.0, 1.0]]
    assert found["other"] is None


# --- printing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (tf.constant(True), "tf.Tensor(True, shape=(), dtype=bool)"),
        (tf.constant([1, 2]), "tf.Tensor([1 2], shape=(2,), dtype=int32)"),
        (
            tf.constant([[1.0, 2.0], [3.0, 4.0]]),
            "tf.Tensor(\n[[1. 2.]\n [3. 4.]], shape=(2, 2), dtype=float32)",
        ),
        (tf.float32, "<dtype: 'float32'>"),
        (tf.ones([2, 3]).shape, "(2, 3)"),
        (
            tf.TensorSpec([2, None], tf.float32),
            "TensorSpec(shape=(2, None), dtype=tf.float32, name=None)",
        ),
        (
            tf.Variable([[1.0, 2.0]], name="w"),
            "<tf.Variable 'w:0' shape=(1, 2) dtype=float32, "
            "numpy=array([[1., 2.]], dtype=float32)>",
        ),
    ],
)
def test_values_print_as_tensorflows_do(value, text):
    assert str(value) == text


def test_values_are_represented_as_tensorflows_are():
    assert repr(tf.constant(0.5)) == "<tf.Tensor: shape=(), dtype=float32, numpy=0.5>"
    assert repr(tf.ones([2]).shape) == "TensorShape([2])"
    assert repr(tf.float64) == "tf.float64"
    assert repr(tf.UnconnectedGradients.NONE) == "<UnconnectedGradients.NONE: 'none'>"
    assert f"{tf.constant([1.0, 2.0])}" == "[1. 2.]"


def test_tf_print_shows_numbers_bare_and_long_axes_abridged(capsys):
    tf.print(tf.constant([1.0, 2.5]), 0.1, "abc", tf.constant([[1, 2], [3, 4]]))
    tf.print(tf.range(10), tf.constant(1e-10), tf.constant(True), tf.Variable(2.0), sep="|")

    assert capsys.readouterr().err == (
        "[1 2.5] 0.1 abc [[1 2]\n [3 4]]\n[0 1 2 ... 7 8 9]|1e-10|1|2\n"
    )


# --- shapes and dtypes ----------------------------------------------------------------------------


def test_shapes_behave_as_tuples_and_as_tensorshapes():
    shape = tf.zeros([2, 3, 4]).shape

    assert shape == (2, 3, 4) == tuple(shape)
    assert shape == [2, 3, 4]
    assert shape != (2, 3)
    assert (shape.rank, shape.as_list(), shape.num_elements()) == (3, [2, 3, 4], 24)
    assert repr(shape[1:] + [5]) == "TensorShape([3, 4, 5])"
    assert tf.TensorShape([2, None, 4]).is_compatible_with(shape)
    assert not tf.TensorShape([2, None]).is_fully_defined()


def test_dtypes_are_known_to_numpy():
    assert tf.float32 == np.float32 == tf.constant(1.0).dtype
    assert np.zeros(2, tf.float64.as_numpy_dtype).dtype == tf.float64
    assert {tf.int32: 1}[tf.as_dtype("int32")] == 1
    assert (tf.float16.size, tf.complex128.real_dtype, tf.uint8.max) == (2, tf.float64, 255)
    assert (tf.float32.is_floating, tf.int8.is_integer, tf.bool.is_bool) == (True, True, True)


def test_comparison_with_none_and_with_values_of_another_shape():
    x = tf.constant([1.0, 2.0])

    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert bool(x == tf.constant([1.0, 2.0, 3.0])) is False
    assert (x == [1.0, 3.0]).numpy().tolist() == [True, False]


# --- random numbers -------------------------------------------------------------------------------


def test_seeds_fix_the_numbers():
    tf.random.set_seed(3)
    first = [tf.random.normal([4]), tf.random.normal([4]), tf.random.uniform([4], seed=1)]
    tf.random.set_seed(3)
    again = [tf.random.normal([4]), tf.random.normal([4]), tf.random.uniform([4], seed=1)]

    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert not np.array_equal(first[0].numpy(), first[1].numpy())
    one, other = (tf.random.Generator.from_seed(5) for _ in range(2))
    np.testing.assert_array_equal(one.normal([3]).numpy(), other.normal([3]).numpy())


def test_gamma_numbers_have_leading_axes_their_means_and_gradients():
    tf.random.set_seed(0)
    alpha, beta = tf.Variable([0.5, 4.0]), tf.Variable([[1.0], [2.0], [5.0]])

    with tf.GradientTape() as tape:
        numbers = tf.random.gamma([20000], alpha, beta)
        means = tf.reduce_mean(numbers, axis=0)
        total = tf.reduce_sum(means)
    to_alpha, to_beta = tape.gradient(total, [alpha, beta])

    assert numbers.shape == (20000, 3, 2)
    # Six standard errors of the mean, which has the variance alpha / beta^2: 6 * 2 / sqrt(20000).
    np.testing.assert_allclose(means.numpy(), (alpha / beta).numpy(), atol=0.09)
    np.testing.assert_allclose(to_alpha.numpy(), [1.7, 1.7], atol=0.09)
    np.testing.assert_allclose(to_beta.numpy(), -4.5 / beta.numpy() ** 2, rtol=0.06)
    assert tf.random.gamma([2], 1.5, dtype=tf.float64).dtype == tf.float64


def test_random_numbers_have_the_distribution_asked_for():
    tf.random.set_seed(0)
    normal = tf.random.normal([20000], mean=2.0, stddev=3.0, dtype=tf.float64)
    cut = tf.random.truncated_normal([20000], stddev=0.5)
    even = tf.random.uniform([20000], -1.0, 3.0)
    whole = tf.random.uniform([20000], maxval=3, dtype=tf.int32)

    # Six standard errors of the mean: 6 * 3 / sqrt(20000) is 0.13.
    assert abs(normal.numpy().mean() - 2.0) < 0.13
    assert abs(normal.numpy().std() - 3.0) < 0.1
    assert np.abs(cut.numpy()).max() <= 1.0
    assert -1.0 <= even.numpy().min() < -0.99 < 2.99 < even.numpy().max() < 3.0
    assert set(whole.numpy().tolist()) == {0, 1, 2}
    assert [t.dtype for t in (normal, cut, whole)] == [tf.float64, tf.float32, tf.int32]
    with pytest.raises(ValueError, match="Must specify maxval"):
        tf.random.uniform([2], dtype=tf.int32)


def test_random_parameters_are_differentiated():
    mean, stddev = tf.Variable(1.0), tf.Variable(2.0)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(tf.random.normal([5], mean, stddev))
    to_mean, to_stddev = tape.gradient(y, [mean, stddev])

    assert to_mean.numpy() == 5.0
    assert to_stddev is not None


def test_dropout_keeps_the_mean_and_cuts_the_gradient_of_what_it_drops():
    tf.random.set_seed(1)
    x = tf.ones([1000])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.dropout(x, 0.25)
    slope = tape.gradient(y, x)

    assert set(np.unique(y.numpy()).tolist()) <= {0.0, float(np.float32(4 / 3))}
    np.testing.assert_array_equal(slope.numpy(), y.numpy())
    assert 650 < np.count_nonzero(y.numpy()) < 850
    with pytest.raises(ValueError, match="rate"):
        tf.nn.dropout(x, 1.0)


def test_random_numbers_go_on_within_a_traced_function():
    for seeds in ({}, {"seed": 4}):
        tf.random.set_seed(3)

        @tf.function
        def draw(seeds=seeds):
            return tf.random.normal([4], **seeds)

        first, second = draw().numpy(), draw().numpy()

        assert not np.array_equal(first, second)
        tf.random.set_seed(3)
        assert np.array_equal(tf.random.normal([4], **seeds).numpy(), first)

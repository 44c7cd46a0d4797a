"""What values are, and how derivatives pass through them, under TensorFlow's names.

The tests follow section 2c of the behaviour page, row by row.
"""

import collections
import threading

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf


def gradient_of(function, x, **options):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, **options)


@pytest.mark.filterwarnings("ignore:gradient:UserWarning")  # the tape may say why there is none
def test_row_watching_integers_warns_and_gives_none():
    x = tf.constant(3)
    tape = tf.GradientTape(persistent=True)
    with tape:
        with pytest.warns(UserWarning, match=r"must be floating \(e.g. float32\), got int32"):
            tape.watch(x)
        y = x * x

    with pytest.warns(UserWarning, match="its gradient is None"):
        assert tape.gradient(y, x) is None
    with pytest.warns(UserWarning, match="dtype int32"):
        zero = tape.gradient(y, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    assert (zero.dtype, zero.numpy()) == (tf.int32, 0)


def test_row_a_cast_to_integers_breaks_the_path():
    assert (
        gradient_of(lambda x: tf.cast(tf.cast(x, tf.int32), tf.float32), tf.constant(2.5)) is None
    )


def test_row_gradients_come_in_the_dtype_of_the_source():
    x = tf.constant(3.0, tf.float16)

    assert gradient_of(lambda v: tf.cast(v, tf.float32) ** 2, x).dtype == tf.float16


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1.0, tf.float32), (1, tf.int32), (True, tf.bool), (1j, tf.complex128), (2**40, tf.int64),
     (np.float64(1), tf.float64), (np.ones(2, np.float16), tf.float16), ([1, 2.5], tf.float32)],
)  # fmt: skip
def test_row_default_dtypes(value, dtype):
    assert tf.constant(value).dtype == dtype
    assert tf.Variable(value).dtype == dtype


def test_row_python_numbers_and_arrays_take_the_tensors_dtype():
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


def test_row_the_same_object_is_the_source_itself():
    x = tf.constant(3.0)
    y = x

    assert gradient_of(lambda _: y, x).numpy() == 1.0
    assert tf.convert_to_tensor(x) is x
    assert tf.cast(x, tf.float32) is x


@pytest.mark.parametrize(
    "no_op", [tf.identity, lambda x: x + 0.0, lambda x: x * 1.0, lambda x: x - 0.0]
)
def test_row_no_operations_make_new_tensors(no_op):
    x = tf.constant(3.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = no_op(x)
        z = y * y

    to_x, to_y = tape.gradient(z, [x, y])
    assert (to_x.numpy(), to_y.numpy()) == (6.0, 6.0)
    assert y is not x


def test_row_intermediate_values_are_sources():
    x = tf.Variable(3.0)
    with tf.GradientTape() as tape:
        y = x * x
        z = y * y

    to_y, to_x = tape.gradient(z, [y, x])
    assert (to_y.numpy(), to_x.numpy()) == (18.0, 108.0)


def test_row_a_target_that_is_a_source_contributes_one():
    x = tf.Variable(3.0)
    with tf.GradientTape() as tape:
        y = x * x

    assert tape.gradient([x, y], x).numpy() == 7.0


def test_rows_targets_are_summed_and_sources_repeated():
    x = tf.Variable([1.0, 2.0])
    with tf.GradientTape(persistent=True) as tape:
        y, z = x * x, 3.0 * x

    assert tape.gradient([y, z, z], x).numpy().tolist() == [8.0, 10.0]
    first, second = tape.gradient(y, [x, x])
    assert first.numpy().tolist() == second.numpy().tolist() == [2.0, 4.0]


def test_row_the_result_has_the_structure_of_the_sources():
    Pair = collections.namedtuple("Pair", "left right")
    x, y = tf.Variable(2.0), tf.Variable(3.0)
    with tf.GradientTape() as tape:
        z = x * y
    found = tape.gradient({"z": z}, {"second": (y,), "first": Pair(x, [x])})

    assert list(found) == ["second", "first"]
    assert found["second"][0].numpy() == 2.0
    assert isinstance(found["first"], Pair)
    assert all(isinstance(g, tf.Tensor) for g in (found["first"].left, *found["first"].right))


def test_row_unconnected_sources():
    x, y = tf.Variable(2.0), tf.Variable([1.0, 2.0])
    with tf.GradientTape(persistent=True) as tape:
        z = x * x

    assert tape.gradient(z, y) is None
    assert str(tape.gradient(z, y, unconnected_gradients="zero")) == (
        "tf.Tensor([0. 0.], shape=(2,), dtype=float32)"
    )


def test_rows_variables_are_watched_on_read_in_the_order_of_creation():
    first, second = tf.Variable(1.0), tf.Variable(2.0)
    frozen = tf.Variable(3.0, trainable=False)
    with tf.GradientTape() as tape:
        z = second * first * frozen
        t = tf.constant(1.0)
        tape.watch(t)
    watched = tape.watched_variables()

    assert [v.ref() for v in watched] == [first.ref(), second.ref()]
    assert tape.gradient(z, frozen) is None
    assert [v.ref() for v in tape.watched_variables()] == [first.ref(), second.ref()]


def test_row_only_what_is_watched_by_hand():
    x, y = tf.Variable(2.0), tf.Variable(3.0)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        z = x * y

    to_x, to_y = tape.gradient(z, [x, y])
    assert to_x.numpy() == 3.0
    assert to_y is None


def test_row_tapes_may_be_left_in_another_order():
    x = tf.Variable(3.0)
    one, other = tf.GradientTape(), tf.GradientTape()
    one.__enter__()
    other.__enter__()
    y = x * x
    one.__exit__(None, None, None)
    z = y * x
    other.__exit__(None, None, None)

    assert one.gradient(y, x).numpy() == 6.0
    assert other.gradient(z, x).numpy() == 27.0


def test_row_an_assignment_is_not_differentiated():
    x, w = tf.Variable(2.0), tf.Variable(1.0)
    with tf.GradientTape() as tape:
        before = w * x
        w.assign(x * 3.0)
        after = w * x

    to_x, to_w = tape.gradient([before, after], [x, w])
    assert (to_x.numpy(), to_w.numpy()) == (7.0, 4.0)


def test_row_numpys_functions_are_differentiated_here():
    x = tf.constant([0.5, 1.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = np.sin(x) * np.array([2.0, 3.0])

    assert isinstance(y, tf.Tensor)
    expected = np.cos([0.5, 1.0]) * [2.0, 3.0]
    np.testing.assert_allclose(tape.gradient(y, x).numpy(), expected, rtol=1e-6)


def test_row_operations_without_a_gradient():
    x = tf.constant([1.5, -2.5])

    for function in (tf.floor, tf.round, tf.argmax, lambda v: v // 2.0, tf.random.shuffle):
        assert gradient_of(function, x) is None
    assert gradient_of(tf.sign, x).numpy().tolist() == [0.0, 0.0]
    assert gradient_of(lambda v: v % 2.0, x).numpy().tolist() == [1.0, 1.0]


def test_row_stop_gradient_cuts_both_modes():
    x = tf.constant(3.0)

    assert gradient_of(lambda v: v * tf.stop_gradient(v), x).numpy() == 3.0
    with tf.autodiff.ForwardAccumulator(x, tf.constant(1.0)) as accumulator:
        y = x * tf.stop_gradient(x)
    assert accumulator.jvp(y).numpy() == 3.0


def test_row_complex_gradients_are_conjugated():
    z = tf.constant(1.0 + 2.0j)

    assert gradient_of(lambda v: v * v, z).numpy() == np.conj(2 * (1 + 2j))
    assert gradient_of(lambda v: tf.abs(v) ** 2, z).numpy() == pytest.approx(2 + 4j)


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
def test_rows_ties_and_kinks(function, at, expected):
    assert gradient_of(function, tf.constant(at)).numpy().tolist() == expected


def test_row_empty_arrays():
    assert gradient_of(lambda x: x * 2.0, tf.zeros([0, 3])).shape == (0, 3)


def test_rows_second_order_through_custom_and_recomputed_functions():
    @tf.custom_gradient
    def cube(x):
        return x**3, lambda dy: dy * 3.0 * x**2

    for function in (cube, tf.recompute_grad(lambda x: x**3)):
        x = tf.Variable(2.0)
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                y = function(x)
            first = inner.gradient(y, x)

        assert (first.numpy(), outer.gradient(first, x).numpy()) == (12.0, 12.0)


def test_row_grad_pass_through():
    x = tf.constant([0.4, 1.6])

    assert gradient_of(lambda v: tf.grad_pass_through(tf.round)(v) * 3.0, x).numpy().tolist() == [
        3.0,
        3.0,
    ]


def test_row_nested_accumulators_are_right_here():
    x, one = tf.constant(0.7, tf.float64), tf.constant(1.0, tf.float64)
    with (
        tf.autodiff.ForwardAccumulator(x, one) as outer,
        tf.autodiff.ForwardAccumulator(x, one) as inner,
    ):
        m = tf.identity(x)
        y = (m * m) * m

    assert outer.jvp(inner.jvp(y)).numpy() == pytest.approx(4.2)  # TensorFlow: 2.4
    assert inner.jvp(outer.jvp(y)) is None


def test_row_forward_over_reverse():
    x = tf.Variable([1.0, 2.0])
    with tf.autodiff.ForwardAccumulator(x, tf.constant([1.0, 0.0])) as accumulator:
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(x**3)
        slope = tape.gradient(y, x)

    assert accumulator.jvp(slope).numpy().tolist() == [6.0, 0.0]
    unconnected = accumulator.jvp(tf.constant(1.0), tf.UnconnectedGradients.ZERO)
    assert unconnected.numpy() == 0.0


@pytest.mark.filterwarnings("ignore:gradient:UserWarning")  # the tape may say why there is none
def test_row_another_thread_is_not_heard():
    x = tf.Variable(3.0)
    found = []
    with tf.GradientTape() as tape:
        thread = threading.Thread(target=lambda: found.append(x * x))
        thread.start()
        thread.join()

    assert tape.gradient(found[0], x) is None


def test_row_a_function_around_and_inside_a_tape():
    x = tf.Variable([1.0, 2.0])

    @tf.function
    def branches(v):
        return tf.cond(tf.reduce_sum(v) > 0.0, lambda: v**3, lambda: v)

    @tf.function(jit_compile=True)
    def slope(v):
        with tf.GradientTape() as tape:
            tape.watch(v)
            y = v * v
        return tape.gradient(y, v)

    with tf.GradientTape() as tape:
        y = branches(x)
    assert tape.gradient(y, x).numpy().tolist() == [3.0, 12.0]
    assert slope(tf.constant([1.0, 2.0])).numpy().tolist() == [2.0, 4.0]


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


def test_row_jacobians_are_vectorised_without_tracing():
    x = tf.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    with tf.GradientTape(persistent=True) as tape:
        y = tf.concat([x * x, tf.reduce_sum(x, axis=1, keepdims=True)], axis=1)
    whole = tape.jacobian(y, x)
    batch = tape.batch_jacobian(y, x)

    assert whole.shape == (3, 3, 3, 2)
    assert batch.shape == (3, 3, 2)
    rows = np.arange(3)
    np.testing.assert_array_equal(batch.numpy(), whole.numpy()[rows, :, rows])
    assert batch.numpy()[1].tolist() == [[6.0, 0.0], [0.0, 8.0], [1.0, 1.0]]
    assert (
        tape.batch_jacobian(y, tf.Variable(tf.ones([3, 2]))).numpy().tolist()
        == [[[0.0, 0.0]] * 3] * 3
    )


def test_the_jacobian_of_a_plain_tape_and_of_an_unconnected_source():
    x, other = tf.Variable([1.0, 2.0]), tf.Variable(1.0)
    with tf.GradientTape() as tape:
        y = tf.stack([x[0] * x[1], x[1]])
    found = tape.jacobian(y, {"x": x, "other": other})

    assert found["x"].numpy().tolist() == [[2.0, 1.0], [0.0, 1.0]]
    assert found["other"] is None


def test_gradients_are_checked_against_differences():
    a, b = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    theory, numbers = tf.test.compute_gradient(tf.matmul, [a, b])
    of_complex = tf.test.compute_gradient(lambda z: z * z, [np.array([1 + 2j])])

    for one, other in zip(theory + of_complex[0], numbers + of_complex[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert [each.shape for each in theory] == [(1, 2), (1, 2)]
    assert of_complex[0][0].shape == (2, 2)
    with pytest.raises(ValueError, match="`x` must be a list or tuple"):
        tf.test.compute_gradient(tf.sin, np.ones(2))


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

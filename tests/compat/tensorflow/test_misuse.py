"""Misuse of the tape under TensorFlow's names: its exception types, and the words that users grep.

The tests follow section 2b of the behaviour page, row by row.
"""

import contextlib

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf


def recorded(persistent=False):
    """Return a tape that has recorded y = x**2 at [1, 2], with both."""
    x = tf.Variable([1.0, 2.0])
    with tf.GradientTape(persistent=persistent) as tape:
        y = x**2
    return tape, y, x


@pytest.mark.parametrize("method", ["gradient", "jacobian", "batch_jacobian"])
def test_row_second_gradient_of_a_plain_tape(method):
    x = tf.Variable([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        y = x**2
    tape.gradient(y, x)

    with pytest.raises(RuntimeError, match="A non-persistent GradientTape can only"):
        getattr(tape, method)(y, x)


def test_row_gradient_of_a_tape_never_entered():
    x = tf.Variable(1.0)

    with pytest.raises(RuntimeError, match="never entered"):
        tf.GradientTape().gradient(x * 2, x)


def test_row_gradient_inside_a_plain_tapes_block_stops_its_recording():
    x = tf.Variable(3.0)
    with tf.GradientTape() as tape:
        first = tape.gradient(x * x, x)
        y = x * x

    assert first.numpy() == 6.0
    with pytest.raises(RuntimeError, match="persistent"):
        tape.gradient(y, x)


def test_row_gradient_inside_a_persistent_tapes_block_is_recorded():
    x = tf.Variable(3.0)
    with tf.GradientTape(persistent=True) as tape:
        first = tape.gradient(x**3, x)

    assert tape.gradient(first, x).numpy() == 18.0


def test_row_entering_an_active_tape():
    with tf.GradientTape() as tape, pytest.raises(ValueError, match="Tape is still recording"):
        tape.__enter__()


def test_row_entering_again_goes_on_with_the_same_tape():
    x = tf.Variable(3.0)
    tape = tf.GradientTape()
    with tape:
        y = x * x
    with tape:
        z = y * x

    assert tape.gradient(z, x).numpy() == 27.0


def test_row_entering_a_used_plain_tape_begins_anew():
    tape, y, x = recorded()
    tape.gradient(y, x)
    with tape:
        z = x * 3.0

    assert tape.gradient(z, x).numpy().tolist() == [3.0, 3.0]


def test_row_reset_and_stop_recording_outside_of_the_block():
    tape, _, _ = recorded()

    with pytest.raises(ValueError, match="Tape is not recording"):
        tape.reset()
    with pytest.raises(ValueError, match="Tape is not recording"), tape.stop_recording():
        pass
    with (
        pytest.raises(RuntimeError, match="Trying to stop recording a tape which is not recording"),
        tf.GradientTape().stop_recording(),
    ):
        pass


def test_row_nested_stop_recording_is_allowed_here():
    x = tf.Variable(3.0)
    with tf.GradientTape() as tape:
        y = x * x
        with tape.stop_recording(), tape.stop_recording():
            y = tf.identity(y)
        z = x * 2.0

    assert tape.gradient([y, z], x).numpy() == 2.0


def test_row_an_exception_inside_leaves_the_tape_usable():
    x = tf.Variable(3.0)
    tape = tf.GradientTape()
    with contextlib.suppress(KeyError), tape:
        y = x * x
        raise KeyError

    assert tape.gradient(y, x).numpy() == 6.0


@pytest.mark.parametrize("value", [np.ones(2), 1.0, "a", None], ids=repr)
def test_row_watching_what_is_no_tensor(value):
    kind = type(value).__name__
    expected = f"of type '{kind}', not tf.Tensor or tf.Variable or ExtensionType"
    with tf.GradientTape() as tape, pytest.raises(ValueError, match=expected):
        tape.watch(value)


def test_row_watching_before_entering_is_allowed_here():
    x = tf.constant(3.0)
    tape = tf.GradientTape()
    tape.watch(x)
    with tape:
        y = x * x

    assert tape.gradient(y, x).numpy() == 6.0


def test_row_no_target_and_no_sources():
    tape, y, x = recorded(persistent=True)

    with pytest.raises(TypeError, match="Argument `target` should be a list or nested structure"):
        tape.gradient(None, x)
    with pytest.raises(TypeError, match="`sources`"):
        tape.gradient(y, None)


@pytest.mark.parametrize("caught", [TypeError, AttributeError])
def test_row_a_number_or_an_array_as_target_or_source(caught):
    tape, y, x = recorded(persistent=True)

    with pytest.raises(caught, match="source 0 is a ndarray"):
        tape.gradient(y, np.ones(2))
    with pytest.raises(caught, match="target 0 is a float"):
        tape.gradient(1.0, x)


def test_row_empty_targets_and_sources():
    tape, y, x = recorded(persistent=True)

    assert tape.gradient(y, []) == []
    assert tape.gradient([], x) is None


def test_row_unknown_value_for_unconnected_gradients():
    tape, y, x = recorded()

    with pytest.raises(ValueError, match="Unknown value for unconnected_gradients: 'nonsense'"):
        tape.gradient(y, x, unconnected_gradients="nonsense")
    with (
        tf.autodiff.ForwardAccumulator(x, tf.ones([2])) as accumulator,
        pytest.raises(ValueError, match="'nonsense' is not a valid UnconnectedGradients"),
    ):
        accumulator.jvp(x, unconnected_gradients="nonsense")


def test_rows_output_gradients_are_checked_here():
    tape, y, x = recorded(persistent=True)

    with pytest.raises(ValueError, match="expected the same shape"):
        tape.gradient(y, x, output_gradients=tf.constant(1.0))
    with pytest.raises(ValueError, match="structure of target"):
        tape.gradient([y, y], x, output_gradients=[tf.ones([2])])
    one_list = tape.gradient(y, x, output_gradients=[1.0, 0.5])
    double = tape.gradient(y, x, output_gradients=tf.constant([1.0, 0.5], tf.float64))
    assert one_list.numpy().tolist() == [2.0, 2.0]
    assert double.dtype == tf.float32


def test_row_jacobian_without_vectorisation_on_a_plain_tape():
    tape, y, x = recorded()

    with pytest.raises(RuntimeError, match="must be created with persistent=True to compute the"):
        tape.jacobian(y, x, experimental_use_pfor=False)


def test_row_jacobian_of_a_list_is_a_list_here():
    tape, y, x = recorded()

    (found,) = tape.jacobian([y], x)
    assert found.numpy().tolist() == [[2.0, 0.0], [0.0, 4.0]]


def test_rows_batch_jacobian_of_shapes_that_do_not_fit():
    a, b = tf.Variable([[1.0, 2.0]]), tf.Variable([[1.0], [2.0]])
    with tf.GradientTape(persistent=True) as tape:
        flat, y = tf.reduce_sum(a * b, axis=1), a * 2.0

    with pytest.raises(ValueError, match="must have rank at least 2"):
        tape.batch_jacobian(flat, b)
    with pytest.raises(ValueError, match="Need first dimension of target shape"):
        tape.batch_jacobian(y, b)
    with pytest.raises(TypeError, match="source"):
        tape.batch_jacobian(y, [a])


def test_rows_accumulator():
    x = tf.constant(1.0)
    ones = tf.constant(1.0)

    with pytest.raises(ValueError, match="multiple times"):
        tf.autodiff.ForwardAccumulator([x, x], [ones, ones])
    with pytest.raises(ValueError, match="don't have the same nested structure"):
        tf.autodiff.ForwardAccumulator([x], [ones, ones])
    with pytest.raises(ValueError, match="shape"):
        tf.autodiff.ForwardAccumulator(x, tf.ones([2]))
    with (
        tf.autodiff.ForwardAccumulator(x, ones) as accumulator,
        pytest.raises(ValueError, match="already recording"),
    ):
        accumulator.__enter__()
    with accumulator:
        assert accumulator.jvp(x * x).numpy() == 2.0


def gradient_of(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def test_rows_custom_gradient():
    x, w = tf.constant([1.0, 2.0]), tf.Variable(2.0)

    @tf.custom_gradient
    def too_few(a, b):
        return a * b, lambda dy: dy

    @tf.custom_gradient()
    def captures(a):
        return a * w, lambda dy: dy

    @tf.custom_gradient
    def forgets(a):
        return a * w, lambda dy, variables: (dy, [])

    @tf.custom_gradient
    def wrong_shape(a):
        return a * 1.0, lambda dy: tf.ones([5])

    with pytest.raises(ValueError, match="expected to return 2 gradients, but returned 1"):
        gradient_of(lambda a: too_few(a, a), x)
    with pytest.raises(TypeError, match="grad_fn must accept keyword argument 'variables'"):
        gradient_of(captures, x)
    with pytest.raises(ValueError, match="Must return gradient for each variable"):
        gradient_of(forgets, x)
    with pytest.raises(ValueError, match="expected the same shape"):
        gradient_of(wrong_shape, x)


def test_custom_gradient_of_a_method_with_a_captured_variable_and_a_keyword():
    class Layer:
        def __init__(self):
            self.w = tf.Variable(3.0)

        @tf.custom_gradient
        def call(self, x, *, scale=1.0):
            def grad(dy, variables):
                assert [v.ref() for v in variables] == [self.w.ref()]
                return 10.0 * dy, [dy * x]

            return x * self.w * scale, grad

    layer, x = Layer(), tf.constant(2.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer.call(x, scale=2.0)
    to_x, to_w = tape.gradient(y, [x, layer.w])

    assert (y.numpy(), to_x.numpy(), to_w.numpy()) == (12.0, 10.0, 2.0)


def test_row_adding_to_a_variables_name():
    v = tf.Variable(1.0)

    with pytest.raises(RuntimeError, match=r"`variable \+= value` with `tf.Variable`s is not"):
        v += 1.0


def test_row_item_assignment():
    t, v = tf.constant([1.0, 2.0]), tf.Variable([1.0, 2.0])

    with pytest.raises(TypeError, match="does not support item assignment"):
        t[0] = 1.0
    with pytest.raises(TypeError, match="does not support item assignment"):
        v[0] = 1.0
    v[0].assign(9.0)
    v[1:].assign_add([1.0])
    assert v.numpy().tolist() == [9.0, 3.0]


@pytest.mark.parametrize("make", [tf.constant, tf.Variable])
def test_row_hash(make):
    value = make(1.0)

    with pytest.raises(TypeError, match=r"unhashable. Instead, use .*\.ref\(\) as the key"):
        hash(value)
    assert {value.ref(): "found"}[value.ref()] == "found"
    assert value.ref().deref() is value
    assert value.ref() != make(1.0).ref()


def test_row_assignment_of_another_shape_or_dtype():
    v = tf.Variable([1.0, 2.0])

    with pytest.raises(ValueError, match=r"Cannot assign value to variable .*Shape mismatch"):
        v.assign([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="Shape mismatch"):
        v.assign(3.0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Shape mismatch"):
        v.assign_sub(3.0)
    with pytest.raises(ValueError, match="requested dtype float32 for Tensor with dtype float64"):
        v.assign(tf.constant([1.0, 2.0], tf.float64))
    assert v.assign(np.array([3.0, 4.0])) is v
    assert v.numpy().dtype == np.float32


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


@pytest.mark.parametrize(
    "name", ["IndexedSlices", "einsum", "math.erf", "linalg.cholesky", "nn.conv2d"]
)
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
    with pytest.raises(tf.errors.UnimplementedError, match="batch_dims=1 is not offered yet"):
        tf.gather(tf.ones([2, 2]), [[0], [1]], batch_dims=1)

"""Convolutions and pooling beside TensorFlow itself: values, gradients and their gradients."""

import warnings

import numpy as np
import pytest

import distgrad.compat.tensorflow as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

GENERATOR = np.random.Generator(np.random.Philox(11))


def floats(*shape):
    return GENERATOR.uniform(-2, 2, shape).astype(np.float32)


def distinct(*shape):
    """Return numbers far from each other, so that a maximum is no matter of rounding."""
    count = int(np.prod(shape))
    return GENERATOR.permutation(np.linspace(-2, 2, count, dtype=np.float32)).reshape(shape)


IMAGE, FIRST = floats(2, 6, 7, 4), floats(2, 4, 6, 7)
KERNEL, LINE, SPACE = floats(3, 2, 4, 5), floats(2, 9, 4), floats(2, 4, 5, 6, 2)
TIES = np.array([[[[1], [1], [2]], [[1], [1], [2]], [[0], [2], [2]]]], np.float32)

CASES = {
    "conv1d": (lambda tf, x, w: tf.nn.conv1d(x, w, 2, "SAME"), [LINE, floats(3, 4, 5)]),
    "conv1d, channels first, dilated": (
        lambda tf, x, w: tf.nn.conv1d(x, w, 1, "VALID", "NCW", [2]),
        [floats(2, 4, 9), floats(3, 4, 5)],
    ),
    "conv2d same": (lambda tf, x, w: tf.nn.conv2d(x, w, 1, "SAME"), [IMAGE, KERNEL]),
    "conv2d valid strided": (lambda tf, x, w: tf.nn.conv2d(x, w, [2, 3], "VALID"), [IMAGE, KERNEL]),
    "conv2d same strided": (
        lambda tf, x, w: tf.nn.conv2d(x, w, [1, 2, 3, 1], "SAME"),
        [IMAGE, KERNEL],
    ),
    "conv2d explicit": (
        lambda tf, x, w: tf.nn.conv2d(x, w, 2, [[0, 0], [2, 1], [0, 3], [0, 0]]),
        [IMAGE, KERNEL],
    ),
    "conv2d dilated": (
        lambda tf, x, w: tf.nn.conv2d(x, w, 1, "SAME", dilations=[2, 3]),
        [IMAGE, KERNEL],
    ),
    "conv2d channels first": (
        lambda tf, x, w: tf.nn.conv2d(x, w, [1, 1, 2, 1], "SAME", data_format="NCHW"),
        [FIRST, KERNEL],
    ),
    "conv2d of points": (
        lambda tf, x, w: tf.nn.conv2d(x, w, 1, "VALID"),
        [IMAGE, floats(1, 1, 4, 3)],
    ),
    "conv2d of double": (
        lambda tf, x, w: tf.nn.conv2d(x, w, 2, "SAME"),
        [IMAGE.astype(np.float64), KERNEL.astype(np.float64)],
    ),
    "conv3d": (
        lambda tf, x, w: tf.nn.conv3d(x, w, [1, 2, 1, 2, 1], "SAME"),
        [SPACE, floats(2, 3, 2, 2, 3)],
    ),
    "conv2d_transpose": (
        lambda tf, y, w: tf.nn.conv2d_transpose(y, w, [2, 12, 21, 3], [2, 3]),
        [IMAGE, floats(3, 2, 3, 4)],
    ),
    "conv2d_transpose to an odd length": (
        lambda tf, y, w: tf.nn.conv2d_transpose(y, w, [2, 11, 13, 3], 2, "SAME"),
        [IMAGE, floats(3, 2, 3, 4)],
    ),
    "conv2d_transpose valid": (
        lambda tf, y, w: tf.nn.conv2d_transpose(y, w, [2, 14, 15, 3], 2, "VALID"),
        [IMAGE, floats(3, 3, 3, 4)],
    ),
    "depthwise_conv2d": (
        lambda tf, x, w: tf.nn.depthwise_conv2d(x, w, [1, 2, 2, 1], "SAME"),
        [IMAGE, floats(3, 2, 4, 2)],
    ),
    "depthwise_conv2d dilated": (
        lambda tf, x, w: tf.nn.depthwise_conv2d(x, w, [1] * 4, "VALID", dilations=[2, 1]),
        [IMAGE, floats(2, 3, 4, 1)],
    ),
    "separable_conv2d": (
        lambda tf, x, d, p: tf.nn.separable_conv2d(x, d, p, [1] * 4, "SAME"),
        [IMAGE, floats(3, 3, 4, 2), floats(1, 1, 8, 3)],
    ),
    "max_pool2d": (lambda tf, x: tf.nn.max_pool2d(x, 2, 2, "VALID"), [distinct(2, 6, 7, 3)]),
    "max_pool2d same overlapping": (
        lambda tf, x: tf.nn.max_pool2d(x, [3, 2], [2, 1], "SAME"),
        [distinct(2, 6, 7, 3)],
    ),
    "max_pool2d explicit": (
        lambda tf, x: tf.nn.max_pool2d(x, 3, 2, [[0, 0], [1, 2], [0, 1], [0, 0]]),
        [distinct(2, 6, 7, 3)],
    ),
    "max_pool2d of equal numbers": (lambda tf, x: tf.nn.max_pool2d(x, 2, 1, "VALID"), [TIES]),
    "max_pool1d": (lambda tf, x: tf.nn.max_pool1d(x, 3, 2, "SAME"), [distinct(2, 9, 4)]),
    "max_pool3d": (lambda tf, x: tf.nn.max_pool3d(x, 2, 2, "SAME"), [distinct(2, 4, 5, 6, 2)]),
    "avg_pool2d": (lambda tf, x: tf.nn.avg_pool2d(x, 2, 2, "VALID"), [IMAGE]),
    "avg_pool2d same overlapping": (
        lambda tf, x: tf.nn.avg_pool2d(x, [1, 3, 2, 1], [1, 2, 1, 1], "SAME"),
        [IMAGE],
    ),
    "avg_pool1d": (lambda tf, x: tf.nn.avg_pool1d(x, 3, 2, "SAME"), [LINE]),
    "avg_pool3d": (lambda tf, x: tf.nn.avg_pool3d(x, [2, 3, 2], 2, "SAME"), [SPACE]),
}
# TensorFlow has no second derivative of this.
FIRST_ORDER_ONLY = ("max_pool2d explicit",)


def cotangent(host):
    return np.cos(np.arange(1, host.size + 1)).reshape(host.shape).astype(host.dtype)


def derivatives(tf, function, inputs, order):
    """Return the output, its gradients, and those of the sum of the gradients' squares."""
    sources = [tf.constant(x) for x in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tf.GradientTape() as outer:
            outer.watch(sources)
            with tf.GradientTape() as inner:
                inner.watch(sources)
                y = function(tf, *sources)
                loss = tf.reduce_sum(y * y * tf.constant(cotangent(np.zeros(y.shape, x_dtype(y)))))
            gradients = inner.gradient(loss, sources)
            total = sum(tf.reduce_sum(g * g) for g in gradients)
        second = outer.gradient(total, sources) if order == 2 else []
    return [y, *gradients, *second]


def x_dtype(tensor):
    return tensor.dtype.name if hasattr(tensor.dtype, "name") else tensor.dtype


@pytest.mark.parametrize("label", CASES)
def test_values_and_derivatives_of_both_orders_are_tensorflows(label):
    function, inputs = CASES[label]
    order = 1 if label.startswith(FIRST_ORDER_ONLY) else 2

    found = derivatives(ours, function, inputs, order)

    expected = derivatives(theirs, function, inputs, order)
    assert len(found) == len(expected)
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.dtype.name == other.dtype.name, place
        scale = float(np.abs(other.numpy()).max())
        np.testing.assert_allclose(
            one.numpy(), other.numpy(), rtol=2e-4, atol=2e-5 * scale, err_msg=str(place)
        )


X, W = np.ones((1, 5, 5, 3), np.float32), np.ones((3, 3, 3, 2), np.float32)
MISUSE = {
    "channels": lambda tf: tf.nn.conv2d(X, np.ones((3, 3, 2, 2), np.float32), 1, "SAME"),
    "unknown word for padding": lambda tf: tf.nn.conv2d(X, W, 1, "same"),
    "stride of zero": lambda tf: tf.nn.conv2d(X, W, 0, "SAME"),
    "three strides": lambda tf: tf.nn.conv2d(X, W, [1, 1, 1], "SAME"),
    "stride over examples": lambda tf: tf.nn.conv2d(X, W, [2, 1, 1, 1], "SAME"),
    "window too long": lambda tf: tf.nn.conv2d(X, np.ones((7, 7, 3, 2), np.float32), 1, "VALID"),
    "unknown format": lambda tf: tf.nn.conv2d(X, W, 1, "SAME", data_format="NWHC"),
    "int64": lambda tf: tf.nn.conv2d(X.astype(np.int64), W.astype(np.int64), 1, "SAME"),
    "two dtypes": lambda tf: tf.nn.conv2d(
        tf.constant(X), tf.constant(W.astype(np.float64)), 1, "SAME"
    ),
    "short list of padding": lambda tf: tf.nn.conv2d(X, W, 1, [[1, 2], [0, 1]]),
    "list of padding in conv1d": lambda tf: tf.nn.conv1d(
        X[0], np.ones((3, 3, 2), np.float32), 1, [[0, 0], [1, 1], [0, 0]]
    ),
    "one stride for conv3d": lambda tf: tf.nn.conv3d(
        X[None], np.ones((2, 3, 3, 3, 2), np.float32), 2, "SAME"
    ),
    "one stride for depthwise_conv2d": lambda tf: tf.nn.depthwise_conv2d(X, W, 2, "SAME"),
    "channels of depthwise_conv2d": lambda tf: tf.nn.depthwise_conv2d(
        X, np.ones((3, 3, 2, 2), np.float32), [1] * 4, "SAME"
    ),
    "channels of separable_conv2d": lambda tf: tf.nn.separable_conv2d(
        X, W, np.ones((1, 1, 5, 4), np.float32), [1] * 4, "SAME"
    ),
    "padding as wide as the window": lambda tf: tf.nn.max_pool2d(
        X, 2, 2, [[0, 0], [2, 0], [0, 1], [0, 0]]
    ),
    "window of zero": lambda tf: tf.nn.max_pool2d(X, 0, 2, "SAME"),
    "window over examples": lambda tf: tf.nn.max_pool2d(X, [2, 2, 2, 1], 1, "SAME"),
    "window too long in pooling": lambda tf: tf.nn.max_pool2d(X, 7, 1, "VALID"),
    "list of padding in avg_pool2d": lambda tf: tf.nn.avg_pool2d(X, 2, 2, [[0, 0]] * 4),
    "mean of integers": lambda tf: tf.nn.avg_pool2d(X.astype(np.int32), 2, 2, "SAME"),
}


@pytest.mark.parametrize("label", MISUSE)
def test_misuse_raises_what_tensorflow_raises(label):
    with pytest.raises(Exception) as expected:  # noqa: PT011  TensorFlow decides which
        MISUSE[label](theirs)

    with pytest.raises(Exception) as found:  # noqa: PT011
        MISUSE[label](ours)

    wanted = type(expected.value).__name__
    assert wanted in {each.__name__ for each in type(found.value).__mro__}


def test_a_result_that_the_convolution_does_not_come_from_is_refused():
    # TensorFlow's kernels crash or abort here, each in its own way.
    with pytest.raises(ours.errors.InvalidArgumentError, match="windows"):
        ours.nn.conv2d_transpose(X, np.ones((3, 3, 2, 3), np.float32), [1, 12, 10, 2], 2)
    with pytest.raises(ours.errors.InvalidArgumentError, match="1 examples and 2 channels"):
        ours.nn.conv2d_transpose(X, np.ones((3, 3, 2, 3), np.float32), [2, 10, 10, 2], 2)
    with pytest.raises(ours.errors.InvalidArgumentError, match="rank 4 but is rank 3"):
        ours.nn.conv2d(X[0], W, 1, "SAME")

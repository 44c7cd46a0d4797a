"""Activations, moments and error functions beside TensorFlow itself, where it is installed."""

import warnings

import numpy as np
import pytest

import distgrad.compat.tensorflow as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

GENERATOR = np.random.Generator(np.random.Philox(17))
X = GENERATOR.uniform(-4, 4, (3, 5)).astype(np.float32)
IMAGES = GENERATOR.normal(1.0, 2.0, (2, 3, 4, 5)).astype(np.float32)
CHANNEL = GENERATOR.uniform(0.5, 1.5, 5).astype(np.float32)
KINKS = np.array([-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0], np.float32)

CASES = {
    "erf": (lambda tf, x: tf.math.erf(x), [X]),
    "erfc": (lambda tf, x: tf.math.erfc(x), [X]),
    "erfc of float64": (lambda tf, x: tf.math.erfc(x), [3 * X.astype(np.float64)]),
    "gelu": (lambda tf, x: tf.nn.gelu(x), [X]),
    "gelu approximate": (lambda tf, x: tf.nn.gelu(x, approximate=True), [X]),
    "silu of beta": (lambda tf, x: tf.nn.silu(x, beta=0.7), [X]),
    "leaky_relu of a negative slope": (lambda tf, x: tf.nn.leaky_relu(x, alpha=-0.3), [X]),
    **{
        f"{name} at kinks": (lambda tf, x, name=name: getattr(tf.nn, name)(x), [KINKS])
        for name in "relu relu6 leaky_relu elu selu silu softsign softplus gelu".split()
    },
    "relu6 of integers": (lambda tf, x: tf.nn.relu6(x), [np.array([-3, 4, 9], np.int32)]),
    "moments": (lambda tf, x: tf.nn.moments(x, axes=[0, 1, 2]), [IMAGES]),
    "moments kept": (lambda tf, x: tf.nn.moments(x, axes=[1], keepdims=True), [IMAGES]),
    "batch_normalization": (
        lambda tf, x, s: tf.nn.batch_normalization(
            x, *tf.nn.moments(x, axes=[0, 1, 2]), offset=s * 2, scale=s, variance_epsilon=1e-3
        ),
        [IMAGES, CHANNEL],
    ),
    "l2_normalize": (lambda tf, x: tf.math.l2_normalize(x, axis=[1, 2]), [IMAGES]),
    "ctc_loss": (
        lambda tf, x: tf.nn.ctc_loss(
            tf.constant([[1, 2], [3, 3], [4, 0]]),
            x,
            tf.constant([2, 2, 1]),
            tf.constant([3, 5, 4]),
            logits_time_major=False,
        ),
        [GENERATOR.normal(0, 1, (3, 5, 6)).astype(np.float32)],
    ),
    "ctc_loss of time first and a blank": (
        lambda tf, x: tf.nn.ctc_loss(
            tf.constant([[1, 2], [3, 3], [4, 0]]),
            x,
            tf.constant([2, 2, 1]),
            tf.constant([5, 5, 4]),
            blank_index=-1,
        ),
        [GENERATOR.normal(0, 1, (5, 3, 6)).astype(np.float32)],
    ),
    "weighted_cross_entropy_with_logits": (
        lambda tf, x, z: tf.nn.weighted_cross_entropy_with_logits(tf.sigmoid(z), x, 2.5),
        [X, X[::-1].copy()],
    ),
}


def outputs_and_gradients(tf, function, inputs):
    tensors = [tf.constant(x) for x in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([t for t in tensors if t.dtype.is_floating])
            found = function(tf, *tensors)
        outputs = list(found) if isinstance(found, (list, tuple)) else [found]
        seeds = [np.cos(np.arange(np.size(y.numpy()))).reshape(y.shape) for y in outputs]
        gradients = [
            tape.gradient(y, tensors, tf.constant(seed.astype(y.numpy().dtype)))
            for y, seed in zip(outputs, seeds, strict=True)
            if y.dtype.is_floating
        ]
    return outputs, gradients


@pytest.mark.parametrize("label", CASES)
def test_values_dtypes_and_gradients_are_tensorflows(label):
    function, inputs = CASES[label]
    expected, expected_gradients = outputs_and_gradients(theirs, function, inputs)

    found, gradients = outputs_and_gradients(ours, function, inputs)

    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype.name == other.dtype.name
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=2e-5, atol=2e-6)
    for one, other in zip(gradients, expected_gradients, strict=True):
        for mine, its in zip(one, other, strict=True):
            assert (mine is None) == (its is None)
            if mine is not None:
                np.testing.assert_allclose(mine.numpy(), its.numpy(), rtol=2e-4, atol=2e-5)

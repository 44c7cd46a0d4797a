"""Optimizers by Keras's names take the steps of Keras, beside TensorFlow where it is installed."""

import warnings

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import tensorflow as theirs
    except ImportError:
        theirs = None

DRAW = np.random.default_rng(5)
START = DRAW.normal(size=(4, 3)).astype(np.float32)
GRADIENTS = DRAW.normal(size=(20, 4, 3)).astype(np.float32)

CASES = {
    "sgd": ("SGD", {}),
    "sgd momentum": ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    "sgd nesterov": ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {}),
    "adam amsgrad": ("Adam", {"beta_2": 0.9, "amsgrad": True, "epsilon": 1e-2}),
    "adam decay": ("Adam", {"weight_decay": 0.1}),
    "adamw": ("AdamW", {"learning_rate": 0.01}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop centered": ("RMSprop", {"momentum": 0.5, "centered": True, "epsilon": 1e-2}),
    "adagrad": ("Adagrad", {"learning_rate": 0.1}),
    "clipped": ("SGD", {"learning_rate": 0.1, "clipnorm": 0.5}),
}


def trained(lib, case):
    name, settings = CASES[case]
    variable = lib.Variable(START)
    optimizer = getattr(lib.optimizers, name)(**settings)
    for gradient in GRADIENTS:
        optimizer.apply_gradients(zip([lib.constant(gradient)], [variable], strict=True))
    return variable.numpy()


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_those_of_keras(case):
    if theirs is None:
        pytest.skip("tensorflow is not installed")

    np.testing.assert_allclose(trained(tf, case), trained(theirs, case), rtol=2e-5, atol=2e-6)


def test_the_first_step_of_adam_has_keras_epsilon():
    x = tf.Variable(1.0)

    tf.optimizers.Adam(0.1, epsilon=1.0).apply_gradients([(tf.constant(2.0), x)])

    # rate * sqrt(1 - beta_2) / (1 - beta_1) * m / (sqrt(v) + epsilon), by hand
    root = np.sqrt(0.001)
    assert float(x.numpy()) == pytest.approx(1 - 0.1 * root / 0.1 * 0.2 / (root * 2 + 1), rel=1e-6)


def test_no_gradients_at_all_are_refused_as_in_keras():
    x = tf.Variable(1.0)

    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        tf.optimizers.SGD().apply_gradients([(None, x)])


def test_what_changes_results_and_is_not_offered_is_refused():
    with pytest.raises(tf.errors.UnimplementedError, match="use_ema=True is not offered"):
        tf.optimizers.SGD(use_ema=True)


def test_a_decay_takes_only_variables_with_a_gradient():
    x, y = tf.Variable(1.0), tf.Variable(1.0)

    tf.optimizers.AdamW(0.1).apply_gradients([(tf.constant(0.0), x), (None, y)])

    assert float(x.numpy()) == pytest.approx(1 - 0.1 * 0.004)
    assert float(y.numpy()) == 1.0


def test_a_traced_step_with_decay_is_the_eager_one():
    eager, traced = tf.Variable(START), tf.Variable(START)
    one, other = tf.optimizers.AdamW(0.1), tf.optimizers.AdamW(0.1)
    step = tf.function(lambda g: other.apply_gradients([(g, traced)]))

    for gradient in GRADIENTS[:3]:
        one.apply_gradients([(tf.constant(gradient), eager)])
        step(tf.constant(gradient))

    np.testing.assert_allclose(traced.numpy(), eager.numpy(), rtol=1e-6)
    assert int(other.iterations) == 3

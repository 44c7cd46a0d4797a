"""Schedules by Keras's names give Keras's rates, beside TensorFlow where it is installed."""

import math
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

CASES = {
    "exponential": ("ExponentialDecay", (0.5, 10, 0.7), {}),
    "exponential, in stairs": ("ExponentialDecay", (0.5, 4, 0.7), {"staircase": True}),
    "piecewise": ("PiecewiseConstantDecay", ([3, 7], [0.3, 0.2, 0.1]), {}),
    "polynomial": ("PolynomialDecay", (0.5, 12), {"end_learning_rate": 0.1, "power": 2.0}),
    "cosine": ("CosineDecay", (0.5, 12), {"alpha": 0.1}),
    "cosine, warmed up": ("CosineDecay", (0.1, 12, 0.1), {"warmup_target": 0.5, "warmup_steps": 5}),
    "inverse time": ("InverseTimeDecay", (0.5, 3, 0.7), {}),
    "inverse time, in stairs": ("InverseTimeDecay", (0.5, 3, 0.7), {"staircase": True}),
}
# By their formulas, after steps 0, 3, 4 and 20.
RATES = {
    "exponential": [0.5, 0.5 * 0.7**0.3, 0.5 * 0.7**0.4, 0.5 * 0.7**2],
    "exponential, in stairs": [0.5, 0.5, 0.35, 0.5 * 0.7**5],
    "piecewise": [0.3, 0.3, 0.2, 0.1],
    "polynomial": [0.5, 0.1 + 0.4 * 0.75**2, 0.1 + 0.4 * (2 / 3) ** 2, 0.1],
    "cosine": [0.5, *(0.05 + 0.225 * (1 + math.cos(math.pi * n / 12)) for n in (3, 4)), 0.05],
    "cosine, warmed up": [0.1, 0.34, 0.42, 0.05],
    "inverse time": [0.5, 0.5 / 1.7, 0.5 / (1 + 0.7 * 4 / 3), 0.5 / (1 + 0.7 * 20 / 3)],
    "inverse time, in stairs": [0.5, 0.5 / 1.7, 0.5 / 1.7, 0.5 / (1 + 0.7 * 6)],
}


def made(lib, case):
    name, arguments, settings = CASES[case]
    return getattr(lib.optimizers.schedules, name)(*arguments, **settings)


@pytest.mark.parametrize("case", CASES)
def test_rates_follow_the_formulas(case):
    schedule = made(tf, case)
    traced = tf.function(schedule)

    for found in (schedule, lambda step: traced(tf.constant(step))):
        rates = [found(step) for step in (0, 3, 4, 20)]
        assert {rate.dtype for rate in rates} == {tf.float32}
        np.testing.assert_allclose([float(rate) for rate in rates], RATES[case], rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_rates_are_those_of_keras(case):
    if theirs is None:
        pytest.skip("tensorflow is not installed")

    for step in range(25):
        own, other = (float(made(lib, case)(step)) for lib in (tf, theirs))
        assert own == pytest.approx(other, rel=1e-5, abs=1e-8), step


def test_optimizers_take_them():
    x = tf.Variable([1.0, 1.0])
    optimizer = tf.optimizers.SGD(tf.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5))

    for _ in range(3):
        optimizer.apply_gradients([(tf.constant([1.0, 0.0]), x)])

    np.testing.assert_allclose(x.numpy(), [1 - 0.5 - 0.25 - 0.125, 1])
    assert float(optimizer.learning_rate) == pytest.approx(0.0625)


def test_ones_own_have_to_say_what_the_rate_is():
    class Own(tf.optimizers.schedules.LearningRateSchedule):
        pass

    with pytest.raises(NotImplementedError, match="'Own' must override"):
        Own()(3)


def test_they_are_made_again_by_what_they_say():
    schedule = made(tf, "cosine, warmed up")

    again = type(schedule).from_config(schedule.get_config())

    assert float(again(4)) == float(schedule(4))


def test_what_is_not_offered_is_refused():
    with pytest.raises(tf.errors.UnimplementedError, match="cycle=True is not offered yet"):
        tf.optimizers.schedules.PolynomialDecay(0.1, 5, cycle=True)
    with pytest.raises(ValueError, match="1 less than the length of values"):
        tf.optimizers.schedules.PiecewiseConstantDecay([1], [0.1])

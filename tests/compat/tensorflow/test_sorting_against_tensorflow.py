"""Sorting, searching and segments beside TensorFlow itself, where it is installed."""

import warnings

import numpy as np
import pytest

import distgrad.compat.tensorflow as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

GENERATOR = np.random.Generator(np.random.Philox(11))
X = GENERATOR.uniform(-2, 2, (3, 5)).astype(np.float32)
TIES = np.array([[1.0, 3.0, 1.0, 2.0, 3.0], [0.0, 0.0, 5.0, 0.0, 5.0]], np.float32)
ROWS = GENERATOR.uniform(0.5, 2, (6, 2)).astype(np.float32)
IDS, MIXED = np.array([0, 0, 1, 3, 3, 3]), np.array([3, 0, -1, 0, 3, 1])
COMING = np.array([4, 1, 4, 2, 1, 9], np.int32)

CASES = {
    "sort": (lambda tf, x: tf.sort(x), [X]),
    "sort down, first axis": (lambda tf, x: tf.sort(x, axis=0, direction="DESCENDING"), [X]),
    "sort integers": (lambda tf, x: tf.sort(x), [COMING]),
    "argsort": (lambda tf, x: tf.argsort(x), [TIES]),
    "argsort down": (lambda tf, x: tf.argsort(x, direction="DESCENDING", axis=-1), [TIES]),
    "argsort stable": (lambda tf, x: tf.argsort(x, axis=0, stable=True), [TIES]),
    "top_k": (lambda tf, x: tf.math.top_k(x, 3), [TIES]),
    "nn.top_k of a line": (lambda tf, x: tf.nn.top_k(x, k=2), [X[0]]),
    "searchsorted": (
        lambda tf, s, v: tf.searchsorted(s, v),
        [np.array([1.0, 2.0, 2.0, 4.0], np.float32), np.array([2.0, 0.0, 9.0], np.float32)],
    ),
    "searchsorted rows, right": (
        lambda tf, s, v: tf.searchsorted(s, v, side="right", out_type=tf.int64),
        [np.sort(TIES, axis=1), np.array([[1.0, 3.0], [0.0, 6.0]], np.float32)],
    ),
    "unique": (lambda tf, x: tf.unique(x), [COMING]),
    "unique in int64": (lambda tf, x: tf.unique(x, out_idx=tf.int64), [COMING]),
    "unique_with_counts": (lambda tf, x: tf.unique_with_counts(x), [COMING]),
    "bincount": (lambda tf, x: tf.math.bincount(x), [COMING]),
    "bincount to lengths": (lambda tf, x: tf.math.bincount(x, minlength=3, maxlength=5), [COMING]),
    "bincount of weights": (
        lambda tf, x, w: tf.math.bincount(x, weights=w),
        [COMING, ROWS[:, 0]],
    ),
    **{
        f"cumprod {options}": (
            lambda tf, x, options=options: tf.math.cumprod(x, **options),
            [ROWS],
        )
        for options in (
            {},
            {"axis": 1},
            {"exclusive": True},
            {"reverse": True},
            {"axis": -1, "exclusive": True, "reverse": True},
        )
    },
    **{
        f"segment_{name}": (
            lambda tf, x, name=name: getattr(tf.math, f"segment_{name}")(x, IDS),
            [ROWS],
        )
        for name in ("max", "min", "mean", "prod")
    },
    **{
        f"unsorted_segment_{name}": (
            lambda tf, x, name=name: getattr(tf.math, f"unsorted_segment_{name}")(x, MIXED, 5),
            [ROWS],
        )
        for name in ("max", "min", "mean", "prod")
    },
}


def flat(result):
    if isinstance(result, (tuple, list)):
        return [part for each in result for part in flat(each)]
    return [result]


@pytest.mark.parametrize("case", CASES)
def test_values_and_dtypes_are_tensorflows(case):
    call, arrays = CASES[case]

    given = flat(call(ours, *map(ours.constant, arrays)))
    expected = flat(call(theirs, *map(theirs.constant, arrays)))

    for own, their in zip(given, expected, strict=True):
        assert own.dtype.name == their.dtype.name
        np.testing.assert_allclose(own.numpy(), their.numpy(), rtol=1e-5)


DIFFERENTIABLE = [
    name
    for name in CASES
    if name.startswith(("sort down", "top_k", "nn.top_k", "cumprod", "segment", "unsorted"))
]


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_gradients_are_tensorflows(case):
    call, arrays = CASES[case]

    def gradient(tf):
        x = tf.Variable(arrays[0] + 0.01 * np.arange(arrays[0].size).reshape(arrays[0].shape))
        with tf.GradientTape() as tape:
            result = flat(call(tf, x))[0]
            y = tf.reduce_sum(tf.tanh(result / 4))  # of none a result is as large as can be
        return tf.convert_to_tensor(tape.gradient(y, x)).numpy()

    np.testing.assert_allclose(gradient(ours), gradient(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda tf: tf.math.top_k(tf.constant([1.0, 2.0]), k=3),
        lambda tf: tf.unique(tf.constant([[1, 2]])),
        lambda tf: tf.math.bincount(tf.constant([1, -2])),
        lambda tf: tf.math.unsorted_segment_max(tf.constant([1.0]), [5], 2),
        lambda tf: tf.math.segment_max(tf.constant([1.0, 2.0]), [1, 0]),
    ],
)
def test_misuse_raises_what_tensorflow_raises(call):
    for tf in (ours, theirs):
        with pytest.raises(tf.errors.InvalidArgumentError):
            call(tf)


def test_an_unknown_direction_is_named():
    for tf in (ours, theirs):
        with pytest.raises(ValueError, match="ASCENDING"):
            tf.sort(tf.constant([1.0]), direction="UP")

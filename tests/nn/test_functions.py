"""The functions of `distgrad.nn` beside formulas in NumPy: values, derivatives, conventions."""

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad import errors, nn
from distgrad.testing import check_gradients
from distgrad.testing.inputs import values

X = values((3, 4), -4.1, 4.0)
WIDE = values((2, 3, 4, 6), -2.1, 2.0)
ROW, SHIFT = values((6,), 0.5, 1.5), values((6,), -1.0, 1.0)
LABELS = np.array([2, 0, 3])
CHANCES = np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
SIGNS = np.where(values((3, 4), -1.0, 1.0) > 0, 1.0, -1.0)
WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def standardized(x, axis, epsilon):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + epsilon)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def along_channels(values):
    return values.reshape(-1, 1, 1)


ERF = np.vectorize(math.erf, otypes=[float])

# Function, NumPy's formula, operands.
CASES = {
    "gelu": (nn.gelu, lambda x: x * (1 + ERF(x / np.sqrt(2))) / 2, [X]),
    "gelu approximate": (
        lambda x: nn.gelu(x, approximate=True),
        lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        [X],
    ),
    "silu": (nn.silu, lambda x: x * sigmoid(x), [X]),
    "mish": (nn.mish, lambda x: x * np.tanh(np.log1p(np.exp(x))), [X]),
    "softsign": (nn.softsign, lambda x: x / (1 + np.abs(x)), [X]),
    "elu": (nn.elu, lambda x: np.where(x > 0, x, np.expm1(x)), [X]),
    "elu alpha": (
        lambda x: nn.elu(x, alpha=0.3),
        lambda x: np.where(x > 0, x, 0.3 * np.expm1(x)),
        [X],
    ),
    "selu": (
        nn.selu,
        lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
        [X],
    ),
    "celu": (
        lambda x: nn.celu(x, alpha=2.0),
        lambda x: np.maximum(x, 0) + np.minimum(2 * np.expm1(x / 2), 0),
        [X],
    ),
    "leaky_relu": (nn.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x), [X]),
    "relu6": (nn.relu6, lambda x: np.clip(x, 0, 6), [2 * X]),
    "hard_sigmoid": (nn.hard_sigmoid, lambda x: np.clip((x + 3) / 6, 0, 1), [X]),
    "hard_swish": (nn.hard_swish, lambda x: x * np.clip((x + 3) / 6, 0, 1), [X]),
    "hard_tanh": (nn.hard_tanh, lambda x: np.clip(x, -1, 1), [X]),
    "hard_shrink": (nn.hard_shrink, lambda x: x * (np.abs(x) > 0.5), [X]),
    "soft_shrink": (nn.soft_shrink, lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0), [X]),
    "threshold": (
        lambda x: nn.threshold(x, above=0.6, value=-2.0),
        lambda x: np.where(x > 0.6, x, -2.0),
        [X],
    ),
    "tanh_shrink": (nn.tanh_shrink, lambda x: x - np.tanh(x), [X]),
    "log_sigmoid": (nn.log_sigmoid, lambda x: np.log(sigmoid(x)), [X]),
    "prelu": (nn.prelu, lambda x, a: np.where(x > 0, x, a * x), [X, values((4,), -1.0, 1.0)]),
    "glu": (nn.glu, lambda x: x[:, :2] * sigmoid(x[:, 2:]), [X]),
    "glu axis": (
        lambda x: nn.glu(x, axis=1),
        lambda x: x[:, :2] * sigmoid(x[:, 2:]),
        [values((3, 4, 5), -2.0, 2.0)],
    ),
    "softmin": (
        lambda x: nn.softmin(x, axis=0),
        lambda x: np.exp(-x) / np.exp(-x).sum(0),
        [X],
    ),
    "layer_norm": (
        nn.layer_norm,
        lambda x, s, b: standardized(x, -1, 1e-5) * s + b,
        [WIDE, ROW, SHIFT],
    ),
    "layer_norm of axes": (
        lambda x, s, b: nn.layer_norm(x, s, b, axis=(1, 3), epsilon=0.1),
        lambda x, s, b: standardized(x, (1, 3), 0.1) * s[:, None, :] + b[:, None, :],
        [WIDE, values((3, 6), 0.5, 1.5), values((3, 6), -1.0, 1.0)],
    ),
    "layer_norm of trailing axes": (
        lambda x: nn.layer_norm(x, axis=(-2, -1)),
        lambda x: standardized(x, (-2, -1), 1e-5),
        [WIDE],
    ),
    "layer_norm shift only": (
        lambda x, b: nn.layer_norm(x, shift=b),
        lambda x, b: standardized(x, -1, 1e-5) + b,
        [WIDE, SHIFT],
    ),
    "rms_norm": (
        nn.rms_norm,
        lambda x, s: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * s,
        [WIDE, ROW],
    ),
    "group_norm": (
        lambda x, s, b: nn.group_norm(x, 3, s, b),
        lambda x, s, b: (
            standardized(x.reshape(2, 3, 4, 3, 2), (1, 2, 4), 1e-5).reshape(x.shape) * s + b
        ),
        [WIDE, ROW, SHIFT],
    ),
    "group_norm channels second": (
        lambda x, s, b: nn.group_norm(x, 3, s, b, axis=1),
        lambda x, s, b: (
            standardized(x.reshape(2, 3, 2, 4, 5), (2, 3, 4), 1e-5).reshape(x.shape)
            * along_channels(s)
            + along_channels(b)
        ),
        [values((2, 6, 4, 5), -2.1, 2.0), ROW, SHIFT],
    ),
    "instance_norm": (
        nn.instance_norm,
        lambda x, s: standardized(x, (1, 2), 1e-5) * s,
        [WIDE, ROW],
    ),
    "instance_norm channels second": (
        lambda x, s, b: nn.instance_norm(x, s, b, axis=1),
        lambda x, s, b: standardized(x, (2, 3), 1e-5) * along_channels(s) + along_channels(b),
        [values((2, 6, 4, 5), -2.1, 2.0), ROW, SHIFT],
    ),
    "batch_norm": (
        lambda x, s, b: nn.batch_norm(x, s, b).output,
        lambda x, s, b: standardized(x, (0, 1, 2), 1e-5) * s + b,
        [WIDE, ROW, SHIFT],
    ),
    "batch_norm shift only": (
        lambda x, b: nn.batch_norm(x, shift=b).output,
        lambda x, b: standardized(x, (0, 1, 2), 1e-5) + b,
        [WIDE, SHIFT],
    ),
    "batch_norm channels second": (
        lambda x, s, b: nn.batch_norm(x, s, b, axis=1).output,
        lambda x, s, b: standardized(x, (0, 2, 3), 1e-5) * along_channels(s) + along_channels(b),
        [values((2, 6, 4, 5), -2.1, 2.0), ROW, SHIFT],
    ),
    "batch_norm's moments": (
        lambda x: dg.concat(nn.batch_norm(x)[1:]),
        lambda x: np.concatenate([x.mean((0, 1, 2)), x.var((0, 1, 2))]),
        [WIDE],
    ),
    "batch_norm by given moments": (
        lambda x, m, v, s: nn.batch_norm(x, s, mean=m, variance=v),
        lambda x, m, v, s: (x - m) / np.sqrt(v + 1e-5) * s,
        [WIDE, SHIFT, ROW, ROW + 1],
    ),
    "moments": (
        lambda x: dg.stack(nn.moments(x, axis=(0, 2))),
        lambda x: np.stack([x.mean((0, 2)), x.var((0, 2))]),
        [WIDE],
    ),
    "l2_normalize": (
        lambda x: nn.l2_normalize(x, axis=1),
        lambda x: x / np.sqrt((x * x).sum(1, keepdims=True)),
        [X],
    ),
    "cross entropy of labels": (
        lambda x: nn.softmax_cross_entropy(labels=LABELS, logits=x),
        lambda x: -log_softmax(x)[np.arange(3), LABELS],
        [X],
    ),
    "cross entropy smoothed": (
        lambda x: nn.softmax_cross_entropy(labels=LABELS, logits=x, smoothing=0.2),
        lambda x: -((0.8 * np.eye(4)[LABELS] + 0.05) * log_softmax(x)).sum(-1),
        [X],
    ),
    "cross entropy weighted": (
        lambda x: nn.softmax_cross_entropy(labels=LABELS, logits=x, weights=WEIGHTS, smoothing=0.2),
        lambda x: -((0.8 * np.eye(4)[LABELS] + 0.05) * WEIGHTS * log_softmax(x)).sum(-1),
        [X],
    ),
    "cross entropy ignoring": (
        lambda x: nn.softmax_cross_entropy(labels=np.array([2, -1, 3]), logits=x, ignored=-1),
        lambda x: -log_softmax(x)[np.arange(3), [2, 0, 3]] * [1, 0, 1],
        [X],
    ),
    "cross entropy of probabilities": (
        lambda x: nn.softmax_cross_entropy(
            labels=CHANCES.T, logits=x.T, axis=0, weights=WEIGHTS, smoothing=0.2
        ),
        lambda x: -((0.8 * CHANCES + 0.05) * WEIGHTS * log_softmax(x)).sum(-1),
        [X],
    ),
    "sigmoid cross entropy": (
        lambda x: nn.sigmoid_cross_entropy(labels=CHANCES, logits=x),
        lambda x: -CHANCES * np.log(sigmoid(x)) - (1 - CHANCES) * np.log(sigmoid(-x)),
        [X],
    ),
    "weighted sigmoid cross entropy": (
        lambda x, w: nn.weighted_sigmoid_cross_entropy(labels=CHANCES, logits=x, positive_weight=w),
        lambda x, w: -w * CHANCES * np.log(sigmoid(x)) - (1 - CHANCES) * np.log(sigmoid(-x)),
        [X, np.float64(2.5)],
    ),
    "binary cross entropy": (
        lambda p: nn.binary_cross_entropy(labels=CHANCES, probabilities=p),
        lambda p: -CHANCES * np.log(p) - (1 - CHANCES) * np.log(1 - p),
        [values((3, 4), 0.1, 0.9)],
    ),
    "negative log-likelihood": (
        lambda x: nn.negative_log_likelihood(labels=LABELS, log_probabilities=x),
        lambda x: -x[np.arange(3), LABELS],
        [X],
    ),
    "kl divergence": (
        lambda p, q: nn.kl_divergence(probabilities=p, log_predictions=q),
        lambda p, q: (p * (np.log(np.where(p > 0, p, 1)) - q)).sum(-1),
        [values((3, 4), 0.1, 0.9), X],
    ),
    "huber": (
        lambda y: nn.huber(targets=SIGNS, predictions=y, delta=0.7),
        lambda y: np.where(
            np.abs(y - SIGNS) <= 0.7, (y - SIGNS) ** 2 / 2, 0.7 * (np.abs(y - SIGNS) - 0.35)
        ),
        [X],
    ),
    "smooth_l1": (
        lambda y: nn.smooth_l1(targets=SIGNS, predictions=y, beta=0.7),
        lambda y: np.where(
            np.abs(y - SIGNS) <= 0.7, (y - SIGNS) ** 2 / 1.4, np.abs(y - SIGNS) - 0.35
        ),
        [X],
    ),
    "hinge": (
        lambda y: nn.hinge(labels=SIGNS, scores=y),
        lambda y: np.maximum(1 - SIGNS * y, 0),
        [X],
    ),
    "squared_hinge": (
        lambda y: nn.squared_hinge(labels=SIGNS, scores=y),
        lambda y: np.maximum(1 - SIGNS * y, 0) ** 2,
        [X],
    ),
    "mean squared error": (
        lambda y: nn.mean_squared_error(targets=SIGNS, predictions=y),
        lambda y: ((y - SIGNS) ** 2).mean(-1),
        [X],
    ),
    "mean absolute error": (
        lambda y: nn.mean_absolute_error(targets=SIGNS, predictions=y),
        lambda y: np.abs(y - SIGNS).mean(-1),
        [X],
    ),
    "cosine similarity": (
        nn.cosine_similarity,
        lambda a, b: (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)),
        [X, SIGNS * 0.3 + X[::-1]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_function_gives_its_formula(name):
    function, formula, operands = CASES[name]

    given = function(*(dg.asarray(x) for x in operands))

    np.testing.assert_allclose(given.numpy(), formula(*operands), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_agree_with_differences_to_second_order(name):
    function, _, operands = CASES[name]

    check_gradients(function, [dg.asarray(x) for x in operands])


@pytest.mark.parametrize("name", CASES)
def test_batched_is_one_by_one(name):
    function, _, operands = CASES[name]
    stacks = [np.stack([x, 0.9 * np.asarray(x)]) for x in operands]

    together = dg.vmap(function)(*(dg.asarray(x) for x in stacks))

    for place in range(2):
        alone = function(*(dg.asarray(x[place]) for x in stacks))
        np.testing.assert_allclose(together[place].numpy(), alone.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_dtypes_stay_narrow(name, dtype):
    function, formula, operands = CASES[name]
    narrow = [np.asarray(x, dtype) for x in operands]
    if name == "cosine similarity" and dtype == "float16":
        pytest.skip("the least length underflows")

    given = function(*(dg.asarray(x) for x in narrow))

    tolerance = 40 * np.finfo(dtype).eps
    expected = formula(*(x.astype(np.float64) for x in narrow))
    np.testing.assert_allclose(given.numpy(), expected, rtol=tolerance, atol=tolerance)


def slope(function, at):
    x = dg.Variable(float(at), dtype="float64")
    with dg.GradientTape() as tape:
        y = function(x)
    return float(tape.gradient(y, x))


KINKS = {
    "relu": (nn.relu, {0: 0}),
    "relu6": (nn.relu6, {0: 0, 6: 0}),
    "leaky_relu": (lambda x: nn.leaky_relu(x, slope=0.2), {0: 0.2}),
    "elu": (lambda x: nn.elu(x, alpha=0.5), {0: 1}),
    "selu": (nn.selu, {0: 1.0507009873554805}),
    "celu": (lambda x: nn.celu(x, alpha=0.5), {0: 1}),
    "hard_sigmoid": (nn.hard_sigmoid, {-3: 0, 3: 0}),
    "hard_swish": (nn.hard_swish, {-3: 0, 3: 1}),
    "hard_tanh": (nn.hard_tanh, {-1: 1, 1: 1}),
    "hard_shrink": (nn.hard_shrink, {-0.5: 0, 0.5: 0}),
    "soft_shrink": (nn.soft_shrink, {-0.5: 0, 0.5: 0}),
    "threshold": (lambda x: nn.threshold(x, above=1.0), {1: 0}),
    "prelu": (lambda x: nn.prelu(x, 0.3), {0: 0.3}),
    "softsign": (nn.softsign, {0: 1}),
    "hinge": (lambda x: nn.hinge(labels=1.0, scores=x), {1: 0}),
    "mean_absolute_error": (
        lambda x: nn.mean_absolute_error(targets=2.0, predictions=x, axis=None),
        {2: 0},
    ),
}


@pytest.mark.parametrize("name", KINKS)
def test_slope_at_a_kink_is_what_is_said(name):
    function, slopes = KINKS[name]

    assert {at: slope(function, at) for at in slopes} == pytest.approx(slopes)


@pytest.mark.parametrize("name", sorted(CASES.keys() & set(nn.__all__)))
def test_large_inputs_neither_overflow_nor_warn(name):
    function, _, operands = CASES[name]
    if len(operands) > 1 or name in ("group_norm", "moments", "negative log-likelihood"):
        pytest.skip("more than one operand")
    x = dg.Variable(np.array([[-80.0, 80.0, -1e4, 1e4]] * 3, np.float32))

    with dg.GradientTape() as tape:
        y = function(x)
    gradient = tape.gradient(y, x)

    assert np.isfinite(y.numpy()).all()
    assert np.isfinite(gradient.numpy()).all()


def test_large_arrays_are_what_small_ones_are():
    # Beyond a block, in pieces and by several threads, with a remainder.
    x = np.random.default_rng(3).normal(size=(701, 307)).astype(np.float32)
    for function in (nn.gelu, nn.silu, nn.leaky_relu, nn.hard_swish, dg.erf, nn.softplus):
        whole = dg.Variable(x)
        with dg.GradientTape() as tape:
            y = function(whole)
        gradient = tape.gradient(y, whole).numpy()
        for rows in (slice(0, 3), slice(350, 353), slice(698, 701)):
            part = dg.Variable(x[rows])
            with dg.GradientTape() as tape:
                few = function(part)
            near = {"rtol": 1e-6, "atol": 1e-6}  # formulas may be summed up in another order
            np.testing.assert_allclose(y.numpy()[rows], few.numpy(), **near)
            np.testing.assert_allclose(gradient[rows], tape.gradient(few, part).numpy(), **near)
        turned = function(dg.asarray(x.T))
        np.testing.assert_array_equal(turned.numpy(), y.numpy().T)


def test_float32_batch_moments_of_many_rows_are_accurate():
    x = np.random.default_rng(4).normal(100.0, 1.0, (200_000, 3)).astype(np.float32)

    mean, variance = nn.moments(dg.asarray(x), axis=0)

    np.testing.assert_allclose(mean.numpy(), x.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance.numpy(), x.astype(np.float64).var(0), rtol=1e-5)


MISUSE = {
    "elu": (lambda: nn.elu(dg.ones(3), alpha=0.0), ValueError, "alpha is 0.0"),
    "leaky_relu": (lambda: nn.leaky_relu(dg.ones(3), slope=-1.0), ValueError, "slope is -1.0"),
    "glu": (lambda: nn.glu(dg.ones((2, 3))), errors.ShapeError, "odd"),
    "layer_norm": (
        lambda: nn.layer_norm(dg.ones((2, 3)), dg.ones(2)),
        errors.ShapeError,
        r"scale has shape \(2,\); expected \(3,\)",
    ),
    "group_norm": (lambda: nn.group_norm(dg.ones((2, 4)), 3), errors.ShapeError, "4 channels"),
    "batch_norm": (
        lambda: nn.batch_norm(dg.ones((2, 3)), mean=dg.ones(3)),
        ValueError,
        "only one of mean and variance",
    ),
    "batch_norm scale": (
        lambda: nn.batch_norm(dg.ones((2, 3, 4)), dg.ones(3)),
        errors.ShapeError,
        "each of 4 channels",
    ),
    "normalize": (
        lambda: nn.normalize(dg.ones((3,)), dg.ones((2, 1)), dg.ones(3)),
        errors.ShapeError,
        "do not broadcast to the shape of x",
    ),
    "smoothing": (
        lambda: nn.softmax_cross_entropy(labels=LABELS, logits=X, smoothing=2.0),
        ValueError,
        "smoothing is 2.0",
    ),
    "ignored": (
        lambda: nn.softmax_cross_entropy(labels=CHANCES, logits=X, ignored=-1),
        ValueError,
        "expected integer labels",
    ),
    "huber": (
        lambda: nn.huber(targets=X, predictions=X, delta=0.0),
        ValueError,
        "delta is 0.0",
    ),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_named_with_what_was_expected(name):
    call, error, message = MISUSE[name]

    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("error")
def test_batched_gradients_are_one_by_one(name):
    function, _, operands = CASES[name]

    def loss(*xs):
        y = function(*xs)
        return dg.sum(y * y)

    places = tuple(range(len(operands)))
    stacks = [dg.asarray(np.stack([x, 0.9 * np.asarray(x)])) for x in operands]
    slopes = dg.grad(loss, argnums=places)

    together = dg.vmap(slopes)(*stacks)

    for place in range(2):
        alone = slopes(*(x[place] for x in stacks))
        for mine, its in zip(together, alone, strict=True):
            np.testing.assert_allclose(mine[place].numpy(), its.numpy(), rtol=1e-10, atol=1e-12)
    first = dg.vmap(slopes, in_axes=(0, *(None for _ in operands[1:])))(
        stacks[0], *(x[0] for x in stacks[1:])
    )
    alone = slopes(*(x[0] for x in stacks))
    for mine, its in zip(first, alone, strict=True):
        np.testing.assert_allclose(mine[0].numpy(), its.numpy(), rtol=1e-10, atol=1e-12)


def test_a_positive_weight_in_numbers_is_as_precise_as_the_logits():
    labels, logits = (
        dg.asarray([1.0, 0.0], dtype="float64"),
        dg.asarray([0.5, -1.0], dtype="float64"),
    )

    loss = dg.nn.weighted_sigmoid_cross_entropy(labels=labels, logits=logits, positive_weight=0.3)

    assert np.allclose(loss.numpy(), [0.3 * np.log1p(np.exp(-0.5)), np.log1p(np.exp(-1))], 1e-14, 0)


def test_smooth_l1_names_its_own_argument():
    with pytest.raises(ValueError, match="smooth_l1: beta is 0"):
        dg.nn.smooth_l1(targets=dg.ones(2), predictions=dg.ones(2), beta=0.0)

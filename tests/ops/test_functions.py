"""The public functions give what NumPy's do, also those composed of several operations."""

import math

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values
from distgrad.testing.rules import assert_close

X = values((3, 4, 5), -2.0, 2.1)
A, B = values((3, 4), -2.0, 2.1), values((3, 4), 0.5, 2.0, seed=1)
POSITIVE = values((3, 4), 0.5, 2.0)
WITHIN = values((3, 4), -0.8, 0.75)

# function of arrays: distgrad's, NumPy's, arguments
SAME = {
    "add": (dg.add, np.add, (A, B)),
    "subtract": (dg.subtract, np.subtract, (A, B)),
    "multiply": (dg.multiply, np.multiply, (A, B)),
    "divide": (dg.divide, np.divide, (A, B)),
    "pow": (dg.pow, np.power, (B, A)),
    "remainder": (dg.remainder, np.remainder, (A, B)),
    "floor_divide": (dg.floor_divide, np.floor_divide, (A, B)),
    "atan2": (dg.atan2, np.arctan2, (A, B)),
    "erf": (dg.erf, np.vectorize(math.erf, otypes=[float]), (3 * A,)),
    "erfc": (dg.erfc, np.vectorize(math.erfc, otypes=[float]), (3 * A,)),
    "logaddexp": (dg.logaddexp, np.logaddexp, (A, B)),
    "maximum": (dg.maximum, np.maximum, (A, B)),
    "minimum": (dg.minimum, np.minimum, (A, B)),
    "equal": (dg.equal, np.equal, (A, A.round())),
    "not_equal": (dg.not_equal, np.not_equal, (A, A.round())),
    "less": (dg.less, np.less, (A, B)),
    "less_equal": (dg.less_equal, np.less_equal, (A, B)),
    "greater": (dg.greater, np.greater, (A, B)),
    "greater_equal": (dg.greater_equal, np.greater_equal, (A, B)),
    "logical_and": (dg.logical_and, np.logical_and, (A > 0, B > 1)),
    "logical_or": (dg.logical_or, np.logical_or, (A > 0, B > 1)),
    "logical_xor": (dg.logical_xor, np.logical_xor, (A > 0, B > 1)),
    "logical_not": (dg.logical_not, np.logical_not, (A > 0,)),
    "isnan": (dg.isnan, np.isnan, (np.array([1, np.nan, np.inf]),)),
    "isinf": (dg.isinf, np.isinf, (np.array([1, np.nan, -np.inf]),)),
    "isfinite": (dg.isfinite, np.isfinite, (np.array([1, np.nan, np.inf]),)),
    "sin": (dg.sin, np.sin, (A,)),
    "cos": (dg.cos, np.cos, (A,)),
    "tan": (dg.tan, np.tan, (WITHIN,)),
    "asin": (dg.asin, np.arcsin, (WITHIN,)),
    "acos": (dg.acos, np.arccos, (WITHIN,)),
    "atan": (dg.atan, np.arctan, (A,)),
    "sinh": (dg.sinh, np.sinh, (A,)),
    "cosh": (dg.cosh, np.cosh, (A,)),
    "tanh": (dg.tanh, np.tanh, (A,)),
    "asinh": (dg.asinh, np.arcsinh, (A,)),
    "acosh": (dg.acosh, np.arccosh, (POSITIVE + 1,)),
    "atanh": (dg.atanh, np.arctanh, (WITHIN,)),
    "exp": (dg.exp, np.exp, (A,)),
    "expm1": (dg.expm1, np.expm1, (A,)),
    "log": (dg.log, np.log, (POSITIVE,)),
    "log1p": (dg.log1p, np.log1p, (POSITIVE,)),
    "sqrt": (dg.sqrt, np.sqrt, (POSITIVE,)),
    "square": (dg.square, np.square, (A,)),
    "abs": (dg.abs, np.abs, (A,)),
    "sign": (dg.sign, np.sign, (A,)),
    "negative": (dg.negative, np.negative, (A,)),
    "positive": (dg.positive, np.positive, (A,)),
    "floor": (dg.floor, np.floor, (A,)),
    "ceil": (dg.ceil, np.ceil, (A,)),
    "round": (dg.round, np.round, (np.array([0.5, 1.5, -2.5, 2.4]),)),
    "conj": (dg.conj, np.conj, (A + 1j * B,)),
    "real": (dg.real, np.real, (A + 1j * B,)),
    "imag": (dg.imag, np.imag, (A + 1j * B,)),
    "relu": (dg.relu, lambda x: np.maximum(x, 0), (A,)),
    "sigmoid": (dg.sigmoid, lambda x: 1 / (1 + np.exp(-x)), (A,)),
    "softplus": (dg.softplus, lambda x: np.log(1 + np.exp(x)), (A,)),
    "sum": (lambda x: dg.sum(x, axis=(0, 2)), lambda x: np.sum(x, axis=(0, 2)), (X,)),
    "mean": (lambda x: dg.mean(x, axis=1), lambda x: np.mean(x, axis=1), (X,)),
    "prod": (lambda x: dg.prod(x, axis=-1), lambda x: np.prod(x, axis=-1), (X,)),
    "max": (lambda x: dg.max(x, keepdims=True), lambda x: np.max(x, keepdims=True), (X,)),
    "min": (lambda x: dg.min(x, axis=0), lambda x: np.min(x, axis=0), (X,)),
    "argmax": (
        lambda x: dg.argmax(x, axis=1, keepdims=True),
        lambda x: np.argmax(x, axis=1, keepdims=True),
        (X,),
    ),
    "argmin": (dg.argmin, np.argmin, (X,)),
    "all": (lambda x: dg.all(x > -1.9, axis=0), lambda x: np.all(x > -1.9, axis=0), (X,)),
    "any": (lambda x: dg.any(x > 1.9, axis=0), lambda x: np.any(x > 1.9, axis=0), (X,)),
    "var": (
        lambda x: dg.var(x, axis=1, correction=1),
        lambda x: np.var(x, axis=1, correction=1),
        (X,),
    ),
    "var-complex": (dg.var, np.var, (A + 1j * B,)),
    "std": (lambda x: dg.std(x, axis=(0, 2)), lambda x: np.std(x, axis=(0, 2)), (X,)),
    "logsumexp": (
        lambda x: dg.logsumexp(x, axis=1, keepdims=True),
        lambda x: np.log(np.exp(x).sum(axis=1, keepdims=True)),
        (X,),
    ),
    "cumulative_sum": (
        lambda x: dg.cumulative_sum(x, axis=1),
        lambda x: np.cumulative_sum(x, axis=1),
        (X,),
    ),
    "softmax": (
        lambda x: dg.softmax(x, axis=1),
        lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True),
        (X,),
    ),
    "log_softmax": (
        dg.log_softmax,
        lambda x: x - np.log(np.exp(x).sum(axis=-1, keepdims=True)),
        (X,),
    ),
    "matmul": (dg.matmul, np.matmul, (X, values((5, 2), -1.0, 1.2))),
    "vecdot": (dg.vecdot, np.vecdot, (A + 1j * B, B + 2j * A)),
    "vecdot-axis": (
        lambda a, b: dg.vecdot(a, b, axis=0),
        lambda a, b: np.vecdot(a, b, axis=0),
        (A, B),
    ),
    "tensordot": (dg.tensordot, np.tensordot, (X, values((4, 5, 2), -1.0, 1.2))),
    "tensordot-axes": (
        lambda a, b: dg.tensordot(a, b, axes=((2, 0), (1, -3))),
        lambda a, b: np.tensordot(a, b, axes=((2, 0), (1, -3))),
        (X, values((3, 5, 2), -1.0, 1.2)),
    ),
    "tensordot-outer": (
        lambda a, b: dg.tensordot(a, b, axes=0),
        lambda a, b: np.tensordot(a, b, axes=0),
        (A, values((2,), -1.0, 1.2)),
    ),
    "reshape": (lambda x: dg.reshape(x, (4, -1)), lambda x: np.reshape(x, (4, -1)), (X,)),
    "reshape-integer": (lambda x: dg.reshape(x, -1), lambda x: np.reshape(x, -1), (X,)),
    "broadcast_to": (
        lambda x: dg.broadcast_to(x, (2, 3, 4)),
        lambda x: np.broadcast_to(x, (2, 3, 4)),
        (A,),
    ),
    "expand_dims": (
        lambda x: dg.expand_dims(x, axis=1),
        lambda x: np.expand_dims(x, axis=1),
        (A,),
    ),
    "squeeze": (dg.squeeze, np.squeeze, (X[:1, :, :1],)),
    "permute_dims": (
        lambda x: dg.permute_dims(x, (2, 0, 1)),
        lambda x: np.transpose(x, (2, 0, 1)),
        (X,),
    ),
    "matrix_transpose": (dg.matrix_transpose, np.matrix_transpose, (X,)),
    "flip": (lambda x: dg.flip(x, axis=(0, 2)), lambda x: np.flip(x, axis=(0, 2)), (X,)),
    "astype": (lambda x: dg.astype(x, "int32"), lambda x: x.astype("int32"), (X,)),
    "concat": (
        lambda a, b: dg.concat([a, b], axis=1),
        lambda a, b: np.concatenate([a, b], axis=1),
        (A, B),
    ),
    "concat-flat": (
        lambda a, b: dg.concat([a, b], axis=None),
        lambda a, b: np.concatenate([a, b], axis=None),
        (A, X),
    ),
    "stack": (
        lambda a, b: dg.stack([a, b], axis=-1),
        lambda a, b: np.stack([a, b], axis=-1),
        (A, B),
    ),
    "take": (
        lambda x: dg.take(x, [[2, 0], [1, 1]], axis=1),
        lambda x: np.take(x, [[2, 0], [1, 1]], axis=1),
        (X,),
    ),
    "where": (lambda a, b: dg.where(a > 0, a, b), lambda a, b: np.where(a > 0, a, b), (A, B)),
    "clip": (lambda x: dg.clip(x, -1.0, 0.5), lambda x: np.clip(x, -1.0, 0.5), (A,)),
    "clip-below": (lambda x: dg.clip(x, min=-1.0), lambda x: np.clip(x, -1.0, None), (A,)),
    "zeros_like": (dg.zeros_like, np.zeros_like, (A,)),
    "ones_like": (
        lambda x: dg.ones_like(x, dtype="float32"),
        lambda x: np.ones_like(x, dtype="float32"),
        (A,),
    ),
    "getitem": (lambda x: x[1:, ..., ::-2], lambda x: x[1:, ..., ::-2], (X,)),
    "getitem-list": (lambda x: x[[0, 2], :, [1, 1]], lambda x: x[[0, 2], :, [1, 1]], (X,)),
    "getitem-empty-list": (lambda x: x[[]], lambda x: x[[]], (X,)),
    "getitem-empty-lists": (lambda x: x[[], [0]], lambda x: x[[], [0]], (X,)),
    "take-tuple": (
        lambda x: dg.take(x, (1, 0), axis=2),
        lambda x: np.take(x, (1, 0), axis=2),
        (X,),
    ),
    "take-integer": (lambda x: dg.take(x, 1, axis=1), lambda x: np.take(x, 1, axis=1), (X,)),
    "getitem-bool": (lambda x: x[True], lambda x: x[True], (X,)),
    "label-cross-entropy": (
        lambda x: dg.softmax_cross_entropy(labels=[1, 0, 3], logits=x),
        lambda x: np.log(np.exp(x).sum(-1)) - x[[0, 1, 2], [1, 0, 3]],
        (A,),
    ),
    "soft-cross-entropy": (
        lambda p, x: dg.softmax_cross_entropy(labels=p, logits=x, axis=0),
        lambda p, x: -(p * (x - np.log(np.exp(x).sum(0)))).sum(0),
        (B / B.sum(axis=0), A),
    ),
    "sigmoid-cross-entropy": (
        lambda p, x: dg.sigmoid_cross_entropy(labels=p, logits=x),
        lambda p, x: -p * np.log(1 / (1 + np.exp(-x))) - (1 - p) * np.log(1 / (1 + np.exp(x))),
        (B / 2, A),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_function_gives_what_numpy_gives(name):
    ours, numpys, arguments = SAME[name]

    given = ours(*(dg.asarray(each) for each in arguments))

    expected = np.asarray(numpys(*arguments))
    assert given.dtype == expected.dtype
    assert_close(given.numpy(), expected, name)


SMOOTH = (
    "var var-complex std vecdot vecdot-axis tensordot tensordot-axes tensordot-outer squeeze "
    "concat-flat stack take clip clip-below getitem getitem-list getitem-empty-list getitem-bool "
    "soft-cross-entropy sigmoid-cross-entropy label-cross-entropy"
).split()


@pytest.mark.parametrize("name", SMOOTH)
def test_composed_function_has_right_derivatives(name):
    function, _, arguments = SAME[name]

    check_gradients(function, arguments)


CREATION = {
    "zeros": (lambda: dg.zeros((3, 4)), np.zeros((3, 4), np.float32)),
    "zeros-integer": (lambda: dg.zeros(3, dtype="int64"), np.zeros(3, np.int64)),
    "ones": (lambda: dg.ones((3,), dtype="float64"), np.ones(3)),
    "full-integer": (lambda: dg.full(3, 7), np.full(3, 7)),
    "full-floating": (lambda: dg.full((2, 3), 7.0), np.full((2, 3), 7, np.float32)),
    "full-complex": (lambda: dg.full((), 1j), np.full((), 1j, np.complex64)),
    "full-bool": (lambda: dg.full(2, True), np.full(2, True)),
    "arange": (lambda: dg.arange(5), np.arange(5)),
    "arange-steps": (lambda: dg.arange(7, 1, -2), np.arange(7, 1, -2)),
    "arange-floating": (lambda: dg.arange(0.5, 2.0, 0.5), np.arange(0.5, 2, 0.5, np.float32)),
    "linspace": (lambda: dg.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype=np.float32)),
    "linspace-open": (
        lambda: dg.linspace(-1.0, 1.0, 4, endpoint=False, dtype="float64"),
        np.linspace(-1, 1, 4, endpoint=False),
    ),
    "linspace-complex": (
        lambda: dg.linspace(0, 1j, 3),
        np.linspace(0, 1j, 3).astype(np.complex64),
    ),
    "eye": (lambda: dg.eye(3, 4, k=-1), np.eye(3, 4, k=-1, dtype=np.float32)),
    "one_hot": (lambda: dg.one_hot([2, 0], 3), np.eye(3, dtype=np.float32)[[2, 0]]),
}


@pytest.mark.parametrize("name", CREATION)
def test_creation_gives_what_numpy_gives(name):
    create, expected = CREATION[name]

    given = create()

    assert given.dtype == expected.dtype
    np.testing.assert_array_equal(given.numpy(), expected)


def test_every_public_function_of_ops_is_tried_here():
    tried = {name.partition("-")[0] for name in (*SAME, *CREATION)}
    tried |= {"full", "softmax_cross_entropy", "sigmoid_cross_entropy"}
    # In files of their own, or by their samples: test_linalg, test_einsum, test_gathering.
    tried |= set("diag diagonal inner kron outer trace vdot einsum gather embedding".split())
    tried |= set("erf erfc multiply_no_nan".split())
    tried |= set(array_api_strict.__all__)  # by tests/test_array_api.py, beside the standard's own
    public = {
        name
        for name in dg.__all__
        if getattr(getattr(dg, name), "__module__", "").startswith("distgrad.ops.")
    }

    assert public - tried == set()


@pytest.mark.parametrize("around", [lambda f: f, dg.function, dg.vmap])
@pytest.mark.parametrize("condition", [True, False])
def test_where_takes_a_flag_of_pythons(around, condition):
    x = dg.asarray([[1.0, 2.0]])

    found = around(lambda x: dg.where(condition, x, 0.0))(x)

    assert found.tolist() == ([[1.0, 2.0]] if condition else [[0.0, 0.0]])


@pytest.mark.parametrize(
    "f",
    [
        lambda f: f(dg.asarray([1.0, 2.0, 3.0]), 1),
        lambda f: dg.function(f)(dg.asarray([1.0, 2.0, 3.0]), 1),
        lambda f: dg.vmap(f, in_axes=(0, None))(dg.asarray([[1.0, 2.0, 3.0]]), 1)[0],
    ],
)
@pytest.mark.parametrize("options", [{}, {"smoothing": 0.1}, {"weights": [1.0, 2.0, 3.0]}])
def test_the_cross_entropy_of_one_example_takes_its_label_as_a_number(f, options):
    def loss(logits, label):
        return dg.softmax_cross_entropy(labels=label, logits=logits, **options)

    expected = loss(dg.asarray([[1.0, 2.0, 3.0]]), dg.asarray([1]))[0]

    assert float(f(loss)) == pytest.approx(float(expected), rel=1e-6)


def test_a_number_that_is_no_class_is_refused():
    with pytest.raises(IndexError, match="label 7 is no class; expected 0 to 2"):
        dg.softmax_cross_entropy(labels=7, logits=dg.ones(3))

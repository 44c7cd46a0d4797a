"""Every offered function beside TensorFlow itself, where it is installed."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import distgrad.compat.tensorflow as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

GENERATOR = np.random.Generator(np.random.Philox(7))


def floats(*shape, low=-2.0, high=2.0):
    return GENERATOR.uniform(low, high, shape).astype(np.float32)


def complexes(*shape):
    return (floats(*shape) + 1j * floats(*shape)).astype(np.complex64)


ANY, POSITIVE = floats(3, 4), floats(3, 4, low=0.3)
UNIT = floats(3, 4, low=-0.9, high=0.9)
Z = complexes(3, 4)
ROWS, COLUMN, MATRIX = floats(4), floats(3, 1), floats(4, 5)
LABELS = np.array([[0, 1, 0, 0], [0.5, 0, 0.5, 0], [0.25] * 4], np.float32)
CLASSES = np.array([3, 0, 2])
ZERO_INSIDE = np.array([[0.0, 1.5, -2.0], [3.0, 0.0, 0.5]], np.float32)

UNARY = {
    **dict.fromkeys(
        "math.abs math.negative math.square math.exp math.expm1 math.sin math.cos math.tan "
        "math.sinh math.cosh math.tanh math.atan math.asinh math.sigmoid math.softplus math.sign "
        "math.log_sigmoid math.floor math.ceil math.round math.angle math.is_nan math.is_inf "
        "math.is_finite identity math.reciprocal nn.relu nn.relu6 nn.elu nn.selu nn.leaky_relu "
        "nn.silu nn.softsign nn.softmax nn.log_softmax nn.l2_loss nn.tanh nn.sigmoid nn.softplus "
        "math.reduce_sum math.reduce_mean math.reduce_max math.reduce_min math.reduce_prod "
        "math.reduce_logsumexp math.reduce_std math.reduce_variance math.reduce_euclidean_norm "
        "math.argmax math.argmin math.cumsum math.l2_normalize norm linalg.norm linalg.trace "
        "linalg.diag linalg.diag_part linalg.matrix_transpose linalg.adjoint transpose shape size "
        "rank zeros_like ones_like squeeze unstack stop_gradient math.count_nonzero "
        "math.zero_fraction nn.swish".split(),
        ANY,
    ),
    **dict.fromkeys("math.log math.log1p math.sqrt math.rsqrt".split(), POSITIVE),
    **dict.fromkeys("math.asin math.acos math.atanh".split(), UNIT),
    "math.acosh": POSITIVE + 1,
}
COMPLEX_UNARY = (
    "math.abs math.negative math.square math.exp math.sin math.cos math.tanh math.sqrt math.log "
    "math.conj math.real math.imag math.angle math.reduce_sum math.reduce_mean math.reduce_prod "
    "linalg.adjoint math.reciprocal norm math.reduce_std"
).split()
BINARY = (
    "math.add math.subtract math.multiply math.divide math.maximum math.minimum "
    "math.squared_difference math.floormod math.floordiv math.atan2 math.equal math.not_equal "
    "math.less math.less_equal math.greater math.greater_equal math.divide_no_nan "
    "math.multiply_no_nan math.truediv math.mod"
).split()


def named(tf, name):
    for part in name.split("."):
        tf = getattr(tf, part)
    return tf


CASES = {
    **{name: (lambda tf, x, name=name: named(tf, name)(x), [x]) for name, x in UNARY.items()},
    **{
        f"{name} of complex": (lambda tf, x, name=name: named(tf, name)(x), [Z])
        for name in COMPLEX_UNARY
    },
    **{
        f"{name} broadcast": (lambda tf, a, b, name=name: named(tf, name)(a, b), [COLUMN, ROWS])
        for name in BINARY
    },
    "pow": (lambda tf, a, b: tf.pow(a, b), [POSITIVE, ROWS]),
    "xlogy": (lambda tf, a, b: tf.math.xlogy(a, b), [ZERO_INSIDE, np.abs(floats(2, 3))]),
    "divide_no_nan at zero": (
        lambda tf, a, b: tf.math.divide_no_nan(a, b),
        [floats(2, 3), ZERO_INSIDE],
    ),
    "multiply_no_nan at zero": (
        lambda tf, a, b: tf.math.multiply_no_nan(a, b),
        [floats(2, 3), ZERO_INSIDE],
    ),
    "logic": (
        lambda tf, a, b: tf.logical_or(tf.logical_and(a > 0, b > 0), tf.logical_not(a > b)),
        [ANY, ROWS],
    ),
    "logical_xor": (lambda tf, a, b: tf.math.logical_xor(a > 0, b > 0), [ANY, ROWS]),
    "scalar_mul": (lambda tf, x: tf.math.scalar_mul(2.5, x), [ANY]),
    "add_n": (lambda tf, a, b: tf.add_n([a, b, a]), [ANY, POSITIVE]),
    "cast to integers and back": (lambda tf, x: tf.cast(tf.cast(x, tf.int32), tf.float32), [ANY]),
    "cast to double": (lambda tf, x: tf.cast(x, "float64") * 3, [ANY]),
    "cast of complex to real": (lambda tf, x: tf.cast(tf.math.real(x), tf.float64), [Z]),
    "complex": (lambda tf, a, b: tf.complex(a, b) * tf.complex(b, a), [ANY, POSITIVE]),
    "clip_by_value": (lambda tf, x: tf.clip_by_value(x, -1.0, 1.0), [ANY]),
    "clip_by_value at a bound": (
        lambda tf, x: tf.clip_by_value(x, 0.0, 1.0),
        [np.array([0.0, 1.0, 2.0], np.float32)],
    ),
    "clip_by_norm": (lambda tf, x: tf.clip_by_norm(x, 2.0), [ANY]),
    "clip_by_norm of axes": (lambda tf, x: tf.clip_by_norm(x, 2.0, axes=[1]), [ANY]),
    "clip_by_global_norm": (
        lambda tf, a, b: tf.clip_by_global_norm([a, None, b], 1.5)[0][::2],
        [ANY, ROWS],
    ),
    "clip_by_global_norm's norm": (
        lambda tf, a, b: tf.clip_by_global_norm([a, b], 1.5)[1],
        [ANY, ROWS],
    ),
    "global_norm": (lambda tf, a, b: tf.linalg.global_norm([a, b]), [ANY, ROWS]),
    "matmul": (lambda tf, a, b: tf.matmul(a, b), [ANY, MATRIX]),
    "matmul of transposes": (
        lambda tf, a, b: tf.matmul(a, b, transpose_a=True, transpose_b=True),
        [floats(4, 3), floats(5, 4)],
    ),
    "matmul of adjoints": (
        lambda tf, a, b: tf.matmul(a, b, adjoint_a=True, adjoint_b=True),
        [complexes(4, 3), complexes(5, 4)],
    ),
    "matmul of batches": (lambda tf, a, b: a @ b, [floats(2, 1, 3, 4), floats(5, 4, 2)]),
    "matvec": (lambda tf, a, b: tf.linalg.matvec(a, b), [ANY, ROWS]),
    "matvec transposed": (
        lambda tf, a, b: tf.linalg.matvec(a, b, transpose_a=True),
        [MATRIX, ROWS],
    ),
    "einsum": (lambda tf, a, b: tf.einsum("ij,jk->ki", a, b), [ANY, MATRIX]),
    "tensordot": (lambda tf, a, b: tf.tensordot(a, b, 1), [ANY, MATRIX]),
    "tensordot of axes": (
        lambda tf, a, b: tf.tensordot(a, b, axes=[[0, 1], [1, 0]]),
        [ANY, floats(4, 3, 2)],
    ),
    "sums over axes": (
        lambda tf, x: [
            tf.reduce_sum(x, axis=[0, 2]),
            tf.reduce_mean(x, axis=-1, keepdims=True),
            tf.reduce_max(x, 1),
            tf.reduce_min(x, axis=(0, 1)),
            tf.reduce_logsumexp(x, axis=2, keepdims=True),
            tf.reduce_prod(x, axis=1),
        ],
        [floats(2, 3, 4)],
    ),
    "largest of ties": (
        lambda tf, x: tf.reduce_max(x),
        [np.array([2.0, 2.0, 1.0], np.float32)],
    ),
    "maximum of a tie": (
        lambda tf, a, b: tf.maximum(a, b),
        [np.array([2.0, 1.0], np.float32), np.array([2.0, 3.0], np.float32)],
    ),
    "prod with zeros": (
        lambda tf, x: tf.reduce_prod(x, axis=1),
        [np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 3.0]], np.float32)],
    ),
    "reduce_all and any": (
        lambda tf, x: [tf.reduce_all(x > 0, axis=1), tf.reduce_any(x > 1.9)],
        [ANY],
    ),
    "cumsum variants": (
        lambda tf, x: [
            tf.cumsum(x, axis=1, exclusive=e, reverse=r)
            for e in (False, True)
            for r in (False, True)
        ],
        [ANY],
    ),
    "arg positions": (
        lambda tf, x: [tf.argmax(x, axis=1), tf.argmin(x, 1, output_type=tf.int32)],
        [ANY],
    ),
    "integer reductions": (
        lambda tf, x: [tf.reduce_sum(x), tf.reduce_mean(x), tf.reduce_prod(x), tf.cumsum(x)],
        [np.array([3, -4, 2, -6], np.int32)],
    ),
    "integer arithmetic": (
        lambda tf, x: [x + 1, x * x, x // 2, x % 3, x / 2, x / x, -x, abs(x), x**2, 2 - x, x > 1],
        [np.array([3, -4, 2], np.int32)],
    ),
    "operators": (
        lambda tf, x, y: [
            x + y,
            x - 1,
            2.0 * x,
            x / y,
            x**2,
            2.0**x,
            1 / x,
            3 - y,
            -x,
            abs(x),
            x // y,
            x % y,
        ],
        [POSITIVE, POSITIVE + 0.2],
    ),
    "beside arrays": (
        lambda tf, x: [x * np.arange(4.0), np.arange(4.0) - x, x + [1, 2, 3, 4], x * np.float64(2)],
        [ANY],
    ),
    "subscripts": (
        lambda tf, x: [
            x[0],
            x[1:],
            x[:, -1],
            x[..., 2],
            x[tf.newaxis, ::2],
            x[1, 2:0:-1],
            x[tf.constant(1)],
        ],
        [ANY],
    ),
    "boolean_mask": (
        lambda tf, x: [
            tf.boolean_mask(x, [True, False, True]),
            tf.boolean_mask(x, [True, False, True, True], axis=1),
            x[x > 0],
        ],
        [ANY],
    ),
    "reshape": (lambda tf, x: [tf.reshape(x, [2, -1]), tf.reshape(x, tf.constant([12]))], [ANY]),
    "broadcast_to": (lambda tf, x: tf.broadcast_to(x, [2, 3, 4]), [ROWS]),
    "expand and squeeze": (
        lambda tf, x: [tf.expand_dims(x, -1), tf.squeeze(tf.expand_dims(x, 1), axis=[1])],
        [ANY],
    ),
    "transpose": (
        lambda tf, x: [tf.transpose(x), tf.transpose(x, perm=[2, 0, 1])],
        [floats(2, 3, 4)],
    ),
    "transpose with conjugate": (lambda tf, x: tf.transpose(x, conjugate=True), [Z]),
    "concat": (
        lambda tf, a, b: [tf.concat([a, b], 0), tf.concat([a, a], axis=-1)],
        [ANY, floats(2, 4)],
    ),
    "stack": (
        lambda tf, a, b: [tf.stack([a, b]), tf.stack([a, b], axis=1), tf.stack([a, a * 2])],
        [ANY, POSITIVE],
    ),
    "unstack": (lambda tf, x: tf.unstack(x, axis=1), [ANY]),
    "split": (lambda tf, x: [*tf.split(x, 2, axis=1), *tf.split(x, [1, -1], axis=0)], [ANY]),
    "slice": (lambda tf, x: tf.slice(x, [1, 0], [2, -1]), [ANY]),
    "tile": (lambda tf, x: tf.tile(x, [2, 3]), [ANY]),
    "repeat": (lambda tf, x: [tf.repeat(x, 2), tf.repeat(x, [1, 0, 2], axis=0)], [ANY]),
    "reverse": (lambda tf, x: tf.reverse(x, [0, 1]), [ANY]),
    "roll": (lambda tf, x: [tf.roll(x, 1, 0), tf.roll(x, [1, -2], [0, 1])], [ANY]),
    "pad": (
        lambda tf, x: [
            tf.pad(x, [[1, 0], [2, 1]]),
            tf.pad(x, [[1, 1], [0, 0]], constant_values=5.0),
            tf.pad(x, [[2, 1], [0, 3]], "REFLECT"),
            tf.pad(x, [[3, 1], [0, 4]], mode="SYMMETRIC"),
        ],
        [ANY],
    ),
    "meshgrid": (
        lambda tf, a, b: [*tf.meshgrid(a, b), *tf.meshgrid(a, b, indexing="ij")],
        [ROWS, floats(3)],
    ),
    "where": (lambda tf, a, b: [tf.where(a > 0, a, b), tf.where(a > b, a, 0.0)], [ANY, ROWS]),
    "where alone": (lambda tf, x: tf.where(x > 0), [ANY]),
    "gather": (
        lambda tf, x: [tf.gather(x, [2, 0], axis=1), tf.gather(x, [[0, 1], [1, 1]], axis=1)],
        [ANY],
    ),
    "gather of rows": (lambda tf, x: tf.gather(x, [2, 0, 2]) * 1.0, [ANY]),
    "gather_nd": (
        lambda tf, x: [tf.gather_nd(x, [[0, 1], [2, 3]]), tf.gather_nd(x, [[1], [1]])],
        [ANY],
    ),
    "scatter_nd": (
        lambda tf, x: [tf.scatter_nd([[4], [0], [4]], x, [5, 4])],
        [ANY],
    ),
    "tensor_scatter_nd_update": (
        lambda tf, x, u: [
            tf.tensor_scatter_nd_update(x, [[0, 1], [2, 3]], u),
            tf.tensor_scatter_nd_add(x, [[0, 1], [0, 1]], u),
        ],
        [ANY, floats(2)],
    ),
    "segment_sum": (
        lambda tf, x: [
            tf.math.segment_sum(x, [0, 0, 2]),
            tf.math.unsorted_segment_sum(x, [1, -1, 1], 3),
        ],
        [ANY],
    ),
    "one_hot": (
        lambda tf, x: [
            tf.one_hot([0, 2, -1, 7], 3),
            tf.one_hot([[0, 2]], 3, axis=1),
            tf.one_hot([1], 3, on_value=5, off_value=1),
            tf.one_hot([1], 3, dtype=tf.int64),
            tf.one_hot([1, 0], 3, on_value=2.0, axis=0),
        ],
        [ROWS],
    ),
    "creation": (
        lambda tf, x: [
            tf.zeros([2, 3]),
            tf.ones((2,), tf.int64),
            tf.fill([2, 2], 7),
            tf.fill([1], 2.5),
            tf.eye(3),
            tf.eye(2, 3, batch_shape=[2]),
            tf.range(5),
            tf.range(1.0, 3.0, 0.5),
            tf.range(3, dtype=tf.float64),
            tf.range(6, 0, -2),
            tf.constant(3, shape=[2, 2]),
            tf.constant([1, 2, 3, 4], shape=[2, 2]),
            tf.constant(1),
            tf.constant(1.0),
            tf.constant(True),
            tf.constant(1j),
            tf.constant([1, 2.5]),
            tf.constant(2**40),
            tf.constant(np.float64(2)),
            tf.constant([np.float64(2)]),
            tf.linspace(0, 1, 5),
            tf.linspace(0.0, 2.0, 4),
            tf.zeros_like(x, dtype=tf.int32),
            tf.ones_like([1.0, 2.0]),
            tf.convert_to_tensor([x[0], 2.0]),
            tf.convert_to_tensor(1, dtype_hint=tf.float32),
        ],
        [ROWS],
    ),
    "linspace of tensors": (lambda tf, a, b: tf.linspace(a, b, 5), [floats(), floats()]),
    "sigmoid_cross_entropy": (
        lambda tf, z, x: tf.nn.sigmoid_cross_entropy_with_logits(labels=z, logits=x),
        [LABELS, ANY],
    ),
    "weighted_cross_entropy": (
        lambda tf, z, x: tf.nn.weighted_cross_entropy_with_logits(z, x, 2.5),
        [LABELS, ANY],
    ),
    "softmax_cross_entropy": (
        lambda tf, z, x: tf.nn.softmax_cross_entropy_with_logits(labels=z, logits=x),
        [LABELS, ANY],
    ),
    "softmax_cross_entropy of python integers": (
        lambda tf, x: tf.nn.softmax_cross_entropy_with_logits(labels=[[0, 1, 0, 0]] * 3, logits=x),
        [ANY],
    ),
    "sparse_softmax_cross_entropy": (
        lambda tf, x: tf.nn.sparse_softmax_cross_entropy_with_logits(labels=CLASSES, logits=x),
        [ANY],
    ),
    "softmax along an axis": (
        lambda tf, x: [tf.nn.softmax(x, axis=0), tf.nn.log_softmax(x, axis=0)],
        [ANY],
    ),
    "moments": (
        lambda tf, x: [*tf.nn.moments(x, [0]), *tf.nn.moments(x, [0, 1], keepdims=True)],
        [ANY],
    ),
    "batch_normalization": (
        lambda tf, x, m, v, b, s: [
            tf.nn.batch_normalization(x, m, v, b, s, 1e-3),
            tf.nn.batch_normalization(x, m, v, None, s, 1e-3),
            tf.nn.batch_normalization(x, m, v, None, None, 1e-3),
        ],
        [ANY, ROWS, np.abs(ROWS) + 1, floats(4), floats(4)],
    ),
    "l2_normalize": (
        lambda tf, x: [tf.nn.l2_normalize(x, axis=1), tf.nn.l2_normalize(x, [0, 1])],
        [ANY],
    ),
    "bias_add": (lambda tf, x, b: tf.nn.bias_add(x, b), [ANY, ROWS]),
    "bias_add with channels second": (
        lambda tf, x, b: tf.nn.bias_add(x, b, data_format="NCHW"),
        [floats(2, 4, 3, 5), ROWS],
    ),
    "activations with parameters": (
        lambda tf, x: [tf.nn.leaky_relu(x, 0.3), tf.nn.silu(x, 1.7)],
        [ANY],
    ),
    "activations at kinks": (
        lambda tf, x: [
            tf.nn.relu(x),
            tf.nn.relu6(x),
            tf.nn.elu(x),
            tf.nn.selu(x),
            tf.nn.leaky_relu(x),
            tf.abs(x),
        ],
        [np.array([0.0, 6.0, -1.0], np.float32)],
    ),
    "embedding_lookup": (lambda tf, x: tf.nn.embedding_lookup(x, [[0, 2], [2, 2]]) * 1.0, [ANY]),
    "norms": (
        lambda tf, x: [
            tf.norm(x, 1),
            tf.norm(x, np.inf),
            tf.norm(x, 3),
            tf.norm(x, axis=1),
            tf.norm(x, "fro", axis=[0, 1]),
            tf.norm(x, 1, axis=[0, 1]),
            tf.norm(x, 2, axis=[0, 1]),
            tf.norm(x, np.inf, axis=[0, 1]),
            tf.norm(x, axis=0, keepdims=True),
            *tf.linalg.normalize(x, axis=1),
        ],
        [ANY],
    ),
    "eigenvalues": (
        lambda tf, x: [
            tf.linalg.eigvalsh(x),
            tf.linalg.eigh(x)[0],
            tf.abs(tf.linalg.eigh(x)[1]),  # their signs are anybody's
        ],
        [MATRIX @ MATRIX.T],
    ),
    "diagonals": (
        lambda tf, x, d: [
            tf.linalg.diag(d),
            tf.linalg.diag(d, k=1),
            tf.linalg.diag(d, k=-2),
            tf.linalg.diag_part(x, k=1),
            tf.linalg.diag_part(x, k=-1),
            tf.linalg.diag_part(x, k=(-1, 2), align="LEFT_RIGHT"),
            tf.linalg.set_diag(x, d),
            tf.linalg.band_part(x, 1, 0),
            tf.linalg.band_part(x, -1, 1),
            tf.linalg.trace(x),
        ],
        [floats(2, 3, 4), floats(2, 3)],
    ),
    "grad_pass_through": (lambda tf, x: tf.grad_pass_through(tf.round)(x) * x, [ANY]),
    "recompute_grad": (lambda tf, x: tf.recompute_grad(lambda a: tf.sin(a) * a)(x), [ANY]),
    "vectorized_map": (
        lambda tf, x: tf.vectorized_map(lambda row: tf.reduce_sum(row * row) * row, x),
        [ANY],
    ),
    "cond and while_loop": (
        lambda tf, x: [
            tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2, lambda: x * 3),
            tf.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, v * x), (0, x))[1],
        ],
        [POSITIVE],
    ),
    "empty arrays": (
        lambda tf, x: [tf.reduce_sum(x), tf.concat([x, x], 0), x * 2],
        [np.zeros((0, 3), np.float32)],
    ),
}


def results_of(tf, function, inputs, seeds=None):
    """Return the outputs of a case and the gradients of all its floating outputs."""
    tensors = [tf.constant(x) for x in inputs]
    differentiable = [t for t, x in zip(tensors, inputs, strict=True) if x.dtype.kind in "fc"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(differentiable)
            found = function(tf, *tensors)
        outputs = list(found) if isinstance(found, (list, tuple)) else [found]
        gradients = [
            tape.gradient(y, differentiable, tf.constant(seed))
            for y, seed in zip(outputs, seeds or [None] * len(outputs), strict=True)
            if seed is not None
        ]
    return outputs, gradients


def seed_like(host):
    """Return a cotangent that differs from element to element; None for integers."""
    if host.dtype.kind not in "fc":
        return None
    return np.cos(np.arange(1, host.size + 1)).reshape(host.shape).astype(host.dtype)


def to_host(value):
    """Return a tensor or TensorFlow's sparse gradient as an array."""
    return np.asarray(theirs.convert_to_tensor(value) if hasattr(value, "indices") else value)


@pytest.mark.parametrize("label", CASES)
def test_values_dtypes_and_gradients_are_tensorflows(label):
    function, inputs = CASES[label]
    outputs, _ = results_of(theirs, function, inputs)
    seeds = [seed_like(np.asarray(y)) for y in outputs]
    expected, expected_gradients = results_of(theirs, function, inputs, seeds)

    found, gradients = results_of(ours, function, inputs, seeds)

    assert len(found) == len(expected)
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.dtype.name == other.dtype.name, place
        assert tuple(one.shape) == tuple(other.shape), place
        # A few roundings of float32, more where TensorFlow's kernels approximate.
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=2e-5, atol=2e-6)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert [g is None for g in one] == [g is None for g in other]
        for a, b in zip(one, other, strict=True):
            if a is not None:
                np.testing.assert_allclose(a.numpy(), to_host(b), rtol=2e-4, atol=2e-5)


def test_the_cases_cover_every_function_that_is_offered():
    pages = Path(__file__).parent.glob("test_*against_tensorflow.py")
    text = " ".join([*CASES, *(page.read_text(encoding="utf-8") for page in pages)])
    elsewhere = set(
        "numpy_function py_function debugging DType optimizers "
        "GradientTape Tensor TensorShape TensorSpec UnconnectedGradients Variable as_dtype "
        "autodiff bool complex64 complex128 custom_gradient double dtypes errors "
        "executing_eagerly float16 half int8 int16 uint8 uint16 uint32 uint64 is_tensor linalg "
        "math nn print random test dropout device name_scope".split()
    )
    names = {
        name
        for module in (ours, ours.math, ours.nn, ours.linalg)
        for name in module.__all__
        if name not in elsewhere
        and "segment_" not in name  # spelled by a loop in test_sorting_against_tensorflow
    }

    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()

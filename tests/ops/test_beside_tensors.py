"""Numbers and lists go where the tensor beside them is, not to the backend in force."""

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import ArrayModuleBackend
from distgrad.compat import tensorflow as tf

STRICT = ArrayModuleBackend("strict", array_api_strict)
VECTOR = np.array([0.3, 0.5, 0.7])
MATRIX = np.array([[2.0, 0.3, 0.1], [0.3, 1.5, 0.2], [0.1, 0.2, 1.1]])
ROWS = np.linspace(0.1, 0.9, 24).reshape(2, 4, 3)
LIST = [0.2, 0.4, 0.6]
WEIGHTS = (
    np.linspace(-1, 1, 24).reshape(3, 8).tolist(),
    np.linspace(-1, 1, 16).reshape(2, 8).tolist(),
)

CALLS = {
    "outer": (lambda x: dg.outer(x, 2), VECTOR),
    "outer of a list": (lambda x: dg.outer(LIST, x), VECTOR),
    "kron": (lambda x: dg.kron(2.5, x), VECTOR),
    "inner": (lambda x: dg.inner(x, LIST), VECTOR),
    "vdot": (lambda x: dg.vdot(LIST, x), VECTOR),
    "vecdot": (lambda x: dg.vecdot(x, LIST), VECTOR),
    "tensordot": (lambda x: dg.tensordot(MATRIX.tolist(), x, axes=1), VECTOR),
    "cross": (lambda x: dg.linalg.cross(x, LIST), VECTOR),
    "multi_dot": (lambda x: dg.linalg.multi_dot([LIST, x, LIST]), MATRIX),
    "clip": (lambda x: dg.clip(2, 1, x), VECTOR),
    "clip of a list": (lambda x: dg.clip(LIST, 0.3, x), VECTOR),
    "solve": (lambda x: dg.linalg.solve(x, LIST), MATRIX),
    "solve_triangular": (lambda x: dg.linalg.solve_triangular(x, LIST), MATRIX),
    "lstsq": (lambda x: dg.linalg.lstsq(x, LIST).solution, MATRIX),
    "tensorsolve": (lambda x: dg.linalg.tensorsolve(x, LIST), MATRIX),
    "matrix_rank": (lambda x: dg.linalg.matrix_rank(x, [1.2]), MATRIX[None]),
    "stack": (lambda x: dg.stack([x, LIST]), VECTOR),
    "asarray": (lambda x: dg.asarray([x, LIST]), VECTOR),
    "meshgrid": (lambda x: dg.add(*dg.meshgrid([1, 2], x)), VECTOR),
    "broadcast_arrays": (lambda x: dg.add(*dg.broadcast_arrays(x, 2)), VECTOR),
    "searchsorted": (lambda x: dg.searchsorted(LIST, x, sorter=[0, 1, 2]), VECTOR),
    "take_along_axis": (lambda x: dg.take_along_axis(x, [[0], [2], [1]]), MATRIX),
    "gather": (lambda x: dg.gather(x, [[0, 1], [2, 3]], axis=1, batch_dims=1), ROWS),
    "huber": (lambda x: dg.special.huber(x, 2), VECTOR),
    "huber of a list": (lambda x: dg.special.huber(LIST, x), VECTOR),
    "pseudo_huber": (lambda x: dg.special.pseudo_huber(x, [LIST]), VECTOR),
    "logsumexp": (lambda x: dg.special.logsumexp(x, b=LIST), VECTOR),
    "polygamma": (lambda x: dg.special.polygamma([0, 1, 3], x), VECTOR),
    "prelu": (lambda x: dg.nn.prelu(LIST, x), VECTOR),
    "cosine_similarity": (lambda x: dg.nn.cosine_similarity(x, LIST), VECTOR),
    "layer_norm": (lambda x: dg.nn.layer_norm(x, LIST, LIST), ROWS),
    "group_norm": (lambda x: dg.nn.group_norm(x, 3, LIST, LIST), ROWS),
    "instance_norm": (lambda x: dg.nn.instance_norm(x, LIST, LIST), ROWS),
    "batch_norm": (lambda x: dg.nn.batch_norm(x, mean=LIST, variance=LIST), ROWS),
    "attention": (lambda x: dg.nn.scaled_dot_product_attention(ROWS.tolist(), x, x), ROWS),
    "ctc_loss": (lambda x: dg.nn.ctc_loss(labels=[[1, 2], [2, 1]], logits=x), ROWS),
    "ctc_loss of no labels": (lambda x: dg.nn.ctc_loss(labels=[[], []], logits=x), ROWS),
    "lstm without a bias": (
        lambda x: dg.vmap(lambda each: dg.nn.lstm(each, *WEIGHTS)[0])(dg.expand_dims(x, axis=0)),
        ROWS,
    ),
    "vmap beside a list": (dg.vmap(lambda each: each * LIST), MATRIX),
    "np.fmax": (lambda x: np.fmax(x, [0.4, 0.4, 0.4]), VECTOR),
    "np.fmod": (lambda x: np.fmod(x, LIST), VECTOR),
    "np.logaddexp2": (lambda x: np.logaddexp2(LIST, x), VECTOR),
    "np.isclose": (lambda x: np.isclose(x, 2), VECTOR),
    "tf.reduce_sum": (lambda x: tf.reduce_sum([x, LIST], axis=0), VECTOR),
    "tf.add": (lambda x: tf.add([x, LIST], LIST), VECTOR),
    "tf.matmul": (lambda x: tf.matmul(MATRIX.tolist(), x), MATRIX),
    "tf.add_n": (lambda x: tf.add_n([tf.identity(x), x]), VECTOR),
    "tf.repeat": (lambda x: tf.repeat(x, 2, axis=1), MATRIX),
    "tf.roll": (lambda x: tf.roll(x, [1, 2], [0, 1]), MATRIX),
    "tf.math.segment_sum": (lambda x: tf.math.segment_sum(x, [0, 0, 2]), MATRIX),
    "tf.math.segment_max": (lambda x: tf.math.segment_max(x, [0, 0, 2]), MATRIX),
    "tf.math.unsorted_segment_mean": (
        lambda x: tf.math.unsorted_segment_mean(x, [0, 2, 0], 3),
        MATRIX,
    ),
    "tf.math.bincount": (lambda x: tf.math.bincount([0, 2, 2], x), VECTOR),
    "tf.math.xlogy": (lambda x: tf.math.xlogy(0.5, x), VECTOR),
    "tf.linalg.trace": (tf.linalg.trace, MATRIX),
    "tf.gather": (lambda x: tf.gather(MATRIX.tolist(), tf.cast(x * 4, tf.int32)), VECTOR),
    "tf.gather_nd": (lambda x: tf.gather_nd(LIST, tf.cast(x[:, None] * 4, tf.int32)), VECTOR),
    "tf.boolean_mask": (lambda x: tf.boolean_mask(LIST, x > 0.4), VECTOR),
    "tf.where": (lambda x: tf.where([True, False, True], LIST, x), VECTOR),
    "tf.meshgrid": (lambda x: tf.meshgrid([1.0, 2.0], x)[0], VECTOR),
    "tf.linspace": (lambda x: tf.linspace([0.0, 1.0, 2.0], tf.cast(x, tf.float32), 2), VECTOR),
    "tf.clip_by_norm": (lambda x: tf.clip_by_norm(LIST, tf.cast(x[0], tf.float32)), VECTOR),
    "tf.complex": (lambda x: tf.complex(LIST, tf.cast(x, tf.float32)), VECTOR),
    "tf.leaky_relu": (lambda x: tf.nn.leaky_relu(LIST, tf.cast(x, tf.float32)), VECTOR),
    "tf.silu": (lambda x: tf.nn.silu(LIST, tf.cast(x, tf.float32)), VECTOR),
    "tf.batch_normalization": (
        lambda x: tf.nn.batch_normalization(LIST, tf.cast(x, tf.float32), LIST, None, None, 1e-3),
        VECTOR,
    ),
    "tf.sigmoid_cross_entropy": (
        lambda x: tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(x, tf.float32), LIST),
        VECTOR,
    ),
    "tf.weighted_cross_entropy": (
        lambda x: tf.nn.weighted_cross_entropy_with_logits(LIST, LIST, tf.cast(x, tf.float32)),
        VECTOR,
    ),
    "tf.softmax_cross_entropy": (
        lambda x: tf.nn.softmax_cross_entropy_with_logits(tf.cast(x, tf.float32), LIST),
        VECTOR,
    ),
    "tf.sparse_softmax_cross_entropy": (
        lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(x, tf.int32), [LIST] * 3),
        VECTOR,
    ),
    "tf.matvec": (lambda x: tf.linalg.matvec(MATRIX.tolist(), x), VECTOR),
    "tf.tensor_scatter_nd_update": (
        lambda x: tf.tensor_scatter_nd_update([0.0] * 4, [[3], [0], [1]], x),
        VECTOR,
    ),
    "tf.scatter_nd": (lambda x: tf.scatter_nd([[3], [0], [1]], x, [4]), VECTOR),
    "tf.linalg.diag_part": (lambda x: tf.linalg.diag_part(x, k=1), MATRIX),
    "tf.linalg.diag": (lambda x: tf.linalg.diag(x, k=-1), VECTOR),
    "tf.linalg.set_diag": (lambda x: tf.linalg.set_diag(x, LIST), MATRIX),
    "tf.linalg.band_part": (lambda x: tf.linalg.band_part(x, 1, 0), MATRIX),
}
if hasattr(np, "matvec"):  # from NumPy 2.2 on
    CALLS["np.matvec"] = (lambda x: np.matvec(x, LIST), MATRIX)
    CALLS["np.vecmat"] = (lambda x: np.vecmat(LIST, x), MATRIX)


@pytest.mark.parametrize("name", CALLS)
def test_numbers_and_lists_go_where_the_tensor_is(name):
    call, value = CALLS[name]

    result = call(dg.asarray(value, backend=STRICT))

    assert result.backend is STRICT
    expected = call(dg.asarray(value))
    assert result.dtype == expected.dtype
    rtol = 1e-6 if result.dtype == dg.float32 else 1e-12
    np.testing.assert_allclose(result.numpy(), expected.numpy(), rtol=rtol)


@pytest.mark.parametrize("name", CALLS)
def test_arrays_that_are_no_tensors_decide_it_too(name):
    call, value = CALLS[name]
    if name.startswith(("np.", "tf.", "asarray")):
        pytest.skip("NumPy makes an array of them, and TensorFlow")
    dg.asarray(0.0, backend=STRICT)  # announces the backend

    assert call(array_api_strict.asarray(value)).backend is STRICT


@pytest.mark.parametrize("name", ["outer", "kron", "huber"])
def test_a_number_does_not_widen_the_tensor(name):
    call, value = CALLS[name]

    assert call(dg.asarray(value, dtype="float16")).dtype == dg.float16


@pytest.mark.parametrize("two", [np.float64(2), np.asarray(2.0)], ids=["scalar", "0-d array"])
def test_numbers_of_numpy_go_to_any_backend(two):
    result = dg.outer(dg.asarray(VECTOR, backend=STRICT), two)

    assert result.backend is STRICT
    np.testing.assert_array_equal(result.numpy()[:, 0], 2 * VECTOR)


def test_a_variable_decides_it_within_transformations():
    with dg.use_backend(STRICT):
        x = dg.Variable(VECTOR)

    def total(v):
        return dg.sum(dg.outer(v, 2) + dg.special.huber(v, 2.0)) + dg.sum(v * LIST)

    with dg.GradientTape() as tape:
        y = total(x)
    expected = dg.grad(total)(dg.asarray(VECTOR)).numpy()

    assert tape.gradient(y, x).backend is STRICT
    np.testing.assert_allclose(dg.grad(total)(x.value()).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(dg.function(dg.grad(total))(x).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(
        dg.vmap(total)(dg.stack([x, x])).numpy(), [float(y), float(y)], rtol=1e-12
    )

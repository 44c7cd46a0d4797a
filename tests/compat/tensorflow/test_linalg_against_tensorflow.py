"""Factorisations, systems and determinants beside TensorFlow itself: values and gradients."""

import warnings

import numpy as np
import pytest

import distgrad.compat.tensorflow as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

GENERATOR = np.random.Generator(np.random.Philox(13))


def floats(*shape):
    return GENERATOR.uniform(-1, 1, shape)


def regular(*shape):
    return floats(*shape) + np.eye(*shape[-2:]) * (2.0 + np.arange(shape[-1]))


SQUARE, STACK = regular(3, 3), regular(2, 4, 4)
COMPLEX = STACK + 1j * floats(2, 4, 4)
POSITIVE = STACK @ STACK.swapaxes(-1, -2)
HERMITIAN = COMPLEX @ COMPLEX.conj().swapaxes(-1, -2)
TALL, WIDE, SIDES = regular(2, 5, 3), regular(2, 3, 5), floats(2, 4, 3)


def lengths(tf, vectors):
    """Return what of vectors does not depend on their signs or phases."""
    return tf.abs(vectors) ** 2


CASES = {
    "cholesky": (lambda tf, x: tf.linalg.cholesky(x), [POSITIVE]),
    "cholesky of complex": (lambda tf, x: tf.linalg.cholesky(x), [HERMITIAN]),
    "cholesky of what is not symmetric": (
        lambda tf, x: tf.linalg.cholesky(x),
        [STACK + 3 * np.eye(4)],
    ),
    "cholesky_solve": (
        lambda tf, x, b: tf.linalg.cholesky_solve(tf.linalg.cholesky(x), b),
        [HERMITIAN, COMPLEX[..., :2]],
    ),
    "cross": (lambda tf, a, b: tf.linalg.cross(a, b), [floats(4, 3), floats(4, 3)]),
    "det": (lambda tf, x: tf.linalg.det(x), [STACK]),
    "eigh": (
        lambda tf, x: [tf.linalg.eigh(x)[0], lengths(tf, tf.linalg.eigh(x)[1])],
        [POSITIVE],
    ),
    "eigh of complex": (
        lambda tf, x: [tf.linalg.eigh(x)[0], lengths(tf, tf.linalg.eigh(x)[1])],
        [HERMITIAN],
    ),
    "eigvalsh of complex": (lambda tf, x: tf.linalg.eigvalsh(x), [HERMITIAN]),
    "einsum": (
        lambda tf, a, b: [
            tf.einsum("bij,bjk->bik", a, b),
            tf.einsum("...ij,...jk->...ik", a, b),
            tf.linalg.einsum("bij,bik->jk", a, b, optimize="optimal"),
            tf.einsum("bii->b", a),
        ],
        [STACK, SIDES],
    ),
    "expm": (lambda tf, x: tf.linalg.expm(x), [STACK]),
    "inv": (lambda tf, x: [tf.linalg.inv(x), tf.linalg.inv(x, adjoint=True)], [COMPLEX]),
    "logdet": (lambda tf, x: tf.linalg.logdet(x), [POSITIVE]),
    "lstsq": (lambda tf, a, b: tf.linalg.lstsq(a, b), [TALL, floats(2, 5, 2)]),
    "lstsq of wide matrices": (lambda tf, a, b: tf.linalg.lstsq(a, b), [WIDE, floats(2, 3, 2)]),
    "lstsq with a regularizer": (
        lambda tf, a, b: tf.linalg.lstsq(a, b, l2_regularizer=0.3),
        [TALL, floats(2, 5, 2)],
    ),
    "lstsq of wide matrices with a regularizer": (
        lambda tf, a, b: tf.linalg.lstsq(a, b, 0.3),
        [WIDE, floats(2, 3, 2)],
    ),
    "pinv": (lambda tf, x: tf.linalg.pinv(x), [TALL]),
    "qr": (
        lambda tf, x: [tf.abs(each) for each in tf.linalg.qr(x)],
        [TALL],
    ),
    "slogdet": (lambda tf, x: list(tf.linalg.slogdet(x)), [STACK]),
    "solve": (
        lambda tf, a, b: [tf.linalg.solve(a, b), tf.linalg.solve(a, b, adjoint=True)],
        [COMPLEX, COMPLEX[..., :3]],
    ),
    "svd": (
        lambda tf, x: [
            tf.linalg.svd(x)[0],
            lengths(tf, tf.linalg.svd(x)[1]),
            lengths(tf, tf.linalg.svd(x)[2]),
            tf.matmul(tf.linalg.svd(x)[1], tf.linalg.svd(x)[2], adjoint_b=True),
        ],
        [TALL],
    ),
    "svd of wide matrices": (
        lambda tf, x: [tf.linalg.svd(x)[0], lengths(tf, tf.linalg.svd(x)[2])],
        [WIDE],
    ),
    "svd without vectors": (lambda tf, x: tf.linalg.svd(x, compute_uv=False), [TALL]),
    "triangular_solve": (
        lambda tf, a, b: [
            tf.linalg.triangular_solve(a, b, lower=lower, adjoint=adjoint)
            for lower in (True, False)
            for adjoint in (True, False)
        ],
        [COMPLEX, COMPLEX[..., :3]],
    ),
    "norms of matrices": (
        lambda tf, x: [
            tf.linalg.norm(x, order, axis=[-2, -1]) for order in ("euclidean", "fro", 1, 2, np.inf)
        ],
        [TALL],
    ),
}


def results_of(tf, function, inputs, seeds=None):
    """Return the outputs of a case, and the gradient of each."""
    tensors = [tf.constant(x) for x in inputs]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        found = function(tf, *tensors)
    outputs = found if isinstance(found, list) else [found]
    gradients = [
        tape.gradient(y, tensors, tf.constant(seed))
        for y, seed in zip(outputs, seeds or (), strict=False)
    ]
    return outputs, gradients


def seed_like(host):
    """Return a cotangent that differs from element to element."""
    return np.cos(np.arange(1, host.size + 1)).reshape(host.shape).astype(host.dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("label", CASES)
def test_values_dtypes_and_gradients_are_tensorflows(label, dtype):
    function, inputs = CASES[label]
    if dtype == "float32":
        inputs = [x.astype(np.complex64 if x.dtype.kind == "c" else dtype) for x in inputs]
    outputs, _ = results_of(theirs, function, inputs)
    seeds = [seed_like(y.numpy()) for y in outputs]
    expected, expected_gradients = results_of(theirs, function, inputs, seeds)

    found, gradients = results_of(ours, function, inputs, seeds)

    tolerance = 1e-9 if dtype == "float64" else 5e-3
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.dtype.name == other.dtype.name, place
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=tolerance, atol=tolerance)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert [g is None for g in one] == [g is None for g in other]
        for a, b in zip(one, other, strict=True):
            if a is not None:
                scale = np.abs(b.numpy()).max()
                np.testing.assert_allclose(a.numpy(), b.numpy(), atol=tolerance * max(scale, 1))


MISUSE = {
    "inverse of a singular matrix": lambda tf: tf.linalg.inv(tf.zeros([3, 3])),
    "solution of a singular system": lambda tf: tf.linalg.solve(tf.zeros([3, 3]), tf.ones([3, 1])),
    "no square matrix": lambda tf: tf.linalg.inv(tf.ones([3, 4])),
    "determinant of no square matrix": lambda tf: tf.linalg.det(tf.ones([3, 4])),
    "a vector on the right": lambda tf: tf.linalg.solve(tf.eye(3), tf.ones([3])),
    "lengths that do not fit": lambda tf: tf.linalg.solve(tf.eye(3), tf.ones([4, 1])),
    "two dtypes": lambda tf: tf.linalg.solve(tf.eye(3), tf.ones([3, 1], tf.float64)),
    "integers": lambda tf: tf.linalg.inv(tf.ones([3, 3], tf.int32)),
    "letters that do not fit": lambda tf: tf.einsum("ij,jk->ik", tf.ones([3, 4]), tf.ones([3, 4])),
}


@pytest.mark.parametrize("label", MISUSE)
def test_misuse_raises_what_tensorflow_raises(label):
    with pytest.raises(Exception) as expected:  # noqa: PT011  TensorFlow decides which
        MISUSE[label](theirs)

    with pytest.raises(Exception) as found:  # noqa: PT011
        MISUSE[label](ours)

    wanted = type(expected.value).__name__
    assert wanted in {each.__name__ for each in type(found.value).__mro__}


@pytest.mark.parametrize("function", ["cholesky", "logdet"])
def test_a_matrix_that_is_not_positive_definite_is_refused_where_tensorflow_gives_nan(function):
    with pytest.raises(ours.errors.InvalidArgumentError, match="is not positive definite"):
        getattr(ours.linalg, function)(-ours.eye(3))


def test_the_norm_at_zero_has_the_gradient_zero_where_tensorflow_has_nan():
    x = ours.Variable([0.0, 0.0])

    with ours.GradientTape() as tape:
        length = ours.norm(x)

    assert tape.gradient(length, x).numpy().tolist() == [0.0, 0.0]


def test_a_singular_determinant_has_its_cofactors_for_a_gradient():
    x = ours.Variable([[1.0, 2.0], [2.0, 4.0]])

    with ours.GradientTape() as tape:
        determinant = ours.linalg.det(x)

    np.testing.assert_allclose(
        tape.gradient(determinant, x).numpy(), [[4.0, -2.0], [-2.0, 1.0]], rtol=1e-5
    )


def test_the_gradient_of_a_complex_determinant_is_that_of_its_definition():
    # TensorFlow leaves out the conjugate of the determinant; a product of two elements has it.
    x = ours.constant(np.diag([1 + 2j, 3 - 1j]))

    with ours.GradientTape() as tape:
        tape.watch(x)
        determinant = ours.linalg.det(x)
    slope = tape.gradient(determinant, x).numpy()

    np.testing.assert_allclose(np.diag(slope), [3 + 1j, 1 - 2j], rtol=1e-12)

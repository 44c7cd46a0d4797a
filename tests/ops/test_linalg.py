"""dg.linalg: NumPy's values, in stacks and within transformations."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values
from distgrad.testing.samples.linalg import heavy

SQUARE, STACK = heavy((3, 3)), heavy((2, 4, 4))
SYMMETRIC = STACK + STACK.swapaxes(-1, -2)
TALL, WIDE = heavy((2, 5, 3)), heavy((2, 3, 5))
COMPLEX = STACK * np.exp(1j * values(STACK.shape, 0.1, 0.8))
HERMITIAN = COMPLEX + COMPLEX.conj().swapaxes(-1, -2)
VECTOR = values((4,), -1.0, 1.2)
POINTS = values((5, 3), -2.0, 2.1)

# What NumPy's functions and ours both take.
CASES = {
    "cholesky": (lambda la, a: la.cholesky(a), [SYMMETRIC]),
    "cholesky of complex": (lambda la, a: la.cholesky(a), [HERMITIAN]),
    "cholesky of the upper triangle": (lambda la, a: la.cholesky(a, upper=True), [COMPLEX]),
    "eigh": (lambda la, a: la.eigh(a), [SYMMETRIC]),
    "eigh of the upper triangle": (lambda la, a: la.eigh(a, UPLO="U"), [STACK]),
    "eigh of the upper triangle of complex": (lambda la, a: la.eigh(a, UPLO="U"), [COMPLEX]),
    "eigvalsh": (lambda la, a: la.eigvalsh(a), [HERMITIAN]),
    "eigvalsh of the upper triangle": (lambda la, a: la.eigvalsh(a, UPLO="U"), [COMPLEX]),
    "eig of complex": (lambda la, a: la.eig(a), [COMPLEX]),
    "eigvals of complex": (lambda la, a: la.eigvals(a), [COMPLEX]),
    "inv": (lambda la, a: la.inv(a), [STACK]),
    "solve": (lambda la, a, b: la.solve(a, b), [STACK, STACK[:, :, :2]]),
    "solve of one vector": (lambda la, a, b: la.solve(a, b), [STACK, VECTOR]),
    "det": (lambda la, a: la.det(a), [COMPLEX]),
    "slogdet": (lambda la, a: la.slogdet(a), [COMPLEX]),
    "svd": (lambda la, a: la.svd(a, full_matrices=False), [TALL]),
    "svd with all vectors": (lambda la, a: la.svd(a), [WIDE]),
    "svd without vectors": (lambda la, a: la.svd(a, compute_uv=False), [WIDE]),
    "svdvals": (lambda la, a: la.svdvals(a), [TALL]),
    "qr": (lambda la, a: la.qr(a), [TALL]),
    "qr of wide matrices": (lambda la, a: la.qr(a), [WIDE]),
    "qr complete": (lambda la, a: la.qr(a, mode="complete"), [TALL]),
    "qr without Q": (lambda la, a: la.qr(a, mode="r"), [COMPLEX]),
    "pinv": (lambda la, a: la.pinv(a), [TALL]),
    "pinv with a bound": (lambda la, a: la.pinv(a, 0.4), [TALL]),
    "pinv with a bound each": (lambda la, a: la.pinv(a, rtol=np.array([0.1, 0.5])), [TALL]),
    "matrix_rank": (lambda la, a: la.matrix_rank(a), [np.stack([SQUARE, np.ones((3, 3))])]),
    "matrix_rank with a bound": (lambda la, a: la.matrix_rank(a, 4.0), [SQUARE]),
    "matrix_rank of a vector": (lambda la, a: la.matrix_rank(a), [VECTOR]),
    "matrix_power": (lambda la, a: la.matrix_power(a, 5), [STACK / 5]),
    "matrix_power of 0": (lambda la, a: la.matrix_power(a, 0), [STACK]),
    "matrix_power of the inverse": (lambda la, a: la.matrix_power(a, -3), [STACK]),
    "multi_dot": (
        lambda la, *a: la.multi_dot(a),
        [VECTOR, TALL[0, :4], WIDE[0], VECTOR.repeat(2)[:5]],
    ),
    "tensorinv": (lambda la, a: la.tensorinv(a, ind=1), [heavy((6, 6)).reshape(6, 2, 3)]),
    "tensorsolve": (
        lambda la, a, b: la.tensorsolve(a, b),
        [heavy((6, 6)).reshape(2, 3, 6), values((2, 3), -1.0, 1.0)],
    ),
    "tensorsolve with axes": (
        lambda la, a, b: la.tensorsolve(a, b, axes=(0,)),
        [heavy((6, 6)).reshape(6, 2, 3), values((2, 3), -1.0, 1.0)],
    ),
    "cross": (lambda la, a, b: la.cross(a, b), [POINTS, POINTS[:1, ::-1]]),
    "cross along the first axis": (
        lambda la, a, b: la.cross(a, b, axis=0),
        [POINTS.T, POINTS.T + 1],
    ),
    "outer": (lambda la, a, b: la.outer(a, b), [VECTOR, POINTS[0]]),
    "diagonal": (lambda la, a: la.diagonal(a, offset=1), [WIDE]),
    "diagonal below": (lambda la, a: la.diagonal(a, offset=-2), [TALL]),
    "diagonal outside": (lambda la, a: la.diagonal(a, offset=7), [TALL]),
    "trace": (lambda la, a: la.trace(a), [WIDE]),
    "trace of a dtype": (lambda la, a: la.trace(a, offset=1, dtype="float32"), [WIDE]),
    "vecdot": (lambda la, a, b: la.vecdot(a, b), [COMPLEX, COMPLEX[0, 0]]),
    "vecdot along the first axis": (lambda la, a, b: la.vecdot(a, b, axis=0), [POINTS, POINTS + 1]),
    "tensordot": (lambda la, a, b: la.tensordot(a, b, axes=((1, 0), (0, 1))), [POINTS, WIDE[0]]),
    "tensordot of outer kind": (lambda la, a, b: la.tensordot(a, b, axes=0), [POINTS, VECTOR]),
    "tensordot over one axis": (
        lambda la, a, b: la.tensordot(a, b, axes=(1, 0)),
        [POINTS, WIDE[0]],
    ),
    "matrix_transpose": (lambda la, a: la.matrix_transpose(a), [TALL]),
    **{
        f"vector norm {order}": (
            lambda la, a, order=order: la.vector_norm(a, axis=-1, ord=order, keepdims=True),
            [WIDE],
        )
        for order in (2, 1, 0, 3, 0.5, -1, -2, np.inf, -np.inf)
    },
    **{
        f"matrix norm {order}": (
            lambda la, a, order=order: la.matrix_norm(a, ord=order, keepdims=True),
            [COMPLEX],
        )
        for order in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf)
    },
    "norm of all": (lambda la, a: la.norm(a), [TALL]),
    "norm of all, kept": (lambda la, a: la.norm(a, keepdims=True), [TALL]),
    "norm along axes": (lambda la, a: la.norm(a, "nuc", (2, 0)), [TALL]),
    "norm along axes, kept": (lambda la, a: la.norm(a, 1, (2, 0), True), [TALL]),
    "norm of a matrix": (lambda la, a: la.norm(a, np.inf), [SQUARE]),
    "norm of a vector": (lambda la, a: la.norm(a, 3), [VECTOR]),
    **{
        f"cond {order}": (lambda la, a, order=order: la.cond(a, order), [STACK])
        for order in (None, "fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf)
    },
}


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_numpy(case):
    function, operands = CASES[case]

    given = function(dg.linalg, *(dg.asarray(x) for x in operands))
    expected = function(np.linalg, *operands)

    if not isinstance(expected, tuple):
        given, expected = [given], [expected]
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.dtype == np.asarray(theirs).dtype
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-11, atol=1e-12, err_msg=case)


@pytest.mark.parametrize("case", CASES)
def test_float32_stays(case):
    function, operands = CASES[case]
    narrow = [x.astype(np.complex64 if x.dtype.kind == "c" else np.float32) for x in operands]

    given = function(dg.linalg, *(dg.asarray(x) for x in narrow))

    for result in given if isinstance(given, tuple) else [given]:
        assert result.dtype.name in ("float32", "complex64", "int64")


def total(result):
    """Return a number that depends on each element of results, and on no choice of the kernel's."""
    parts = result if isinstance(result, tuple) else (result,)
    weighted = [
        dg.sum(dg.square(dg.abs(part)) * dg.reshape(dg.arange(1.0, part.size + 1), part.shape))
        for part in parts
        if part.dtype.kind in "fc"
    ]
    return dg.sum(dg.stack(weighted))


# Functions composed of operations; the operations are checked by their samples, but for one.
COMPOSED = [
    name
    for name in CASES
    if name.startswith(
        ("qr without", "matrix_power of the", "multi_dot", "tensor", "cross", "outer", "diagonal")
        + ("vecdot", "vector norm", "matrix norm", "norm", "cond", "cholesky of", "eigvalsh of")
        + ("eigh of", "pinv with", "solve of one")
    )
]
# Of these no derivative, nothing, or slopes too steep for differences.
CUT = ("vector norm 0", "diagonal outside", "vector norm 0.5")


@pytest.mark.parametrize("case", [name for name in COMPOSED if name not in CUT])
def test_composed_functions_have_derivatives_of_second_order(case):
    function, operands = CASES[case]

    check_gradients(lambda *xs: total(function(dg.linalg, *xs)), [dg.asarray(x) for x in operands])


@pytest.mark.parametrize("trans", ["N", "T", "C", 0, 1, 2])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_triangular_systems_read_one_triangle(trans, lower, unit):
    a = heavy((2, 150, 150)) / 150 + np.eye(150) + 0.01j * np.ones((150, 150))
    b = values((2, 150, 2), -1.0, 1.0)
    triangle = np.tril(a) if lower else np.triu(a)
    if unit:
        triangle = triangle * (1 - np.eye(150)) + np.eye(150)
    turned = {"T": triangle.mT, 1: triangle.mT, "C": triangle.mT.conj(), 2: triangle.mT.conj()}

    given = dg.linalg.solve_triangular(
        dg.asarray(a), dg.asarray(b), trans=trans, lower=lower, unit_diagonal=unit
    )

    np.testing.assert_allclose(
        turned.get(trans, triangle) @ given.numpy(), b, rtol=1e-9, atol=1e-12
    )


def test_triangular_system_of_one_vector_gives_a_vector():
    a = dg.asarray(heavy((3, 3)))
    b = dg.asarray(values((3,), -1.0, 1.0))

    check_gradients(lambda a, b: dg.linalg.solve_triangular(a, b, lower=True), [a, b])

    assert dg.linalg.solve_triangular(a, b).shape == (3,)


@pytest.mark.parametrize("shape", [(5, 3), (3, 3), (3, 5)])
def test_least_squares_is_numpys(shape):
    a, b = heavy(shape), values((shape[0], 2), -1.0, 1.0)

    solution, residuals, rank, singular = dg.linalg.lstsq(dg.asarray(a), dg.asarray(b))
    expected = np.linalg.lstsq(a, b)

    np.testing.assert_allclose(solution.numpy(), expected[0], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(residuals.numpy(), expected[1], rtol=1e-10)
    assert int(rank) == expected[2]
    np.testing.assert_allclose(singular.numpy(), expected[3], rtol=1e-12)


def test_least_squares_has_derivatives_of_second_order():
    a, b = dg.asarray(heavy((5, 3))), dg.asarray(values((5,), -1.0, 1.0))

    check_gradients(lambda a, b: dg.linalg.lstsq(a, b)[:2], [a, b])


def test_exponential_is_scipys():
    scipy = pytest.importorskip("scipy.linalg")
    stack = np.stack([SQUARE * scale for scale in (1e-3, 0.3, -2.0, 4.0)])
    turning = np.array([[0.0, -40.0], [40.0, 0.0]])

    np.testing.assert_allclose(
        dg.linalg.expm(dg.asarray(stack)).numpy(), scipy.expm(stack), rtol=1e-11
    )
    np.testing.assert_allclose(
        dg.linalg.expm(dg.asarray(turning)).numpy(),
        [[np.cos(40), -np.sin(40)], [np.sin(40), np.cos(40)]],
        atol=1e-11,
    )


def test_kron_inner_and_vdot_are_numpys():
    a, b = TALL, WIDE[0]
    x, y = dg.asarray(a), dg.asarray(b)

    np.testing.assert_allclose(dg.kron(x, y).numpy(), np.kron(a, b))
    np.testing.assert_allclose(dg.inner(x, dg.asarray(POINTS)).numpy(), np.inner(a, POINTS))
    np.testing.assert_allclose(
        dg.vdot(dg.asarray(COMPLEX[0]), dg.asarray(STACK[0])).numpy(),
        np.vdot(COMPLEX[0], STACK[0]),
    )
    check_gradients(dg.kron, [x, y])
    check_gradients(dg.vdot, [dg.asarray(COMPLEX[0]), dg.asarray(COMPLEX[1])])


@pytest.mark.parametrize("k", [0, 2, -1])
def test_diag_makes_a_matrix_and_takes_it_apart(k):
    v = values((3,), -1.0, 1.0)

    np.testing.assert_array_equal(dg.diag(dg.asarray(v), k).numpy(), np.diag(v, k))
    np.testing.assert_array_equal(dg.diag(dg.asarray(POINTS), k).numpy(), np.diag(POINTS, k))
    check_gradients(lambda v: dg.square(dg.diag(v, k)), [dg.asarray(v)])


# --- within transformations -----------------------------------------------------------------------

BATCHED = {
    "cholesky": lambda a: dg.linalg.cholesky(a @ a.mT),
    "eigh": lambda a: dg.linalg.eigh(a)[1] ** 2,
    "eigvalsh": dg.linalg.eigvalsh,
    "eigvals": lambda a: dg.abs(dg.linalg.eigvals(a)),
    "svd": lambda a: dg.linalg.svd(a)[0] ** 2,
    "pinv": lambda a: dg.linalg.pinv(a[:, :2]),
    "pinv with bounds": lambda a: dg.linalg.pinv(a, rtol=dg.sum(a) * 1e-8),
    "qr": lambda a: dg.linalg.qr(a).R,
    "inv": dg.linalg.inv,
    "det": dg.linalg.det,
    "slogdet": lambda a: dg.linalg.slogdet(a).logabsdet,
    "solve": lambda a: dg.linalg.solve(a, a[0]),
    "solve, one matrix": lambda a: dg.linalg.solve(dg.asarray(SQUARE), a),
    "solve, one side": lambda a: dg.linalg.solve(a, dg.asarray(POINTS[:4, :, None])),
    "solve_triangular": lambda a: dg.linalg.solve_triangular(a, dg.asarray(SQUARE)),
    "expm": lambda a: dg.linalg.expm(a / 5),
    "norm": dg.linalg.norm,
    "nuclear norm": lambda a: dg.linalg.norm(a, "nuc"),
    "cond": lambda a: dg.linalg.cond(a, 1),
    "trace": dg.linalg.trace,
    "einsum": lambda a: dg.einsum("ij,jk,...k->i...", a, a, dg.asarray(POINTS)),
}


@pytest.mark.parametrize("name", BATCHED)
def test_a_mapped_function_and_its_gradient_equal_a_loop(name):
    function = BATCHED[name]
    matrices = dg.asarray(heavy((5, 3, 3)))
    if name == "solve, one side":
        matrices = dg.asarray(heavy((5, 4, 3, 3)))

    def loss(a):
        return dg.sum(dg.square(function(a)))

    mapped, slopes = dg.vmap(function)(matrices), dg.vmap(dg.grad(loss))(matrices)

    for i in range(5):
        np.testing.assert_allclose(
            mapped[i].numpy(), function(matrices[i]).numpy(), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(
            slopes[i].numpy(), dg.grad(loss)(matrices[i]).numpy(), rtol=1e-8, atol=1e-10
        )


@pytest.mark.parametrize("name", BATCHED)
def test_a_traced_function_and_its_gradient_are_the_same(name):
    function = BATCHED[name]
    a = dg.asarray(heavy((4, 3, 3) if name == "solve, one side" else (3, 3)))

    def loss(a):
        return dg.sum(dg.square(function(a)))

    traced = dg.function(loss)

    np.testing.assert_allclose(float(traced(a)), float(loss(a)), rtol=1e-12)
    np.testing.assert_allclose(
        dg.grad(traced)(a).numpy(), dg.grad(loss)(a).numpy(), rtol=1e-10, atol=1e-12
    )


def test_one_of_several_outputs_may_be_left_unused():
    a = dg.asarray(SYMMETRIC)

    values_alone = dg.grad(lambda a: dg.sum(dg.linalg.eigh(a).eigenvalues ** 3))(a)
    vectors_alone = dg.grad(lambda a: dg.sum(dg.linalg.eigh(a).eigenvectors[..., 0] ** 4))(a)

    expected = dg.grad(lambda a: dg.sum(dg.linalg.eigvalsh(a) ** 3))(a)
    np.testing.assert_allclose(values_alone.numpy(), expected.numpy(), rtol=1e-11)
    assert bool(dg.all(dg.isfinite(vectors_alone)))


def test_results_are_named():
    a = dg.asarray(SYMMETRIC)

    assert dg.linalg.eigh(a)._fields == ("eigenvalues", "eigenvectors")
    assert dg.linalg.svd(a)._fields == ("U", "S", "Vh")
    assert dg.linalg.qr(a)._fields == ("Q", "R")
    assert dg.linalg.slogdet(a)._fields == ("sign", "logabsdet")

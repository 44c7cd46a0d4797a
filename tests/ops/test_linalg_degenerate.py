"""Linear algebra where derivatives do not exist or coincide: finite, and as documented."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values
from distgrad.testing.samples.linalg import heavy


def symmetric(eigenvalues, seed=0):
    """Return a symmetric matrix with the given eigenvalues."""
    size = len(eigenvalues)
    q = np.linalg.qr(values((size, size), -1.0, 1.1, seed))[0]
    return (q * np.asarray(eigenvalues)) @ q.T


def gradient(f, x):
    return dg.grad(lambda x: dg.sum(f(x)))(dg.asarray(x)).numpy()


# --- equal eigenvalues and singular values -------------------------------------------------------


@pytest.mark.parametrize("matrix", [np.eye(3), np.zeros((3, 3)), symmetric([2.0, 2.0, 5.0])])
def test_the_gradient_of_equal_eigenvalues_is_finite(matrix):
    for name in ("eigh", "svd"):
        slopes = gradient(lambda a, name=name: getattr(dg.linalg, name)(a)[0][..., 0] ** 3, matrix)

        assert np.all(np.isfinite(slopes)), name


def test_equal_eigenvalues_cost_nothing_but_the_terms_within_their_own_space():
    matrix = symmetric([2.0, 2.0, 5.0])
    q, r = heavy((3, 3)), values((3, 3), -1.0, 1.0)

    def cube(a):
        w, v = dg.linalg.eigh((a + a.mT) / 2)
        return dg.sum((v * w**3) @ v.mT * dg.asarray(q @ r))

    def plain(a):
        s = (a + a.mT) / 2
        return dg.sum(s @ s @ s * dg.asarray(q @ r))

    given, expected = gradient(cube, matrix), gradient(plain, matrix)

    # Terms within the space of the equal ones are left out; the rest is exact.
    w, v = np.linalg.eigh(matrix)
    within = np.abs(w[:, None] - w) < 1e-9
    difference = v.T @ (given - expected) @ v
    assert np.max(np.abs(difference[~within])) < 1e-9
    assert np.all(np.isfinite(given))


def test_the_sum_of_equal_eigenvalues_has_its_true_gradient():
    matrix = symmetric([2.0, 2.0, 2.0, 5.0])
    top_three = gradient(lambda a: dg.linalg.eigvalsh((a + a.mT) / 2)[:3], matrix)
    _, vectors = np.linalg.eigh(matrix)

    np.testing.assert_allclose(top_three, vectors[:, :3] @ vectors[:, :3].T, atol=1e-12)


def test_nothing_stands_in_the_triangle_that_is_not_read():
    matrix = dg.asarray(symmetric([1.0, 2.0, 4.0]))

    for function in (
        dg.linalg.cholesky,
        dg.linalg.eigvalsh,
        lambda a: dg.linalg.eigh(a).eigenvectors ** 3,
    ):
        lower = dg.grad(lambda a, f=function: dg.sum(f(a)))(matrix).numpy()
        assert np.all(np.triu(lower, 1) == 0)
        assert np.any(np.tril(lower, -1) != 0)


def test_phases_of_complex_vectors_do_not_matter_to_what_is_free_of_them():
    z = heavy((3, 3)) * np.exp(1j * values((3, 3), 0.1, 1.0))

    def projector(a):
        u, _, vh = dg.linalg.svd(a, full_matrices=False)
        return dg.real(dg.sum(u[:, :1] @ vh[:1] * dg.asarray(z)))

    check_gradients(projector, [dg.asarray(z)])


# --- norms at zero -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 1, 3, 1.5, 0.5, -1, -2, np.inf, -np.inf])
def test_the_gradient_of_a_vector_norm_at_zero_is_zero(order):
    slopes = gradient(lambda x: dg.linalg.vector_norm(x, ord=order), np.zeros(4))

    np.testing.assert_array_equal(slopes, np.zeros(4))


@pytest.mark.parametrize("order", ["fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf])
def test_the_gradient_of_a_matrix_norm_at_zero_is_zero(order):
    slopes = gradient(lambda x: dg.linalg.matrix_norm(x, ord=order), np.zeros((3, 2)))

    np.testing.assert_array_equal(slopes, np.zeros((3, 2)))


def test_the_euclidean_norm_at_zero_is_finite_in_every_order_and_mode():
    x = dg.zeros(3, dtype="float64")

    assert np.all(np.isfinite(dg.hessian(dg.linalg.norm)(x).numpy()))
    _, pushed = dg.jvp(dg.linalg.norm, (x,), (dg.ones(3, dtype="float64"),))
    assert float(pushed) == 0.0


@pytest.mark.parametrize("order", [0.5, -1, -2, 3])
def test_single_zeros_do_not_spoil_a_norm(order):
    x = np.array([1.0, 0.0, -2.0])
    with np.errstate(divide="ignore"):
        expected = np.linalg.norm(x, order)

    tensor = dg.asarray(x)
    norm = dg.linalg.norm(tensor, order)
    slopes = gradient(lambda x: dg.linalg.norm(x, order), x)

    np.testing.assert_allclose(norm.numpy(), expected)
    assert np.all(np.isfinite(slopes))


def test_the_nuclear_norm_of_low_rank_has_its_smallest_subgradient():
    matrix = np.outer([1.0, 2.0, 2.0], [3.0, 0.0, 4.0])
    exact = np.diag([3.0, 2.0, 0.0])

    slopes = gradient(lambda x: dg.linalg.norm(x, "nuc"), exact)

    np.testing.assert_allclose(slopes, np.diag([1.0, 1.0, 0.0]), atol=1e-12)
    assert np.all(np.isfinite(gradient(lambda x: dg.linalg.norm(x, "nuc"), matrix)))


# --- singular matrices ----------------------------------------------------------------------------


def cofactors(matrix):
    size = len(matrix)
    minors = [
        [np.linalg.det(np.delete(np.delete(matrix, i, 0), j, 1)) for j in range(size)]
        for i in range(size)
    ]
    return np.array(minors) * (-1.0) ** np.add.outer(np.arange(size), np.arange(size))


def of_rank(rank):
    return values((4, rank), -1.0, 1.1) @ values((rank, 4), -1.0, 1.2)


@pytest.mark.parametrize("rank", [3, 2, 1, 0])
def test_the_gradient_of_a_determinant_is_the_matrix_of_cofactors(rank):
    matrix = of_rank(rank)

    np.testing.assert_allclose(gradient(dg.linalg.det, matrix), cofactors(matrix), atol=1e-12)


@pytest.mark.parametrize("lost", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of such determinants
def test_a_lost_matrix_leaves_the_gradients_of_other_determinants_alone(lost):
    stack = np.random.default_rng(0).standard_normal((3, 4, 4))
    stack[1, 2, 3] = lost

    found = gradient(dg.linalg.det, stack)

    assert np.isnan(found[1]).all()
    for place in (0, 2):
        np.testing.assert_allclose(found[place], cofactors(stack[place]), atol=1e-12)


@pytest.mark.parametrize("rank", [4, 3, 2, 1, 0])
def test_the_second_derivative_of_a_determinant_is_right_at_any_rank(rank):
    # A determinant is a polynomial: differences of its gradient are good to rounding.
    matrix = of_rank(rank)

    check_gradients(dg.linalg.det, [dg.asarray(matrix)])


@pytest.mark.parametrize("matrix", [np.eye(3), -np.eye(3), np.diag([2.0, 2.0, 0.0])])
def test_the_second_derivative_of_a_determinant_is_right_at_equal_singular_values(matrix):
    check_gradients(dg.linalg.det, [dg.asarray(matrix)])


@pytest.mark.parametrize("least", [1e-15, 1e-14, 1e-12, 1e-9])
def test_the_second_derivative_of_a_determinant_is_right_near_a_singular_matrix(least):
    matrix = np.array([[1.0, 2.0], [0.5, 1.0 + least]])

    found = dg.hessian(dg.linalg.det)(dg.asarray(matrix)).numpy().reshape(4, 4)

    np.testing.assert_allclose(found, np.diag([1.0, -1.0, -1.0, 1.0])[::-1], atol=1e-13)


def test_a_determinant_of_a_stack_tells_singular_from_regular():
    stack = np.stack([np.eye(3), np.ones((3, 3)), heavy((3, 3))])

    slopes = gradient(dg.linalg.det, stack)

    for given, matrix in zip(slopes, stack, strict=True):
        np.testing.assert_allclose(given, cofactors(matrix), atol=1e-12)


def test_the_logarithm_of_a_singular_determinant_has_the_gradient_zero():
    matrix = np.zeros((2, 3, 3))
    matrix[1] = heavy((3, 3))

    sign, log = dg.linalg.slogdet(dg.asarray(matrix))
    slopes = gradient(lambda a: dg.linalg.slogdet(a).logabsdet, matrix)

    assert (float(sign[0]), float(log[0])) == (0.0, -np.inf)
    np.testing.assert_array_equal(slopes[0], np.zeros((3, 3)))
    np.testing.assert_allclose(slopes[1], np.linalg.inv(matrix[1]).T)


def test_the_condition_of_a_singular_matrix_is_infinite_with_the_gradient_zero():
    singular = np.diag([1.0, 2.0, 0.0])

    for order in (None, 1, "fro"):
        assert float(dg.linalg.cond(dg.asarray(singular), order)) == np.inf
        slopes = gradient(lambda a, order=order: dg.linalg.cond(a, order), singular)
        np.testing.assert_array_equal(slopes, np.zeros((3, 3)))


def test_the_pseudo_inverse_of_low_rank_has_the_derivative_along_that_rank():
    left, right = values((4, 2), -1.0, 1.1), values((2, 3), -1.0, 1.2)

    check_gradients(
        lambda a, b: dg.linalg.pinv(a @ b, rtol=1e-6), [dg.asarray(left), dg.asarray(right)]
    )


def test_linearly_dependent_columns_leave_the_gradient_of_qr_finite():
    matrix = np.zeros((3, 2))
    matrix[:, 0] = [1.0, 2.0, 2.0]

    assert np.all(np.isfinite(gradient(lambda a: dg.linalg.qr(a).R, matrix)))


def test_the_exponential_of_a_defective_matrix_has_its_derivatives():
    check_gradients(dg.linalg.expm, [dg.asarray(np.array([[1.0, 1.0], [0.0, 1.0]]))])
    check_gradients(dg.linalg.expm, [dg.zeros((3, 3), dtype="float64")])

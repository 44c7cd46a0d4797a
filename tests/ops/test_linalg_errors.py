"""dg.linalg: errors name the function, the matrix and the cause, and are NumPy's too."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import LinAlgError, MatrixShapeError, ShapeError
from distgrad.testing.samples.linalg import heavy

SQUARE = heavy((3, 3))


@pytest.mark.parametrize("name", "cholesky eigh eigvalsh eig eigvals inv det slogdet expm".split())
@pytest.mark.parametrize("shape", [(2, 3, 4), (4,)])
def test_matrices_that_are_not_square_are_refused_by_name(name, shape):
    with pytest.raises(MatrixShapeError, match=f"{name}: .*expected.*got .*4"):
        getattr(dg.linalg, name)(dg.zeros(shape))


@pytest.mark.parametrize("name", ["svd", "svdvals", "qr", "pinv", "matrix_norm", "cond"])
def test_vectors_are_no_matrices(name):
    with pytest.raises(MatrixShapeError, match=r"\(3,\)"):
        getattr(dg.linalg, name)(dg.zeros(3))


@pytest.mark.parametrize(
    ("name", "cause"),
    [("cholesky", "is not positive definite"), ("inv", "is singular"), ("solve", "is singular")],
)
def test_the_one_bad_matrix_of_a_stack_is_named(name, cause):
    stack = np.stack([np.eye(3)] * 4)
    stack[2, 0, 0] = 0.0
    operands = [dg.asarray(stack)] * (2 if name == "solve" else 1)

    with pytest.raises(LinAlgError, match=f"{name}: matrix 2 of the stack {cause}"):
        getattr(dg.linalg, name)(*operands)


def test_errors_are_numpys_too():
    with pytest.raises(np.linalg.LinAlgError, match="inv: the matrix is singular"):
        dg.linalg.inv(dg.zeros((3, 3)))
    with pytest.raises(np.linalg.LinAlgError, match=r"eigh: .*NaN"):
        dg.linalg.eigh(dg.asarray(np.full((3, 3), np.nan)))
    with pytest.raises(np.linalg.LinAlgError, match="square"):
        dg.linalg.inv(dg.zeros((3, 4)))
    with pytest.raises(np.linalg.LinAlgError, match="solve_triangular: there is a 0"):
        dg.linalg.solve_triangular(dg.zeros((3, 3)), dg.ones(3))


def test_systems_that_do_not_fit_say_what_does():
    with pytest.raises(ShapeError, match=r"solve: .*\(3, 3\) and \(4, 2\): 3 is not 4"):
        dg.linalg.solve(dg.asarray(SQUARE), dg.ones((4, 2)))
    with pytest.raises(ShapeError, match="lstsq"):
        dg.linalg.lstsq(dg.asarray(SQUARE), dg.ones((4, 2)))
    with pytest.raises(ShapeError, match="multi_dot: array 1"):
        dg.linalg.multi_dot([dg.ones((2, 3)), dg.ones((2, 3))])
    with pytest.raises(ShapeError, match="tensorinv"):
        dg.linalg.tensorinv(dg.ones((2, 3, 4)))
    with pytest.raises(ShapeError, match="cross: length 3"):
        dg.linalg.cross(dg.ones((2, 4)), dg.ones((2, 4)))


@pytest.mark.parametrize(
    "call",
    [
        lambda a: dg.linalg.qr(a, mode="raw"),
        lambda a: dg.linalg.eigh(a, UPLO="X"),
        lambda a: dg.linalg.norm(a, 3),
        lambda a: dg.linalg.norm(a[0], "fro"),
        lambda a: dg.linalg.solve_triangular(a, a, trans="H"),
        lambda a: dg.linalg.matrix_power(a, 0.5),
    ],
)
def test_options_that_do_not_exist_are_refused(call):
    with pytest.raises(ValueError, match=r"expected|which is a norm of matrices"):
        call(dg.asarray(SQUARE))


def test_a_list_of_numbers_is_a_matrix():
    assert dg.linalg.inv([[2.0, 0.0], [0.0, 4.0]]).tolist() == [[0.5, 0.0], [0.0, 0.25]]
    assert float(dg.linalg.trace([[2.0, 0.0], [0.0, 4.0]])) == 6.0
    assert float(dg.linalg.norm([3.0, 4.0])) == 5.0


@pytest.mark.parametrize("rows", [2, 4])
def test_right_hand_sides_of_another_length_than_a_triangle_are_refused(rows):
    with pytest.raises(dg.errors.ShapeError, match="solve_triangular"):
        dg.linalg.solve_triangular(dg.eye(3), dg.ones((rows, 2)), lower=True)

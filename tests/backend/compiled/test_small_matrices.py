"""Stacks of small matrices, many at a time: LAPACK's results, and its errors for single ones."""

import numpy as np
import pytest

from distgrad.backends_in_force import kernels_of
from distgrad.errors import LinAlgError
from distgrad_numpy import threads
from distgrad_numpy.compiled import library, small_matrices
from distgrad_numpy.compiled.small_matrices import OFFERS

pytestmark = pytest.mark.needs_compiler

KERNELS = kernels_of("numpy")
STACKS = [(8,), (37,), (5, 13), (129,)]
OF_ONE = {name: {} for name in ("det", "inv", "cofactor", "slogdet", "cholesky")}
OF_TWO = {"solve": {}, "lower": {"lower": True}, "upper": {"lower": False}}


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def matrices(size, stack, dtype=np.float64, definite=False):
    """Return matrices of condition below 100, of which most need their rows exchanged."""
    generator = np.random.default_rng(size + len(stack))
    left, right = np.linalg.qr(generator.standard_normal((2, *stack, size, size)))[0]
    values = generator.uniform(0.05, 2, (*stack, 1, size))
    return np.ascontiguousarray((left * values) @ (left.mT if definite else right), dtype)


def call(name, *arrays, **params):
    if name in ("lower", "upper"):
        return KERNELS.solve_triangular(*arrays, unit_diagonal=False, **params)
    return getattr(KERNELS, name)(*arrays, **params)


def close(found, expected, dtype):
    units = 300 * np.finfo(dtype).eps
    for mine, own in zip(each_of(found), each_of(expected), strict=True):
        assert mine.dtype == dtype
        assert mine.shape == own.shape
        np.testing.assert_allclose(mine, own, rtol=units, atol=units * np.abs(own).max())


def each_of(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize("size", range(2, 9))
@pytest.mark.parametrize("name", OF_ONE)
def test_results_are_those_of_lapack(name, size, stack, dtype, without):
    a = matrices(size, stack, dtype, definite=name == "cholesky")

    assert OFFERS[name](a) is not None
    expected = without(lambda: call(name, a.astype(np.float64)))
    close(call(name, a), expected, dtype)


@pytest.mark.parametrize("columns", [1, 3, 16, 17])
@pytest.mark.parametrize("size", range(2, 9))
@pytest.mark.parametrize("name", OF_TWO)
def test_systems_of_several_right_sides_are_solved(name, size, columns, dtype, without):
    a = matrices(size, (37,), dtype, definite=name != "solve")
    if name != "solve":
        a += np.eye(size, dtype=dtype)  # a triangle of a stack may be far from singular, or near
    b = np.random.default_rng(columns).standard_normal((37, size, columns)).astype(dtype)

    wide = a.astype(np.float64), b.astype(np.float64)
    expected = without(lambda: call(name, *wide, **OF_TWO[name]))
    close(call(name, a, b, **OF_TWO[name]), expected, dtype)
    offered = "solve" if name == "solve" else "solve_triangular"
    params = {} if name == "solve" else {**OF_TWO[name], "unit_diagonal": False}
    assert (OFFERS[offered](a, b, **params) is None) == (columns > 16)


def test_the_largest_pivot_of_each_matrix_is_taken(dtype):
    # Without an exchange of rows the quotient would be 1e20, and all digits of the others lost.
    a = np.tile(np.array([[1e-20, 1, 2], [1, 1, 0], [3, -1, 1]], dtype), (9, 1, 1))
    a[::2] = a[::2, ::-1]
    b = np.tile(np.array([[3], [2], [3]], dtype), (9, 1, 1))
    b[::2] = b[::2, ::-1]

    found = OFFERS["solve"](a, b)

    np.testing.assert_allclose(found[..., 0], np.ones((9, 3)), rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(OFFERS["det"](a), np.linalg.det(a.astype(float)), rtol=1e-6)


def test_only_the_lower_triangle_is_read_by_cholesky(dtype):
    a = matrices(5, (20,), dtype, definite=True)
    other = np.tril(a) + np.triu(np.full_like(a, np.nan), 1)

    np.testing.assert_array_equal(OFFERS["cholesky"](other), OFFERS["cholesky"](a))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("inv", "inv: matrix 11 of the stack is singular"),
        ("solve", "solve: matrix 11 of the stack is singular"),
        ("cholesky", "cholesky: matrix 11 of the stack is not positive definite"),
        ("lower", "solve_triangular: there is a 0 on a diagonal"),
    ],
)
def test_a_matrix_without_what_it_needs_is_named(name, words, dtype):
    a = matrices(4, (30,), dtype, definite=True)
    a[11, :, 2] = a[11, 2, :] = 0
    b = () if name in ("inv", "cholesky") else (np.ones((30, 4, 2), dtype),)

    with pytest.raises(LinAlgError, match=words):
        call(name, a, *b, **OF_TWO.get(name, {}))


@pytest.mark.parametrize("name", ["det", "slogdet", "cofactor"])
@pytest.mark.parametrize("kind", ["singular", "small", "large", "nan"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of infinities
def test_determinants_at_the_ends_are_lapacks(name, kind, dtype, without):
    a = matrices(4, (30,), dtype)
    if kind == "singular":
        a[7, 1] = a[7, 3]
    elif kind == "nan":
        a[7, 1, 2] = np.nan
    else:
        a *= dtype(float(np.finfo(dtype).max) ** (0.4 if kind == "large" else -0.4))

    found, expected = call(name, a), without(lambda: call(name, a))

    for mine, own in zip(each_of(found), each_of(expected), strict=True):
        np.testing.assert_allclose(mine, own, rtol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("name", OF_ONE)
def test_views_and_threads_change_no_bit(name, monkeypatch):
    monkeypatch.setattr(small_matrices, "_MANY", 0)
    a = matrices(6, (200,), np.float32, definite=True)
    results = []
    for number in (1, 2, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        results += [OFFERS[name](a), OFFERS[name](np.ascontiguousarray(a.mT).mT)]

    for found in results[1:]:
        for mine, first in zip(each_of(found), each_of(results[0]), strict=True):
            np.testing.assert_array_equal(mine, first)


def test_a_matrix_has_the_same_bits_among_others(dtype):
    a = matrices(5, (50,), dtype)

    whole = OFFERS["inv"](a)

    for first in (0, 3, 17):
        np.testing.assert_array_equal(OFFERS["inv"](a[first : first + 9]), whole[first : first + 9])


def test_other_matrices_are_left_to_lapack(monkeypatch):
    stack = matrices(4, (30,))

    others = [stack[0], stack[:7], matrices(9, (30,)), stack[:, :1, :1], stack[:, :3], stack + 0j]
    for other in (*others, stack.astype(np.float16)):
        assert OFFERS["inv"](other) is None
    b = np.ones((30, 4, 2))
    assert OFFERS["solve"](stack, b[:1]) is None
    assert OFFERS["solve"](stack, b.astype(np.float32)) is None
    assert OFFERS["solve_triangular"](stack, b, lower=True, unit_diagonal=True) is None
    monkeypatch.setattr(library._state, "on", False)
    assert OFFERS["inv"](stack) is None

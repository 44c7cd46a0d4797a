"""Sums and means over axes before the last by a compiled kernel: NumPy's, and more precise."""

import numpy as np
import pytest

from distgrad_numpy import threads
from distgrad_numpy.compiled import sums

pytestmark = pytest.mark.needs_compiler

EPSILON = np.finfo(np.float32).eps


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(sums, "_SMALL", 1)
    monkeypatch.setattr(sums, "_FEW", 1)


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -3, (0, 1), (1, 0), (1, 2), (0, 1, 2), (-4, -3), (2,)])
def test_sums_and_means_are_those_of_numpy(axis, keepdims):
    x = normal(5, 130, 3, 83)

    total = sums.sum_over(x, axis, keepdims)
    mean = sums.mean_over(x, axis, keepdims)

    wide = x.astype(np.float64)
    bound = 20 * EPSILON * np.abs(wide).sum(axis=axis, keepdims=keepdims)
    exact = wide.sum(axis=axis, keepdims=keepdims)
    assert total.shape == mean.shape == exact.shape
    assert total.dtype == mean.dtype == np.float32
    assert (np.abs(total - exact) <= bound).all()
    np.testing.assert_allclose(mean, wide.mean(axis=axis, keepdims=keepdims), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [1, 7, 16, 17, 33, 64, 100, 200])
@pytest.mark.parametrize("rows", [1, 2, 127, 128, 129, 1000])
def test_any_number_of_rows_and_columns_is_whole(rows, columns):
    x = normal(rows, columns)

    np.testing.assert_allclose(
        sums.sum_over(x, 0), x.sum(axis=0, dtype=np.float64), rtol=1e-4, atol=1e-4
    )


def test_errors_do_not_grow_with_the_rows_as_one_by_one():
    x = np.full((1 << 20, 8), 0.1, np.float32)
    exact = x[0].astype(np.float64) * len(x)

    mine = np.abs(sums.sum_over(x, 0) - exact).max()
    one_by_one = np.abs(np.add.reduce(x, axis=0) - exact).max()

    assert mine < one_by_one / 20


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(sums, "_SHARED", 0)
    x = normal(3, 500, 300)
    results = []
    for number in (1, 2, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        results.append(sums.sum_over(x, 1))

    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_a_column_does_not_depend_on_its_neighbours():
    x = normal(300, 150)
    whole = sums.sum_over(x, 0)

    some = np.ascontiguousarray(x[:, 33:98])
    np.testing.assert_array_equal(sums.sum_over(some, 0), whole[33:98])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_column(value):
    x = normal(300, 150)
    x[200, 149] = x[100, 3] = value
    total = sums.sum_over(x, 0)

    np.testing.assert_array_equal(~np.isfinite(total), np.isin(np.arange(150), [3, 149]))
    np.testing.assert_array_equal(total[[3, 149]], [value, value])


@pytest.mark.parametrize("axis", [None, 2, -1, (1, 2), (0, 2), (), (0, 0), 5])
def test_other_axes_are_left_to_numpy(axis):
    assert sums.sum_over(normal(20, 30, 40), axis) is None


def test_other_arrays_are_left_to_numpy():
    x = normal(60, 40)

    assert sums.sum_over(x.astype(np.float64), 0) is None
    assert sums.sum_over(x.T, 0) is None
    assert sums.sum_over(x[:, ::2], 0) is None
    assert sums.sum_over(np.zeros((0, 5), np.float32), 0) is None

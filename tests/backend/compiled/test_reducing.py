"""Sums, means, largest and smallest over neighbouring axes by compiled kernels: NumPy's."""

import numpy as np
import pytest

from distgrad.backends_in_force import kernels_of
from distgrad_numpy import threads
from distgrad_numpy.compiled import reducing

pytestmark = pytest.mark.needs_compiler

KERNELS = kernels_of("numpy")
NAMES = ("sum", "mean", "max", "min")
DTYPES = ("float32", "float64")
AXES = [None, 0, 1, 2, -1, (0, 1), (1, 2), (2, 1), (0, 1, 2), (-1,)]


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(reducing, "_FEW", 1)


def drawn(shape, dtype):
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 7), (13, 130, 83), (4, 260, 1), (2, 3, 9000)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_numpy(name, dtype, shape, axis, keepdims):
    x = drawn(shape, dtype)

    found = getattr(KERNELS, name)(x, axis=axis, keepdims=keepdims)

    exact = getattr(np, name)(x.astype(np.longdouble), axis=axis, keepdims=keepdims)
    assert np.shape(found) == exact.shape
    assert found.dtype == dtype
    if name in ("max", "min"):
        assert np.array_equal(found, exact)
        return
    terms = np.abs(x).sum(axis=axis, keepdims=keepdims, dtype=np.longdouble)
    terms /= 1 if name == "sum" else x.size / max(exact.size, 1)
    assert (np.abs(found - exact) <= 20 * np.finfo(dtype).eps * terms).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_of_a_long_sum_does_not_grow_as_one_by_one(dtype):
    x = np.random.default_rng(1).uniform(0, 1, 3_000_001).astype(dtype)

    exact = x.sum(dtype=np.longdouble)

    for found in (KERNELS.sum(x), KERNELS.sum(x.reshape(-1, 1), axis=0)):
        assert abs(found - exact) <= 150 * np.finfo(dtype).eps * exact


@pytest.mark.parametrize("place", [(0, 0), (3, 70), (9, 299)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_goes_on_to_its_line(name, axis, place):
    x = np.ones((10, 300))
    x[place] = np.nan

    found = getattr(KERNELS, name)(x, axis=axis)

    assert np.array_equal(np.isnan(found), np.arange(found.size) == place[1 - axis])


@pytest.mark.parametrize("number", [1.5, -0.25, np.inf, np.nan])
@pytest.mark.parametrize("axis", [None, 1, (0, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_one_number_that_is_seen_as_many(name, axis, number):
    x = np.broadcast_to(np.float32(number), (20, 30, 40))

    found = getattr(KERNELS, name)(x, axis=axis)

    expected = getattr(np, name)(x.copy(), axis=axis)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_other_arrays_are_left_to_numpy(name):
    offer = reducing.OFFERS[name]
    x = np.ones((30, 40, 2))

    assert offer(x.astype(np.float16), axis=1) is None
    assert offer(x.astype(int), axis=1) is None
    assert offer(x.transpose(1, 0, 2), axis=1) is None
    assert offer(x, axis=(0, 2)) is None
    assert offer(x[:0], axis=1) is None
    assert offer(np.float64(3.0), axis=None) is None


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_bits_do_not_depend_on_the_number_of_threads(name, axis, monkeypatch):
    monkeypatch.setattr(reducing, "_SHARED", 1)
    x = drawn((7, 300, 67), "float64")
    once = getattr(KERNELS, name)(x, axis=axis)
    for workers in (2, 3):
        monkeypatch.setattr(threads, "for_kernels", lambda workers=workers: workers)

        assert np.array_equal(once, getattr(KERNELS, name)(x, axis=axis))

"""The kit adapts a module: how values enter and leave, and how mixed operands meet."""

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import PositionError


def test_a_copy_shares_no_memory(strict):
    host = np.ones(3)

    array = strict.asarray(host, copy=True)
    host[0] = 5

    np.testing.assert_array_equal(strict.to_host(array), [1, 1, 1])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float32", "complex128"])
def test_dtypes_survive_the_way_there_and_back(strict, dtype):
    there = strict.asarray(np.ones((2, 3), dtype))

    assert there.dtype == getattr(array_api_strict, dtype)
    assert strict.to_host(there).dtype == dtype


def test_a_wanted_dtype_is_given_as_numpys(strict):
    assert strict.asarray(1.5, dtype=np.dtype("float32")).dtype == array_api_strict.float32


def test_it_owns_its_arrays_and_no_others(strict):
    assert strict.owns(strict.asarray(1.0))
    assert not strict.owns(np.asarray(1.0))
    assert not strict.owns(1.0)


@pytest.mark.parametrize(
    ("name", "second", "expected"),
    [
        ("add", np.array([1, 2]), "float64"),
        ("divide", np.array([1, 2], np.int8), "float64"),
        ("multiply", np.array([1, 2], np.float32), "float64"),
        ("maximum", np.array([1, 2], np.uint8), "float64"),
        ("add", np.array([1j, 2]), "complex128"),
    ],
)
def test_operands_of_different_kinds_promote_as_on_numpy(strict, name, second, expected):
    first = np.array([0.5, 1.5])

    here = getattr(dg, name)(dg.asarray(first), dg.asarray(second))
    there = getattr(dg, name)(dg.asarray(first, backend=strict), dg.asarray(second, backend=strict))

    assert here.dtype == there.dtype == np.dtype(expected)
    np.testing.assert_array_equal(there.numpy(), here.numpy())


@pytest.mark.parametrize("name", ["exp", "sqrt", "mean"])
def test_integers_are_lifted_to_floating_numbers(strict, name):
    x = dg.asarray(np.array([1, 4, 9]), backend=strict)

    assert getattr(dg, name)(x).dtype == np.float64


@pytest.mark.parametrize("name", ["conj", "real", "imag"])
def test_real_numbers_count_as_complex_ones(strict, name):
    x = np.array([0.5, -1.5])

    given = getattr(dg, name)(dg.asarray(x, backend=strict))

    np.testing.assert_array_equal(given.numpy(), getattr(np, name)(x))


@pytest.mark.parametrize("key", [7, (0, 0, 0), [0, 9]], ids=str)
def test_a_position_that_does_not_exist_is_named(strict, key):
    x = dg.asarray(np.ones((3, 4)), backend=strict)

    with pytest.raises(PositionError, match=r"getitem: .*\(3, 4\)"):
        x[key]


def test_numpys_integers_and_slices_with_numpys_bounds_are_indices():
    x = dg.asarray(np.arange(5.0))

    assert float(x[np.int64(2)]) == 2
    np.testing.assert_array_equal(x[np.int64(1) : np.uint8(4)].numpy(), [1, 2, 3])

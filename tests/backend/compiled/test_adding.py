"""Rows are added up in their order, on any number of threads, by a compiled kernel."""

import numpy as np
import pytest

from distgrad_numpy import threads
from distgrad_numpy.compiled import adding, library
from distgrad_numpy.rows import add_rows

pytestmark = pytest.mark.needs_compiler


def case(dtype, count, length, shape):
    generator = np.random.default_rng(count)
    places = np.minimum(generator.geometric(0.01, count), length) - 1  # some come very often
    rows = generator.standard_normal((count, *shape)).astype(dtype)
    return generator.standard_normal((length, *shape)).astype(dtype), places, rows


@pytest.mark.parametrize("shape", [(1,), (7,), (33,), (100,), (5, 9, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_number_is_added_in_the_order_of_the_rows(dtype, shape):
    array, places, rows = case(dtype, 5000, 300, shape)
    expected = array.copy()
    np.add.at(expected, (places,), rows)

    assert adding.add_rows(array, places, rows)

    np.testing.assert_array_equal(array, expected)


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    results = []
    for number in (1, 2, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        array, places, rows = case(np.float32, 2000, 300, (130,))
        assert adding.add_rows(array, places, rows)
        results.append(array)

    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_places_from_the_end_and_of_narrow_integers_are_taken():
    array, places, rows = case(np.float32, 500, 100, (16,))
    expected = array.copy()
    np.add.at(expected, (places,), rows)

    for given in (places - 100, places.astype(np.int8)):
        np.testing.assert_array_equal(add_rows(array.copy(), given, rows), expected)


def test_a_place_outside_changes_nothing():
    array, places, rows = case(np.float32, 500, 100, (16,))
    before = array.copy()

    for wrong in (100, -101):
        with pytest.raises(IndexError, match="add_rows"):
            add_rows(array, np.concatenate([places[1:], [wrong]]), rows)

    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("name", ["array", "rows", "dtype", "off"])
def test_what_is_not_dense_floats_of_one_dtype_is_left_to_numpy(name, monkeypatch):
    array, places, rows = case(np.float32, 500, 100, (16,))
    if name == "array":
        array = np.asfortranarray(array)
    if name == "rows":
        rows = np.asfortranarray(rows)
    if name == "dtype":
        rows = rows.astype(np.float64)
    if name == "off":
        monkeypatch.setattr(library._state, "on", False)
    before = array.copy()

    assert not adding.add_rows(array, places, rows)
    np.testing.assert_array_equal(array, before)

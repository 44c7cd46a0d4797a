"""Numbers are picked at positions along an axis, and added there in order, by compiled kernels."""

import numpy as np
import pytest

from distgrad.core.op import Placeholder, Slice
from distgrad_numpy import threads
from distgrad_numpy.compiled import along, library
from distgrad_numpy.rows import KERNELS, add_rows

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

    assert along.add(array, places, rows, 0)

    np.testing.assert_array_equal(array, expected)


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    results = []
    for number in (1, 2, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        array, places, rows = case(np.float32, 2000, 300, (130,))
        assert along.add(array, places, rows, 0)
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

    assert not along.add(array, places, rows, 0)
    np.testing.assert_array_equal(array, before)


WHOLE, ARRAY = Slice(None, None, None), Placeholder.ARRAY
SUBSCRIPTS = {
    "last of two": ((37, 90), (WHOLE, ARRAY), 1),
    "second of three": ((6, 50, 17), (WHOLE, ARRAY), 1),
    "last of three": ((6, 50, 17), (Ellipsis, ARRAY), 2),
    "before an ellipsis": ((6, 50, 17), (WHOLE, ARRAY, Ellipsis), 1),
    "between slices": ((6, 50, 17), (WHOLE, ARRAY, WHOLE), 1),
    "first": ((90, 37), (ARRAY,), 0),
}
POSITIONS = {"line": (140,), "grid": (5, 28), "one": (), "few": (1,)}
NUMBERS = ("float32", "float64", "float16", "complex64", "complex128", "int8", "uint64", "bool")


def subscripted(kind, place, dtype, narrow="int64"):
    """Return an array, positions, the subscript of both, and the axis."""
    shape, index, axis = SUBSCRIPTS[kind]
    generator = np.random.default_rng(3)
    x = (100 * generator.standard_normal(shape)).astype(dtype)
    positions = generator.integers(-shape[axis], shape[axis], POSITIONS[place])
    if narrow.startswith("u"):
        positions = positions % shape[axis]
    return x, np.asarray(positions, narrow), index, axis


def by_numpy(x, positions, axis):
    return x[(*(slice(None),) * axis, positions)]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("place", POSITIONS)
@pytest.mark.parametrize("kind", SUBSCRIPTS)
def test_what_is_picked_along_an_axis_is_what_numpy_picks(kind, place, dtype):
    x, positions, index, axis = subscripted(kind, place, dtype)

    found = KERNELS["getitem"](x, positions, index=index)

    expected = by_numpy(x, positions, axis)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, expected)
    picked = along.pick(x, positions, axis)
    if axis == 0 or x.dtype.itemsize > 8:
        assert picked is None
    else:
        np.testing.assert_array_equal(picked, expected)


@pytest.mark.parametrize("narrow", ["int8", "int32", "uint16", "uint64"])
def test_positions_of_any_integer_dtype_are_taken(narrow):
    x, positions, _, axis = subscripted("last of two", "line", "float32", narrow)

    np.testing.assert_array_equal(
        along.pick(x, positions, axis), by_numpy(x, positions.astype(int), axis)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "complex64", "int64"])
@pytest.mark.parametrize("place", POSITIONS)
@pytest.mark.parametrize("kind", SUBSCRIPTS)
def test_what_is_added_along_an_axis_is_what_numpy_adds(kind, place, dtype):
    x, positions, index, axis = subscripted(kind, place, dtype)
    values = by_numpy((x * 3).astype(dtype), positions, axis)

    found = KERNELS["scatter_add"](values, positions, index=index, shape=x.shape)

    expected = np.zeros(x.shape, dtype)
    np.add.at(expected, (*(slice(None),) * axis, positions), values)
    assert found.dtype == x.dtype
    rtol = 5e-3 if dtype == "float16" else 1e-5 if dtype == "complex64" else 0
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)
    added = np.zeros_like(x)
    taken = along.add(added, positions, np.ascontiguousarray(values), axis)
    assert taken == (dtype in ("float32", "float64"))
    np.testing.assert_array_equal(added, expected if taken else 0)


@pytest.mark.parametrize("kind", ["last of two", "second of three", "first"])
def test_threads_that_share_outer_parts_change_no_bit(kind, monkeypatch):
    monkeypatch.setattr(along, "_MANY", 0)
    x, positions, _, axis = subscripted(kind, "grid", "float32")
    results = []
    for number in (1, 2, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        values = np.ascontiguousarray(by_numpy(x, positions, axis))
        added = np.zeros_like(x)
        assert along.add(added, positions, values, axis)
        results.append(added)
        if axis:
            np.testing.assert_array_equal(along.pick(x, positions, axis), values)

    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("wrong", [90, -91])
def test_a_position_outside_an_axis_is_named(wrong):
    x, positions, index, axis = subscripted("last of two", "line", "float32")
    positions[7] = wrong
    values = np.ones((37, 140), np.float32)

    assert along.pick(x, positions, axis) is None
    with pytest.raises(IndexError, match=f"getitem: index {wrong} is out of bounds"):
        KERNELS["getitem"](x, positions, index=index)
    with pytest.raises(IndexError, match=f"scatter by add: index {wrong} is out of bounds"):
        KERNELS["scatter_add"](values, positions, index=index, shape=x.shape)


def test_masks_and_arrays_with_gaps_are_left_to_numpy():
    x, positions, index, axis = subscripted("last of two", "line", "float32")
    mask = np.arange(90) % 3 == 0

    assert along.pick(x, mask, axis) is None
    assert along.pick(np.asfortranarray(x), positions, axis) is None
    np.testing.assert_array_equal(KERNELS["getitem"](x, mask, index=index), x[:, mask])

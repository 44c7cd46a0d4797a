"""Rows are added up as `np.add.at` does it, however often a position comes."""

import numpy as np
import pytest

from distgrad.core.op import Placeholder
from distgrad.errors import PositionError
from distgrad_numpy.rows import add_rows, gather, scatter_add

WIDTH = 64  # wide enough for the quick way


def positions(kind, count, length):
    rng = np.random.default_rng(count)
    return {
        "distinct": rng.permutation(length)[:count],
        "a few twice": rng.integers(0, length, count),
        "one position": np.full(count, 3),
        "a few very often": np.minimum(rng.geometric(0.2, count), length - 1),
        "from the end": rng.integers(-length, length, count),
        "small integers": rng.integers(0, min(length, 127), count).astype(np.int8),
    }[kind]


KINDS = [
    "distinct",
    "a few twice",
    "one position",
    "a few very often",
    "from the end",
    "small integers",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "shape"), [(200, (WIDTH,)), (200, (8, 8)), (7, (WIDTH,))])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.int64])
def test_rows_are_added_up(kind, count, shape, dtype):
    indices = positions(kind, count, 250)
    rows = np.random.default_rng(1).integers(-9, 9, (count, *shape)).astype(dtype)
    array = np.random.default_rng(2).integers(-9, 9, (250, *shape)).astype(dtype)
    expected = array.copy()
    np.add.at(expected, indices, rows)

    given = add_rows(array, indices, rows)

    assert given is array
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("shape", [(200,), (10, 20), ()])
def test_positions_of_any_shape_are_scattered(shape):
    indices = np.random.default_rng(0).integers(0, 50, shape)
    values = np.random.default_rng(1).integers(-9, 9, (*shape, WIDTH)).astype(float)
    expected = np.zeros((50, WIDTH))
    np.add.at(expected, indices, values)

    given = scatter_add(values, indices, index=(Placeholder.ARRAY,), shape=(50, WIDTH))

    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("count", [1, 200])
@pytest.mark.parametrize("wrong", [50, -51])
def test_positions_outside_change_nothing(count, wrong):
    array = np.zeros((50, WIDTH))
    indices = np.arange(count) % 50
    indices[-1] = wrong

    with pytest.raises(PositionError, match=r"add_rows: index -?5[01] is out of bounds"):
        add_rows(array, indices, np.ones((count, WIDTH)))
    if count > 1:
        assert not array.any()


def test_rows_of_any_integers_are_picked():
    params = np.arange(12.0).reshape(4, 3)

    for dtype in (np.uint8, np.int32, np.uint64):
        np.testing.assert_array_equal(gather(params, np.array([3, 0], dtype)), params[[3, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.int16])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((60, 1), (60, 70)),
        ((60, 70), (70,)),
        ((60, 70), (60, 70)),
        ((1, 1), (60, 70)),
    ],
)
def test_single_places_are_scattered(first, second, dtype):
    draw = np.random.default_rng(3)
    rows, columns = draw.integers(-40, 40, first), draw.integers(0, 30, second).astype(np.uint8)
    values = draw.integers(-9, 9, (60, 70)).astype(dtype)
    expected = np.zeros((40, 30), dtype)
    np.add.at(expected, (rows, columns), values)

    found = scatter_add(values, rows, columns, index=(Placeholder.ARRAY,) * 2, shape=(40, 30))

    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("position", [40, -41])
def test_single_places_outside_are_refused(position):
    rows = np.zeros((60, 70), int)
    rows[3, 4] = position
    columns = np.zeros((60, 70), int)

    with pytest.raises(PositionError, match=f"{position} is out of bounds"):
        scatter_add(
            np.ones((60, 70)), rows, columns, index=(Placeholder.ARRAY,) * 2, shape=(40, 30)
        )

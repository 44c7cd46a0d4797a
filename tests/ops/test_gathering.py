"""gather and embedding pick what they say, and refuse what they cannot pick."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, PositionError, ShapeError

X = np.arange(60.0).reshape(3, 4, 5)


@pytest.mark.parametrize(
    "indices", [1, np.int32(2), [0, 2, 2], (1, 0), [[0], [2]], np.array([-1, 0], np.int8)], ids=str
)
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_positions_take_the_place_of_the_axis(indices, axis):
    given = dg.gather(X, indices, axis=axis)

    np.testing.assert_array_equal(given.numpy(), np.take(X, np.asarray(indices), axis=axis))


@pytest.mark.parametrize(
    ("shape", "picked", "axis", "batch_dims"),
    [
        ((3, 4, 5), (3, 2), 0, 1),
        ((3, 4, 5), (3, 2), 2, 1),
        ((3, 4, 5), (3, 2, 2), 1, 1),
        ((3, 4, 5), (3, 2, 2), -1, 1),
        ((3, 4, 5), (3, 4, 6), 2, 2),
        ((3, 4, 5), (3, 4), 2, 2),
        ((3, 4, 5, 2), (3, 2, 3), 3, 1),
        ((3, 4), (3,), 1, 1),
    ],
)
def test_each_example_may_have_positions_of_its_own(shape, picked, axis, batch_dims):
    x = np.arange(np.prod(shape, dtype=float)).reshape(shape)
    place = (axis or batch_dims) % len(shape)
    indices = np.random.default_rng(0).integers(0, shape[place], picked)

    given = dg.gather(x, indices, axis=axis, batch_dims=batch_dims)

    expected = np.empty((*shape[:place], *picked[batch_dims:], *shape[place + 1 :]))
    for example in np.ndindex(*shape[:batch_dims]):
        expected[example] = np.take(x[example], indices[example], axis=place - batch_dims)
    np.testing.assert_array_equal(given.numpy(), expected)


def test_embedding_returns_a_vector_for_each_identifier():
    given = dg.embedding(X[0], [[0, 1, 1], [3, 2, 0]])

    np.testing.assert_array_equal(given.numpy(), X[0][[[0, 1, 1], [3, 2, 0]]])


@pytest.mark.parametrize(
    "indices", [[0.0, 1.0], [True, False, True], np.array([True]), dg.asarray([1.0]), 1.5], ids=str
)
def test_only_integers_are_positions(indices):
    with pytest.raises(DTypeError, match=r"gather: positions have dtype .*expected integers"):
        dg.gather(X, indices)


@pytest.mark.parametrize("indices", [3, [0, -4], np.array([[7]])])
def test_positions_outside_are_refused(indices):
    with pytest.raises(PositionError, match=r"gather: .* shape \(3, 4, 5\), expected"):
        dg.gather(X, indices)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dg.gather(1.0, 0), "zero-dimensional"),
        (lambda: dg.gather(X, 0, axis=3), "axis is 3"),
        (lambda: dg.gather(X, [0], batch_dims=1), "the same first 1 lengths"),
        (lambda: dg.gather(X, [[0]] * 3, batch_dims=3), "batch_dims is 3"),
        (lambda: dg.gather(X, [[0]] * 3, batch_dims=-1), "batch_dims is -1"),
        (lambda: dg.gather(X, np.zeros((3, 4, 1), int), axis=1, batch_dims=2), "batch axes"),
        (lambda: dg.embedding(X, [0]), "expected two axes"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ShapeError, match=message):
        call()


@pytest.mark.parametrize(
    "ids",
    [
        [-1],
        ([0, 3],),
        np.array([0, -2], np.int8),
        np.array([200], np.uint8),
        np.array([2, -1], ">i4"),
        dg.asarray([1, -1]),
        -1,
    ],
    ids=repr,
)
def test_an_identifier_that_a_table_does_not_have_is_refused_by_its_number(ids):
    table = np.eye(3)

    with pytest.raises(IndexError, match=r"embedding: identifier (-1|-2|3|200) .*expected 0 to 2"):
        dg.embedding(table, ids)


def test_identifiers_of_a_table_may_be_none_at_all_or_tensors_in_a_list():
    table = np.eye(3)

    assert dg.embedding(table, []).shape == (0, 3)
    assert dg.embedding(table, np.array([0, 2], ">u2")).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert dg.embedding(table, [dg.asarray(1)]).tolist() == [[0, 1, 0]]

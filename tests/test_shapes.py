"""Shapes: broadcast as NumPy's, with errors that say which operand does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgrad import shapes
from distgrad.errors import ShapeError

LENGTHS = st.sampled_from([0, 1, 1, 2, 3])
SHAPES = st.lists(LENGTHS, max_size=4).map(tuple)


@given(st.lists(SHAPES, min_size=1, max_size=3))
def test_broadcasting_agrees_with_numpy(given_shapes):
    try:
        expected = np.broadcast_shapes(*given_shapes)
    except ValueError:
        with pytest.raises(ShapeError):
            shapes.broadcast("add", *given_shapes)
    else:
        assert shapes.broadcast("add", *given_shapes) == expected


def test_shapes_that_do_not_broadcast_are_named_with_the_axis():
    with pytest.raises(
        ShapeError,
        match=r"add: shapes \(3, 4\) and \(2, 4\) do not broadcast: axis -2 has lengths 2 and 3",
    ):
        shapes.broadcast("add", (3, 4), (2, 4))


@given(SHAPES, SHAPES)
def test_summing_over_the_broadcast_axes_gives_the_shape_back(shape, other):
    try:
        to = np.broadcast_shapes(shape, other)
    except ValueError:
        return
    summed = np.ones(to).sum(axis=shapes.broadcast_axes(shape, to), keepdims=True)

    assert summed.size == np.prod(shape)
    assert summed.reshape(shape).shape == shape


def test_axes_are_counted_from_the_front():
    assert shapes.normalize_axis("sum", -1, 3) == 2
    assert shapes.normalize_axes("sum", (0, -1), 3) == (0, 2)
    assert shapes.normalize_axes("sum", None, 3) == (0, 1, 2)
    assert shapes.normalize_axes("sum", (), 3) == ()


@pytest.mark.parametrize("axis", [3, -4])
def test_an_axis_that_is_not_there_is_named_with_those_that_are(axis):
    with pytest.raises(
        ShapeError, match=f"sum: axis is {axis}, but the array has 3 axes.* -3 to 2"
    ):
        shapes.normalize_axis("sum", axis, 3)


def test_a_zero_dimensional_array_has_no_axes():
    with pytest.raises(ShapeError, match="zero-dimensional array has no axes"):
        shapes.normalize_axis("sum", 0, 0)


@pytest.mark.parametrize("axes", [(0, 0), (0, -3)])
def test_an_axis_named_twice_is_refused(axes):
    with pytest.raises(ShapeError, match="names an axis twice"):
        shapes.normalize_axes("sum", axes, 3)


def test_a_reduction_leaves_the_other_axes():
    assert shapes.reduced((3, 4, 5), (1,), keepdims=False) == (3, 5)
    assert shapes.reduced((3, 4, 5), (0, 2), keepdims=True) == (1, 4, 1)
    assert shapes.reduced((3, 4), (0, 1), keepdims=False) == ()

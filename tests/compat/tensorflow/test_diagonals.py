"""Bands of diagonals, taken out and put in, beside the same by NumPy, one number at a time."""

import numpy as np
import pytest

import distgrad.compat.tensorflow as tf

ALIGNMENTS = ("RIGHT_LEFT", "LEFT_RIGHT", "LEFT_LEFT", "RIGHT_RIGHT")
BANDS = [(-1, 1), (0, 2), (-2, 0), (1, 3), (-2, -1), (-2, 3)]
MATRIX = np.arange(1.0, 13.0).reshape(3, 4)


def band_of(matrix, low, high, align, padding=0.0):
    above, below = align.split("_")
    lines = [matrix.diagonal(offset) for offset in range(high, low - 1, -1)]
    longest = max(map(len, lines))
    packed = np.full((len(lines), longest), padding)
    for row, (offset, line) in enumerate(zip(range(high, low - 1, -1), lines, strict=True)):
        right = (above if offset > 0 else below) == "RIGHT"
        packed[row, longest - len(line) if right else 0 :][: len(line)] = line
    return packed


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("k", BANDS)
def test_a_band_is_taken_out_with_the_shorter_diagonals_filled_up(k, align):
    found = tf.linalg.diag_part([MATRIX] * 2, k=k, padding_value=7, align=align)

    np.testing.assert_array_equal(found.numpy(), [band_of(MATRIX, *k, align, 7.0)] * 2)


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("k", BANDS)
def test_a_band_is_put_in_where_it_was_taken_out(k, align):
    x, band = tf.constant(MATRIX), tf.constant(band_of(-MATRIX, *k, align))
    inside = np.tri(3, 4, k[1]) - np.tri(3, 4, k[0] - 1)

    with tf.GradientTape() as tape:
        tape.watch([x, band])
        y = tf.linalg.set_diag(x, band, k=k, align=align)
        made = tf.linalg.diag(band, k=k, num_rows=3, num_cols=4, padding_value=9, align=align)
        total = tf.reduce_sum(y * MATRIX)

    np.testing.assert_array_equal(y.numpy(), np.where(inside, -MATRIX, MATRIX))
    np.testing.assert_array_equal(made.numpy(), np.where(inside, -MATRIX, 9.0))
    of_x, of_band = tape.gradient(total, [x, band])
    np.testing.assert_array_equal(of_x.numpy(), np.where(inside, 0.0, MATRIX))
    np.testing.assert_array_equal(of_band.numpy(), band_of(MATRIX, *k, align))


def test_matrices_are_as_small_as_their_diagonal_allows():
    assert tf.linalg.diag([1, 2], k=(1,)).shape == (3, 3)
    assert tf.linalg.diag([1, 2], k=1, num_rows=2).shape == (2, 3)
    assert tf.linalg.diag([1, 2], k=-1, num_rows=4).shape == (4, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tf.linalg.diag(1.0),
        lambda: tf.linalg.diag([1.0, 2.0], num_rows=1),
        lambda: tf.linalg.diag([[1.0, 2.0]] * 2, k=(-1, 1)),
        lambda: tf.linalg.diag_part(MATRIX, k=4),
        lambda: tf.linalg.diag_part(MATRIX, k=(1, 0)),
        lambda: tf.linalg.diag_part(MATRIX, align="MIDDLE"),
        lambda: tf.linalg.set_diag(MATRIX, [1.0, 2.0, 3.0], k=(0, 1)),
    ],
)
def test_diagonals_that_are_not_there_are_invalid_arguments(call):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected|at least"):
        call()

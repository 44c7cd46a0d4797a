"""Pooling: what the definition says, ties and NaN, partial windows, adaptive and global forms."""

import warnings

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values


def by_definition(x, reduce, window, stride, padding, partial=False, counted=0):
    """Return the windows of square images, channels last, reduced one by one."""
    padded = np.pad(x, ((0, 0), padding, padding, (0, 0)), constant_values=np.nan)
    if counted:  # zeros of the padding are numbers too
        padded = np.nan_to_num(padded)
    ends = padded.shape[1]
    last = ends - padding[1]  # where the padding behind begins
    starts = [at for at in range(0, ends, stride) if at + window <= ends]
    after = starts[-1] + stride
    if partial and starts[-1] + window < ends and after < last:
        starts.append(after)
    columns = []
    for at in starts:
        row = [
            reduce(padded[:, at : at + window, across : across + window], axis=(1, 2))
            for across in starts
        ]
        columns.append(np.stack(row, axis=1))
    return np.stack(columns, axis=1)


X = values((2, 7, 7, 3), -2.0, 2.0)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (1, 0)], ids=str)
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (3, 1), (2, 3)])
def test_pools_are_what_their_definition_says(window, stride, padding, partial):
    sides = (padding, padding)

    greatest = dg.nn.max_pool(X, window, stride=stride, padding=sides, ceil_mode=partial)
    mean = dg.nn.avg_pool(X, window, stride=stride, padding=sides, ceil_mode=partial)

    arguments = (window, stride, padding, partial)
    np.testing.assert_array_equal(greatest.numpy(), by_definition(X, np.nanmax, *arguments))
    np.testing.assert_allclose(mean.numpy(), by_definition(X, np.nanmean, *arguments), rtol=1e-12)


def test_padding_counts_on_request():
    found = dg.nn.avg_pool(X, 3, stride=2, padding=1, count_include_pad=True)

    expected = by_definition(X, np.mean, 3, 2, (1, 1), counted=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_what_ceil_mode_adds_never_counts():
    x = np.ones((1, 4, 1))

    found = dg.nn.avg_pool(x, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=True)

    # The windows start at -1, 1 and 3; the last reaches one place beyond the padding.
    np.testing.assert_allclose(found.numpy().ravel(), [2 / 3, 1, 1 / 2])


def test_among_equal_numbers_the_first_takes_the_gradient():
    x = dg.asarray([[[[1.0], [3.0]], [[3.0], [3.0]]]])

    gradient = dg.grad(lambda x: dg.sum(dg.nn.max_pool(x, 2)))(x)

    assert gradient.numpy().ravel().tolist() == [0, 1, 0, 0]


def test_nan_is_the_greatest_and_takes_the_gradient():
    x = dg.asarray([[[1.0], [np.nan], [5.0], [2.0]]])

    y = dg.nn.max_pool(x, 2)
    gradient = dg.grad(lambda x: dg.sum(dg.nn.max_pool(x, 2)))(x)

    np.testing.assert_array_equal(y.numpy().ravel(), [np.nan, 5])
    assert gradient.numpy().ravel().tolist() == [0, 1, 1, 0]


def test_infinite_cotangents_reach_the_greatest_alone():
    x = dg.asarray([[[1.0], [4.0], [5.0], [2.0]]])
    with dg.GradientTape() as tape:
        tape.watch(x)
        y = dg.nn.max_pool(x, 2)

    gradient = tape.gradient(y, x, output_gradients=dg.asarray([[[np.inf], [np.nan]]]))

    np.testing.assert_array_equal(gradient.numpy().ravel(), [0, np.inf, np.nan, 0])


def test_padding_is_never_the_greatest():
    x = -np.ones((1, 3, 1))

    assert dg.nn.max_pool(x, 3, stride=1, padding=1).numpy().max() == -1
    small = dg.nn.max_pool((100 * x).astype(np.int8), 3, stride=1, padding=1)
    assert small.dtype == np.int8
    assert small.numpy().max() == -100


def test_channels_first_differs_in_the_order_of_axes_alone():
    first = np.moveaxis(X, -1, 1)

    for pool in (dg.nn.max_pool, dg.nn.avg_pool):
        found = pool(first, (2, 3), padding="same", data_format="channels_first")
        expected = pool(X, (2, 3), padding="same")
        np.testing.assert_array_equal(found.numpy(), np.moveaxis(expected.numpy(), -1, 1))


@pytest.mark.parametrize("size", [1, 2, 3, 7, (3, 5)], ids=str)
def test_adaptive_pools_cover_the_input_with_windows_that_overlap_where_they_must(size):
    rows, columns = (size, size) if isinstance(size, int) else size
    boxes = [
        [
            X[
                :,
                i * 7 // rows : -(-(i + 1) * 7 // rows),
                j * 7 // columns : -(-(j + 1) * 7 // columns),
            ]
            for j in range(columns)
        ]
        for i in range(rows)
    ]

    for pool, reduce in ((dg.nn.adaptive_avg_pool, np.mean), (dg.nn.adaptive_max_pool, np.max)):
        expected = np.stack(
            [np.stack([reduce(box, axis=(1, 2)) for box in row], axis=1) for row in boxes], axis=1
        )
        np.testing.assert_allclose(pool(X, size).numpy(), expected, rtol=1e-12)


def test_global_pools_leave_examples_and_channels():
    np.testing.assert_allclose(dg.nn.global_avg_pool(X).numpy(), X.mean((1, 2)))
    np.testing.assert_allclose(dg.nn.global_max_pool(X).numpy(), X.max((1, 2)))
    kept = dg.nn.global_avg_pool(np.moveaxis(X, -1, 1), keepdims=True, data_format="channels_first")
    assert kept.shape == (2, 3, 1, 1)


def test_derivatives_of_the_public_functions_agree_with_differences():
    x = dg.asarray(values((1, 5, 4, 2), -2.0, 2.0))

    def function(x):
        parts = (
            dg.nn.max_pool(x * x, 3, stride=2, padding="same", ceil_mode=True),
            dg.nn.avg_pool(x * x, (2, 3), stride=1, padding=1, count_include_pad=True),
            dg.nn.adaptive_avg_pool(x * x, 3),
        )
        return [dg.sum(part * part) for part in parts]

    check_gradients(function, [x])


def test_vmap_folds_the_batch_into_the_examples():
    xs = values((3, 2, 6, 2), -1, 1)

    def slope(x):
        return dg.grad(lambda x: dg.sum(dg.nn.max_pool(x, 2) ** 3 + dg.nn.avg_pool(x, 2)))(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dg.vmap(slope)(xs)

    for i, x in enumerate(xs):
        np.testing.assert_allclose(found.numpy()[i], slope(dg.asarray(x)).numpy(), rtol=1e-12)


MISUSE = {
    "rank": (lambda: dg.nn.max_pool(X[0, 0], 2), "a batch axis, channels and 1 to 3"),
    "window": (lambda: dg.nn.max_pool(X, (2, 2, 2)), r"window is \(2, 2, 2\)"),
    "stride": (lambda: dg.nn.avg_pool(X, 2, stride=0), "stride is 0"),
    "padding": (lambda: dg.nn.avg_pool(X, 2, padding=2), "as wide as the window"),
    "size": (lambda: dg.nn.adaptive_avg_pool(X, 0), "size is 0"),
    "no elements": (lambda: dg.nn.adaptive_max_pool(X[:, :0], 2), "without elements"),
}


@pytest.mark.parametrize("label", MISUSE)
def test_arguments_that_do_not_fit_are_explained(label):
    call, message = MISUSE[label]

    with pytest.raises(ShapeError, match=message):
        call()


def test_complex_numbers_have_no_greatest():
    with pytest.raises(DTypeError, match="max_pool: complex numbers have no order"):
        dg.nn.max_pool(X + 1j, 2)


@pytest.mark.parametrize("traced", [False, True])
def test_the_greatest_is_bent_by_zero_and_not_by_none(traced):
    pool = dg.function(lambda x: dg.nn.max_pool(x, 2)) if traced else lambda x: dg.nn.max_pool(x, 2)
    x = dg.Variable(np.arange(8.0).reshape(1, 4, 2))
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = pool(x)
        slope = inner.gradient(y, x)

    bend = outer.gradient(slope, x)

    np.testing.assert_array_equal(bend.numpy(), np.zeros((1, 4, 2)))


def test_tangents_of_the_greatest_are_bent_by_zero_and_not_by_none():
    x = dg.asarray(np.arange(8.0).reshape(1, 4, 2))
    with dg.GradientTape() as tape:
        tape.watch(x)
        tangent = dg.jvp(lambda x: dg.nn.max_pool(x, 2), [x], [dg.ones_like(x)])[1]

    bend = tape.gradient(tangent, x)

    np.testing.assert_array_equal(bend.numpy(), np.zeros((1, 4, 2)))

"""Convolutions of points with a stride: what NumPy gives up to rounding, and zeros in between."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.windows import Geometry
from distgrad_numpy import convolution, onednn, threads
from distgrad_numpy.compiled import library, points

pytestmark = pytest.mark.needs_compiler

# Lengths, strides, channels: lines that end before, at and behind what is seen; several blocks of
# rows; several parts of the terms; panels of two, three and four vectors.
CASES = [
    ((11,), (2,), (7, 64)),
    ((7, 9), (2, 1), (5, 32)),
    ((6, 8), (3, 2), (32, 48)),
    ((28, 27), (2, 2), (64, 96)),
    ((3, 4, 5), (2, 3, 4), (33, 112)),
    ((5, 6), (1, 2), (600, 128)),
    ((1, 3), (2, 5), (128, 608)),
]


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    """Let the kernels take convolutions of any size."""
    monkeypatch.setattr(points, "_FEW", 0)
    found = library.from_file("points")
    if not found.points_fit(64):
        pytest.skip("vectors of this processor are short: BLAS multiplies")


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


class Case:
    """Arrays of a convolution of points, those that are computed holding something else before."""

    def __init__(self, lengths, strides, channels, examples=3):
        inputs, outputs = channels
        rank = len(lengths)
        self.geometry = Geometry(strides, ((0, 0),) * rank, (1,) * rank)
        self.every = (slice(None), *(slice(None, None, step) for step in strides))
        self.x = normal(examples, *lengths, inputs)
        self.w = normal(*(1,) * rank, inputs, outputs)
        self.y = normal(*self.x[self.every].shape[:-1], outputs)
        self.matrix = self.w.reshape(inputs, outputs)
        self.seen = self.x[self.every].reshape(-1, inputs)
        self.cotangents = self.y.reshape(-1, outputs)

    def conv(self):
        y = np.full(self.y.shape, np.nan, np.float32)
        return y if points.conv(self.x, self.w, y, self.geometry) else None

    def conv_transpose(self):
        x = np.full(self.x.shape, np.nan, np.float32)
        return x if points.conv_transpose(self.y, self.w, x, self.geometry) else None

    def conv_kernel_vjp(self):
        w = np.full(self.w.shape, np.nan, np.float32)
        return w if points.conv_kernel_vjp(self.x, self.y, w, self.geometry) else None

    def all(self):
        return self.conv(), self.conv_transpose(), self.conv_kernel_vjp()


def assert_near(result, a, b):
    exact = a.astype(np.float64) @ b.astype(np.float64)
    # The error of a sum of k rounded terms is at most k eps/2 of the sum of their magnitudes, and
    # where roundings differ in sign, as they do, some eps.
    bound = np.abs(a).astype(np.float64) @ np.abs(b)
    assert (np.abs(result - exact) <= 4 * np.finfo(np.float32).eps * bound + 1e-30).all()


@pytest.mark.parametrize(("lengths", "strides", "channels"), CASES)
def test_outputs_are_products_of_the_positions_that_are_seen(lengths, strides, channels):
    case = Case(lengths, strides, channels)

    assert_near(case.conv().reshape(-1, channels[1]), case.seen, case.matrix)


@pytest.mark.parametrize(("lengths", "strides", "channels"), CASES)
def test_cotangents_of_inputs_stand_among_zeros(lengths, strides, channels):
    case = Case(lengths, strides, channels[::-1])
    x = case.conv_transpose()

    assert_near(x[case.every].reshape(-1, channels[1]), case.cotangents, case.matrix.T)
    x[case.every] = 0
    np.testing.assert_array_equal(x, np.zeros_like(x))


@pytest.mark.parametrize(("lengths", "strides", "channels"), CASES)
def test_cotangents_of_kernels_are_sums_over_the_positions_that_are_seen(
    lengths, strides, channels
):
    case = Case(lengths, strides, channels)

    assert_near(case.conv_kernel_vjp().reshape(channels), case.seen.T, case.cotangents)


@pytest.mark.parametrize(("positions", "channels"), [(256, (320, 64)), (300, (48, 288))])
def test_without_a_stride_kernels_of_many_channels_are_summed_over_many_positions(
    positions, channels
):
    case = Case((positions,), (1,), channels, examples=1)
    fewer = Case((255,), (1,), channels, examples=1)
    narrower = Case((positions,), (1,), (256, 256), examples=1)

    assert_near(case.conv_kernel_vjp().reshape(channels), case.seen.T, case.cotangents)
    assert case.conv() is None
    assert case.conv_transpose() is None
    assert fewer.conv_kernel_vjp() is None
    assert narrower.conv_kernel_vjp() is None


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    case = Case((29, 28), (2, 2), (304, 320), examples=2)
    results = []
    for number in (1, 2, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        results.append(case.all())

    for more in results[1:]:
        for result, alone in zip(more, results[0], strict=True):
            np.testing.assert_array_equal(result, alone)


def test_an_example_does_not_depend_on_its_batch():
    case = Case((9, 10), (2, 3), (48, 64), examples=5)
    y, x, _ = case.all()
    case.x, case.y = case.x[2:4].copy(), case.y[2:4].copy()

    np.testing.assert_array_equal(case.conv(), y[2:4])
    np.testing.assert_array_equal(case.conv_transpose(), x[2:4])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_is_seen(value):
    case = Case((6, 8), (2, 2), (64, 64))
    case.x[1, 1, 1] = value  # which no window sees
    case.y[2, 1, 3, 5] = value
    y, x, w = case.all()

    assert np.isfinite(y).all()
    expected = np.ones(x.shape, bool)
    expected[2, 2, 6] = False
    np.testing.assert_array_equal(np.isfinite(x), expected)
    expected = np.ones(w.shape, bool)
    expected[..., 5] = False
    np.testing.assert_array_equal(np.isfinite(w), expected)


def test_arrays_with_gaps_are_copied():
    case = Case((6, 8), (2, 2), (64, 32))
    expected = case.all()
    case.x, case.y = (np.repeat(each, 2, axis=-1)[..., ::2] for each in (case.x, case.y))
    case.w = np.asfortranarray(case.w)

    for result, dense in zip(case.all(), expected, strict=True):
        np.testing.assert_array_equal(result, dense)


def changed(**changes):
    case = Case((6, 8), (2, 2), (64, 64))
    case.geometry = case.geometry._replace(**changes)
    return case


def narrow(inputs, outputs):
    return Case((6, 8), (2, 2), (inputs, outputs))


@pytest.mark.parametrize(
    "case",
    [
        changed(stride=(1, 1)),
        changed(padding=((0, 0), (1, 0))),
        changed(groups=2),
        narrow(65, 81),
        narrow(16, 80),
    ],
    ids=["no stride", "padding", "groups", "odd channels", "a lone vector"],
)
def test_others_are_left_to_other_kernels(case):
    assert case.all() == (None, None, None)


def test_other_dtypes_and_windows_are_left_to_other_kernels():
    case = Case((6, 8), (2, 2), (64, 64))
    case.x = case.x.astype(np.float64)
    assert case.conv() is None

    case = Case((6, 8), (2, 2), (64, 64))
    case.w = normal(2, 1, 64, 64)
    assert case.all() == (None, None, None)


def test_nothing_is_left_to_other_kernels():
    case = Case((6, 8), (2, 2), (64, 64), examples=0)

    assert case.all() == (None, None, None)


def test_the_switch_leaves_them_to_other_kernels(without):
    case = Case((6, 8), (2, 2), (64, 64))

    assert without(case.all) == (None, None, None)


def test_small_ones_are_left_to_other_kernels(monkeypatch):
    case = Case((6, 8), (2, 2), (64, 64))
    monkeypatch.setattr(points, "_FEW", case.y.size * 64 + 1)

    assert case.all() == (None, None, None)


def test_they_are_asked_before_onednn(monkeypatch):
    def refuse(*given):
        raise AssertionError("asked")

    for name in ("conv", "conv_transpose", "conv_kernel_vjp"):
        monkeypatch.setattr(onednn, name, refuse)
    case = Case((6, 8), (2, 2), (64, 96))
    how = case.geometry

    np.testing.assert_array_equal(convolution.conv(case.x, case.w, *how), case.conv())
    np.testing.assert_array_equal(
        convolution.conv_transpose(case.y, case.w, (6, 8), *how), case.conv_transpose()
    )
    np.testing.assert_array_equal(
        convolution.conv_kernel_vjp(case.x, case.y, (1, 1), *how), case.conv_kernel_vjp()
    )


def test_a_tape_pulls_back_through_them():
    case = Case((6, 8), (2, 2), (64, 96))
    x, w, y = (dg.asarray(each) for each in (case.x, case.w, case.y))
    with dg.GradientTape() as tape:
        tape.watch([x, w])
        result = dg.nn.conv(x, w, stride=2)
    by_x, by_w = tape.gradient(result, [x, w], output_gradients=y)

    np.testing.assert_array_equal(result.numpy(), case.conv())
    np.testing.assert_array_equal(by_x.numpy(), case.conv_transpose())
    np.testing.assert_array_equal(by_w.numpy(), case.conv_kernel_vjp())

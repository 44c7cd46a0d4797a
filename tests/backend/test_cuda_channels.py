"""Batch norm of the device on the host: channels last and before an image, in one part and many."""

import importlib.util

import numpy as np
import pytest

from distgrad.backends_in_force import kernels_of
from distgrad.dtypes import as_dtype

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy import channels

TOLERANCES = {"float16": 6e-3, "bfloat16": 6e-2, "float32": 2e-5, "float64": 1e-12}
# Shapes and the axes to average over.
LAYOUTS = {
    "few channels, last": ((5, 3, 3), (0, 1)),
    "channels for wide loads": ((70, 16), (0,)),
    "channels of several blocks": ((9, 300), (0,)),
    "before an image": ((3, 5, 7, 2), (0, 2, 3)),
    "before an image for wide loads": ((2, 3, 4, 16), (0, -1, -2)),
    "of each example": ((2, 3, 25), (2,)),
    "one": ((4, 33), (0, 1)),
    "one element each": ((1, 6), (0,)),
    "an axis of length one between": ((3, 1, 4), (0,)),
    "groups of each example, last": ((2, 7, 3, 4), (1, 3)),
    "groups for wide loads": ((2, 5, 3, 8), (1, 3)),
    "channels of each example, last": ((3, 20, 5), (1,)),
    "channels of each example for wide loads": ((3, 20, 16), (1,)),
    "groups before an image of each example": ((2, 3, 5, 2, 9), (2, 4)),
    "many parts": ((40_003, 2), (0,)),
    "many parts of each example": ((2, 20_011, 3, 2), (1, 3)),
    "many parts of an image": ((2, 2, 20_011), (0, 2)),
}
FEW = {name: LAYOUTS[name] for name in list(LAYOUTS)[:6]}


@pytest.fixture
def kernels(host_runner):
    host_runner.launched.clear()
    return channels.kernels(host_runner)


@pytest.fixture
def wide():
    """The vocabulary on NumPy's arrays, which is given double precision."""
    return kernels_of("numpy")


def operands(shape, axes, dtype, offset=0):
    rng = np.random.default_rng(1)
    kept = tuple(1 if a in {b % len(shape) for b in axes} else n for a, n in enumerate(shape))
    room = rng.standard_normal(np.prod(shape) + offset).astype(as_dtype(dtype))
    x = room[offset:].reshape(shape)
    rest = [rng.standard_normal(size) for size in (shape, kept, kept, kept, kept)]
    g, scale, shift, to_mean, to_variance = (each.astype(as_dtype(dtype)) for each in rest)
    return x, g, [scale, shift], [to_mean, to_variance]


def check(found, expected, dtype):
    scale = max(1.0, float(np.abs(expected).max()))
    close = {"rtol": TOLERANCES[dtype], "atol": TOLERANCES[dtype] * scale}
    np.testing.assert_allclose(found.astype(float), expected, **close)
    assert found.dtype == as_dtype(dtype)


def doubled(arrays):
    return [each.astype(float) for each in arrays]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "not aligned"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_are_normalized_and_pulled_back(layout, dtype, offset, kernels, wide, host_runner):
    shape, axes = LAYOUTS[layout]
    x, g, affine, moving = operands(shape, axes, dtype, offset)
    how = {"axes": axes, "epsilon": 1e-3}
    for count in (0, 1, 2):
        own = affine[:count]
        expected = wide.batch_norm(*doubled((x, *own)), **how)
        pulled = wide.batch_norm_vjp(*doubled((g, *moving, x)), *expected[1:], *doubled(own), **how)

        found = kernels["batch_norm"](x, *own, **how)
        back = kernels["batch_norm_vjp"](g, *moving, x, *found[1:], *own, **how)

        for each, other in zip((*found, *back), (*expected, *pulled), strict=True):
            assert each.shape == other.shape
            check(each, other, dtype)
    again = ["channel_moments", "join_moments"] * (as_dtype(dtype).itemsize < 4)
    backwards = [*again, "channel_sums", "join_sums", "pull_channels"]
    forwards = ["channel_moments", "join_moments", "normalize_channels"]
    assert host_runner.launched == 3 * [*forwards, *backwards]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("layout", FEW)
def test_values_are_normalized_by_given_moments(layout, dtype, kernels, wide, host_runner):
    shape, axes = FEW[layout]
    x, g, affine, (mean, other) = operands(shape, axes, dtype)
    variance = other * other + as_dtype(dtype).type(0.5)
    for count in (0, 1, 2):
        given = (mean, variance, *affine[:count])
        expected = wide.normalize(*doubled((x, *given)), epsilon=0.01)
        pulled = wide.normalize_vjp(*doubled((g, x, *given)), epsilon=0.01)

        found = kernels["normalize"](x, *given, epsilon=0.01)
        back = kernels["normalize_vjp"](g, x, *given, epsilon=0.01)

        for each, exact in zip((found, *back), (expected, *pulled), strict=True):
            check(each, exact, dtype)
    moments = kernels["moments"](x, axes=axes)
    for each, exact in zip(moments, wide.moments(x.astype(float), axes=axes), strict=True):
        check(each, exact, dtype)
    assert "channel_factors" in host_runner.launched


@pytest.mark.parametrize("shape", [(6000, 3), (3, 6000)], ids=["last", "before an image"])
def test_a_mean_far_from_zero_costs_no_digits_of_the_variance(shape, kernels):
    rng = np.random.default_rng(2)
    axis = shape.index(6000)
    x = (1000 + rng.standard_normal(shape)).astype(np.float32)
    x[(0, slice(None))[axis], (slice(None), 0)[axis]] = 1100  # the first one is like no other

    mean, variance = kernels["moments"](x, axes=(axis,))

    np.testing.assert_allclose(mean, x.mean(axis, np.float64, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(variance, x.var(axis, np.float64, keepdims=True), rtol=1e-4)


def test_large_numbers_that_hardly_differ_have_a_variance(kernels):
    x = np.full((3000, 2), 1e25, np.float32)
    x[:, 1] *= np.where(np.arange(3000) % 2, 1, -1) * 1e-9

    mean, variance = kernels["moments"](x, axes=(0,))

    np.testing.assert_allclose(mean[0, 0], 1e25)
    assert variance[0, 0] == 0
    np.testing.assert_allclose(variance[0, 1], 1e32, rtol=1e-4)


def test_the_square_of_a_great_mean_is_not_asked_for(kernels):
    mean, variance = kernels["moments"](np.full((40, 2), 1e30, np.float32), axes=(0,))

    np.testing.assert_allclose(mean, 1e30, rtol=1e-6)
    np.testing.assert_array_equal(variance, 0)


def test_numbers_that_are_not_finite_stay_in_their_channel(kernels):
    x = np.ones((50, 4), np.float32)
    x[7, 1], x[9, 2] = np.nan, np.inf

    y, mean, variance = kernels["batch_norm"](x, axes=(0,), epsilon=1e-5)

    for each in (y, mean, variance):
        assert np.isfinite(each[:, [0, 3]]).all()
        assert np.isnan(each[:, 1]).all()
    assert not np.isfinite(variance[0, 2])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("shape", "axes", "across"),
    [((2, 7, 3, 4), (1, 3), (3, 4)), ((2, 3, 4, 5, 2), (2, 3, 4), (3, 4, 1, 1))],
    ids=["last", "before an image"],
)
def test_groups_are_normalized_where_channels_have_factors(
    shape, axes, across, dtype, kernels, wide, host_runner
):
    x, g, _, (mean, other) = operands(shape, axes, dtype)
    variance = other * other + as_dtype(dtype).type(0.5)
    rng = np.random.default_rng(7)
    affine = [rng.standard_normal(across).astype(as_dtype(dtype)) for _ in range(2)]
    for count in (1, 2):
        given = (mean, variance, *affine[:count])
        expected = wide.normalize(*doubled((x, *given)), epsilon=0.01)
        pulled = wide.normalize_vjp(*doubled((g, x, *given)), epsilon=0.01)

        found = kernels["normalize"](x, *given, epsilon=0.01)
        back = kernels["normalize_vjp"](g, x, *given, epsilon=0.01)

        if found is NotImplemented:  # of bfloat16, which the backend widens
            assert dtype == "bfloat16"
            return
        for each, exact in zip((found, *back), (expected, *pulled), strict=True):
            assert each.shape == exact.shape
            check(each, exact, dtype)
    own = ["normalize_channels", "channel_factors"]
    assert set(own) <= set(host_runner.launched) or dtype == "float16"


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 4, 5, 2, 2), (1, 3)),
        ((4, 3, 5, 2), (0, 2)),
        ((0, 4), (0,)),
        ((3, 4), ()),
        ((6, 15), (1,)),
    ],
    ids=["axes apart", "apart behind others", "nothing", "no axes", "few elements each"],
)
def test_what_no_kernel_takes_is_composed(shape, axes, kernels, host_runner):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    expected = kernels_of("numpy").moments(x, axes=axes)

    found = kernels["moments"](x, axes=axes)

    for each, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(each, other)
    assert not host_runner.launched


def test_integers_and_mixed_dtypes_are_composed(kernels, host_runner):
    x = np.arange(6.0).reshape(2, 3)
    scale = np.ones((1, 3), np.float32)

    y, *_ = kernels["batch_norm"](x, scale, axes=(0,), epsilon=0.0)

    np.testing.assert_allclose(y, [[-1] * 3, [1] * 3])
    assert not host_runner.launched

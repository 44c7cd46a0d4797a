"""Compiled depthwise convolution and its adjoints: any stride, padding, dilation and rank."""

import numpy as np
import pytest

from distgrad.windows import Geometry, counts
from distgrad_numpy import convolution, threads
from distgrad_numpy.compiled import depthwise

pytestmark = pytest.mark.needs_compiler

# The input's spatial lengths, the window, stride, padding and dilation.
GEOMETRIES = {
    "same": ((9, 11), (3, 3), (1, 1), ((1, 1),) * 2, (1, 1)),
    "strided": ((9, 12), (3, 3), (2, 2), ((1, 1),) * 2, (1, 1)),
    "uneven": ((10, 13), (2, 5), (1, 3), ((0, 1), (3, 0)), (1, 1)),
    "dilated": ((15, 14), (3, 4), (1, 1), ((2, 2), (0, 6)), (2, 3)),
    "dilated and strided": ((15, 14), (3, 2), (2, 3), ((4, 1), (2, 2)), (3, 2)),
    "gaps": ((12, 11), (2, 2), (3, 4), ((0, 0),) * 2, (1, 1)),
    "much padding": ((4, 3), (3, 3), (1, 1), ((4, 5), (3, 6)), (1, 1)),
    "one axis": ((40,), (7,), (1,), ((3, 3),), (1,)),
    "three axes": ((5, 6, 7), (2, 3, 3), (1, 2, 1), ((0, 1), (1, 1), (2, 0)), (1, 1, 2)),
}
CHANNELS = [2, 7, 16, 33, 48, 100]


@pytest.fixture(autouse=True)
def _any_size(monkeypatch):
    monkeypatch.setattr(depthwise, "_FEW", 0)


def case(kind, channels, examples=3, dtype=np.float32):
    spatial, window, stride, padding, dilation = GEOMETRIES[kind]
    generator = np.random.default_rng(channels)
    x = generator.standard_normal((examples, *spatial, channels), dtype=dtype)
    w = generator.standard_normal((*window, 1, channels), dtype=dtype)
    shape = (examples, *counts(spatial, window, stride, padding, dilation), channels)
    y = generator.standard_normal(shape, dtype=dtype)
    return x, w, y, Geometry(stride, padding, dilation, channels)


def as_double(*arrays):
    return [each.astype(np.float64) for each in arrays]


def close(found, expected):
    rtol = 100 * np.finfo(found.dtype).eps
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol / 10 * np.abs(expected).max())


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", GEOMETRIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_all_three_are_those_of_the_own_kernels_in_double(kind, channels, dtype, without):
    x, w, y, geometry = case(kind, channels, dtype=dtype)
    stride, padding, dilation, groups = geometry
    spatial, window = x.shape[1:-1], w.shape[:-2]
    found = [np.full_like(each, np.nan) for each in (y, x, w)]

    assert depthwise.conv(x, w, found[0], geometry)
    assert depthwise.conv_transpose(y, w, found[1], geometry)
    assert depthwise.conv_kernel_vjp(x, y, found[2], geometry)

    xd, wd, yd = as_double(x, w, y)
    slide = (stride, padding, dilation, groups)
    close(found[0], without(lambda: convolution.conv(xd, wd, *slide)))
    close(found[1], without(lambda: convolution.conv_transpose(yd, wd, spatial, *slide)))
    close(found[2], without(lambda: convolution.conv_kernel_vjp(xd, yd, window, *slide)))


@pytest.mark.parametrize("kind", ["same", "strided"])
def test_the_number_of_threads_changes_no_bit(kind, monkeypatch):
    monkeypatch.setattr(depthwise, "_PIECE", 1 << 10)
    x, w, y, geometry = case(kind, 40)
    results = []
    for number in (1, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        found = [np.empty_like(each) for each in (y, x, w)]
        depthwise.conv(x, w, found[0], geometry)
        depthwise.conv_transpose(y, w, found[1], geometry)
        depthwise.conv_kernel_vjp(x, y, found[2], geometry)
        results.append(found)

    for one, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, three)


def test_a_nan_stays_in_its_channel_and_windows():
    x, w, y, geometry = case("same", 33)
    x[1, 4, 5, 20] = np.nan

    depthwise.conv(x, w, y, geometry)

    assert np.isnan(y[1, 3:6, 4:7, 20]).all()
    assert np.isnan(y).sum() == 9


def test_other_convolutions_are_left_to_others():
    x, w, y, geometry = case("same", 16)

    assert not depthwise.conv(x.astype(np.float64), w, y, geometry)
    assert not depthwise.conv(*(each.astype(np.float16) for each in (x, w, y)), geometry)
    assert not depthwise.conv(np.asfortranarray(x), w, y, geometry)
    assert not depthwise.conv(x, w, y, geometry._replace(groups=8))
    assert not depthwise.conv(x[:0], w, y[:0], geometry)
    two = np.concatenate([w, w], axis=-1), np.concatenate([y, y], axis=-1)
    assert not depthwise.conv(x, *two, geometry)

"""Convolutions of points with a stride are products of what their windows see."""

import numpy as np
import pytest

from distgrad.windows import Geometry
from distgrad_numpy import convolution, onednn, pointwise, threads
from distgrad_numpy.compiled import library

GENERATOR = np.random.default_rng(6)
CASES = [  # spatial lengths, strides
    ((11,), (2,)),
    ((7, 9), (2, 1)),
    ((6, 8), (3, 2)),
    ((3, 4, 5), (2, 3, 4)),
]


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """The own kernels, by NumPy."""
    monkeypatch.setattr(onednn, "conv", lambda *_: False)
    monkeypatch.setattr(onednn, "conv_transpose", lambda *_: False)
    monkeypatch.setattr(onednn, "conv_kernel_vjp", lambda *_: False)
    before = library.switch(False)
    yield
    library.switch(before)


def arrays(lengths, strides, dtype):
    x = GENERATOR.normal(size=(3, *lengths, 5)).astype(dtype)
    w = GENERATOR.normal(size=((1,) * len(lengths) + (5, 4))).astype(dtype)
    seen = x[(slice(None), *(slice(None, None, step) for step in strides))]
    y = GENERATOR.normal(size=(*seen.shape[:-1], 4)).astype(dtype)
    how = (strides, ((0, 0),) * len(lengths), (1,) * len(lengths), 1)
    return x, w, y, seen, how


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("lengths", "strides"), CASES)
def test_results_are_those_of_the_positions_that_are_seen(lengths, strides, dtype):
    x, w, y, seen, how = arrays(lengths, strides, dtype)
    matrix = w.reshape(5, 4)
    close = {"rtol": 1e-5 if dtype == np.float32 else 1e-13, "atol": 1e-5}
    spread = np.zeros_like(x)
    spread[(slice(None), *(slice(None, None, step) for step in strides))] = y @ matrix.T

    np.testing.assert_allclose(convolution.conv(x, w, *how), seen @ matrix, **close)
    np.testing.assert_allclose(convolution.conv_transpose(y, w, lengths, *how), spread, **close)
    np.testing.assert_allclose(
        convolution.conv_kernel_vjp(x, y, w.shape[:-2], *how).reshape(5, 4),
        seen.reshape(-1, 5).T @ y.reshape(-1, 4),
        **close,
    )


@pytest.mark.parametrize(("lengths", "strides"), CASES)
def test_they_are_found_out(lengths, strides):
    x, w, y, _, how = arrays(lengths, strides, np.float32)
    geometry = Geometry(*how)

    assert pointwise.conv(x, w, y, geometry)
    assert pointwise.conv_transpose(y, w, x, geometry)
    assert pointwise.conv_kernel_vjp(x, y, w, geometry)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": (1, 1)},
        {"padding": ((0, 0), (1, 0))},
        {"groups": 5},
    ],
)
def test_others_are_left_to_other_kernels(change):
    x, w, y, _, how = arrays((6, 8), (3, 2), np.float32)
    geometry = Geometry(*how)._replace(**change)

    assert not pointwise.conv(x, w, y, geometry)
    assert not pointwise.conv_transpose(y, w, x, geometry)
    assert not pointwise.conv_kernel_vjp(x, y, w, geometry)


def test_halves_and_mixed_dtypes_are_left_to_other_kernels():
    x, w, y, _, how = arrays((6, 8), (3, 2), np.float32)

    assert not pointwise.conv(x.astype(np.float16), w, y, Geometry(*how))
    assert not pointwise.conv(*(each.astype(np.float16) for each in (x, w, y)), Geometry(*how))


@pytest.mark.parametrize("number", [2, 3])
def test_threads_share_the_rows(number, monkeypatch):
    x, w, y, _, how = arrays((30, 28), (2, 2), np.float32)
    alone = convolution.conv(x, w, *how), convolution.conv_transpose(y, w, (30, 28), *how)
    monkeypatch.setattr(threads, "available", lambda: number)
    monkeypatch.setattr(pointwise, "_FEWEST_ROWS", 7)

    np.testing.assert_allclose(convolution.conv(x, w, *how), alone[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        convolution.conv_transpose(y, w, (30, 28), *how), alone[1], rtol=1e-5, atol=1e-6
    )

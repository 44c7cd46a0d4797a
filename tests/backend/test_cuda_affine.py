"""Affine maps of the device on the host: bias and relu in place, by wide loads and without."""

import importlib.util

import numpy as np
import pytest

from distgrad.dtypes import as_dtype

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy import affine

TOLERANCES = {"float16": 4e-3, "bfloat16": 4e-2, "float32": 1e-5, "float64": 1e-13}


@pytest.fixture
def kernels(host_runner):
    host_runner.launched.clear()
    return affine.kernels(host_runner)


def operands(lead, width, dtype, offset=0):
    rng = np.random.default_rng(1)
    x, kernel = rng.standard_normal((*lead, 6)), rng.standard_normal((6, width))
    room = rng.standard_normal(width + offset).astype(as_dtype(dtype))
    return x.astype(as_dtype(dtype)), kernel.astype(as_dtype(dtype)), room[offset:]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("width", [1, 5, 8, 24, 300])
@pytest.mark.parametrize("lead", [(), (7,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "not aligned"])
def test_they_are_products_with_a_bias(lead, width, dtype, offset, kernels, host_runner):
    x, kernel, bias = operands(lead, width, dtype, offset)
    wide = x.astype(float) @ kernel.astype(float) + bias.astype(float)

    found, positive = kernels["linear"](x, kernel, bias), kernels["linear_relu"](x, kernel, bias)

    close = {"rtol": TOLERANCES[dtype], "atol": 4 * TOLERANCES[dtype]}
    np.testing.assert_allclose(found.astype(float), wide, **close)
    np.testing.assert_allclose(positive.astype(float), np.maximum(wide, 0), **close)
    assert found.dtype == positive.dtype == x.dtype
    assert host_runner.launched == ["add_bias"] * 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_a_bias_cancels_is_not_rounded_before(dtype, kernels):
    own = as_dtype(dtype)
    x, kernel = np.ones((3, 256), own), np.full((256, 8), 0.3, own)
    total = kernel.astype(float).sum(axis=0)
    bias = (-0.999 * total).astype(own)

    found = kernels["linear"](x, kernel, bias).astype(float)

    expected = total + bias.astype(float)
    np.testing.assert_allclose(found, np.broadcast_to(expected, (3, 8)), rtol=1e-2)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (6,), (2, 5)])
def test_a_bias_of_another_shape_is_refused(shape, kernels, host_runner):
    x, kernel, _ = operands((7,), 5, "float32")

    with pytest.raises(ValueError, match="bias"):
        kernels["linear"](x, kernel, np.ones(shape, np.float32))
    assert host_runner.launched == []


def test_without_a_bias_only_relu_starts_a_kernel(kernels, host_runner):
    x, kernel, _ = operands((7,), 5, "float32")

    np.testing.assert_array_equal(kernels["linear"](x, kernel), x @ kernel)
    assert host_runner.launched == []
    np.testing.assert_array_equal(kernels["linear_relu"](x, kernel), np.maximum(x @ kernel, 0))
    assert host_runner.launched == ["add_bias"]


@pytest.mark.parametrize("width", [3, 4], ids=["alone", "wide"])
def test_relu_keeps_nan_and_infinity(width, kernels):
    x = np.array([[np.nan], [np.inf], [-np.inf], [-1.0], [0.0]], np.float32)

    found = kernels["linear_relu"](x, np.ones((1, width), np.float32))

    np.testing.assert_array_equal(found[:, 0], [np.nan, np.inf, 0, 0, 0])
    np.testing.assert_array_equal(found, np.repeat(found[:, :1], width, axis=1))


@pytest.mark.parametrize("shape", [(0, 6), (4, 0), (2, 0, 6), (2, 3, 0)])
def test_empty_operands_give_what_numpy_gives(shape, kernels):
    x, kernel = np.ones(shape, np.float32), np.ones((shape[-1], 5), np.float32)

    found = kernels["linear"](x, kernel, np.full(5, 2, np.float32))

    np.testing.assert_array_equal(found, x @ kernel + 2)


def test_other_dtypes_are_composed(kernels, host_runner):
    x, kernel, bias = operands((2, 3), 4, "float64")

    found = kernels["linear"](1j * x, kernel + 0j, bias + 0j)

    np.testing.assert_allclose(found, 1j * x @ kernel + bias, rtol=1e-12)
    assert host_runner.launched == []

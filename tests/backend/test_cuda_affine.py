"""Affine maps of the device on the host: bias and relu in place, masks and sums on the way back."""

import importlib.util
from math import prod

import numpy as np
import pytest

from distgrad.backends_in_force import kernels_of
from distgrad.core.op import Spec
from distgrad.dtypes import as_dtype
from distgrad.ops import VOCABULARY

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


# --- cotangents -----------------------------------------------------------------------------------


def by_rule(name, g, y, xs, needs):
    """Return the cotangents that the operation's own rule gives, computed in double precision."""
    wide = [each.astype(np.float64) for each in (g, y, *xs)]
    return VOCABULARY[name].vjp(kernels_of("numpy"), wide[0], wide[1], wide[2:], {}, needs)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("width", [1, 5, 32, 300])
@pytest.mark.parametrize("lead", [(1,), (7,), (2, 3), (1500,)])
@pytest.mark.parametrize("name", ["linear", "linear_relu"])
def test_cotangents_are_those_of_the_rule(name, lead, width, dtype, kernels, host_runner):
    x, kernel, bias = operands(lead, width, dtype)
    y = kernels[name](x, kernel, bias)
    if y.size > 3:
        y.flat[3] = np.nan  # is not above 0
    g = np.random.default_rng(3).standard_normal(y.shape).astype(y.dtype)
    host_runner.launched.clear()

    found = affine.pullbacks(host_runner)[name](g, y, (x, kernel, bias), {}, (1, 1, 1))

    expected = by_rule(name, g, y, (x, kernel, bias), (1, 1, 1))
    reach = 20 * TOLERANCES[dtype] * np.sqrt(prod(lead))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == y.dtype
        np.testing.assert_allclose(one.astype(float), other, rtol=TOLERANCES[dtype], atol=reach)
    parts = 1 if prod(lead) < 1500 or width == 1 else 2
    assert len(host_runner.launched) == parts


def test_sums_of_columns_in_many_parts_are_exact_where_numbers_are_whole(host_runner):
    g = np.arange(5000 * 40, dtype=np.float32).reshape(5000, 40) % 17
    y = np.arange(5000 * 40, dtype=np.float32).reshape(5000, 40) % 3 - 1

    _, _, sums = affine.pullbacks(host_runner)["linear_relu"](
        g, y, (None, None, None), {}, (0, 0, 1)
    )

    np.testing.assert_array_equal(sums, np.where(y > 0, g, 0).sum(axis=0))
    assert host_runner.launched[-2:] == ["sum_columns", "join_columns"]


@pytest.mark.parametrize("needs", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1)])
@pytest.mark.parametrize("name", ["linear", "linear_relu"])
def test_what_nobody_needs_is_not_computed(name, needs, kernels, host_runner):
    x, kernel, bias = operands((7,), 5, "float32")
    xs = (x, kernel, bias)[: len(needs)]
    y = kernels[name](*xs)
    g = np.ones_like(y)

    found = affine.pullbacks(host_runner)[name](g, y, xs, {}, needs)

    expected = by_rule(name, g, y, xs, needs)
    assert [each is None for each in found[:2]] == [each is None for each in expected[:2]]
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lead", [(7,), (2, 3)])
@pytest.mark.parametrize("name", ["linear", "linear_relu"])
def test_maps_of_no_inputs_have_cotangents(name, lead, kernels, host_runner):
    x, kernel = np.ones((*lead, 0), np.float32), np.ones((0, 5), np.float32)
    bias = np.ones(5, np.float32)
    y = kernels[name](x, kernel, bias)

    found = affine.pullbacks(host_runner)[name](
        np.ones_like(y), y, (x, kernel, bias), {}, (1, 1, 1)
    )

    assert [each.shape for each in found] == [x.shape, kernel.shape, bias.shape]
    np.testing.assert_array_equal(found[2], np.full(5, prod(lead)))


def test_the_rule_computes_what_the_kernels_do_not_take(host_runner):
    x, kernel, bias = operands((7,), 5, "float32")
    g = y = np.ones((7, 5), np.float32)
    pull = affine.pullbacks(host_runner)["linear_relu"]
    spec = Spec((7, 6), np.dtype(np.float32))

    assert pull(g, y, (spec, kernel, bias), {}, (1, 1, 1)) is None  # not kept, or elsewhere
    assert pull(g, spec, (x, kernel, bias), {}, (1, 1, 1)) is None
    assert pull(g.astype(np.float64), y, (x, kernel, bias), {}, (1, 1, 1)) is None
    assert pull(g[0], y[0], (x[0], kernel, bias), {}, (1, 1, 1)) is None
    assert pull(g[:0], y[:0], (x[:0], kernel, bias), {}, (1, 1, 1)) is None
    assert pull(g.astype("c8"), y.astype("c8"), (x, kernel, bias), {}, (1, 1, 1)) is None

"""Attention's CUDA kernels on the host: every mask, in blocks of any size, against NumPy's."""

import importlib.util

import numpy as np
import pytest

from distgrad.backend import ArrayModuleBackend
from distgrad.backends_in_force import kernels_of
from distgrad.testing import rules
from distgrad.testing.samples import samples

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy import attention
from distgrad_cupy.cuda_kernels import cuda_kernels

TOLERANCES = {"float16": 4e-3, "float32": 2e-5, "float64": 1e-12}


@pytest.fixture(scope="module")
def host(host_runner):
    """A backend over NumPy with the kernels of the device, run on the host."""
    return ArrayModuleBackend("host", np, cuda_kernels(host_runner))


@pytest.fixture(params=[200, 1500, 1 << 26], ids=["rows", "some rows", "all"])
def block_bytes(request, monkeypatch):
    """How many bytes of scores a block has."""
    monkeypatch.setattr(attention, "_BLOCK_BYTES", request.param)
    monkeypatch.setattr(attention, "_FEWEST_ROWS", 2)
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sample", [*samples("attention"), *samples("attention_vjp")], ids=str)
def test_blocks_of_any_size_give_what_numpy_gives(sample, dtype, host, block_bytes):
    rules.check_agreement(sample.cast(np.dtype(dtype)), host)


# Of all scores, for heads, for examples, for queries, for keys, and one for all.
MASKS = [(2, 3, 7, 9), (1, 3, 7, 9), (2, 1, 1, 9), (1, 1, 7, 1), (1, 1, 1, 9), (1, 1, 1, 1)]
CASES = [(None, False), *((shape, added) for shape in MASKS for added in (False, True))]


@pytest.mark.parametrize("offset", [None, 0, 2, -3])
@pytest.mark.parametrize(("shape", "added"), CASES, ids=str)
def test_masks_of_any_shape_act_as_on_the_host(shape, added, offset, host, block_bytes):
    rng = np.random.default_rng(5)
    sizes = ((2, 3, 7, 4), (2, 3, 9, 4), (2, 3, 9, 5))
    operands = [rng.standard_normal(size) for size in sizes]
    if shape is not None:
        operands.append(rng.standard_normal(shape) if added else rng.random(shape) < 0.6)
    how = {"scale": 0.6, "offset": offset}
    numbers = kernels_of("numpy")
    outputs = numbers.attention(*operands, **how)
    cotangents = [rng.standard_normal(each.shape) for each in outputs]
    expected = [*outputs, *numbers.attention_vjp(*operands, *outputs, *cotangents, **how)]

    for dtype, tolerance in TOLERANCES.items():
        given = [x if x.dtype == np.bool_ else x.astype(dtype) for x in operands]
        own = host.kernel("attention")(*given, **how)
        pulled = [each.astype(dtype) for each in cotangents]
        found = [*own, *host.kernel("attention_vjp")(*given, *own, *pulled, **how)]

        for one, other in zip(found, expected, strict=True):
            assert one.dtype == (np.bool_ if other.dtype == np.bool_ else dtype)
            if one.dtype != np.bool_:
                np.testing.assert_allclose(
                    one.astype(np.float64), other, rtol=tolerance, atol=tolerance * 5
                )


def test_keys_after_a_causal_block_are_not_looked_at(host, host_runner, monkeypatch):
    monkeypatch.setattr(attention, "_FEWEST_ROWS", 4)
    seen = []
    launch = host_runner.launch
    monkeypatch.setattr(
        host_runner, "launch", lambda *args: (seen.append(args[-1][0].shape), launch(*args))
    )
    x = np.random.default_rng(1).standard_normal((2, 32, 3))

    host.kernel("attention")(x, x, x, scale=1.0, offset=0)

    assert seen == [(2, 4, 4 * (n + 1)) for n in range(8)]


def test_large_scores_do_not_overflow(host):
    query = np.full((1, 3, 2), 90.0, np.float32)
    key = np.array([[[90.0, 90], [-90, -90], [90, 90]]], np.float32)

    output, sums = host.kernel("attention")(query, key, key, scale=1.0, offset=None)

    np.testing.assert_allclose(output, np.full((1, 3, 2), 90.0))
    np.testing.assert_allclose(sums, np.full((1, 3), 16200 + np.log(2)), rtol=1e-6)


def test_scores_of_half_precision_are_not_rounded_to_it(host):
    query = np.array([[[64.0, 1.0]]], np.float16)
    key = np.array([[[64.0, 0.0], [64.0, 1.0]]], np.float16)  # 4096 and 4097: one in half precision
    value = np.array([[[0.0], [1.0]]], np.float16)

    output, _ = host.kernel("attention")(query, key, value, scale=1.0, offset=None)

    np.testing.assert_allclose(output.astype(float), [[[1 / (1 + np.exp(-1))]]], rtol=1e-3)


@pytest.mark.parametrize("lead", [(2, 1, 3, 2), (1, 2, 1, 2, 1)])
def test_more_axes_than_the_kernel_tells_apart_are_composed(lead, host, host_runner):
    x = np.random.default_rng(4).standard_normal((*lead, 4, 3))
    mask = np.random.default_rng(5).random((*lead, 4, 4)) < 0.7
    before = len(host_runner.launched)

    found, _ = host.kernel("attention")(x, x, x, mask, scale=1.0, offset=0)

    expected, _ = kernels_of("numpy").attention(x, x, x, mask, scale=1.0, offset=0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert ("attention_weights" in host_runner.launched[before:]) == (len(lead) <= 4)


# Held in registers by a warp, by more, by all threads of the largest block, and too many for it.
@pytest.mark.parametrize("keys", [33, 129, 1025, 8192, 8193])
def test_rows_of_any_number_of_keys_are_normalized(keys, host):
    rng = np.random.default_rng(6)
    query, key, value = (rng.standard_normal((1, n, 2)) for n in (2, keys, keys))
    mask = rng.random((1, 2, keys)) < 0.7
    how = {"scale": 1.5, "offset": keys - 2}
    numbers = kernels_of("numpy")
    expected = numbers.attention(query, key, value, mask, **how)
    pulled = [np.ones_like(each) for each in expected]

    found = host.kernel("attention")(query, key, value, mask, **how)
    back = host.kernel("attention_vjp")(query, key, value, mask, *found, *pulled, **how)

    right = numbers.attention_vjp(query, key, value, mask, *expected, *pulled, **how)
    for one, other in zip((*found, *back[:3]), (*expected, *right[:3]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)

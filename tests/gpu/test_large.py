"""Convolutions, attention, batch norm and sums into rows at sizes that samples do not have."""

import importlib.util

import numpy as np
import pytest

import distgrad as dg
from distgrad.dtypes import as_dtype
from distgrad_cupy import attention, convolution, segments

HAS_BFLOAT16 = importlib.util.find_spec("ml_dtypes") is not None
DTYPES = ["float32", "float64", "float16", *["bfloat16"] * HAS_BFLOAT16]

GEOMETRIES = {
    "plain": ((2, 19, 17, 24), (3, 3, 24, 40), {"padding": 1}),
    "strided": ((2, 19, 17, 24), (3, 3, 24, 40), {"padding": "same", "stride": 2}),
    "dilated": ((2, 19, 17, 24), (3, 3, 24, 40), {"dilation": (2, 3)}),
    "groups of many": ((2, 9, 11, 64), (3, 3, 32, 64), {"padding": 1, "groups": 2}),
    "groups of few": ((2, 9, 11, 64), (3, 3, 2, 128), {"padding": 1, "groups": 32}),
    "depthwise": ((2, 19, 17, 96), (5, 5, 1, 96), {"padding": 2, "groups": 96, "stride": (2, 1)}),
    "line": ((3, 301, 8), (7, 8, 16), {"stride": 3, "padding": 3}),
    "space": ((2, 7, 9, 8, 6), (3, 2, 3, 6, 10), {"padding": 1, "stride": (1, 2, 2)}),
}


def gradients(f, operands, backend):
    """Return the value of a function and the gradients of its operands, on a backend."""
    given = [dg.asarray(each, backend=backend) for each in operands]
    with dg.GradientTape() as tape:
        tape.watch(given)
        y = f(*given)
        weighed = dg.sum(dg.sin(y))
    return [each.numpy().astype(np.float64) for each in (y, *tape.gradient(weighed, given))]


def assert_as_on_the_host(f, operands, dtype, backend):
    tolerance = {"float64": 1e-10, "float32": 3e-4, "float16": 2e-2, "bfloat16": 1e-1}[dtype]
    own = as_dtype(dtype)
    found = gradients(f, [each.astype(own) for each in operands], backend)
    # Half precision is compared with what single precision makes of the same rounded numbers.
    wide = "float32" if own.itemsize == 2 else dtype
    expected = gradients(f, [each.astype(own).astype(wide) for each in operands], "numpy")

    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * max(np.abs(other).max(), 1))


@pytest.mark.parametrize("chunk", [1 << 14, 1 << 27], ids=["many chunks", "one chunk"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("x", "w", "how"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_convolutions_are_those_of_the_cpu(x, w, how, dtype, chunk, cupy_backend, monkeypatch):
    monkeypatch.setattr(convolution, "_CHUNK_BYTES", chunk)
    rng = np.random.default_rng(0)
    operands = rng.standard_normal(x), 0.05 * rng.standard_normal(w)

    assert_as_on_the_host(lambda x, w: dg.nn.conv(x, w, **how), operands, dtype, cupy_backend)


@pytest.mark.parametrize("block", [1 << 16, 1 << 26], ids=["many blocks", "few blocks"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", ["none", "causal", "seen", "added", "of heads"])
def test_attention_is_that_of_the_cpu(mask, dtype, block, cupy_backend, monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK_BYTES", block)
    rng = np.random.default_rng(1)
    operands = [rng.standard_normal(s) for s in ((2, 4, 129, 24), (2, 2, 200, 24), (2, 2, 200, 40))]
    how = {"causal": mask == "causal", "query_offset": 30 if mask == "causal" else 0}
    if mask == "added":
        operands.append(rng.standard_normal((1, 1, 129, 200)))
    seen = {"seen": rng.random((129, 200)) < 0.5, "of heads": rng.random((4, 1, 200)) < 0.5}

    def f(query, key, value, *added):
        # Each head of keys serves two of queries.
        key, value = (dg.repeat(each, 2, axis=1) for each in (key, value))
        given = added[0] if added else seen.get(mask)
        given = given if given is None or added else dg.asarray(given, backend=query.backend)
        return dg.nn.scaled_dot_product_attention(query, key, value, mask=given, **how)

    assert_as_on_the_host(f, operands, dtype, cupy_backend)


CHANNELS = {
    "last": ((4000, 24), 1),
    "last, many": ((70, 2100), 1),
    "before an image": ((6, 5, 33, 31), 1),
    "before a wide image": ((3, 8, 16, 128), 1),
    "few, last": ((50, 40, 3), 2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), CHANNELS.values(), ids=CHANNELS)
def test_batches_are_normalized_as_by_the_cpu(shape, axis, dtype, cupy_backend):
    rng = np.random.default_rng(4)
    scale, shift = rng.standard_normal((2, shape[axis]))
    operands = 3 + 2 * rng.standard_normal(shape), scale, shift

    def f(x, scale, shift):
        y, mean, variance = dg.nn.batch_norm(x, scale, shift, axis=axis)
        return y + 0.01 * dg.mean(mean * variance)

    assert_as_on_the_host(f, operands, dtype, cupy_backend)


@pytest.mark.parametrize("counted", [0, 1 << 14], ids=["sorted", "counted"])
def test_gradients_of_rows_are_the_same_bits_each_time(counted, cupy_backend, monkeypatch):
    monkeypatch.setattr(segments, "_COUNTED", counted)
    rng = np.random.default_rng(2)
    table = dg.asarray(rng.standard_normal((50, 64)).astype(np.float32), backend="cupy")
    places = dg.asarray(rng.integers(0, 50, 9000), backend="cupy")
    scale = dg.asarray(rng.standard_normal((9000, 64)).astype(np.float32), backend="cupy")

    def gradient():
        with dg.GradientTape() as tape:
            tape.watch(table)
            y = dg.sum(dg.take(table, places, axis=0) * scale)
        found = tape.gradient(y, table)
        return (found.to_dense() if hasattr(found, "to_dense") else found).numpy()

    first = gradient()

    for _ in range(5):
        np.testing.assert_array_equal(gradient(), first)
    expected = np.zeros((50, 64))
    np.add.at(expected, places.numpy(), scale.numpy().astype(np.float64))
    np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-4)


def test_rows_are_added_to_variables_in_place(cupy_backend):
    rng = np.random.default_rng(3)
    host = rng.standard_normal((20, 5)).astype(np.float32)
    places, rows = rng.integers(-20, 20, 300), rng.standard_normal((300, 5)).astype(np.float32)
    array = cupy_backend.asarray(host)

    result = cupy_backend.add_rows(array, cupy_backend.asarray(places), cupy_backend.asarray(rows))

    assert result is array
    np.add.at(host, places, rows)
    np.testing.assert_allclose(cupy_backend.to_host(array), host, rtol=1e-4, atol=1e-4)

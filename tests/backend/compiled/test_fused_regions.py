"""Kernels of regions of traced functions: vector functions, layouts, and what is without them."""

import os
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import CacheError
from distgrad_numpy.compiled import compiler, crew, library
from distgrad_numpy.compiled import vector_functions as functions

SHAPE = (64, 127)

DTYPES = ("float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_logarithms_of_sums_are_vector_code(dtype):
    x = np.resize(np.array([0.5, np.inf, -np.inf, np.nan, 3.0, -700.0]), SHAPE).astype(dtype)
    y = np.resize(np.array([0.5, 1.0, np.inf, -np.inf, -np.inf]), SHAPE).astype(dtype)
    f = dg.function(lambda x, y: dg.logaddexp(x, y) * 2.0)

    found = f(dg.asarray(x), dg.asarray(y)).numpy()

    with np.errstate(invalid="ignore"):
        expected = np.logaddexp(x, y) * 2.0
    assert f.explain().traces[0].fused
    np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(dtype).eps)


def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch):
    x = dg.asarray(np.random.default_rng(2).uniform(-3, 3, (700, 701)).astype(np.float32))
    row = dg.asarray(np.random.default_rng(3).uniform(-3, 3, 701).astype(np.float32))

    @dg.function
    def f(x, row):
        y = dg.sin(x * row) + dg.exp(x) * row
        return y, dg.sum(y)

    f(x, row)
    found, sums = [], []
    for workers in (1, 2, 3):
        monkeypatch.setattr(crew.threads, "for_kernels", lambda workers=workers: workers)
        y, total = f(x, row)
        found.append(y.numpy())
        sums.append(total.item())

    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert len(set(sums)) == 1
    expected = np.sin(x.numpy() * row.numpy()) + np.exp(x.numpy()) * row.numpy()
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [4096, 5003, 65_536, 200_001])
def test_sums_are_as_exact_as_sums_in_double_precision(size, dtype):
    x = np.random.default_rng(5).uniform(0.0, 1.0, size).astype(dtype)
    f = dg.function(lambda x: (dg.sum(x * 1.5), dg.mean(x * 1.5)))

    total, mean = f(x)

    exact = np.sum(x.astype(np.longdouble) * 1.5)
    bound = 2 * np.finfo(dtype).eps
    assert abs(total.item() - exact) <= bound * exact
    assert abs(mean.item() - exact / size) <= bound * exact / size
    assert total.dtype == mean.dtype == dtype


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 130, 8191])
def test_sums_have_what_is_not_finite(place, bad):
    x = np.ones(8192, np.float32)
    x[place] = bad
    f = dg.function(lambda x: dg.sum(x * 2.0))

    np.testing.assert_equal(f(x).item(), bad)
    assert f(np.full(8192, 1e38, np.float32)).item() == np.inf  # of single precision, as NumPy's


def test_regions_that_do_not_compile_are_computed_one_by_one(monkeypatch):
    state = library._State()
    state.libraries.update(library._state.libraries)
    monkeypatch.setattr(library, "_state", state)
    monkeypatch.setattr(functions, "options", lambda: ("-l:no-such-library.so",))
    x = dg.asarray(np.random.default_rng(4).uniform(0.1, 1, SHAPE).astype(np.float32))
    f = dg.function(lambda x: dg.exp(x) * 3.0 - dg.log(x))

    with pytest.warns(library.CompilerWarning, match="no-such-library"):
        found = f(x)

    np.testing.assert_allclose(found.numpy(), np.exp(x.numpy()) * 3 - np.log(x.numpy()), rtol=1e-5)
    assert f.explain().traces[0].fused == ()
    assert library.is_on()  # for all others


def test_equal_regions_have_one_kernel(monkeypatch):
    texts = []
    from_source = library.from_source

    def noted(name, text, **options):
        texts.append(text)
        return from_source(name, text, **options)

    monkeypatch.setattr(library, "from_source", noted)

    def steps(x):
        for _ in range(8):
            x = dg.sin(x) * 1.5 - dg.max(x, axis=0)
        return x

    f = dg.function(steps)
    x = dg.asarray(np.random.default_rng(6).uniform(-1, 1, SHAPE).astype(np.float32))

    np.testing.assert_allclose(f(x).numpy(), steps(x).numpy(), rtol=1e-3, atol=1e-4)
    assert len(f.explain().traces[0].fused) == 7  # each but the first begins after a maximum
    assert texts[0].count("KERNEL void") == 2


def test_without_compiled_kernels_nothing_is_fused():
    before = library.switch(False)
    try:
        f = dg.function(lambda x: dg.exp(x) * 3.0)
        f(dg.asarray(np.ones(SHAPE)))
        assert f.explain().traces[0].fused == ()
    finally:
        library.switch(before)


def test_functions_that_nobody_calls_any_more_leave_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "cache_folder", lambda name: tmp_path)
    old, young, other = (tmp_path / name for name in ("fused-a.so", "fused-b.so", "sums-a.so"))
    for path in (old, young, other):
        path.touch()
    long_ago = time.time() - 100 * 86400
    os.utime(old, (long_ago, long_ago))
    os.utime(other, (long_ago, long_ago))

    compiler.library("one", 'extern "C" int one() { return 1; }', library.SOURCES, False)

    assert not old.exists()
    assert young.exists()
    assert other.exists()


def test_a_cache_that_cannot_be_used_is_told_of_once(monkeypatch):
    state = library._State()
    state.libraries.update(library._state.libraries)
    monkeypatch.setattr(library, "_state", state)

    def refuse(name):
        raise CacheError("the cache is somebody else's")

    monkeypatch.setattr(compiler, "cache_folder", refuse)
    x = dg.asarray(np.ones(SHAPE, np.float32))

    with pytest.warns(library.CompilerWarning, match="somebody else's"):
        dg.function(lambda x: dg.exp(x) * 3.25 - x)(x)

    dg.function(lambda x: dg.exp(x) * 4.25 - x)(x)  # a second warning would be an error

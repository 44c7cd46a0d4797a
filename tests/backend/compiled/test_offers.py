"""Compiled kernels give what the own ones give, to the same bit on any number of threads."""

import numpy as np
import pytest

from distgrad.testing import rules
from distgrad.testing.samples import samples
from distgrad_numpy import normalization, pooling, softmaxes, threads
from distgrad_numpy.compiled import columns, kernels, library, offers, rows
from distgrad_numpy.compiled import pooling as windows

pytestmark = pytest.mark.needs_compiler

OWN = {**softmaxes.KERNELS, **normalization.KERNELS, **pooling.KERNELS}
MINE = {**rows.OFFERS, **columns.OFFERS, **windows.OFFERS}
DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]
SAMPLES = [sample.cast(each) for name in MINE for sample in samples(name) for each in DTYPES]


@pytest.fixture
def any_size(monkeypatch):
    monkeypatch.setattr(offers, "_FEW", 0)
    for name, least in (("_SMALL", 0), ("_FEW", 1), ("_LINE", 8)):
        monkeypatch.setattr(columns, name, least)


def each_of(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_a_sample_gives_what_the_own_kernel_gives(sample, any_size, without):
    found = rules.call(sample).output

    expected = without(lambda: rules.call(sample).output)
    for mine, own in zip(each_of(found), each_of(expected), strict=True):
        assert mine.dtype == own.dtype
        rules.assert_close(mine, own, str(sample))


GENERATOR = np.random.default_rng(5)
LABELS = GENERATOR.integers(0, 777, (41, 3))
COLUMN = (1, 1, 1, 21)
POOLED = {"window": (3, 2), "stride": (2, 2), "padding": ((1, 1), (0, 1))}
SPREAD = {**POOLED, "shape": (131, 120)}
LARGE = {
    "softmax": ([(41, 3, 777)], {"axis": 2}),
    "log_softmax": ([(41, 3, 777)], {"axis": -1}),
    "softmax_vjp": ([(41, 3, 777)] * 2, {"axis": 2}),
    "label_cross_entropy": ([(41, 3, 777), LABELS], {}),
    "label_cross_entropy_vjp": ([(41, 3), (41, 3, 777), LABELS], {}),
    "layer_norm": ([(41, 3, 777), (777,), (777,)], {"epsilon": 1e-5}),
    "layer_norm_vjp": ([(41, 3, 777), (41, 3, 777), (777,), (777,)], {"epsilon": 1e-5}),
    "rms_norm": ([(41, 3, 777), (777,)], {"epsilon": 1e-5}),
    "rms_norm_vjp": ([(41, 3, 777), (41, 3, 777), (777,)], {"epsilon": 1e-5}),
    "moments": ([(5, 67, 61, 21)], {"axes": (0, 1, 2)}),
    "normalize": ([(5, 67, 61, 21), COLUMN, COLUMN, COLUMN, COLUMN], {"epsilon": 1e-5}),
    "normalize_vjp": (
        [(5, 67, 61, 21), (5, 67, 61, 21), COLUMN, COLUMN, COLUMN, COLUMN],
        {"epsilon": 1e-5},
    ),
    "batch_norm": ([(5, 67, 61, 21), COLUMN, COLUMN], {"axes": (0, 1, 2), "epsilon": 1e-5}),
    "batch_norm_vjp": (
        [(5, 67, 61, 21), COLUMN, COLUMN, (5, 67, 61, 21), COLUMN, COLUMN, COLUMN, COLUMN],
        {"axes": (0, 1, 2), "epsilon": 1e-5},
    ),
    "max_pool": ([(2, 131, 120, 21)], POOLED),
    "pool_places": ([(2, 131, 120, 21), (2, 66, 60, 21)], POOLED),
    "max_pool_vjp": ([(2, 66, 60, 21), (2, 66, 60, 21)], SPREAD),
    "avg_pool": ([(2, 131, 120, 21)], {**POOLED, "counted": ((0, 0), (0, 0))}),
    "avg_pool_vjp": ([(2, 66, 60, 21)], {**SPREAD, "counted": ((1, 1), (0, 1))}),
}


def large(name, dtype=np.float32):
    """Return operands of several pieces for each thread, and metadata."""
    given, params = LARGE[name]
    generator = np.random.default_rng(7)
    arrays = [
        each if isinstance(each, np.ndarray) else generator.standard_normal(each, dtype=dtype)
        for each in given
    ]
    if name.startswith("normalize"):
        place = 1 if name == "normalize" else 2
        arrays[place + 1] = np.abs(arrays[place + 1]) + dtype(0.5)
    if name == "batch_norm_vjp":
        x = arrays[3]
        arrays[4:6] = x.mean(params["axes"], keepdims=True), x.var(params["axes"], keepdims=True)
    if name == "pool_places":
        arrays[1] = pooling.max_pool(arrays[0], **params)
    if name == "max_pool_vjp":
        arrays[1] = generator.integers(2, 5, arrays[1].shape).astype(np.uint8)  # inside the image
    return arrays, params


def test_every_compiled_kernel_is_among_those_in_force():
    assert set(LARGE) == set(MINE) <= set(kernels.OFFERS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LARGE)
def test_large_arrays_are_taken_and_give_what_the_own_kernel_gives(name, dtype):
    arrays, params = large(name, dtype)

    found = MINE[name](*arrays, **params)

    expected = OWN[name](*arrays, **params)
    for mine, own in zip(each_of(found), each_of(expected), strict=True):
        assert mine.dtype == own.dtype
        units = (25 if dtype == np.float32 else 1000) * np.finfo(dtype).eps  # NumPy's sums, too
        np.testing.assert_allclose(mine, own, rtol=units, atol=units * np.abs(own).max())


@pytest.mark.parametrize("name", LARGE)
def test_the_number_of_threads_changes_no_bit(name, monkeypatch):
    monkeypatch.setattr(columns, "_PIECE", 1 << 14)
    arrays, params = large(name)
    results = []
    for number in (1, 2, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        results.append(each_of(MINE[name](*arrays, **params)))

    for one, two, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("name", LARGE)
def test_what_is_not_dense_or_not_real_is_left_to_the_own_kernel(name):
    arrays, params = large(name)
    place = 1 if name.startswith("label_cross_entropy_vjp") else 0
    whole = arrays[place]

    for other in (whole.astype(np.float16), np.asfortranarray(whole), whole[:0]):
        given = [*arrays[:place], other, *arrays[place + 1 :]]
        assert MINE[name](*given, **params) is None


@pytest.mark.parametrize("name", LARGE)
def test_without_a_compiler_nothing_is_offered(name, monkeypatch):
    state = library._State()
    state.failed = True
    monkeypatch.setattr(library, "_state", state)
    arrays, params = large(name)

    assert MINE[name](*arrays, **params) is None


@pytest.mark.parametrize("name", [name for name in LARGE if name.endswith("_vjp")])
def test_a_cotangent_that_is_one_number_is_taken(name):
    shapes, params = LARGE[name]
    arrays = [
        each if isinstance(each, np.ndarray) else np.ones(each, np.float32) for each in shapes
    ]
    if name == "max_pool_vjp":
        arrays[1] = np.zeros(arrays[1].shape, np.uint8)  # which of a window's places
    seen = np.broadcast_to(np.float32(0.25), arrays[0].shape)

    found = MINE[name](seen, *arrays[1:], **params)

    expected = MINE[name](seen.copy(), *arrays[1:], **params)
    assert expected is not None
    for mine, own in zip(each_of(found), each_of(expected), strict=True):
        assert np.array_equal(mine, own, equal_nan=True)

"""Compiled elementwise kernels give what NumPy's give, of every operation that has one."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.backends_in_force import kernels_of
from distgrad.ops import VOCABULARY
from distgrad.testing import rules
from distgrad.testing.inputs import values
from distgrad.testing.samples import samples
from distgrad_numpy import blocked, threads
from distgrad_numpy.backend import SLOW_IN_NUMPY
from distgrad_numpy.compiled import elementwise, library
from distgrad_numpy.compiled.vector_functions import available

pytestmark = pytest.mark.needs_compiler

KERNELS = kernels_of("numpy")
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3e38, -3e38, 1e-8, 89.0, -104.0]
NAMES = sorted((*blocked.KERNELS, *SLOW_IN_NUMPY))
SAMPLES = [
    sample.cast(np.dtype(dtype))
    for name in NAMES
    for sample in samples(name)
    for dtype in (np.float32, np.float64)
]


@pytest.fixture(autouse=True)
def _any_size(monkeypatch):
    monkeypatch.setattr(elementwise, "_FEW", 0)


@pytest.fixture
def asked(monkeypatch):
    """The names of the libraries that kernels were taken from."""
    names = []
    whole = library.from_source

    def from_source(name, *others, **options):
        names.append(name)
        return whole(name, *others, **options)

    monkeypatch.setattr(library, "from_source", from_source)
    return names


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_result_is_that_of_the_own_kernel(sample, without):
    found = rules.call(sample).output

    rules.assert_close(found, without(lambda: rules.call(sample).output), str(sample))


def operands_of(name, size):
    kinds = [np.asarray(each).dtype.kind for each in next(iter(samples(name))).operands]
    numbers = np.concatenate([values((size,), -9.0, 9.0).astype(np.float32), np.float32(SPECIAL)])
    return [
        np.roll(numbers, 5 * place) if kind == "f" else np.roll(numbers, place) > 0
        for place, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_large_arrays_with_infinities_and_nan_too(name, without):
    operands = operands_of(name, 200_001)
    params = next(iter(samples(name))).params
    kernel = getattr(KERNELS, name)

    wide = [o.astype(np.float64) if o.dtype == np.float32 else o for o in operands]

    with np.errstate(all="ignore"):
        found = kernel(*operands, **params)
        own, exact = without(lambda: (kernel(*operands, **params), kernel(*wide, **params)))
        exact = exact.astype(np.float32)

    finite = np.isfinite(exact) & np.isfinite(own)
    np.testing.assert_array_equal(found[~finite], own[~finite])
    error, own_error = (np.abs(each[finite] - exact[finite]).max() for each in (found, own))
    assert error <= max(2 * own_error, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_compiled(name):
    if name in ("cos", "erfc", "exp2", "hypot", "sin") and name not in available("float32"):
        pytest.skip("the C library of this machine has no vector code of it")
    kernel = elementwise.preferred({name: lambda *_, **__: pytest.fail("left to NumPy")})[name]
    with np.errstate(all="ignore"):
        result = kernel(*operands_of(name, 20), **next(iter(samples(name))).params)

    assert result.dtype == np.float32


def test_transposed_arrays_are_computed_as_they_lie():
    x = values((64, 32), -1.0, 1.0).astype(np.float32)

    y = KERNELS.gelu(x.T)

    assert y.flags.f_contiguous
    assert np.array_equal(y, KERNELS.gelu(x).T)


def test_other_arrays_are_left_to_numpy(asked):
    x = values((64, 64), -1.0, 1.0).astype(np.float32)

    KERNELS.gelu_vjp(x.T, x)
    KERNELS.gelu(x[::2])
    KERNELS.gelu(x.astype(np.float16))
    KERNELS.gelu(np.empty((0, 3), np.float32))
    KERNELS.gelu_vjp(x, np.ones((64, 1), np.float32))

    assert asked == []


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    x = values((1 << 18,), -9.0, 9.0).astype(np.float32)
    results = []
    for count in (1, 2):
        monkeypatch.setattr(threads, "available", lambda count=count: count)
        results.append(KERNELS.gelu(x))

    assert np.array_equal(*results)


@pytest.mark.parametrize("name", ["tanh", "exp", "sigmoid", "sqrt", "log"])
def test_large_cotangents_are_those_of_the_rule(name, without):
    x = values((70, 90), 0.5, 2.0).astype(np.float32)

    def step():
        with dg.GradientTape() as tape:
            source = dg.Variable(x)
            y = getattr(dg, name, None) or getattr(dg.nn, name)
            y = y(source)
        return tape.gradient(y, source).numpy()

    rules.assert_close(step(), without(step), name)


def test_the_cotangent_of_a_sum_is_pulled_back_in_one_pass():
    y = values((70, 90), 0.1, 0.9).astype(np.float32)
    seen = np.broadcast_to(np.float32(0.5), y.shape)
    pullback, op = KERNELS.backend.pullback, VOCABULARY["sigmoid"]

    (found,) = pullback(op, seen, y, None, {}, (1,))

    (expected,) = op.vjp(KERNELS, seen, y, None, {}, (1,))
    rules.assert_close(found, expected, "sigmoid")
    assert pullback(op, seen[::2], y[::2], None, {}, (1,)) is None  # the rule computes it


def test_residuals_on_disk_are_read_by_the_rule(tmp_path):
    x = dg.Variable(values((70, 90), -1.0, 1.0).astype(np.float32))
    with dg.GradientTape() as tape, dg.offload_to_disk(tmp_path, min_bytes=1):
        y = dg.tanh(x)

    found = tape.gradient(y, x).numpy()

    np.testing.assert_allclose(found, 1 - np.tanh(x.numpy()) ** 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "operands",
    [
        lambda mask, x: (mask, x, 0),
        lambda mask, x: (mask, 2.5, x),
        lambda mask, x: (mask, -np.inf, x),
        lambda mask, x: (mask, x, x * 2),
        lambda mask, x: (mask, np.broadcast_to(x[0, 0], x.shape), 0),
        lambda mask, x: (mask, np.broadcast_to(x[0, 0], x.shape), x),
        lambda mask, x: (mask.T, x.T, 0),
        lambda mask, x: (mask, x[0], x),
        lambda mask, x: (np.broadcast_to(mask[0, 0], mask.shape), x, 0),
        lambda mask, x: (mask, np.float32(2), x),
    ],
)
def test_choices_with_numbers_and_what_is_seen_as_many(operands, dtype):
    x = values((60, 90), -2.0, 2.0).astype(dtype)
    x[0, :4] = [-0.0, np.nan, np.inf, 0.0]
    given = operands(x > 0.3, x)

    found = KERNELS.where(*given)

    expected = np.where(*given)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(expected))


def test_choices_of_other_numbers_are_left_to_numpy():
    mask = np.arange(6000) % 3 == 0

    assert KERNELS.where(mask, 1, 0).dtype == np.where(mask, 1, 0).dtype
    assert np.array_equal(
        KERNELS.where(mask, np.arange(6000), -1), np.where(mask, np.arange(6000), -1)
    )
    assert KERNELS.where(mask, 1.5, True).dtype == np.where(mask, 1.5, True).dtype

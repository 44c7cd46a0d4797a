"""Running sums and products by compiled kernels: NumPy's to the bit; what passes back, too."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.backends_in_force import kernels_of
from distgrad_numpy import threads
from distgrad_numpy.compiled import crew, running

pytestmark = pytest.mark.needs_compiler

KERNELS = kernels_of("numpy")
DTYPES = ("float32", "float64")
RUNNING = ("cumulative_sum", "cumulative_prod")
# Whole groups of lines and parts of them, side by side and one behind the other.
SHAPES = [(1,), (300,), (40, 7), (9, 1), (1, 9), (3, 17, 1), (7, 13, 64), (5, 3, 75), (2, 130, 9)]
LAYOUTS = {
    "plain": lambda x, axis: x,
    "turned": np.flip,
    "turned elsewhere": lambda x, axis: np.flip(x, (axis - 1) % x.ndim),
    "by columns": lambda x, axis: np.asfortranarray(x),
    "with gaps": lambda x, axis: np.repeat(x, 2, axis=-1)[..., ::2],
}


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(running, "_FEW", 1)


def drawn(shape, dtype):
    x = np.random.default_rng(shape).uniform(-1.5, 1.5, shape).astype(dtype)
    x.flat[5::17] = 0
    return x


def axes_of(shape):
    return range(-len(shape), len(shape))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", RUNNING)
def test_results_are_those_of_numpy(name, shape, dtype, layout, without):
    kernel = getattr(KERNELS, name)
    for axis in axes_of(shape):
        x = LAYOUTS[layout](drawn(shape, dtype), axis)

        found = kernel(x, axis=axis)

        expected = without(lambda x=x, axis=axis: kernel(x, axis=axis))
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("step", [1, -1])
def test_one_number_seen_as_many_is_taken_as_the_cotangent_of_a_sum_is(step):
    ones = np.broadcast_to(np.float64(0.5), (40, 60))[:, ::step]

    found = running.cumulative_sum(ones, axis=1)

    np.testing.assert_array_equal(found, np.tile(np.arange(1, 61) / 2, (40, 1)))


@pytest.mark.parametrize("name", RUNNING)
def test_what_is_not_finite_goes_on_along_its_line(name):
    x = np.ones((20, 60), np.float32)
    x[3, 10], x[4, 20] = np.nan, np.inf

    found = getattr(KERNELS, name)(x, axis=1)

    assert np.isnan(found[3, 10:]).all()
    assert np.isinf(found[4, 20:]).all()
    assert np.isfinite(np.delete(found, [3, 4], axis=0)).all()


@pytest.mark.parametrize("name", [*RUNNING, "prod"])
def test_other_arrays_are_left_to_numpy(name):
    offer = running.OFFERS[name]

    assert offer(np.ones((30, 40), np.float16), axis=1) is None
    assert offer(np.ones((30, 40), int), axis=1) is None
    assert offer(np.ones((30, 40), complex), axis=1) is None
    assert offer(np.ones((30, 0)), axis=1) is None
    assert offer(np.ones((30, 40)).T, axis=1) is None
    assert offer(np.float64(3.0), axis=None) is None


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 255), (3, 256), (2, 1000)], ids=str)
def test_products_are_those_of_numpy(shape, dtype, keepdims, without):
    x = drawn(shape, dtype) * 0.1 + 1
    for axis in (-1, len(shape) - 1, None, tuple(range(len(shape)))):
        found = KERNELS.prod(x, axis=axis, keepdims=keepdims)

        with np.errstate(all="ignore"):
            expected = without(lambda axis=axis: KERNELS.prod(x, axis=axis, keepdims=keepdims))
        assert np.shape(found) == np.shape(expected)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=2 * x.size * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_passes_back_through_running_products_is_what_the_rule_says(shape, dtype, without):
    x, g = dg.asarray(drawn(shape, dtype)), drawn(shape, dtype) + 0.5
    rule = dg.ops.VOCABULARY["cumulative_prod"].vjp
    for axis in axes_of(shape):
        (found,) = running.cumulative_prod_pullback(g, None, (x.array,), {"axis": axis}, (True,))

        (expected,) = without(
            lambda axis=axis: rule(KERNELS, g, None, (x.array,), {"axis": axis}, (True,))
        )
        scale = 50 * np.finfo(dtype).eps * max(1, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=scale)


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_gradients_of_products_are_exact_at_zeros(zeros):
    x = np.full((60, 80), 1.5)
    x[:, :zeros] = 0
    t = dg.asarray(x)
    with dg.GradientTape(persistent=True) as tape:
        tape.watch(t)
        running_products = dg.sum(dg.cumulative_prod(t, axis=1))
        products = dg.sum(dg.prod(t * 1.01, axis=1))

    for target in (running_products, products):
        found = tape.gradient(target, t).numpy()
        assert np.isfinite(found).all()
        assert (found[:, 0] != 0).all() == (zeros < 2 or target is running_products)


@pytest.mark.parametrize("workers", [2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(workers, monkeypatch):
    monkeypatch.setattr(running, "_SHARED", 1)
    x = drawn((203, 70, 3), "float32")
    given = [(x, 1), (x.reshape(203, 210), 1), (x, 0)]
    once = [KERNELS.cumulative_sum(each, axis=axis) for each, axis in given]
    alone = KERNELS.prod(x, axis=-1)
    monkeypatch.setattr(threads, "for_kernels", lambda: workers)
    assert crew.workers() == workers

    shared = [KERNELS.cumulative_sum(each, axis=axis) for each, axis in given]

    assert all(map(np.array_equal, once, shared))
    assert np.array_equal(alone, KERNELS.prod(x, axis=-1))

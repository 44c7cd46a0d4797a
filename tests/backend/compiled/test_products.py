"""Products of matrices by a compiled kernel: what BLAS gives up to rounding, and a bias added."""

import threading

import numpy as np
import pytest

import distgrad_numpy.products as kernels
from distgrad_numpy import affine, threads
from distgrad_numpy.compiled import products

pytestmark = pytest.mark.needs_compiler

# Of whole panels, of less than one, with rows left over from every group, of several blocks.
SHAPES = [(64, 256, 256), (67, 129, 250), (512, 300, 64), (245, 131, 61), (9, 1025, 127)]
LAYOUTS = ["plain", "left turned", "right turned", "both turned"]


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    """Let the kernel take products of any size, and of any number of columns."""
    for limit in ("_FEW", "_FEW_BUT_DEAR", "_LEAST_ROWS", "_NARROWEST", "_IN_USE"):
        monkeypatch.setattr(products, limit, 0)
    products._fills.cache_clear()
    if not products._fills(64):
        pytest.skip("vectors of this processor are short: BLAS multiplies")
    yield
    products._fills.cache_clear()


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def factors(shape, layout="plain"):
    rows, depth, columns = shape
    a, b = normal(rows, depth), normal(depth, columns)
    if layout in ("left turned", "both turned"):
        a = np.asfortranarray(a)
    if layout in ("right turned", "both turned"):
        b = np.asfortranarray(b)
    return a, b


def assert_near(result, a, b, bias=0.0):
    exact = a.astype(np.float64) @ b.astype(np.float64) + bias
    # The error of a sum of k rounded terms is at most k eps/2 of the sum of their magnitudes.
    bound = np.abs(a).astype(np.float64) @ np.abs(b) + np.abs(bias)
    assert (np.abs(result - exact) <= 2 * np.finfo(np.float32).eps * bound + 1e-30).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_blas(shape, layout):
    a, b = factors(shape, layout)
    bias = normal(shape[2], seed=1)

    assert_near(products.product(a, b), a, b)
    assert_near(products.product(a, b, bias), a, b, bias)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_less_than_0_becomes_0_and_nan_stays(shape, layout, with_bias):
    a, b = factors(shape, layout)
    a[3] = np.nan
    bias = normal(shape[2], seed=1) if with_bias else None

    found = products.product(a, b, bias, rectified=True)

    np.testing.assert_array_equal(found, np.maximum(products.product(a, b, bias), 0))
    assert np.isnan(found[3]).all()
    assert (found == 0).any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 17, 33])
def test_odd_lengths_are_whole(length, layout):
    for shape in ((length, 40, 40), (40, length, 40), (40, 40, length)):
        a, b = factors(shape, layout)

        assert_near(products.product(a, b), a, b)


def test_a_bias_is_added_to_the_rounded_product():
    a, b = factors((64, 300, 100))
    bias = normal(100, seed=2)

    np.testing.assert_array_equal(products.product(a, b, bias), products.product(a, b) + bias)


@pytest.mark.parametrize("layout", ["plain", "left turned"])
def test_a_row_does_not_depend_on_its_neighbours(layout):
    a, b = factors((250, 200, 150), layout)
    whole = products.product(a, b)

    for rows in (slice(0, 64), slice(3, 90), slice(101, 249)):
        some = a[rows].copy(order="F" if layout == "left turned" else "C")
        np.testing.assert_array_equal(products.product(some, b), whole[rows])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lengths", [(515, 200, 150), (70, 200, 630), (300, 150, 390)], ids=str)
def test_the_number_of_threads_changes_no_bit(lengths, layout, monkeypatch):
    monkeypatch.setattr(products, "_SHARED", 0)
    a, b = factors(lengths, layout)
    bias = b[0].copy()
    results = []
    for number in (1, 2, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        results.append(products.product(a, b, bias, rectified=True))

    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row_and_column(value, layout):
    a, b = factors((70, 150, 90), layout)
    a[41, 149] = value
    b[3, 89] = value
    result = products.product(a, b)

    finite = np.ones((70, 90), bool)
    finite[41] = finite[:, 89] = False
    np.testing.assert_array_equal(np.isfinite(result), finite)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isnan(result), np.isnan(a @ b))


def test_numbers_below_the_normal_ones_are_kept():
    a, b = factors((64, 64, 64))
    a[:] = 0
    a[5, 7] = np.float32(1e-40)
    b[7, 9] = 1.0

    assert products.product(a, b)[5, 9] == np.float32(1e-40)


def test_what_the_kernel_does_not_read_is_left_to_blas():
    a, b = factors((64, 64, 64))
    wide = normal(64, 128)

    assert products.product(a.astype(np.float64), b) is None
    assert products.product(a, b.astype(np.float16)) is None
    assert products.product(wide[:, ::2], b) is None
    assert products.product(a, wide[:, :64]) is None
    assert products.product(a[::-1], b) is None
    assert products.product(a, b[:32]) is None  # no product at all: NumPy says so
    assert products.product(a, b, wide[0, ::2]) is None
    assert products.product(a, b, wide[0, :64].astype(np.float64)) is None
    np.testing.assert_allclose(
        affine.linear(a, b, wide[0, ::2]), a @ b + wide[0, ::2], rtol=1e-5, atol=1e-4
    )


def test_the_switch_leaves_products_to_blas(without):
    a, b = factors((64, 64, 64))

    assert without(lambda: products.product(a, b)) is None
    np.testing.assert_array_equal(without(lambda: kernels.matmul(a, b)), np.matmul(a, b))


def test_small_products_are_not_asked_about(monkeypatch):
    def refuse(*given):
        raise AssertionError("asked")

    monkeypatch.setattr(kernels, "product", refuse)
    a, b = factors((32, 32, 32))

    np.testing.assert_array_equal(kernels.matmul(a, b), a @ b)


@pytest.mark.parametrize("shape", [(0, 40, 40), (40, 0, 40), (40, 40, 0)])
def test_products_of_nothing_are_those_of_numpy(shape):
    a, b = np.zeros(shape[:2], np.float32), np.zeros(shape[1:], np.float32)

    np.testing.assert_array_equal(kernels.matmul(a, b), a @ b)
    np.testing.assert_array_equal(affine.linear(a, b, b.sum(axis=0)), a @ b)


def test_rows_of_a_stack_are_those_of_one_matrix():
    x, kernel, bias = normal(6, 50, 64), normal(64, 128), normal(128, seed=3)
    flat = products.product(x.reshape(300, 64), kernel, bias)

    np.testing.assert_array_equal(affine.linear(x, kernel, bias), flat.reshape(6, 50, 128))
    np.testing.assert_array_equal(kernels.matmul(x, kernel) + bias, flat.reshape(6, 50, 128))


@pytest.fixture
def blas_for(monkeypatch):
    """A function that makes BLAS say for which processor its kernels are."""

    def says(core):
        monkeypatch.setattr(products, "blas_core", lambda: core)
        products._blas_is_narrow.cache_clear()

    yield says
    products._blas_is_narrow.cache_clear()


@pytest.mark.parametrize("core", ["", "SkylakeX", "Cooperlake", "SapphireRapids"])
def test_large_products_are_left_to_a_blas_with_registers_as_wide(core, blas_for):
    blas_for(core)

    assert products.product(normal(512, 512), normal(512, 257)) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_products_are_taken_from_a_blas_for_older_processors(layout, blas_for):
    blas_for("Haswell")
    a, b = factors((1024, 517, 300), layout)

    found = products.product(a, b)

    scale = np.abs(a).astype(np.float64) @ np.abs(b)
    assert np.all(np.abs(found - a.astype(np.float64) @ b) <= 1e-6 * scale)


def test_blas_says_for_which_processor_its_kernels_are():
    core = threads.blas_core()

    assert core.isalnum() == (threads._openblas() is not None)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.complex64])
def test_a_wider_bias_makes_the_result_wider(dtype):
    x, kernel, bias = normal(64, 128), normal(128, 128), normal(128, seed=3).astype(dtype)

    result = affine.linear(x, kernel, bias)

    assert result.dtype == np.result_type(np.float32, dtype)
    np.testing.assert_array_equal(result, kernels.matmul(x, kernel) + bias)


def test_a_thread_of_its_own_has_scratch_of_its_own():
    a, b = factors((240, 300, 200), "left turned")
    expected = products.product(a, b)
    results = [None] * 4

    def work(place):
        for _ in range(20):
            results[place] = products.product(a, b)

    workers = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()

    for result in results:
        np.testing.assert_array_equal(result, expected)

"""Compiled kernels over rows: special numbers, odd lengths, and rows beside other rows."""

import numpy as np
import pytest

from distgrad_numpy import normalization, softmaxes
from distgrad_numpy.compiled.rows import OFFERS

pytestmark = pytest.mark.needs_compiler

OWN = {**softmaxes.KERNELS, **normalization.KERNELS}
WIDTHS = [1, 3, 7, 16, 17, 33, 64, 65, 257, 1 << 15, (1 << 15) + 3]
FORWARD = {
    "softmax": {"axis": -1},
    "log_softmax": {"axis": -1},
    "layer_norm": {"epsilon": 1e-5},
    "rms_norm": {"epsilon": 1e-5},
}
INFINITY, NAN = np.inf, np.nan
DTYPES = [np.float32, np.float64]
SPECIAL = np.array(
    [
        [NAN, 1, 2, 3],
        [1, INFINITY, 2, 3],
        [1, -INFINITY, 2, 3],
        [-INFINITY, -INFINITY, -INFINITY, -INFINITY],
        [INFINITY, INFINITY, 1, 2],
        [3e38, -3e38, 0, 1],
        [1e-40, 2e-40, 0, -1e-40],
        [0, -90, -100, -110],
        [0, -700, -740, -800],
    ]
)


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request):
    return request.param


def rows_of(width, count=5, dtype=np.float32):
    return np.random.default_rng(width).standard_normal((count, width)).astype(dtype) * dtype(3)


def close(found, expected, units=25):
    """Compare with the own kernel in float64, or with the compiled one beside it."""
    size = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    rtol = units * np.finfo(found.dtype).eps
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * size)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", FORWARD)
def test_rows_of_any_length(name, width, dtype):
    x = rows_of(width, dtype=dtype)

    found = OFFERS[name](x, **FORWARD[name])
    assert found.dtype == dtype
    close(found, OWN[name](x.astype(np.float64), **FORWARD[name]))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("operands", [0, 1, 2])
@pytest.mark.parametrize("name", ["layer_norm_vjp", "rms_norm_vjp"])
def test_cotangents_of_norms_of_any_length(name, operands, width, dtype):
    g, *affine = rows_of(width, dtype=dtype), *rows_of(width, 2, dtype)
    x = g[::-1].copy()
    arrays = [g, x, *affine[:operands]]

    found = OFFERS[name](*arrays, epsilon=1e-3)

    expected = OWN[name](*(each.astype(np.float64) for each in arrays), epsilon=1e-3)
    assert len(found) == len(expected) == 1 + operands
    for mine, own in zip(found, expected, strict=True):
        # Of one number there is nothing but its rounding, times 1 / sqrt(epsilon).
        assert mine.dtype == dtype
        rtol = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(mine, own, rtol=rtol, atol=rtol * max(np.abs(own).max(), 3))


@pytest.mark.parametrize("width", WIDTHS)
def test_cross_entropy_of_any_length(width, dtype):
    x, g = rows_of(width, dtype=dtype), rows_of(5, 1, dtype)[0]
    labels = np.arange(5) % width

    for kind in (np.int64, np.uint8):
        given = labels.astype(kind) if labels.max() < 256 else labels
        close(
            OFFERS["label_cross_entropy"](x, given),
            OWN["label_cross_entropy"](x.astype(np.float64), labels),
        )
        close(
            OFFERS["label_cross_entropy_vjp"](g, x, given),
            OWN["label_cross_entropy_vjp"](g.astype(np.float64), x.astype(np.float64), labels),
        )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of infinities
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("row", SPECIAL, ids=str)
def test_special_numbers_come_out_as_of_the_own_kernel(name, row, dtype):
    x = np.tile(row[None].astype(dtype), (3, 1))

    rtol, least = 25 * np.finfo(dtype).eps, 10 * np.finfo(dtype).smallest_subnormal
    np.testing.assert_allclose(
        OFFERS[name](x, axis=-1), OWN[name](x, axis=-1), rtol=rtol, atol=least
    )


def test_small_powers_do_not_vanish_all_at_once():
    y = OFFERS["softmax"](np.float32([[0, -90, -100, -103]]), axis=-1)[0]

    # Subnormal numbers have fewer digits, but they are there.
    np.testing.assert_allclose(y[1:3], np.exp([-90.0, -100.0]), rtol=0.02)
    assert 0 < y[3] < 1e-44

    y = OFFERS["softmax"](np.array([[0, -700.0, -740.0, -745.0]]), axis=-1)[0]

    np.testing.assert_allclose(y[1:3], np.exp([-700.0, -740.0]), rtol=0.01)
    assert 0 < y[3] < 1e-323


@pytest.mark.parametrize("name", FORWARD)
def test_a_nan_stays_in_its_row(name, dtype):
    x = rows_of(33, dtype=dtype)
    clean = OFFERS[name](x, **FORWARD[name])
    x[2, 30] = NAN

    spoilt = OFFERS[name](x, **FORWARD[name])

    assert np.isnan(spoilt[2]).all()
    np.testing.assert_array_equal(np.delete(spoilt, 2, 0), np.delete(clean, 2, 0))


@pytest.mark.parametrize("name", FORWARD)
def test_a_row_is_the_same_among_other_rows(name, dtype):
    x = rows_of(65, 2000, dtype)
    x[7] *= 30

    alone = OFFERS[name](x[1234:1235].copy(), **FORWARD[name])

    np.testing.assert_array_equal(OFFERS[name](x, **FORWARD[name])[1234:1235], alone)


def test_long_rows_lose_no_digits_to_their_length():
    x = (np.random.default_rng(0).random((1, 1 << 20)) + 1).astype(np.float32)

    y = OFFERS["layer_norm"](x, epsilon=0.0)

    exact = x.astype(np.float64)
    np.testing.assert_allclose(y, (exact - exact.mean()) / exact.std(), atol=2e-6)


def test_cotangents_of_many_rows_lose_no_digits_to_their_number():
    g = np.ones((1 << 16, 4), np.float32)
    x = np.tile(np.float32([1, 2, 3, 4]), (1 << 16, 1))
    scale = np.ones(4, np.float32)

    _, to_scale, to_shift = OFFERS["layer_norm_vjp"](g, x, scale, scale, epsilon=0.0)

    np.testing.assert_array_equal(to_shift, np.full(4, 65536))
    np.testing.assert_allclose(to_scale, 65536 * (np.arange(4) - 1.5) / np.sqrt(1.25), rtol=1e-6)


def test_a_label_that_is_no_class_is_left_to_the_own_kernel():
    x = rows_of(5, 2)

    assert OFFERS["label_cross_entropy"](x, np.array([0, 5])) is None
    assert OFFERS["label_cross_entropy"](x, np.array([-1, 0])) is None
    assert OFFERS["label_cross_entropy_vjp"](x[:, 0].copy(), x, np.array([0, 5])) is None


@pytest.mark.parametrize("shape", [(64, 10), (10,)])
def test_the_cotangent_of_a_mean_of_cross_entropies_is_taken_as_it_comes(shape):
    logits = rows_of(10, 64).reshape(-1)[: np.prod(shape)].reshape(shape)
    labels = np.asarray(np.arange(64).reshape(64)[: shape[0]] % 10 if len(shape) > 1 else 3)
    g = np.broadcast_to(np.float32(0.25), labels.shape)

    found = OFFERS["label_cross_entropy_vjp"](g, logits, labels)

    np.testing.assert_array_equal(
        found, OFFERS["label_cross_entropy_vjp"](g.copy(), logits, labels)
    )

"""Compiled normal numbers are those of NumPy's kernel, whichever of them are drawn together."""

import ctypes

import numpy as np
import pytest

from distgrad.backends_in_force import kernels_of
from distgrad_numpy import threads
from distgrad_numpy.compiled import crew, drawing, library

pytestmark = pytest.mark.needs_compiler

KERNELS = kernels_of("numpy")
STREAM = np.array([3, 5, 7], np.uint64)


def drawn(count, start=0, dtype=np.float32):
    return KERNELS.random_normal(STREAM, shape=(count,), start=start, dtype=dtype)


@pytest.fixture(autouse=True)
def _any_size(monkeypatch):
    monkeypatch.setattr(drawing, "_FEW", 0)


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(np.float32, 2e-5, 2e-6), (np.float64, 1e-14, 4e-15)]
)
def test_numbers_are_those_of_numpy_up_to_the_last_digits(dtype, rtol, atol, without):
    found, expected = drawn(300_001, 0, dtype), without(lambda: drawn(300_001, 0, dtype))

    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
    assert not np.array_equal(found, expected)  # it was another kernel


def test_numbers_are_right_to_the_precision_of_the_angle():
    words = np.random.default_rng(0).integers(0, 2**32, (2, 200_000), dtype=np.uint32)
    both = np.stack(words, axis=1).ravel()
    out = np.empty(both.size, np.float32)
    run = crew.shared("drawing", "normal", [ctypes.c_void_p] * 2)
    run(len(words[0]), 1 << 15, both.ctypes.data, out.ctypes.data)

    u = words[0].astype(np.float32).astype(float) * 2.0**-32 + 2.0**-33
    radius = np.sqrt(-2 * np.log(u.astype(np.float32).astype(float)))
    angle = (words[1] >> 8) * (2 * np.pi / 2**24)
    np.testing.assert_allclose(out[0::2], radius * np.cos(angle), atol=4e-6)
    np.testing.assert_allclose(out[1::2], radius * np.sin(angle), atol=4e-6)


def test_words_of_64_bits_make_numbers_right_to_the_last_digits():
    words = np.random.default_rng(0).integers(0, 2**64, 4000, dtype=np.uint64)
    words[:12:2] = 0, 1, 2**64 - 1, 2**63, 2**63 - 1, 2**32  # the ends of the radius
    words[1:13:2] = 0, 2**61, 2**62, 3 * 2**61, 2**63, 2**64 - 1  # and quarters of the angle
    out = np.empty(words.size)
    run = crew.shared("drawing", "normal", [ctypes.c_void_p] * 2, "double")
    run(len(words) // 2, 1 << 15, words.ctypes.data, out.ctypes.data)

    wide = words.astype(np.longdouble)
    radius = np.sqrt(-2 * np.log(wide[::2] * 2.0**-64 + np.longdouble(2.0) ** -65))
    angle = (words[1::2] >> np.uint64(11)) * (np.longdouble(np.pi) * 2.0**-52)
    atol = np.where(radius < 1e-8, 1e-9, 4e-15 * np.maximum(radius, 1)).astype(float)
    for mine, turned in ((out[0::2], np.cos(angle)), (out[1::2], np.sin(angle))):
        assert (np.abs(mine - radius * turned) <= atol).all()


@pytest.mark.parametrize("start", [0, 1, 6, 31, 1000])
@pytest.mark.parametrize("count", [1, 2, 31, 33, 777])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_number_has_the_same_bits_wherever_a_draw_begins_and_ends(start, count, dtype):
    whole = drawn(3000, 0, dtype)

    assert np.array_equal(drawn(count, start, dtype), whole[start : start + count])


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    results = []
    for count in (1, 2):
        monkeypatch.setattr(threads, "available", lambda count=count: count)
        results.append(drawn(200_001))

    assert np.array_equal(*results)


def test_other_draws_are_left_to_numpy(monkeypatch):
    monkeypatch.setattr(library, "from_file", lambda *_: pytest.fail("compiled"))

    assert drawn(5, dtype=np.float16).dtype == np.float16
    many = KERNELS.random_normal(np.stack([STREAM] * 2), shape=(4,), start=0, dtype=np.float32)
    assert many.shape == (2, 4)

"""Sums of two weighed arrays that come into the place of both."""

import numpy as np
import pytest

from distgrad.backend import load
from distgrad_numpy.compiled import switch


@pytest.fixture(params=[True, False], ids=["compiled", "NumPy"])
def compiled(request):
    before = switch(request.param)
    yield request.param
    switch(before)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "float16"])
@pytest.mark.parametrize("length", [0, 1, 7, 100_003])
@pytest.mark.parametrize("factors", [(0.1, 0.7), (1.0, 3.0), (1.0, 1.0)])
def test_both_arrays_become_the_sum_with_numpys_bits(compiled, dtype, length, factors):
    rng = np.random.default_rng(length)
    first, second = (rng.normal(size=length).astype(dtype) for _ in range(2))
    first[: length // 3] *= np.float32(1e-20)  # what rounding twice or once tells apart
    expected = first * factors[0] + second * factors[1]
    assert expected.dtype == first.dtype

    load("numpy").add_weighed(first, second, factors)

    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected)


def test_parts_of_longer_arrays_are_all_that_is_written(compiled):
    first, second = np.ones(100, np.float32), np.full(100, 2.0, np.float32)

    load("numpy").add_weighed(first[10:20], second[10:20], (1.0, 2.0))

    assert np.all(first[10:20] == 5)
    assert np.all(second[10:20] == 5)
    assert first.sum() == 90 + 50
    assert second.sum() == 180 + 50

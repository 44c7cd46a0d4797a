"""How gradients are laid out in messages."""

import numpy as np
import pytest

from distgrad.distributed.averaging.buckets import plan_buckets

NAMES = ("float32", "float64", "float16", "float32", "complex64")
DTYPES = tuple(np.dtype(name) for name in NAMES)
SHAPES = ((3, 4), (), (5,), (0, 2), (2,))


def test_there_is_one_bucket_for_each_dtype_on_the_wire_in_the_order_of_the_sources():
    buckets = plan_buckets(DTYPES, SHAPES, (0, 1, 2, 3, 4))

    assert [(bucket.dtype.name, bucket.positions) for bucket in buckets] == [
        ("float32", (0, 2, 3)),
        ("float64", (1,)),
        ("complex64", (4,)),
    ]


def test_sources_without_gradient_take_no_room():
    buckets = plan_buckets(DTYPES, SHAPES, (1, 3))

    assert [bucket.positions for bucket in buckets] == [(1,), (3,)]


def test_arrays_come_out_as_they_went_in():
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=shape).astype(dtype) for shape, dtype in zip(SHAPES, DTYPES, strict=True)
    ]

    for bucket in plan_buckets(DTYPES, SHAPES, (0, 1, 2, 3, 4)):
        message = bucket.pack([arrays[p] for p in bucket.positions], 1.0)
        for position, array in zip(bucket.positions, bucket.unpack(message), strict=True):
            np.testing.assert_array_equal(array, arrays[position])


def test_the_weight_leads_the_message_and_multiplies_the_rest():
    (bucket,) = plan_buckets(DTYPES, SHAPES, (4,))

    message = bucket.pack([np.array([1 + 2j, 3])], 5.0)

    np.testing.assert_array_equal(message, np.array([5, 5 + 10j, 15], np.complex64))


def test_half_precision_is_widened_before_it_is_multiplied():
    (bucket,) = plan_buckets(DTYPES, SHAPES, (2,))

    message = bucket.pack([np.full(5, 60000, np.float16)], 100.0)

    assert message[1] == np.float32(6_000_000)


@pytest.mark.parametrize("array", [np.full(5, np.nan, np.float16), None])
def test_no_examples_and_no_gradient_are_exact_zeros(array):
    (bucket,) = plan_buckets(DTYPES, SHAPES, (2,))

    np.testing.assert_array_equal(bucket.pack([array], 0.0), np.zeros(6))
    np.testing.assert_array_equal(bucket.pack([None], 3.0), [3, 0, 0, 0, 0, 0])

"""Fewer bytes a number: what is coded comes back within what its rounding allows."""

import numpy as np
import pytest

import distgrad.distributed as dist

FP16, BF16, Int8 = dist.compression.FP16, dist.compression.BF16, dist.compression.Int8
ALL = [FP16(), FP16(block=5), BF16(), Int8(), Int8(block=7)]
# What rounding to so many bits changes at most, relative to the number itself (fp16, bf16) or to
# the largest of its block (int8).
RELATIVE = {"fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 0.5 / 127 * 1.0001}


def numbers(length, seed=0):
    return np.random.default_rng(seed).normal(size=length).astype(np.float32)


def and_back(codec, values):
    code = codec.encode(values)
    assert code.dtype == np.uint8
    assert code.shape == (codec.code_bytes(len(values)),)
    decoded = codec.decode(code, len(values))
    assert decoded.dtype == np.float32
    return decoded


def kind(codec):
    return codec.description.partition("(")[0]


@pytest.mark.parametrize("codec", ALL, ids=repr)
@pytest.mark.parametrize("length", [0, 1, 5, 7, 12, 256, 1000, 9001])
def test_numbers_come_back_within_their_rounding(codec, length):
    values = numbers(length)

    error = np.abs(and_back(codec, values) - values)

    largest = np.abs(values) if kind(codec) != "int8" else np.abs(values).max(initial=0)
    assert np.all(error <= RELATIVE[kind(codec)] * largest)


@pytest.mark.parametrize("codec", ALL, ids=repr)
def test_zeros_and_signs_are_exact(codec):
    values = np.array([0, -0.0, 1, -1, 0, 0, 0, 0], np.float32)

    np.testing.assert_array_equal(and_back(codec, values), values)
    np.testing.assert_array_equal(and_back(codec, 0 * values), 0 * values)


@pytest.mark.parametrize("size", [1e-38, 1e-44, 1e-20, 1e10, 3e38])
@pytest.mark.parametrize("codec", ALL, ids=repr)
def test_no_size_of_gradients_overflows_or_vanishes(codec, size):
    values = (np.array([1, -0.5, 0.25, 0.125, 1], np.float64) * size).astype(np.float32)

    decoded = and_back(codec, values)

    assert np.isfinite(decoded).all()
    if size > 1e-37:  # below, float32 itself has few digits
        largest = np.abs(values).max()
        np.testing.assert_allclose(decoded, values, rtol=0, atol=0.01 * largest)


def test_half_precision_keeps_what_unscaled_halves_would_lose():
    tiny, huge = np.float32(1e-9), np.float32(1e9)  # float16 has 6e-8 to 65504

    np.testing.assert_allclose(and_back(FP16(), np.array([tiny])), [tiny], rtol=2.0**-11)
    np.testing.assert_allclose(and_back(FP16(), np.array([huge])), [huge], rtol=2.0**-11)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", ALL, ids=repr)
def test_what_is_not_finite_is_seen_on_the_other_side(codec, bad):
    values = numbers(9)
    values[3] = bad

    decoded = and_back(codec, values)

    assert not np.isfinite(decoded[3])
    if kind(codec) != "int8":
        np.testing.assert_array_equal(decoded[3], values[3])


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even():
    one = 1 + np.arange(5, dtype=np.float32) * 2.0**-8  # every second one is a tie

    np.testing.assert_array_equal(
        and_back(BF16(), one), [1, 1, 1 + 2.0**-7, 1 + 2.0**-6, 1 + 2.0**-6]
    )
    largest = np.array([np.finfo(np.float32).max], np.float32)
    assert np.isinf(and_back(BF16(), largest)).all()


def test_bfloat16_agrees_with_that_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits = np.random.default_rng(0).integers(0, 2**32, 20000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]

    expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(and_back(BF16(), values), expected)


@pytest.mark.parametrize(("codec", "sent"), [(FP16(), 2.001), (BF16(), 2.0), (Int8(), 1.016)])
def test_a_number_takes_as_many_bytes_as_are_promised(codec, sent):
    assert codec.code_bytes(2**20) / 2**20 == pytest.approx(sent, rel=1e-3)


@pytest.mark.parametrize("codec", [FP16, Int8])
def test_a_block_of_nothing_is_refused(codec):
    with pytest.raises(ValueError, match="block is 0; expected 1 number or more"):
        codec(block=0)


@pytest.mark.parametrize("codec", ALL, ids=repr)
@pytest.mark.parametrize(("size", "length"), [(2, 1000), (3, 1000), (5, 3), (4, 1)])
def test_the_sum_is_that_of_all_ranks_within_two_roundings(on_ranks, codec, size, length):
    rows = [numbers(length, seed) for seed in range(size)]

    def work(comm):
        flat = rows[comm.rank].copy()
        codec.add_up(comm, dist.compression.Shares(("x",), flat, [flat]))
        return flat

    results = on_ranks(size, work)

    total = np.sum(rows, axis=0, dtype=np.float64)
    bound = np.sum(np.abs(rows), axis=0) + np.abs(total)
    if kind(codec) == "int8":
        bound = np.abs(rows).max() * size + np.abs(total).max()
    assert np.all(np.abs(results[0] - total) <= 1.01 * RELATIVE[kind(codec)] * bound)
    assert len({each.tobytes() for each in results}) == 1


def test_many_ranks_are_added_up_in_float32():
    # 2048 ones and a half: half precision would stop at 2048, where its steps are 2.
    codec, comm = FP16(), dist.RecordedCommunicator(size=3000)
    flat = np.full(3000, 1.5, np.float32)

    codec.add_up(comm, dist.compression.Shares(("x",), flat, [flat]))

    np.testing.assert_allclose(flat, 4500, rtol=2.0**-11)
    assert {call.dtype for call in comm.calls} == {"uint8"}
    assert {call.verb for call in comm.calls} == {"alltoallv", "allgatherv"}

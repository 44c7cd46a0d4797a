"""NumPy's functions with the keywords that are seldom given, and the dtypes that they answer in."""

import numpy as np
import pytest

import distgrad as dg

ROWS = np.array([[0.5, 0.0, 2.0, -1.0], [0.0, 1.0, -3.0, 0.25], [4.0, 0.0, 0.0, 1.5]])


@pytest.mark.parametrize("code", ["f4", "<f8", "d", "i8"])
def test_dtypes_go_by_numpys_codes(code):
    expected = np.sum(ROWS, dtype=code)

    total = np.sum(dg.asarray(ROWS), dtype=code)

    assert total.dtype == expected.dtype
    assert total.tolist() == expected


def test_a_code_of_no_number_of_bits_is_refused():
    with pytest.raises(dg.errors.DTypeError, match="'float' is unknown"):
        dg.asarray(ROWS, dtype="float")


@pytest.mark.parametrize(
    "make",
    [
        lambda like: np.zeros((2, 3), like=like),
        lambda like: np.eye(2, 3, 1, like=like),
        lambda like: np.arange(3, like=like),
        lambda like: np.full(2, 1.5, like=like),
        lambda like: np.array([1.0, 2.0], like=like),
    ],
)
def test_arrays_are_made_like_a_tensor(make):
    made = make(dg.asarray(ROWS))

    assert isinstance(made, dg.Tensor)
    assert np.array_equal(made.numpy(), make(ROWS))


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
def test_logic_accumulates_truth_values(name):
    ufunc = getattr(np, name)

    for arguments in ({"axis": 1}, {"axis": 0}):
        found = ufunc.accumulate(dg.asarray(ROWS), **arguments)
        expected = ufunc.accumulate(ROWS, **arguments)

        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()
    assert ufunc.reduce(dg.asarray(ROWS[:, :1]), axis=1).tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logaddexp"])
def test_reductions_begin_with_a_number_and_leave_places_out(name):
    ufunc, where = getattr(np, name), ROWS > 0.4

    for initial in (0.0, 2.0):
        options = {"axis": 1, "keepdims": True, "initial": initial, "where": where}
        found = ufunc.reduce(dg.asarray(ROWS), **options)

        assert np.allclose(found.numpy(), ufunc.reduce(ROWS, **options))


@pytest.mark.parametrize("name", ["fabs", "rint", "modf"])
@pytest.mark.parametrize("dtype", ["int64", "int8", "bool"])
def test_integers_become_the_floating_numbers_that_numpy_gives(name, dtype):
    x = np.array([1, 0, 3]).astype(dtype)

    found, expected = getattr(np, name)(dg.asarray(x)), getattr(np, name)(x)

    for one, other in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
        assert np.array_equal(one, other)
    first = found[0] if isinstance(found, tuple) else found
    assert first.dtype == (expected[0] if isinstance(expected, tuple) else expected).dtype


def test_magnitudes_of_complex_numbers_are_not_those_of_fabs():
    with pytest.raises(TypeError, match=r"take np\.abs"):
        np.fabs(dg.asarray([1.0 + 1.0j]))


def test_mantissas_keep_their_precision_whatever_the_default_is():
    dg.set_default_dtype("float64")
    try:
        mantissa, _ = np.frexp(dg.asarray(ROWS.astype("float32")))
    finally:
        dg.set_default_dtype("float32")

    assert mantissa.dtype == np.float32


def test_no_differences_are_the_numbers_alone():
    assert np.diff(dg.asarray(ROWS), 0, prepend=0.0).tolist() == ROWS.tolist()


def test_the_nearest_of_two_ranks_is_the_even_one():
    for count in range(1, 9):
        x = np.arange(float(count))
        shares = (np.arange(count) + 0.5) / count

        found = np.quantile(dg.asarray(x), shares, method="closest_observation")

        assert found.tolist() == np.quantile(x, shares, method="closest_observation").tolist()


def test_a_length_of_minus_one_is_that_of_the_input():
    x = np.fft.rfft2(ROWS)

    found = np.fft.irfft2(dg.asarray(x), s=(3, -1), axes=(0, 1))

    assert np.allclose(found.numpy(), np.fft.irfft2(x, s=(3, -1), axes=(0, 1)))

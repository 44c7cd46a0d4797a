"""Gamma and Poisson numbers of the device, run on the host, are those of the NumPy backend."""

import importlib.util
import re

import numpy as np
import pytest

from distgrad.backend import ArrayModuleBackend
from distgrad.backends_in_force import kernels_of

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy import variates
from distgrad_cupy.cuda_kernels import cuda_kernels

WORDS = np.array([[1, 2**63 + 5, 7], [2**64 - 1, 0, 2**40]], np.uint64)


@pytest.fixture(scope="module")
def host(host_runner):
    """A backend over NumPy with the kernels of the device, run on the host."""
    return ArrayModuleBackend("host", np, cuda_kernels(host_runner))


@pytest.fixture
def numpy_kernels():
    """The vocabulary on NumPy's arrays."""
    return kernels_of("numpy")


def concentrations(dtype):
    """Return concentrations of every order: below 1 powers are taken, above it none."""
    rng = np.random.default_rng(2)
    wide = 10.0 ** rng.uniform(-2, 2 if dtype == "float16" else 6, (2, 1501))
    wide[0, :7] = [1, 1 / 3, 0.999, 1.001, 5e-3, 60, 2]
    return wide.astype(dtype)


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 77, 2**40 + 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gamma_numbers_are_the_hosts(dtype, start, host, numpy_kernels):
    alpha = concentrations(dtype)

    found = host.kernel("random_gamma")(WORDS, alpha, start=start)

    expected = numpy_kernels.random_gamma(WORDS, alpha, start=start)
    np.testing.assert_allclose(found, expected, rtol=3e-7 if dtype == "float32" else 1e-12)
    assert found.dtype == dtype


def test_gamma_numbers_of_half_precision_and_of_integers(host, numpy_kernels):
    for alpha in (concentrations("float16"), np.arange(1, 61, dtype=np.int32).reshape(2, 30)):
        found = host.kernel("random_gamma")(WORDS, alpha, start=0)

        expected = numpy_kernels.random_gamma(WORDS, alpha, start=0)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-3 if found.itemsize == 2 else 1e-12)


def test_concentrations_that_are_none_give_nan_and_infinity_itself(host, numpy_kernels):
    alpha = np.array([0.0, -1.0, np.nan, np.inf, -np.inf, 1e-300, 2.0])

    found = host.kernel("random_gamma")(WORDS[0], alpha, start=0)

    np.testing.assert_array_equal(np.isnan(found), [True] * 3 + [False, True, False, False])
    assert found[3] == np.inf
    expected = numpy_kernels.random_gamma(WORDS[0], alpha, start=0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def rates(low, high, seed=3):
    return 10.0 ** np.random.default_rng(seed).uniform(low, high, (2, 4001))


RATES = {
    "few": rates(-9, 1),
    "at the change of methods": 9 + rates(-1, 0.5),
    "some": rates(1, 3),
    "many": rates(3, 9),
    "most": rates(9, 18.6),
    "none and next to none": np.array(
        [[0.0, 5e-324, 1e-300], [1e-20, 2.0**-60, 9.999999999999998]]
    ),
}


@pytest.mark.parametrize("start", [0, 3, 2**33])
@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
def test_poisson_numbers_are_the_hosts_to_the_last_digit(rate, start, host, numpy_kernels):
    how = {"start": start, "dtype": np.dtype(np.int64)}

    found = host.kernel("random_poisson")(WORDS, rate, **how)

    np.testing.assert_array_equal(found, numpy_kernels.random_poisson(WORDS, rate, **how))
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    "kind", "int8 uint8 int16 int32 uint32 uint64 float16 float32 float64".split()
)
@pytest.mark.parametrize("given", ["float16", "float32", "int16"])
def test_counts_of_every_dtype_stop_at_its_largest_number(kind, given, host, numpy_kernels):
    top = 4.5 if given in ("float16", "int16") else 18.6
    rate = rates(0, top, seed=5).astype(given)
    how = {"start": 1, "dtype": np.dtype(kind)}

    with np.errstate(over="ignore"):  # counts beyond half precision are infinite
        found = host.kernel("random_poisson")(WORDS, rate, **how)
        expected = numpy_kernels.random_poisson(WORDS, rate, **how)

    np.testing.assert_array_equal(found, expected)
    assert found.dtype == kind


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf, 2.0**63])
def test_a_rate_that_is_none_is_named(wrong, host):
    rate = np.array([3.0, 20.0, wrong])

    with pytest.raises(
        ValueError, match=rf"a rate is {re.escape(str(wrong))}; expected 0 to 2\^62"
    ):
        host.kernel("random_poisson")(WORDS[0], rate, start=0, dtype=np.dtype(np.int32))


def test_within_a_capture_nobody_waits_and_a_wrong_rate_gives_no_count(
    host, host_runner, monkeypatch
):
    monkeypatch.setattr(host_runner, "is_capturing", True)
    rate, kernel = np.array([3.0, -1.0, np.nan]), host.kernel("random_poisson")

    counts = kernel(WORDS[0], rate, start=0, dtype=np.dtype(np.int32))
    numbers = kernel(WORDS[0], rate, start=0, dtype=np.dtype(np.float32))

    np.testing.assert_array_equal(counts[1:], -1)
    np.testing.assert_array_equal(np.isnan(numbers), [False, True, True])
    assert counts[0] == numbers[0] >= 0


@pytest.mark.parametrize("lead", [(), (3,), (2, 2), (0,)])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
def test_every_stream_has_parameters_of_its_own(lead, shape, host, numpy_kernels):
    rng = np.random.default_rng(4)
    words = rng.integers(0, 2**63, (*lead, 3)).astype(np.uint64)
    given = rng.uniform(0.5, 40, (*lead, *shape))
    turned = np.asarray(given.T.copy().T)  # not one line in memory

    for name, how in (("random_gamma", {}), ("random_poisson", {"dtype": np.dtype(np.int64)})):
        found = host.kernel(name)(words, turned, start=2, **how)
        expected = getattr(numpy_kernels, name)(words, given, start=2, **how)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert found.shape == (*lead, *shape)


def test_numbers_of_the_same_concentration_are_carried_as_they_are(host, host_runner, monkeypatch):
    number, a = np.array([0.3, 2.0, np.inf, np.nan]), np.array([1.5, 2.5, 3.0, np.nan])
    kernel = host.kernel("gamma_carried")

    np.testing.assert_array_equal(kernel(number, a.copy(), a), number)
    monkeypatch.setattr(variates, "composed", lambda *_: pytest.fail("computed"))
    np.testing.assert_array_equal(kernel(number, a, a), number)
    assert kernel(number, a, a) is not number
    assert kernel(number.astype("f4"), a, a).dtype == np.float64

"""dg.fft: NumPy's values for every length, axis and norm, and the adjoints of half spectra."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import ShapeError
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values

REAL = values((3, 4, 5), -1.0, 1.1)
COMPLEX = REAL * np.exp(1j * values(REAL.shape, 0.2, 2.9))
NORMS = ("backward", "ortho", "forward")

ALONG = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
OVER = ("fftn", "ifftn", "rfftn", "irfftn", "fft2", "ifft2", "rfft2", "irfft2")


def signal_of(name):
    return REAL if name in ("rfft", "ihfft", "rfftn", "rfft2") else COMPLEX


def assert_as_numpy(given, expected):
    assert given.dtype == expected.dtype
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ALONG)
@pytest.mark.parametrize("n", [None, 1, 2, 3, 6, 7])
@pytest.mark.parametrize("norm", NORMS)
def test_one_axis_of_any_length_as_numpy(name, n, norm):
    x = signal_of(name)

    for axis in (0, -1):
        given = getattr(dg.fft, name)(dg.asarray(x), n=n, axis=axis, norm=norm)
        assert_as_numpy(given, getattr(np.fft, name)(x, n=n, axis=axis, norm=norm))


@pytest.mark.parametrize("name", OVER)
@pytest.mark.parametrize("axes", [(-2, -1), (0, 2), (2, 1)])
@pytest.mark.parametrize("s", [None, (3, 5), (6, 2)])
def test_several_axes_as_numpy(name, axes, s):
    x = signal_of(name)

    given = getattr(dg.fft, name)(dg.asarray(x), s=s, axes=axes)

    assert_as_numpy(given, getattr(np.fft, name)(x, s=s, axes=axes))


@pytest.mark.parametrize("name", ["fftn", "ifftn", "rfftn", "irfftn"])
@pytest.mark.parametrize("norm", NORMS)
def test_all_axes_by_default(name, norm):
    x = signal_of(name)

    given = getattr(dg.fft, name)(dg.asarray(x), norm=norm)

    assert_as_numpy(given, getattr(np.fft, name)(x, norm=norm))


@pytest.mark.parametrize("name", ALONG)
@pytest.mark.parametrize("n", [None, 3, 6])
def test_derivatives_of_second_order_through_cut_and_filled_signals(name, n):
    x = dg.asarray(signal_of(name)[0])

    check_gradients(lambda x: dg.sin(getattr(dg.fft, name)(x * x, n=n)), [x])


@pytest.mark.parametrize("name", OVER)
def test_derivatives_over_several_axes(name):
    x = dg.asarray(signal_of(name)[0])

    check_gradients(lambda x: getattr(dg.fft, name)(x * x, s=(3, 6), axes=(-1, 0)), [x])


@pytest.mark.parametrize("name", ALONG)
def test_a_mapped_transform_equals_a_loop(name):
    x = dg.asarray(signal_of(name))

    def slope(x):
        return dg.grad(lambda x: dg.sum(dg.square(dg.abs(getattr(dg.fft, name)(x, axis=0)))))(x)

    mapped = dg.vmap(slope)(x)

    for i in range(3):
        np.testing.assert_allclose(mapped[i].numpy(), slope(x[i]).numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_what_a_half_spectrum_does_not_read_has_no_gradient(n):
    bins = dg.asarray(COMPLEX[0, 0, : n // 2 + 1])

    slope = dg.grad(lambda z: dg.sum(dg.fft.irfft(z, n=n) ** 2))(bins).numpy()

    assert slope[0].imag == 0
    if n % 2 == 0:
        assert slope[-1].imag == 0


@pytest.mark.parametrize(
    ("dtype", "spectrum"),
    [("float16", "complex64"), ("float32", "complex64"), ("float64", "complex128")]
    + [("complex64", "complex64"), ("int8", "complex128")],
)
def test_spectra_have_the_precision_of_signals(dtype, spectrum):
    x = dg.asarray(np.arange(5), dtype=dtype)

    assert dg.fft.fft(x).dtype == spectrum
    if dtype.startswith("float"):
        assert dg.fft.rfft(x).dtype == spectrum
        assert dg.grad(lambda x: dg.real(dg.fft.rfft(x)[1]))(x).dtype == dtype


def test_the_gradient_of_a_real_signal_is_real():
    x = dg.asarray(REAL)

    slope = dg.grad(lambda x: dg.sum(dg.square(dg.abs(dg.fft.fftn(x)))))(x)

    assert slope.dtype == np.float64
    np.testing.assert_allclose(slope.numpy(), 2 * REAL.size * REAL, rtol=1e-12)  # Parseval


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_frequencies_are_numpys(n):
    np.testing.assert_allclose(dg.fft.fftfreq(n, d=0.1).numpy(), np.fft.fftfreq(n, 0.1), rtol=1e-6)
    np.testing.assert_allclose(dg.fft.rfftfreq(n).numpy(), np.fft.rfftfreq(n), rtol=1e-6)
    assert dg.fft.fftfreq(n, dtype="float64").dtype == np.float64


@pytest.mark.parametrize("axes", [None, 1, (0, -1), ()])
def test_shifts_are_numpys_and_inverse_to_each_other(axes):
    x = dg.asarray(REAL)

    shifted = dg.fft.fftshift(x, axes=axes)

    np.testing.assert_array_equal(shifted.numpy(), np.fft.fftshift(REAL, axes=axes))
    np.testing.assert_array_equal(dg.fft.ifftshift(shifted, axes=axes).numpy(), REAL)


def test_a_traced_transform_is_the_same():
    x = dg.asarray(REAL[0])

    def loss(x):
        return dg.sum(dg.abs(dg.fft.rfftn(x)) ** 3)

    np.testing.assert_allclose(
        dg.grad(dg.function(loss))(x).numpy(), dg.grad(loss)(x).numpy(), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: dg.fft.fft(x, n=0), "fft: n is 0"),
        (lambda x: dg.fft.fft(x, axis=5), "fft: axis is 5"),
        (lambda x: dg.fft.fft(x[:0], axis=0), "fft: length 1 or more expected along axis 0"),
        (lambda x: dg.fft.fftn(x, s=(3, 4), axes=(0,)), "fftn: s has 2 lengths and axes has 1"),
        (lambda x: dg.fft.irfft(x[..., :1]), "irfft: n is 0"),
        (lambda x: dg.fft.fftfreq(0), "fftfreq: n is 0"),
    ],
)
def test_lengths_that_cannot_be_are_refused(call, message):
    with pytest.raises(ShapeError, match=message):
        call(dg.asarray(REAL))


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match="norm is 'max'; expected 'backward'"):
        dg.fft.fft(dg.asarray(REAL), norm="max")
    with pytest.raises(TypeError, match="rfft: real signals expected, got complex128"):
        dg.fft.rfft(dg.asarray(COMPLEX))

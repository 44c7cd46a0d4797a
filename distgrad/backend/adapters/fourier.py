"""Fourier transforms by a module's ``fft``: over axes of their full lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.dtypes import as_dtype, complex64, complex128, float32, float64


def _in_wide(backend: Any, x: Any, *, as_complex: bool) -> Any:
    """Return an array in a dtype that transforms take; integers become float64."""
    dtype = as_dtype(x.dtype)
    if dtype.kind in "biu":
        wide = float64
    elif dtype.kind == "c" or dtype in (float32, float64):
        wide = dtype
    else:
        wide = float32
    if as_complex and wide.kind != "c":
        wide = complex64 if wide == float32 else complex128
    if wide == dtype:
        return x
    if backend.speaks_numpy:
        return x.astype(wide)
    return backend.module.astype(x, backend.own_dtype(wide))


def _over_axes(name: str) -> Callable[..., Any]:
    def kernel(backend: Any, x: Any, *, axes: tuple[int, ...], norm: str) -> Any:
        # A module need not take real numbers, and NumPy's are quicker in the right dtype.
        x = _in_wide(backend, x, as_complex=True)
        return getattr(backend.module.fft, name)(x, axes=axes, norm=norm) if axes else x

    return kernel


def rfft(backend: Any, x: Any, *, axis: int, norm: str) -> Any:
    """Return the half spectrum of real signals along one axis."""
    x = _in_wide(backend, x, as_complex=False)
    return backend.module.fft.rfft(x, axis=axis, norm=norm)


def irfft(backend: Any, x: Any, *, n: int, axis: int, norm: str) -> Any:
    """Return the real signals of a length from half spectra."""
    x = _in_wide(backend, x, as_complex=True)
    return backend.module.fft.irfft(x, n=n, axis=axis, norm=norm)


FOURIER: dict[str, Callable[..., Any]] = {
    "fft": _over_axes("fftn"),
    "ifft": _over_axes("ifftn"),
    "rfft": rfft,
    "irfft": irfft,
}

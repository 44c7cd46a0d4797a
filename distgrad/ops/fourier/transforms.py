"""Discrete Fourier transforms as operations, over axes of their full lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Slice, Spec
from distgrad.dtypes import (
    DType,
    as_dtype,
    complex64,
    complex128,
    float32,
    float64,
)
from distgrad.errors import ShapeError
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import brought_back, linear, real_cotangent
from distgrad.shapes import Shape, normalize_axes, normalize_axis

# The adjoint of an unscaled transform is the unscaled inverse, and so on.
OTHER_WAY = {"backward": "forward", "ortho": "ortho", "forward": "backward"}
_INVERSE = {"fft": "ifft", "ifft": "fft"}


# --- dtypes ---------------------------------------------------------------------------------------


def _complex(x: Any) -> DType:
    """Return the dtype of a spectrum: the precision stays, integers and float64 give complex128."""
    dtype = as_dtype(x.dtype)
    return complex128 if dtype.kind in "biu" or dtype in (float64, complex128) else complex64


def _real(x: Any) -> DType:
    return float64 if _complex(x) == complex128 else float32


# --- complex signals ------------------------------------------------------------------------------


def _whole(name: str) -> Op:
    """Return the transform of complex signals, or its inverse, over axes of their full lengths."""

    def transpose(xp: Namespace, g: Array, primal: Spec, axes: tuple[int, ...], norm: str) -> Array:
        back = getattr(xp, _INVERSE[name])(g, axes=axes, norm=OTHER_WAY[norm])
        return brought_back(xp, back, primal)

    def spec(x: Spec, *, axes: tuple[int, ...], norm: str) -> Spec:
        _check_lengths(name, x.shape, normalize_axes(name, axes, len(x.shape)))
        return Spec(tuple(x.shape), _complex(x))

    def batch(
        xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
    ) -> Array:
        x = arrays[0]
        axes = tuple(a + 1 for a in normalize_axes(name, params["axes"], len(x.shape) - 1))
        return getattr(xp, name)(x, axes=axes, norm=params["norm"])

    return linear(name, transpose, spec, kind=Kind.OPAQUE, keep=Keep.SPECS, batch=batch)


def _check_lengths(name: str, shape: Shape, axes: Sequence[int]) -> None:
    for axis in axes:
        if shape[axis] < 1:
            raise ShapeError(
                f"{name}: length 1 or more expected along axis {axis}, got {tuple(shape)}"
            )


FFT, IFFT = _whole("fft"), _whole("ifft")

# --- real signals and their half spectra ----------------------------------------------------------
#
# A half spectrum leaves out the bins that are conjugates of others. Its inverse counts each of
# these pairs as it should, twice; the adjoint of the transform meets each bin but once.


def _weighted(xp: Namespace, spectrum: Array, n: int, axis: int, weight: float) -> Array:
    """Return half spectra with their inner bins multiplied by a weight.

    The first bin, and for even lengths the last, have no conjugate partner.
    """
    last = spectrum.shape[axis] - (0 if n % 2 else 1)
    if last <= 1:
        return spectrum
    return xp.concat(
        _bins(xp, spectrum, axis, 0, 1),
        _bins(xp, spectrum, axis, 1, last) * weight,
        _bins(xp, spectrum, axis, last, spectrum.shape[axis]),
        axis=axis,
    )


def _bins(xp: Namespace, x: Array, axis: int, start: int, stop: int) -> Array:
    before = (Slice(None, None, None),) * (axis % len(x.shape))
    return xp.getitem(x, index=(*before, Slice(start, stop, None)))


def _rfft_transpose(xp: Namespace, g: Array, primal: Spec, axis: int, norm: str) -> Array:
    n = primal.shape[axis]
    halved = _weighted(xp, g, n, axis, 0.5)
    return brought_back(xp, xp.irfft(halved, n=n, axis=axis, norm=OTHER_WAY[norm]), primal)


def _rfft_spec(x: Spec, *, axis: int, norm: str) -> Spec:
    place = normalize_axis("rfft", axis, len(x.shape))
    _check_lengths("rfft", x.shape, (place,))
    shape = tuple(x.shape)
    return Spec((*shape[:place], shape[place] // 2 + 1, *shape[place + 1 :]), _complex(x))


def _irfft_transpose(xp: Namespace, g: Array, primal: Spec, n: int, axis: int, norm: str) -> Array:
    spectrum = xp.rfft(real_cotangent(xp, g), axis=axis, norm=OTHER_WAY[norm])
    return brought_back(xp, _weighted(xp, spectrum, n, axis, 2.0), primal)


def _irfft_spec(x: Spec, *, n: int, axis: int, norm: str) -> Spec:
    place = normalize_axis("irfft", axis, len(x.shape))
    shape = tuple(x.shape)
    if n < 1 or shape[place] != n // 2 + 1:
        raise ShapeError(
            f"irfft: n is {n}, for which axis {axis} has to have length {n // 2 + 1}; got {shape}"
        )
    return Spec((*shape[:place], n, *shape[place + 1 :]), _real(x))


RFFT = linear(
    "rfft",
    _rfft_transpose,
    _rfft_spec,
    kind=Kind.OPAQUE,
    keep=Keep.SPECS,
    batch=batching.along_one_axis("rfft"),
)
IRFFT = linear(
    "irfft",
    _irfft_transpose,
    _irfft_spec,
    kind=Kind.OPAQUE,
    keep=Keep.SPECS,
    batch=batching.along_one_axis("irfft"),
)


OPS = (FFT, IFFT, RFFT, IRFFT)

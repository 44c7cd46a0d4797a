"""Fourier transforms of signals: complex, real and Hermitian, over one axis or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from distgrad.core.op import Slice
from distgrad.core.seam import apply
from distgrad.dtypes import (
    as_dtype,
)
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import operand
from distgrad.ops.elementwise.complex_numbers import conj
from distgrad.ops.fourier.transforms import FFT, IFFT, IRFFT, OTHER_WAY, RFFT
from distgrad.ops.picking.indexing import GETITEM
from distgrad.ops.shaping.structure import concat, zeros_like
from distgrad.shapes import Shape, integer, normalize_axes, normalize_axis

Norm: TypeAlias = Literal["backward", "ortho", "forward"]

# --- arguments ------------------------------------------------------------------------------------


def _norm(operation: str, norm: str | None) -> str:
    if norm is None:
        return "backward"
    if not isinstance(norm, str) or norm not in OTHER_WAY:
        raise ValueError(
            f"{operation}: norm is {norm!r}; expected 'backward', 'ortho' or 'forward'"
        )
    return norm


def _shape(x: Any) -> Shape:
    return tuple(x.shape)


def _resized(operation: str, x: Any, n: int | None, axis: int) -> Any:
    """Return signals cut off, or filled up with zeros, to a length along an axis."""
    x = operand(x)
    shape = _shape(x)
    place = normalize_axis(operation, axis, len(shape))
    if n is None:
        return x
    n = integer(operation, "n", n)
    if n == shape[place]:
        return x
    if n < 1:
        raise ShapeError(f"{operation}: n is {n}; expected a length of 1 or more, or None")
    before = (Slice(None, None, None),) * place
    if n < shape[place]:
        return apply(GETITEM, x, index=(*before, Slice(None, n, None)))
    present = apply(GETITEM, x, index=(*before, Slice(None, 1, None)))
    missing = (*shape[:place], n - shape[place], *shape[place + 1 :])
    if not shape[place]:
        raise ShapeError(f"{operation}: length 1 or more expected along axis {axis}, got {shape}")
    filling = zeros_like(present)
    filling = concat([filling] * missing[place], axis=place)
    return concat([x, filling], axis=place)


def _sizes_and_axes(
    operation: str, x: Any, s: Sequence[int | None] | None, axes: Sequence[int] | None
) -> tuple[list[int | None], Shape]:
    """Return the length wanted along each axis of a transform, and these axes."""
    rank = len(_shape(x))
    for argument, given in (("s", s), ("axes", axes)):
        if given is not None and not isinstance(given, Sequence):
            raise TypeError(f"{operation}: {argument} is {given!r}; expected a tuple of integers")
    if axes is None:
        axes = tuple(range(rank)) if s is None else tuple(range(rank - len(s), rank))
    places = normalize_axes(operation, tuple(axes), rank)
    sizes = [None] * len(places) if s is None else list(s)
    if len(sizes) != len(places):
        raise ShapeError(
            f"{operation}: s has {len(sizes)} lengths and axes has {len(places)}; expected as many"
        )
    return [None if n == -1 else n for n in sizes], places


# --- one axis -------------------------------------------------------------------------------------


def fft(x: Any, /, n: int | None = None, axis: int = -1, norm: Norm | None = "backward") -> Any:
    """Return the discrete Fourier transform along an axis.

    Parameters
    ----------
    x : Tensor, Variable or array
        The signals; complex or real.
    n : int, optional
        The length to which they are cut off or filled up with zeros; their own by default.
    axis : int
        Along which axis.
    norm : {"backward", "ortho", "forward"}
        Where the factor 1/n stands: in the inverse, as its root in both, or here.

    Returns
    -------
    Tensor
        Complex, in the precision of `x`: complex64 for float32.

    Raises
    ------
    ShapeError
        If there is no such axis, or nothing along it.
    ValueError
        If there is no such norm.

    Notes
    -----
    Linear, with the unscaled inverse as its adjoint. The gradient of a real signal is real.
    """
    x = _resized("fft", x, n, axis)
    return apply(FFT, x, axes=(axis,), norm=_norm("fft", norm))


def ifft(x: Any, /, n: int | None = None, axis: int = -1, norm: Norm | None = "backward") -> Any:
    """Return the inverse of `fft`; parameters as there."""
    x = _resized("ifft", x, n, axis)
    return apply(IFFT, x, axes=(axis,), norm=_norm("ifft", norm))


def rfft(x: Any, /, n: int | None = None, axis: int = -1, norm: Norm | None = "backward") -> Any:
    """Return the first n // 2 + 1 bins of the transform of real signals; the rest are conjugates.

    Parameters and exceptions as for `fft`; `x` has to be real.

    Notes
    -----
    The adjoint is that of `fft` cut down to these bins, computed by `irfft`, which counts the inner
    bins twice, from halves of them.
    """
    x = _resized("rfft", _real("rfft", x), n, axis)
    return apply(RFFT, x, axis=axis, norm=_norm("rfft", norm))


def _real(operation: str, x: Any) -> Any:
    x = operand(x)
    if as_dtype(x.dtype).kind == "c":
        raise TypeError(f"{operation}: real signals expected, got {as_dtype(x.dtype)}; take fft")
    return x


def irfft(x: Any, /, n: int | None = None, axis: int = -1, norm: Norm | None = "backward") -> Any:
    """Return the real signals whose first bins are given: the inverse of `rfft`.

    Parameters
    ----------
    x : Tensor, Variable or array
        Half spectra. The imaginary part of the first bin, and for even n of the last, is not read.
    n : int, optional
        The length of the signals, 2 (m - 1) for m bins by default; give odd ones.
    axis, norm
        See `fft`.
    """
    x = operand(x)
    shape = _shape(x)
    place = normalize_axis("irfft", axis, len(shape))
    n = 2 * (shape[place] - 1) if n is None else integer("irfft", "n", n)
    if n < 1:
        raise ShapeError(f"irfft: n is {n}; expected a length of 1 or more")
    x = _resized("irfft", x, n // 2 + 1, axis)
    return apply(IRFFT, x, n=n, axis=axis, norm=_norm("irfft", norm))


def hfft(x: Any, /, n: int | None = None, axis: int = -1, norm: Norm | None = "backward") -> Any:
    """Return the real spectrum of a signal that is Hermitian in time, from its first half.

    Parameters as for `irfft`, with which it shares all but the direction.
    """
    return irfft(conj(x), n, axis, OTHER_WAY[_norm("hfft", norm)])  # type: ignore[arg-type]


def ihfft(x: Any, /, n: int | None = None, axis: int = -1, norm: Norm | None = "backward") -> Any:
    """Return the inverse of `hfft`: half of a Hermitian signal; parameters as for `rfft`."""
    return conj(rfft(x, n, axis, OTHER_WAY[_norm("ihfft", norm)]))  # type: ignore[arg-type]


# --- several axes ---------------------------------------------------------------------------------


def fftn(
    x: Any,
    /,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: Norm | None = "backward",
) -> Any:
    """Return the transform over several axes.

    Parameters
    ----------
    x : Tensor, Variable or array
        The signals; complex or real.
    s : sequence of int, optional
        The length to which each axis is cut off or filled up with zeros; -1 for its own.
    axes : sequence of int, optional
        Which axes; by default all, or as many of the last as `s` has lengths.
    norm : {"backward", "ortho", "forward"}
        See `fft`.
    """
    x, places = _all_resized("fftn", x, s, axes)
    return apply(FFT, x, axes=places, norm=_norm("fftn", norm))


def _all_resized(
    operation: str, x: Any, s: Sequence[int] | None, axes: Sequence[int] | None
) -> tuple[Any, Shape]:
    x = operand(x)
    sizes, places = _sizes_and_axes(operation, x, s, axes)
    for size, place in zip(sizes, places, strict=True):
        x = _resized(operation, x, size, place)
    return x, places


def ifftn(
    x: Any,
    /,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: Norm | None = "backward",
) -> Any:
    """Return the inverse of `fftn`; parameters as there."""
    x, places = _all_resized("ifftn", x, s, axes)
    return apply(IFFT, x, axes=places, norm=_norm("ifftn", norm))


def rfftn(
    x: Any,
    /,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: Norm | None = "backward",
) -> Any:
    """Return the transform of real signals over several axes, of the last one half the bins.

    Parameters as for `fftn`.
    """
    x, places = _all_resized("rfftn", _real("rfftn", x), s, axes)
    if not places:
        raise ShapeError("rfftn: axes is empty; expected one axis or more")
    way = _norm("rfftn", norm)
    spectrum = apply(RFFT, x, axis=places[-1], norm=way)
    return apply(FFT, spectrum, axes=places[:-1], norm=way) if places[1:] else spectrum


def irfftn(
    x: Any,
    /,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: Norm | None = "backward",
) -> Any:
    """Return the inverse of `rfftn`; `s` says whether the last length is even or odd."""
    x = operand(x)
    sizes, places = _sizes_and_axes("irfftn", x, s, axes)
    if not places:
        raise ShapeError("irfftn: axes is empty; expected one axis or more")
    if s is not None and sizes[-1] is None:  # -1, and not left away: as long as the input
        sizes[-1] = _shape(x)[places[-1]]
    for size, place in zip(sizes[:-1], places[:-1], strict=True):
        x = _resized("irfftn", x, size, place)
    way = _norm("irfftn", norm)
    if places[1:]:
        x = apply(IFFT, x, axes=places[:-1], norm=way)
    return irfft(x, sizes[-1], places[-1], way)  # type: ignore[arg-type]


def fft2(
    x: Any,
    /,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = (-2, -1),
    norm: Norm | None = "backward",
) -> Any:
    """Return the transform over two axes, the last ones by default; see `fftn`."""
    return fftn(x, s, axes, norm)


def ifft2(
    x: Any,
    /,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = (-2, -1),
    norm: Norm | None = "backward",
) -> Any:
    """Return the inverse of `fft2`; see `ifftn`."""
    return ifftn(x, s, axes, norm)


def rfft2(
    x: Any,
    /,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = (-2, -1),
    norm: Norm | None = "backward",
) -> Any:
    """Return the transform of real signals over two axes; see `rfftn`."""
    return rfftn(x, s, axes, norm)


def irfft2(
    x: Any,
    /,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = (-2, -1),
    norm: Norm | None = "backward",
) -> Any:
    """Return the inverse of `rfft2`; see `irfftn`."""
    return irfftn(x, s, axes, norm)

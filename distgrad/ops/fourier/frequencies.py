"""The frequencies of a transform's bins, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.dtypes import (
    DTypeLike,
    as_dtype,
    default_dtype,
)
from distgrad.errors import ShapeError
from distgrad.ops.creation import arange
from distgrad.ops.elementwise.arithmetic import operand
from distgrad.ops.shaping.arrangement import roll
from distgrad.ops.shaping.placement import to_device
from distgrad.ops.shaping.structure import concat
from distgrad.shapes import normalize_axes

# --- frequencies and their order ------------------------------------------------------------------


def fftfreq(
    n: int, /, *, d: float = 1.0, dtype: DTypeLike | None = None, device: str | None = None
) -> Any:
    """Return the frequency of each bin of `fft`: 0, then the positive ones, then the negative.

    Parameters
    ----------
    n : int
        The length of the signal.
    d : float
        The time between two samples.
    dtype : dtype, optional
        A real floating dtype; the default one unless another is given.
    device : str, optional
        Where the result is to live.
    """
    _check_length("fftfreq", n)
    positive = (n - 1) // 2 + 1
    chosen = default_dtype() if dtype is None else as_dtype(dtype)
    up = arange(0, positive, dtype=chosen)
    down = arange(-(n // 2), 0, dtype=chosen)
    return _on(concat([up, down]) * (1.0 / (n * d)), device)


def rfftfreq(
    n: int, /, *, d: float = 1.0, dtype: DTypeLike | None = None, device: str | None = None
) -> Any:
    """Return the frequency of each bin of `rfft`; parameters as for `fftfreq`."""
    _check_length("rfftfreq", n)
    chosen = default_dtype() if dtype is None else as_dtype(dtype)
    return _on(arange(0, n // 2 + 1, dtype=chosen) * (1.0 / (n * d)), device)


def _check_length(operation: str, n: int) -> None:
    if n < 1:
        raise ShapeError(f"{operation}: n is {n}; expected a length of 1 or more")


def _on(x: Any, device: str | None) -> Any:
    return x if device is None else to_device(x, device)


def fftshift(x: Any, /, axes: int | Sequence[int] | None = None) -> Any:
    """Return spectra with the frequency 0 moved to the middle, along all axes or the given ones."""
    return _shifted("fftshift", x, axes, lambda length: length // 2)


def ifftshift(x: Any, /, axes: int | Sequence[int] | None = None) -> Any:
    """Return the inverse of `fftshift`, which differs from it for odd lengths."""
    return _shifted("ifftshift", x, axes, lambda length: -(length // 2))


def _shifted(operation: str, x: Any, axes: Any, by: Any) -> Any:
    x = operand(x)
    shape = tuple(x.shape)
    places = normalize_axes(operation, axes, len(shape))
    return roll(x, tuple(by(shape[place]) for place in places), axis=places) if places else x

"""Sums of squares of gradients where these lie, in double precision, read at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.distributed.averaging.exchange import on_host
from distgrad.distributed.verbs.device_buffers import is_on_device
from distgrad.sparse import densified


def sums_of_squares(gradients: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Return Σ|g|² of each gradient, on the host; of None 0.

    Parameters
    ----------
    gradients : sequence of Tensor, IndexedSlices, numpy.ndarray or None
        What lies on devices is added up there, and waited for once.
    """
    arrays = [_where_it_is(gradient) for gradient in gradients]
    found = [squares(array).sum() for array in arrays]
    places = [place for place, array in enumerate(arrays) if is_on_device(array)]
    if places:
        stacked = np.stack([found[place] for place in places])
        totals = densified(gradients[places[0]]).backend.to_host(stacked)
        for place, total in zip(places, totals, strict=True):
            found[place] = total
    return np.array(found, np.float64)


def _where_it_is(gradient: Any) -> Any:
    """Return a gradient as an array of a device, if it lies there, or of the host."""
    if gradient is None or isinstance(gradient, np.ndarray):
        return gradient
    array = densified(gradient).array
    return array if is_on_device(array) else on_host(gradient)


def squares(array: Any) -> Any:
    """Return |g|² of the elements of an array, in float64; of None nothing."""
    if array is None:
        return np.zeros(0)
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    return (wide * wide.conj()).real if wide.dtype.kind == "c" else np.square(wide, out=wide)

"""Add up numbers over ranks without rounding, so that neither cut nor order shows in the sum.

A number in double precision is an integer of 53 bits times a power of two. Integers of one power
are added up in a bin of their own, in two halves so that nothing overflows, and only the sum of all
bins is rounded. Bins by exponent are those of Demmel and Hida, "Accurate and efficient floating
point summation", SIAM Journal on Scientific Computing 25(4), 2004; here there is one for every
exponent, so that the sum is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from distgrad.distributed.verbs.communicator import Array, Communicator

_LOWEST = -1074  # the exponent of the smallest number there is
_BINS = 1025 - _LOWEST
_HALF = 27  # bits of the lower half; the upper one has 26
_BLOCK = 65_536  # elements at once: their temporaries fit into the cache


def exact_sum(comm: Communicator, arrays: Iterable[Array]) -> float:
    """Return the sum of all elements of arrays on all ranks, rounded once.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    arrays : iterable of numpy.ndarray
        Real numbers that are not negative; of any lengths.

    Returns
    -------
    float
        The same bits however elements lie on ranks; NaN or infinity if there is one.

    Notes
    -----
    It takes a message of 34 kB; 2³⁶ elements are not too many.
    """
    bins = np.zeros((2, _BINS), np.int64)
    wrong = np.zeros(1)
    for array in arrays:
        flat = array.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK].astype(np.float64)
            finite = np.isfinite(block)
            if not finite.all():
                wrong += block[~finite].sum()
                block = block[finite]
            _add(bins, block)
    bins, wrong = comm.allreduce(bins), comm.allreduce(wrong)
    return _rounded(bins) if np.isfinite(wrong[0]) else float(wrong[0])


def _add(bins: Array, numbers: Array) -> None:
    parts, exponents = np.frexp(numbers)
    whole = np.ldexp(parts, 53).astype(np.int64)
    places = np.maximum(exponents - _LOWEST, 0)
    for half, values in enumerate((whole >> _HALF, whole & ((1 << _HALF) - 1))):
        bins[half] += np.bincount(places, values, minlength=_BINS).astype(np.int64)


def _rounded(bins: Array) -> float:
    total: Any = Fraction(0)
    for place in np.flatnonzero(bins.any(axis=0)):
        whole = (int(bins[0, place]) << _HALF) + int(bins[1, place])
        exponent = int(place) + _LOWEST - 53
        total += Fraction(whole) * Fraction(2) ** exponent
    try:
        return float(total)
    except OverflowError:
        return math.inf

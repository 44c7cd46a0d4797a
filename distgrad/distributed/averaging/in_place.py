"""Find gradients that nobody else holds: their own memory is the message, and then the average.

The interpreter counts references. If only a list refers to a gradient, and only the gradient to its
array, which owns its memory or is the only view of a place that two ranks share, whoever was given
the list to use up may write into that array: no variable, tape, hook or view can see it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from distgrad.distributed.verbs.communicator import Array
from distgrad.distributed.verbs.places import Places
from distgrad.tensor import Tensor


def taken(
    gradients: list[Any], place: int, dtype: np.dtype[Any], places: Places | None = None
) -> Array | None:
    """Take a gradient's array off a list, if it is flat memory that nobody else refers to.

    Parameters
    ----------
    gradients : list of Tensor, numpy.ndarray, IndexedSlices or None
        If the array is taken, None comes into its place.
    place : int
        Which of them.
    dtype : numpy.dtype
        In which it has to be.
    places : Places, optional
        Where it may lie, too.

    Returns
    -------
    numpy.ndarray or None
        Of the gradient's shape, contiguous and writable; None if somebody else holds it, or it is
        laid out otherwise: then nothing is changed.
    """
    kind = type(gradients[place])
    known = _ALONE.get(kind)
    if known is None or _references(gradients, place) > known:
        return None
    array = gradients[place] if kind is np.ndarray else gradients[place].array
    flags = array.flags
    if not (array.dtype == dtype and flags.c_contiguous and flags.writeable):
        return None
    if not flags.owndata and (places is None or not places.holds(array)):
        return None
    gradients[place] = None
    own: Array = array
    return own


def _references(gradients: list[Any], place: int) -> int:
    """Return how often a gradient and its array are referred to; a great number for others."""
    gradient = gradients[place]
    array = gradient if type(gradient) is np.ndarray else gradient.array
    if type(array) is not np.ndarray:
        return sys.maxsize
    # Neither has fewer than one that nobody else holds, so that the sum tells of both.
    return sys.getrefcount(gradient) + sys.getrefcount(array)


def _references_to_nobody_elses() -> dict[type, int]:
    """Return what is counted where nobody else holds a gradient: versions of Python differ."""
    nowhere: Any = None
    gradients = [Tensor(np.empty(1), nowhere), np.empty(1)]
    return {Tensor: _references(gradients, 0), np.ndarray: _references(gradients, 1)}


_ALONE = _references_to_nobody_elses()

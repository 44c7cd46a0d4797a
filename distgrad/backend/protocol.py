"""What a backend is: a handful of members that do not grow with the operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

API_VERSION = 1


@runtime_checkable
class Backend(Protocol):
    """Whatever interprets the vocabulary for one kind of array.

    The arrays have `shape` and `dtype`, Python's arithmetic and comparison operators, and are not
    changed once an operation has returned them.

    Attributes
    ----------
    name : str
        The name under which users choose it.
    api_version : int
        The version of this protocol that the backend was written for (`API_VERSION`).
    """

    name: str
    api_version: int

    def asarray(self, value: Any, *, dtype: np.dtype[Any] | None = None, copy: bool = False) -> Any:
        """Return a value (own array, NumPy array, NumPy or Python scalar) as an own array.

        Parameters
        ----------
        value : array_like
            What to convert; a NumPy array is brought to the device.
        dtype : numpy.dtype, optional
            The dtype wanted; by default the value's own.
        copy : bool
            Whether the result may share no memory with `value`.
        """
        ...

    def owns(self, value: Any) -> bool:
        """Return whether a value is one of this backend's arrays."""
        ...

    def kernel(self, name: str) -> Callable[..., Any] | None:
        """Return the kernel of an operation, or None where there is none.

        A kernel takes arrays positionally and metadata as keywords (``kernel("sum")(x, axis=0,
        keepdims=True)``), and one of its array arguments may be a Python scalar where others are
        arrays. An operation whose kernel is missing is composed of others.
        """
        ...

    def to_host(self, array: Any) -> np.ndarray[Any, Any]:
        """Return an own array's values as a NumPy array, waiting for them if need be."""
        ...

    def device(self, array: Any) -> str:
        """Return where an own array lives, such as ``"cpu"`` or ``"cuda:0"``."""
        ...

    def synchronize(self) -> None:
        """Return once all the work that was given to the device is done."""
        ...

"""The vocabulary on cupy.ndarray, from the kit for array modules.

Importing this module needs CuPy but no driver; `create` is what asks for a device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cupy
import numpy as np

from distgrad.backend.kit import ArrayModuleBackend, scatter_add


class CuPyBackend(ArrayModuleBackend):
    """CuPy as a backend, on the current CUDA device."""

    def __init__(self) -> None:
        super().__init__("cupy", cupy, KERNELS)

    def asarray(self, value: Any, *, dtype: np.dtype[Any] | None = None, copy: bool = False) -> Any:
        """Return a value as a CuPy array; what lies in host memory is copied to the device."""
        return cupy.array(value, dtype=dtype) if copy else cupy.asarray(value, dtype=dtype)

    def to_host(self, array: Any) -> np.ndarray[Any, Any]:
        """Return an array's values in host memory, once they are computed."""
        host: np.ndarray[Any, Any] = cupy.asnumpy(array)
        return host

    def device(self, array: Any) -> str:
        """Return the CUDA device that holds the array, such as ``"cuda:0"``."""
        return f"cuda:{array.device.id}"

    def synchronize(self) -> None:
        """Return once the current device has done all its work."""
        cupy.cuda.Device().synchronize()


def create() -> CuPyBackend:
    """Return the backend; the value of the entry point ``cupy``.

    Raises
    ------
    RuntimeError
        If there is no CUDA device, or its driver does not answer.
    """
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"no CUDA device answers ({error})") from error
    if count == 0:
        raise RuntimeError("no CUDA device is visible")
    return CuPyBackend()


def _astype(x: Any, dtype: Any) -> Any:
    return x.astype(dtype)


def _cumulative_sum(x: Any, axis: int | None = None) -> Any:
    if axis is None and x.ndim != 1:
        raise ValueError("cumulative_sum needs an axis")
    return x.cumsum(axis)


KERNELS: dict[str, Callable[..., Any]] = {
    "astype": _astype,
    "cumulative_sum": _cumulative_sum,
    "scatter_add": partial(scatter_add, cupy),
}

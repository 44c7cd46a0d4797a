"""Inspection: what this namespace of the array API standard can do, on the backend in force."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.backends_in_force import current_kernels
from distgrad.dtypes import (
    DType,
    bool_,
    complex64,
    complex128,
    complex_of,
    default_dtype,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from distgrad.promotion import isdtype

# The standard's dtypes; float16 and bfloat16 are offered beyond it.
_STANDARD = {
    dtype.name: dtype
    for dtype in (bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64)
    + (float32, float64, complex64, complex128)
}


class NamespaceInfo:
    """What `distgrad.__array_namespace_info__` returns, by the standard's names.

    Examples
    --------
    >>> import distgrad as dg
    >>> dg.__array_namespace_info__().default_dtypes()["real floating"]
    dtype('float32')
    """

    def capabilities(self) -> dict[str, Any]:
        """Return what is optional in the standard and offered here.

        Returns
        -------
        dict
            ``"boolean indexing"`` and ``"data-dependent shapes"``: true, though not within a traced
            function; ``"max dimensions"``: the most axes an array can have, NumPy's 64.
        """
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """Return the device on which new arrays are made."""
        return self.devices()[0]

    def devices(self) -> list[str]:
        """Return the devices of the backend in force; others belong to other backends."""
        backend = current_kernels().backend
        listed = getattr(backend, "devices", None)
        if listed is None:
            return [str(backend.device(backend.asarray(np.float32(0.0))))]
        return list(listed())

    def default_dtypes(self, *, device: str | None = None) -> dict[str, DType]:
        """Return the dtypes that values get that bring none of their own."""
        self._check(device)
        real = default_dtype()
        return {
            "real floating": real,
            "complex floating": complex_of(real),
            "integral": int64,
            "indexing": int64,
        }

    def dtypes(
        self, *, device: str | None = None, kind: str | tuple[str, ...] | None = None
    ) -> dict[str, DType]:
        """Return the dtypes of the standard by name, all or those of a kind (see `isdtype`)."""
        self._check(device)
        return {
            name: dtype for name, dtype in _STANDARD.items() if kind is None or isdtype(dtype, kind)
        }

    def _check(self, device: str | None) -> None:
        if device is not None and device not in self.devices():
            raise ValueError(
                f"device is {device!r}; expected one of {', '.join(self.devices())}, those of the "
                "backend in force"
            )


def __array_namespace_info__() -> NamespaceInfo:
    """Return what this namespace of the array API standard can do."""
    return NamespaceInfo()

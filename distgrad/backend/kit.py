"""The kit: a whole backend over any module that follows the Python array API standard.

What a module calls otherwise than the vocabulary does, or lacks, is adapted here once, for NumPy,
CuPy and every stranger's module; a backend overrides the kernels that it can do better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from distgrad.backend.adapters import ADAPTERS
from distgrad.backend.adapters.indexing import explained
from distgrad.backend.protocol import API_VERSION
from distgrad.dtypes import as_dtype, float32, float64, is_complex, result_type
from distgrad.errors import DTypeError

# Kernels whose array arguments promote to one dtype before they meet.
_PROMOTING = frozenset(
    "add subtract multiply divide pow remainder floor_divide atan2 logaddexp maximum minimum "
    "bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift "
    "equal not_equal less less_equal greater greater_equal matmul concat".split()
)
# Kernels that lift integers to floating numbers, as NumPy's do.
_FLOATING = frozenset(
    "exp expm1 log log1p log2 log10 sqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh "
    "atanh divide atan2 logaddexp copysign hypot nextafter mean".split()
)


class ArrayModuleBackend:
    """A backend over a module of the Python array API standard.

    Parameters
    ----------
    name : str
        The backend's name.
    module : module
        A namespace of the standard: `asarray`, `sin`, `sum`, ...
    kernels : mapping of str to callable, optional
        Kernels that take precedence over the module's, by operation.
    """

    api_version = API_VERSION

    def __init__(
        self,
        name: str,
        module: ModuleType,
        kernels: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.name = name
        self.module = module
        self._kernels = dict(kernels or {})
        self._array_type = type(module.asarray(0.0))
        # A module that speaks NumPy's own dtypes promotes mixed kinds by itself, as NumPy does.
        self.speaks_numpy = isinstance(module.asarray(0.0).dtype, np.dtype)

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    def asarray(self, value: Any, *, dtype: np.dtype[Any] | None = None, copy: bool = False) -> Any:
        """Return a value as an array of the module."""
        if dtype is None and isinstance(value, (np.ndarray, np.generic)):
            dtype = value.dtype
        own = None if dtype is None else self.own_dtype(dtype)
        return self.module.asarray(value, dtype=own, copy=True if copy else None)

    def owns(self, value: Any) -> bool:
        """Return whether a value is an array of the module."""
        return isinstance(value, self._array_type)

    def to_host(self, array: Any) -> np.ndarray[Any, Any]:
        """Return an array's values as a NumPy array, by DLPack."""
        return np.from_dlpack(array)

    def device(self, array: Any) -> str:
        """Return where an array lives, in the module's words."""
        return str(getattr(array, "device", "cpu")).lower()

    def add_rows(self, array: Any, indices: Any, rows: Any) -> Any:
        """Return an array with rows added at positions along its first axis; repeated ones add up.

        The array itself is changed, where the module lets arrays be changed.
        """
        try:
            if self.speaks_numpy:
                self.module.add.at(array, (indices,), rows)
                return array
            host = np.array(self.to_host(array))
            np.add.at(host, (self.to_host(indices),), self.to_host(rows))
            return self.asarray(host)
        except IndexError as error:
            raise explained("add_rows", error, tuple(array.shape)) from error

    def devices(self) -> tuple[str, ...]:
        """Return every device of the module, the default one first, in words as `device` has."""
        default = self.device(self.module.asarray(0.0))
        return (default, *(name for name in self._own_devices() if name != default))

    def to_device(self, array: Any, device: str) -> Any:
        """Return an array on another device of the module.

        Raises
        ------
        ValueError
            If the module has no such device.
        """
        if device == self.device(array):
            return array
        own = self._own_devices()
        if device not in own:
            raise ValueError(
                f"to_device: the backend {self.name!r} has no device {device!r}; expected one of "
                f"{', '.join(self.devices())}; another backend is reached by x.to(backend=...)"
            )
        return array.to_device(own[device])

    def _own_devices(self) -> dict[str, Any]:
        """Return the module's devices, by the words that `device` has for them."""
        inspect = getattr(self.module, "__array_namespace_info__", None)
        return {} if inspect is None else {str(own).lower(): own for own in inspect().devices()}

    def synchronize(self) -> None:
        """Return at once: a module of the standard computes before it returns."""

    def own_dtype(self, dtype: Any) -> Any:
        """Return a dtype as the module spells it."""
        if self.speaks_numpy or not isinstance(dtype, np.dtype):
            return dtype
        own = getattr(self.module, dtype.name, None)
        if own is None:
            raise DTypeError(
                f"backend {self.name!r} has no dtype {dtype.name}; "
                "expected one of the Python array API standard's"
            )
        return own

    def kernel(self, name: str) -> Callable[..., Any] | None:
        """Return the kernel of an operation: a special one, an adapted one, or the module's own."""
        if name in self._kernels:
            return self._kernels[name]
        function: Callable[..., Any] | None = getattr(self.module, name, None)
        if name in ADAPTERS:
            function = partial(ADAPTERS[name], self)
        if function is None or self.speaks_numpy:
            return function
        return self._promoting(name, function)

    def _promoting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a kernel that promotes where the standard leaves promotion open."""
        if name in ("conj", "real", "imag"):
            return self._taking_reals(name, function)
        if name not in _PROMOTING and name not in _FLOATING:
            return function

        def kernel(*operands: Any, **params: Any) -> Any:
            scalars = (bool, int, float, complex)
            joint = result_type(*(o if isinstance(o, scalars) else o.dtype for o in operands))
            if name in _FLOATING and joint.kind in "biu":
                joint = self._lifted(name, joint)
            own = self.own_dtype(joint)
            return function(*(self.brought_to(own, o) for o in operands), **params)

        return kernel

    def _taking_reals(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a kernel for real numbers too, which the standard need not take for complex."""

        def kernel(x: Any) -> Any:
            if is_complex(as_dtype(x.dtype)):
                return function(x)
            return self.module.zeros_like(x) if name == "imag" else x

        return kernel

    def _lifted(self, name: str, integers: np.dtype[Any]) -> np.dtype[Any]:
        """Return the floating dtype in which integers are computed with, as by NumPy."""
        if name in ("divide", "mean"):
            return float64
        lifted = np.sqrt(np.zeros((), integers)).dtype
        return lifted if hasattr(self.module, lifted.name) else float32

    def brought_to(self, own: Any, operand: Any) -> Any:
        """Return an operand as an array of one of the module's dtypes."""
        if not self.owns(operand):
            return self.module.asarray(operand, dtype=own)
        return operand if operand.dtype == own else self.module.astype(operand, own)

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
from distgrad.backend.protocol import API_VERSION
from distgrad.core.op import Placeholder, Slice
from distgrad.dtypes import as_dtype, float32, float64, int64, is_complex, result_type
from distgrad.errors import DTypeError, PositionError

# Kernels whose array arguments promote to one dtype before they meet.
_PROMOTING = frozenset(
    "add subtract multiply divide pow remainder floor_divide atan2 logaddexp maximum minimum "
    "equal not_equal less less_equal greater greater_equal matmul concat".split()
)
# Kernels that lift integers to floating numbers, as NumPy's do.
_FLOATING = frozenset(
    "exp expm1 log log1p sqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh "
    "divide atan2 logaddexp mean".split()
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
        self._speaks_numpy = isinstance(module.asarray(0.0).dtype, np.dtype)

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

    def synchronize(self) -> None:
        """Return at once: a module of the standard computes before it returns."""

    def own_dtype(self, dtype: Any) -> Any:
        """Return a dtype as the module spells it."""
        if self._speaks_numpy or not isinstance(dtype, np.dtype):
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
        if name in ADAPTERS:
            return partial(ADAPTERS[name], self)
        adapter = getattr(self, f"_{name}", None)
        function = adapter or getattr(self.module, name, None)
        if function is None or self._speaks_numpy:
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
            return function(*(self._brought_to(own, o) for o in operands), **params)

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

    def _brought_to(self, own: Any, operand: Any) -> Any:
        if not self.owns(operand):
            return self.module.asarray(operand, dtype=own)
        return operand if operand.dtype == own else self.module.astype(operand, own)

    # --- kernels whose calling convention differs from the standard's ---------------------------

    def _astype(self, x: Any, *, dtype: Any) -> Any:
        return self.module.astype(x, self.own_dtype(dtype))

    def _reshape(self, x: Any, *, shape: tuple[int, ...]) -> Any:
        return self.module.reshape(x, shape)

    def _broadcast_to(self, x: Any, *, shape: tuple[int, ...]) -> Any:
        return self.module.broadcast_to(x, shape)

    def _concat(self, *arrays: Any, axis: int) -> Any:
        return self.module.concat(arrays, axis=axis)

    def _where(self, condition: Any, a: Any, b: Any) -> Any:
        if not self._speaks_numpy:
            scalars = (bool, int, float, complex)
            joint = result_type(*(o if isinstance(o, scalars) else o.dtype for o in (a, b)))
            a, b = (self._brought_to(self.own_dtype(joint), o) for o in (a, b))
        return self.module.where(condition, a, b)

    def _cumulative_sum(self, x: Any, *, axis: int | None = None) -> Any:
        if axis is None and x.ndim != 1:
            raise ValueError("cumulative_sum needs an axis")
        return self.module.cumulative_sum(x, axis=axis)

    def _full(self, *, shape: tuple[int, ...], fill_value: Any, dtype: Any) -> Any:
        return self.module.full(shape, fill_value, dtype=self.own_dtype(dtype))

    def _arange(self, *, start: Any, stop: Any, step: Any, dtype: Any) -> Any:
        return self.module.arange(start, stop, step, dtype=self.own_dtype(dtype))

    def _linspace(self, *, start: Any, stop: Any, num: int, dtype: Any, endpoint: bool) -> Any:
        own = self.own_dtype(dtype)
        return self.module.linspace(start, stop, num, dtype=own, endpoint=endpoint)

    def _eye(self, *, n_rows: int, n_cols: int, k: int, dtype: Any) -> Any:
        return self.module.eye(n_rows, n_cols, k=k, dtype=self.own_dtype(dtype))

    def _one_hot(self, labels: Any, *, classes: int, dtype: Any) -> Any:
        # In int64: in the labels' own dtype, such as uint8, the classes might not all fit.
        own = self.own_dtype(int64)
        wide = labels if self._speaks_numpy else self._brought_to(own, labels)
        hits = self.module.expand_dims(wide, axis=-1) == self.module.arange(classes, dtype=own)
        return self.module.astype(hits, self.own_dtype(dtype))

    # --- indexing: the standard knows less of it than the vocabulary ----------------------------

    def _getitem(self, x: Any, *arrays: Any, index: tuple[Any, ...]) -> Any:
        try:
            if self._speaks_numpy:
                return x[subscript(index, arrays)]
            if not arrays:
                # The standard leaves open what fewer indices than axes mean, without an ellipsis.
                return x[subscript(index if Ellipsis in index else (*index, Ellipsis), ())]
            # The standard takes integer arrays only among themselves; NumPy takes any mixture.
            hosts = tuple(self.to_host(a) for a in arrays)
            return self.asarray(self.to_host(x)[subscript(index, hosts)])
        except IndexError as error:
            raise PositionError(
                f"getitem: {error}; the array has shape {tuple(x.shape)}, expected positions "
                "within it, from -n to n - 1 along an axis of length n"
            ) from error

    def _scatter_add(
        self, g: Any, *arrays: Any, index: tuple[Any, ...], shape: tuple[int, ...]
    ) -> Any:
        hosts = tuple(self.to_host(a) for a in arrays)
        return self.asarray(scatter_add(np, self.to_host(g), *hosts, index=index, shape=shape))


def subscript(index: tuple[Any, ...], arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the subscript that metadata describes, with raw arrays in its placeholders."""
    rest = iter(arrays)
    return tuple(
        slice(*part) if type(part) is Slice else (next(rest) if part is Placeholder.ARRAY else part)
        for part in index
    )


def scatter_add(
    module: Any, g: Any, *arrays: Any, index: tuple[Any, ...], shape: tuple[int, ...]
) -> Any:
    """Return zeros with a cotangent added at the places of a subscript (repeated ones add up)."""
    result = module.zeros(shape, dtype=g.dtype)
    where = subscript(index, arrays)
    if any(a.dtype.kind != "b" for a in arrays):
        module.add.at(result, where, g)
    else:  # slices, single positions and masks name no place twice
        result[where] = g
    return result

"""Tensor: a thin, immutable handle on one backend's array, with an identity for the tapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np

from distgrad.backend.discovery import load
from distgrad.backend.kernels import Kernels
from distgrad.backend.protocol import Backend
from distgrad.core.op import Op
from distgrad.core.seam import LISTENERS, apply
from distgrad.dtypes import DType, DTypeLike, as_dtype
from distgrad.ops import (
    VOCABULARY,
    arithmetic,
    comparison,
    complex_numbers,
    contractions,
    indexing,
    reductions,
    structure,
)

new_key = count(1).__next__  # identities: never 0, which means "a constant"


def _binary(op: Op) -> Callable[[Any, Any], Any]:
    def operator(self: Any, other: Any) -> Any:
        return apply(op, self, other)

    return operator


def _equality(op: Op, without: bool) -> Callable[[Any, Any], Any]:
    def operator(self: Any, other: Any) -> Any:
        # `x == None` is asked of values that may be a tensor or None: an answer, and no error.
        return without if other is None else apply(op, self, other)

    return operator


def _reflected(op: Op) -> Callable[[Any, Any], Any]:
    def operator(self: Any, other: Any) -> Any:
        return apply(op, other, self)

    return operator


def _unary(op: Op) -> Callable[[Any], Any]:
    def operator(self: Any) -> Any:
        return apply(op, self)

    return operator


class Operators:
    """Python's operators and the array methods, for whatever can be read as a tensor."""

    __slots__ = ()

    # np.add(array, tensor) and array + tensor come to __array_ufunc__ below.
    __add__, __radd__ = _binary(arithmetic.ADD), _reflected(arithmetic.ADD)
    __sub__, __rsub__ = _binary(arithmetic.SUBTRACT), _reflected(arithmetic.SUBTRACT)
    __mul__, __rmul__ = _binary(arithmetic.MULTIPLY), _reflected(arithmetic.MULTIPLY)
    __truediv__, __rtruediv__ = _binary(arithmetic.DIVIDE), _reflected(arithmetic.DIVIDE)
    __floordiv__ = _binary(arithmetic.FLOOR_DIVIDE)
    __rfloordiv__ = _reflected(arithmetic.FLOOR_DIVIDE)
    __mod__, __rmod__ = _binary(arithmetic.REMAINDER), _reflected(arithmetic.REMAINDER)
    __pow__, __rpow__ = _binary(arithmetic.POW), _reflected(arithmetic.POW)
    __matmul__, __rmatmul__ = _binary(contractions.MATMUL), _reflected(contractions.MATMUL)
    __neg__, __pos__ = _unary(arithmetic.NEGATIVE), _unary(arithmetic.POSITIVE)
    __abs__ = _unary(arithmetic.ABS)
    __lt__, __le__ = _binary(comparison.LESS), _binary(comparison.LESS_EQUAL)
    __gt__, __ge__ = _binary(comparison.GREATER), _binary(comparison.GREATER_EQUAL)
    __eq__ = _equality(comparison.EQUAL, False)  # elementwise, as NumPy's
    __ne__ = _equality(comparison.NOT_EQUAL, True)
    __hash__ = None  # type: ignore[assignment]  # == is elementwise, so there is no hash

    def __getitem__(self, key: Any) -> Any:
        return indexing.getitem(self, key)

    def read(self) -> Tensor:
        """Return the value as a tensor."""
        raise TypeError(f"{type(self).__name__} defines no value to read")

    # --- what the value is ----------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return tuple(self.read().array.shape)

    @property
    def dtype(self) -> DType:
        """The dtype, as a `numpy.dtype` on every backend."""
        return as_dtype(self.read().array.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.read().array.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """The memory of the elements, in bytes."""
        return self.size * self.dtype.itemsize

    @property
    def backend(self) -> Any:
        """The backend whose array holds the value."""
        return self.read().kernels.backend

    @property
    def device(self) -> str:
        """Where the array lives, such as ``"cpu"`` or ``"cuda:0"``."""
        tensor = self.read()
        return str(tensor.kernels.backend.device(tensor.array))

    def numpy(self) -> Any:
        """Return the values as a NumPy array of their own, or a NumPy scalar for no dimensions."""
        tensor = self.read()
        tensor._leave()
        host = tensor.kernels.backend.to_host(tensor.array)
        return host[()] if host.ndim == 0 else np.array(host)

    def item(self) -> Any:
        """Return the one element as a Python scalar.

        Raises
        ------
        ValueError
            If there is not exactly one.
        """
        self._leave()
        return self._host().item()

    def tolist(self) -> Any:
        """Return the values as nested Python lists, or as a scalar for no dimensions."""
        self._leave()
        return self._host().tolist()

    def _leave(self) -> None:
        """Tell the listeners who care that the numbers are taken out, where no tape follows."""
        for listener in LISTENERS.get():
            hear_left = getattr(listener, "hear_left", None)
            if hear_left is not None:
                hear_left(self.key)  # type: ignore[attr-defined]  # whatever is read has one

    def _host(self) -> np.ndarray[Any, Any]:
        tensor = self.read()
        host: np.ndarray[Any, Any] = tensor.kernels.backend.to_host(tensor.array)
        return host

    def __float__(self) -> float:
        return float(self._number("float"))

    def __int__(self) -> int:
        return int(self._number("int"))

    def __complex__(self) -> complex:
        return complex(self._number("complex"))

    def __index__(self) -> int:
        return self._number("operator.index").__index__()

    def _number(self, function: str) -> np.ndarray[Any, Any]:
        """Return the host's array for a conversion to a Python number."""
        self._leave()
        host = self._host()
        if host.dtype.kind == "c" and function != "complex":
            raise TypeError(
                f"{function}() of a complex tensor would lose its imaginary part; take .real, "
                "or complex(t)"
            )
        if host.ndim:
            raise TypeError(
                f"{function}() of a tensor of shape {host.shape}: expected no dimensions; "
                "take one element, or item() where there is only one"
            )
        return host

    def __bool__(self) -> bool:
        host = self._host()
        if host.size != 1:
            raise ValueError(
                f"bool() of a tensor of shape {host.shape} is ambiguous: expected one element; "
                "use dg.any or dg.all"
            )
        return bool(host.item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a zero-dimensional tensor: it has no axis to count along")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            raise TypeError("a zero-dimensional tensor has no axis to iterate over; use item()")
        return (self[i] for i in range(self.shape[0]))

    def to(self, *, backend: str | Backend) -> Any:
        """Return the value on another backend; its gradient comes back to this one.

        Parameters
        ----------
        backend : str or Backend
            Where to; the value is copied by way of the host.

        Raises
        ------
        UnknownBackendError, BackendUnavailableError
            If there is no such backend, or it does not work here.
        """
        source = self.backend
        target = load(backend) if isinstance(backend, str) else backend
        if target is source:
            tensor = self.read()
            return tensor if tensor is self else apply(arithmetic.POSITIVE, tensor)
        return apply(structure.TRANSFER, self, source=source, backend=target)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"a {type(self).__name__} is not pickled: its identity means something to the tapes of "
            "this process alone; save or send its values, .numpy()"
        )

    # --- NumPy's protocols ----------------------------------------------------------------------

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        tensor = self.read()
        if any(listener.follows(tensor.key) for listener in LISTENERS.get()):
            raise TypeError(
                "np.asarray on a tensor that a tape watches would cut its gradient; "
                "take t.numpy() for the values, or dg.stop_gradient(t) to cut on purpose"
            )
        view = self._host().view()
        view.flags.writeable = False
        return np.array(view, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **params: Any) -> Any:
        op = _UFUNCS.get(ufunc)
        if op is None or method != "__call__" or params:
            return NotImplemented
        return apply(op, *inputs)

    # --- array methods --------------------------------------------------------------------------

    @property
    def T(self) -> Any:
        """The matrix transpose of a two-dimensional value."""
        return structure.permute_dims(self, tuple(reversed(range(self.ndim))))

    @property
    def mT(self) -> Any:
        """The value with its last two axes exchanged."""
        return structure.matrix_transpose(self)

    @property
    def real(self) -> Any:
        """The real part."""
        return complex_numbers.real(self)

    @property
    def imag(self) -> Any:
        """The imaginary part."""
        return complex_numbers.imag(self)

    def astype(self, dtype: DTypeLike) -> Any:
        """Return the value in another dtype; see `distgrad.astype`."""
        return structure.astype(self, dtype)

    def reshape(self, *shape: Any) -> Any:
        """Return the elements in another shape, given as one tuple or as several integers."""
        return structure.reshape(self, shape[0] if len(shape) == 1 else shape)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Return the sum over axes; see `distgrad.sum`."""
        return reductions.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Return the mean over axes; see `distgrad.mean`."""
        return reductions.mean(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Return the largest element over axes; see `distgrad.max`."""
        return reductions.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Return the smallest element over axes; see `distgrad.min`."""
        return reductions.min(self, axis=axis, keepdims=keepdims)

    # --- printing -------------------------------------------------------------------------------

    def __format__(self, spec: str) -> str:
        host = self._host()
        if host.ndim and spec:
            raise TypeError(
                f"format {spec!r}: expected a tensor of no dimensions, got shape {host.shape}; "
                "format its elements one by one, or leave the format away"
            )
        return format(host if host.ndim else host[()], spec)


class Tensor(Operators):
    """An immutable array of one backend, as operations return it.

    Made by operations and by `distgrad.asarray`, not by users.

    Parameters
    ----------
    array : array
        The backend's own array; nobody changes it from now on.
    kernels : Kernels
        The vocabulary on such arrays.
    key : int, optional
        The identity by which tapes know the value; a new one unless given.
    """

    __slots__ = ("__weakref__", "array", "kernels", "key")

    array: Any
    kernels: Kernels
    key: int

    def __init__(self, array: Any, kernels: Kernels, key: int | None = None) -> None:
        self.array = array
        self.kernels = kernels
        self.key = new_key() if key is None else key

    def read(self) -> Tensor:
        """Return the tensor itself."""
        return self

    def __copy__(self) -> Tensor:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self  # immutable

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            "a Tensor is immutable and takes no item assignment; compute a new one (dg.where), "
            "or keep the values in a dg.Variable and assign to that"
        )

    def __str__(self) -> str:
        host = self._host()
        text = np.array2string(host) if host.ndim else str(host[()])
        newline = "\n" if host.ndim > 1 else ""
        return f"dg.Tensor({newline}{text}, shape={self.shape}, dtype={self.dtype})"

    def __repr__(self) -> str:
        values = np.array2string(self._host(), separator=", ")
        return (
            f"<dg.Tensor: shape={self.shape}, dtype={self.dtype}, backend={self.backend.name}, "
            f"device={self.device}, numpy={values}>"
        )


_UFUNC_NAMES = {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "arctan2": "atan2",
    "power": "pow",
    "absolute": "abs",
    "fabs": "abs",
    "conjugate": "conj",
    "rint": "round",
    "true_divide": "divide",
    "mod": "remainder",
}


_UFUNCS: dict[np.ufunc, Op] = {
    ufunc: VOCABULARY[_UFUNC_NAMES.get(name, name)]
    for name, ufunc in vars(np).items()
    if isinstance(ufunc, np.ufunc) and _UFUNC_NAMES.get(name, name) in VOCABULARY
}

"""Tensor: a thin, immutable handle on one backend's array, with an identity for the tapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np

from distgrad.array_methods import ArrayMethods
from distgrad.backend.kernels import Kernels
from distgrad.core.op import Op
from distgrad.core.seam import LISTENERS, apply
from distgrad.dtypes import DType, as_dtype
from distgrad.foreign_names import ForeignTensorMethods
from distgrad.interchange import Interchange
from distgrad.operators import PythonOperators
from distgrad.ops import VOCABULARY
from distgrad.ops.shaping.arrangement import unstack

new_key = count(1).__next__  # identities: never 0, which means "a constant"


class Operators(PythonOperators, ArrayMethods, Interchange, ForeignTensorMethods):
    """Python's operators and the array methods, for whatever can be read as a tensor."""

    __slots__ = ()

    is_sparse = False  # of a class that has sparse results of its own, see `combine`

    def read(self) -> Tensor:
        """Return the value as a tensor."""
        raise TypeError(f"{type(self).__name__} defines no value to read")

    def combine(self, op: Op, first: Any, second: Any) -> Any:
        """Return the sparse result of an operation of which this is an operand, if it has one."""
        return NotImplemented

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

    def item(self, *position: Any) -> Any:
        """Return the one element, or that at a position, as a Python scalar.

        Raises
        ------
        ValueError
            If no position is given, and there is not exactly one element.
        """
        self._leave()
        return self._host().item(*position)

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
        if function != "operator.index":
            self._refuse_store()
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
        if self._is_followed():  # as one record: each subscript's gradient has the whole size
            return iter(unstack(self))
        return (self[i] for i in range(self.shape[0]))

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"a {type(self).__name__} is not pickled: its identity means something to the tapes of "
            "this process alone; save or send its values, .numpy()"
        )

    # --- NumPy's protocols ----------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **params: Any) -> Any:
        op = _UFUNCS.get(ufunc)
        if op is None or method != "__call__" or params:
            return _numpy_ufunc(ufunc, method, inputs, params)
        return apply(op, *inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _numpy_function(function, args, kwargs, self)

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
    """An array of one backend, as operations return it.

    Nobody changes the array; ``t[i] = x`` gives the handle an updated copy, and so is refused on
    what a tape watches.

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
        return Tensor(self.array, self.kernels, self.key)  # a handle of its own, for `t[i] = x`

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.__copy__()  # nobody changes the array

    def __setitem__(self, key: Any, value: Any, /) -> None:
        # The handle gets another array and another identity: records keep what they have seen.
        if self._is_followed() or (isinstance(value, Operators) and value._is_followed()):
            raise TypeError(
                "t[i] = x on tensors that a tape watches would cut the gradient; take "
                "t = t.at[i].set(x), which is differentiated"
            )
        updated = self.at[key].set(value)
        self.array, self.kernels, self.key = updated.array, updated.kernels, updated.key

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


# The vocabulary's names where NumPy's ufuncs have others.
UFUNC_NAMES = {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "arctan2": "atan2",
    "power": "pow",
    "absolute": "abs",
    "conjugate": "conj",
    "true_divide": "divide",
    "mod": "remainder",
}


_numpy_function: Callable[..., Any]
_numpy_ufunc: Callable[..., Any]


def bind_numpy(function: Callable[..., Any], ufunc: Callable[..., Any]) -> None:
    """Say what computes NumPy's functions; done once, by `distgrad.numpy_functions.dispatch`."""
    global _numpy_function, _numpy_ufunc
    _numpy_function, _numpy_ufunc = function, ufunc


_UFUNCS: dict[np.ufunc, Op] = {
    ufunc: VOCABULARY[UFUNC_NAMES.get(name, name)]
    for name, ufunc in vars(np).items()
    if isinstance(ufunc, np.ufunc) and UFUNC_NAMES.get(name, name) in VOCABULARY
}

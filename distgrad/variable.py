"""Variable: a named value that training changes in place, read by operations like a tensor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from distgrad.backend.protocol import Backend
from distgrad.core.op import Placeholder
from distgrad.core.seam import LISTENERS, VALUES
from distgrad.dtypes import DType, DTypeLike, as_dtype
from distgrad.eager import as_host, asarray, holds_tensors
from distgrad.errors import DTypeError, MixedBackendError, ShapeError
from distgrad.ops.elementwise.arithmetic import add, positive, subtract
from distgrad.sparse import IndexedSlices
from distgrad.tensor import Operators, Tensor, new_key

_FROM_PYTHON = (bool, int, float, complex, list, tuple)


_references = getattr(sys, "getrefcount", lambda of: 0)


def _counts(variable: Any) -> tuple[int, int]:
    """Return how many refer to a variable's array and to its value, a name in here among them."""
    value = variable._value
    array = value.array
    return _references(array), _references(value)


def _counts_of_many(variables: Sequence[Any]) -> tuple[list[Any], list[int], list[int]]:
    """Return the arrays of variables, and the counts of each: as of one, but with lists in here."""
    values = [variable._value for variable in variables]
    arrays = [value.array for value in values]
    return arrays, [*map(_references, arrays)], [*map(_references, values)]


class _Lone:
    """A variable whose value nobody else holds."""

    def __init__(self) -> None:
        self._value = SimpleNamespace(array=object())


# What is counted then; whether a name counts depends on the interpreter's version.
_ALONE = _counts(_Lone())
_, (_ARRAY_ALONE,), (_VALUE_ALONE,) = _counts_of_many([_Lone()])
# Without the interpreter's lock counts are kept by thread, and tell nothing.
_COUNTS_REFERENCES = bool(_ARRAY_ALONE) and getattr(sys, "_is_gil_enabled", lambda: True)()


class InPlace:
    """How often arrays of variables were changed where they lie.

    Who knows an array by its identity, and holds what it was, looks here whether it still is.

    Attributes
    ----------
    changes : int
        Of all variables together.
    """

    changes = 0


def arrays_alone(variables: Sequence[Variable]) -> list[Any] | None:
    """Return the arrays of variables if nothing but these refers to any, as far as can be known.

    Whether one is a view of another's memory is not asked. Who calls it changes them in place.
    """
    InPlace.changes += 1
    if not _COUNTS_REFERENCES:
        return None
    arrays, of_arrays, of_values = _counts_of_many(variables)
    count = len(arrays)
    alone = of_arrays.count(_ARRAY_ALONE) == count and of_values.count(_VALUE_ALONE) == count
    return arrays if alone else None


class Variable(Operators):
    """A value that can be assigned, and that tapes watch by themselves where it is trainable.

    Parameters
    ----------
    initial_value : Tensor, Variable, array, scalar or nested lists
        The first value, which is copied; shape and dtype stay as they are then.
    trainable : bool
        Whether tapes watch the variable when it is read.
    name : str, optional
        The name in summaries, messages and checkpoints; ``"Variable"`` unless given.
    dtype : dtype, optional
        The dtype; by default the value's, or the default dtype for Python floats.
    backend : str or Backend, optional
        Where the value lives; by default where it is, or on the backend in force.

    Raises
    ------
    TypeError
        If the name is no string, or the value belongs to a transformation such as `vmap`.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable(3.0)
    >>> with dg.GradientTape() as tape:
    ...     y = x**2
    >>> print(tape.gradient(y, x))
    dg.Tensor(6.0, shape=(), dtype=float32)
    """

    __slots__ = ("__weakref__", "_value", "key", "name", "trainable")

    def __init__(
        self,
        initial_value: Any,
        *,
        trainable: bool = True,
        name: str | None = None,
        dtype: DTypeLike | None = None,
        backend: str | Backend | None = None,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"Variable: name is {name!r}; expected a string, or None")
        source = asarray(initial_value, dtype=dtype, backend=backend)
        self.key = new_key()
        self.name = "Variable" if name is None else name
        self.trainable = trainable
        keeper = VALUES.get()
        if keeper is not None:
            source = keeper.create(self, source)
        kernels = source.kernels
        if kernels.level:
            raise TypeError(
                f"variable {self.name!r}: the first value belongs to a transformation, such as "
                "vmap, in which it was computed; expected numbers: create variables outside"
            )
        array = kernels.backend.asarray(source.array, copy=True)
        # A matrix in another order takes another way through BLAS, with other last bits than on a
        # rank, or after a resume, where the same numbers have come in rows.
        if not getattr(getattr(array, "flags", None), "c_contiguous", True):
            array = array.copy(order="C")
        self._value = Tensor(array, kernels, self.key)

    def read(self) -> Tensor:
        """Return the value under the variable's own identity, and tell whoever listens."""
        for listener in LISTENERS.get():
            listener.hear_read(self)
        keeper = VALUES.get()
        return self._value if keeper is None else keeper.read(self)

    def value(self) -> Tensor:
        """Return the present value as a tensor; a later assignment does not change it."""
        return positive(self)

    # The value's properties are no reads: a tape need not hear of them.

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis; fixed."""
        return tuple(self._value.array.shape)

    @property
    def dtype(self) -> DType:
        """The dtype; fixed."""
        return as_dtype(self._value.array.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes; fixed."""
        return len(self._value.array.shape)

    @property
    def backend(self) -> Any:
        """The backend whose array holds the value."""
        return self._value.kernels.backend

    @property
    def device(self) -> str:
        """Where the array lives."""
        return self._value.device

    @property
    def array(self) -> Any:
        """The backend's own array that holds the present value; not to be changed."""
        return self._value.array

    @property
    def kernels(self) -> Any:
        """The vocabulary on the variable's backend."""
        return self._value.kernels

    def numpy(self) -> Any:
        """Return the present value as a NumPy array of its own, or a scalar for no dimensions."""
        return self._value.numpy()

    def _host(self) -> np.ndarray[Any, Any]:
        return self._value._host()

    # --- assignment -----------------------------------------------------------------------------

    def assign(self, value: Any) -> Variable:
        """Replace the value; no gradient flows through an assignment.

        Parameters
        ----------
        value : Tensor, Variable, array or scalar
            Of the variable's shape, or a scalar that fills it; of a dtype of the same kind.

        Returns
        -------
        Variable
            The variable itself.

        Raises
        ------
        ShapeError
            If the shape differs.
        DTypeError
            If the dtype is of another kind (complex into floating, floating into integers).
        MixedBackendError
            If the value is an array of another backend, other than NumPy's.
        """
        keeper = VALUES.get()
        if keeper is not None:
            keeper.assign(self, asarray(value))
            return self
        self._cut(value)
        return self._replace("assign", self._admitted("assign", value, copy=True))

    def assign_add(self, delta: Any) -> Variable:
        """Add to the value; parameters, result and errors as for `assign`.

        Of an `IndexedSlices` only the rows are added, each at its place.
        """
        if VALUES.get() is not None:
            return self.assign(add(self, delta))
        self._cut(delta)
        if isinstance(delta, IndexedSlices):
            return self._add_rows("assign_add", delta)
        return self._replace(
            "assign_add", self._value.array + self._admitted("assign_add", delta, copy=False)
        )

    def assign_sub(self, delta: Any) -> Variable:
        """Subtract from the value; parameters, result and errors as for `assign`.

        Of an `IndexedSlices` only the rows are subtracted, each at its place.
        """
        if VALUES.get() is not None:
            return self.assign(subtract(self, delta))
        self._cut(delta)
        if isinstance(delta, IndexedSlices):
            return self._add_rows("assign_sub", -delta)
        return self._replace(
            "assign_sub", self._value.array - self._admitted("assign_sub", delta, copy=False)
        )

    def _add_rows(self, method: str, slices: IndexedSlices) -> Variable:
        """Add rows at their places: in the array itself if nobody else can see it."""
        kernels = self._value.kernels
        if slices.shape != self.shape:
            raise ShapeError(
                f"{method}: {self._label} has shape {self.shape}, the slices {slices.shape}; "
                "expected the same shape"
            )
        if slices.values.kernels is not kernels or slices.indices.kernels is not kernels:
            return self._replace(
                method, self._value.array + self._admitted(method, slices.to_dense(), copy=False)
            )
        rows = self._in_own_dtype(method, slices.values.array)
        alone = self._is_alone()
        array = self._value.array
        InPlace.changes += 1
        if not alone:
            array = kernels.backend.asarray(array, copy=True)
        add_rows = getattr(kernels.backend, "add_rows", None)
        if add_rows is None:
            index, shape = (Placeholder.ARRAY,), self.shape
            added = kernels.scatter_add(rows, slices.indices.array, index=index, shape=shape)
            return self._replace(method, array + added)
        return self._replace(method, add_rows(array, slices.indices.array, rows))

    def _is_alone(self) -> bool:
        """Return whether nothing but this variable refers to its array, as far as can be known.

        Tensors that were read, records of tapes, NumPy's views: all hold the array, or the tensor
        that holds it. So an update of few rows of a large table need not copy the table. Threads
        that read a variable while another one assigns to it need a lock of their own.
        """
        return (
            _COUNTS_REFERENCES
            and _counts(self) == _ALONE
            and getattr(self._value.array, "base", None) is None
        )

    def _admitted(self, method: str, value: Any, *, copy: bool) -> Any:
        kernels = self._value.kernels
        if not holds_tensors(value):
            # Python's numbers stay in double precision until they get the variable's dtype.
            given = as_host(value) if isinstance(value, _FROM_PYTHON) else value
            # NumPy's arrays are brought to any backend; those of others are not moved silently.
            home = kernels.backend if isinstance(given, (np.ndarray, np.generic)) else None
            value = asarray(given, backend=home, copy=copy or None)  # False would forbid it
        # A tensor's array is never changed, so it can be shared.
        tensor = value._value if isinstance(value, Variable) else asarray(value)
        if tensor.kernels is not kernels:
            raise MixedBackendError(
                f"{method}: {self._label} lives on the backend {self.backend.name!r}, the "
                f"value on {tensor.backend.name!r}; move it first with .to(backend=...)"
            )
        array = tensor.array
        if tuple(array.shape) not in (self.shape, ()):
            raise ShapeError(
                f"{method}: {self._label} has shape {self.shape}, the value {tuple(array.shape)}; "
                "expected the same shape, or a scalar"
            )
        return self._in_own_dtype(method, array)

    def _in_own_dtype(self, method: str, array: Any) -> Any:
        given = as_dtype(array.dtype)
        if given != self.dtype:
            if not np.can_cast(given, self.dtype, "same_kind"):
                raise DTypeError(
                    f"{method}: {self._label} has dtype {self.dtype}, the value {given}; "
                    "expected the same kind of number; "
                    f"convert it with .astype({self.dtype.name!r})"
                )
            array = self.kernels.astype(array, dtype=self._value.array.dtype)
        return array

    def _cut(self, value: Any) -> None:
        """Tell the listeners who care that an assignment passes no derivative on."""
        if isinstance(value, Operators):
            given: Any = value
            for listener in LISTENERS.get():
                hear_cut = getattr(listener, "hear_cut", None)
                if hear_cut is not None:
                    hear_cut("assign", (given.key,), self.key)

    def _replace(self, method: str, array: Any) -> Variable:
        kernels = self._value.kernels
        if array.__class__ is not kernels.array_type:
            array = kernels.backend.asarray(array)
        if tuple(array.shape) != self.shape:  # a scalar fills the variable
            array = kernels.backend.asarray(
                kernels.broadcast_to(array, shape=self.shape), copy=True
            )
        settled = getattr(kernels.backend, "settled", None)
        if settled is not None:
            array = settled(array, self._value.array)
        self._value = Tensor(array, kernels, self.key)
        return self

    @property
    def _label(self) -> str:
        return f"variable {self.name!r}"

    # `v += 1` on the name of a variable would rebind the name to a tensor, silently.

    def __iadd__(self, other: Any) -> Any:
        self._refuse_in_place("+=", "assign_add")

    def __isub__(self, other: Any) -> Any:
        self._refuse_in_place("-=", "assign_sub")

    def __imul__(self, other: Any) -> Any:
        self._refuse_in_place("*=", "assign")

    def __itruediv__(self, other: Any) -> Any:
        self._refuse_in_place("/=", "assign")

    def _refuse_in_place(self, operator: str, method: str) -> None:
        raise RuntimeError(
            f"`variable {operator} value` is not supported: it would rebind the name to a tensor; "
            f"use variable.{method}(...) to change {self._label}"
        )

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            f"{self._label} takes no item assignment; assign a whole value, such as "
            "v.assign(dg.where(mask, new, v))"
        )

    # A copy is another variable: it must not share the identity by which tapes know this one.

    def __copy__(self) -> Variable:
        return Variable(self._value, trainable=self.trainable, name=self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Variable:
        return self.__copy__()

    def __str__(self) -> str:
        return self.__repr__()

    def __repr__(self) -> str:
        values = np.array2string(self._host(), separator=", ")
        trainable = "" if self.trainable else ", trainable=False"
        return (
            f"<dg.Variable {self.name!r}: shape={self.shape}, dtype={self.dtype}, "
            f"backend={self.backend.name}{trainable}, numpy={values}>"
        )

"""Variable: the library's variable with TensorFlow's signature, checks and way of printing."""

from __future__ import annotations

import operator
from typing import Any, NoReturn

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import dtype_of, native
from distgrad.compat.tensorflow.dtypes import as_dtype
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.slices import IndexedSlices
from distgrad.compat.tensorflow.values import Tensor, TensorLike, convert_to_tensor, shown


class Variable(TensorLike, dg.Variable):
    """A value that can be assigned, and that tapes watch by themselves where it is trainable.

    Parameters
    ----------
    initial_value : Tensor, Variable, array, scalar, nested lists, or callable that returns one
        The first value, which is copied.
    trainable : bool, optional
        Whether tapes watch the variable when it is read; they do unless told otherwise.
    validate_shape : bool
        Must be true: a variable has one shape for good.
    name : str, optional
        ``"Variable"`` unless given; `name` shows it with ``":0"``.
    dtype : dtype, optional
        The dtype; by default what `convert_to_tensor` gives the value.
    shape : shape, optional
        Checked against the value's.

    Raises
    ------
    ValueError
        If there is no value, or it has not the shape.

    Examples
    --------
    >>> import distgrad.compat.tensorflow as tf
    >>> tf.Variable(3.0, name="weight")
    <tf.Variable 'weight:0' shape=() dtype=float32, numpy=3.0>
    """

    __slots__ = ()

    def __init__(
        self,
        initial_value: Any = None,
        trainable: bool | None = None,
        validate_shape: bool = True,
        caching_device: Any = None,
        name: str | None = None,
        variable_def: Any = None,
        dtype: Any = None,
        import_scope: Any = None,
        constraint: Any = None,
        synchronization: Any = None,
        aggregation: Any = None,
        shape: Any = None,
    ) -> None:
        if initial_value is None:
            raise ValueError("The `initial_value` arg to `tf.Variable` must be specified; got None")
        given = initial_value() if callable(initial_value) else initial_value
        value = convert_to_tensor(given, dtype)
        if shape is not None and not value.shape.is_compatible_with(shape):
            raise ValueError(
                f"The initial value's shape ({value.shape}) is not compatible with the explicitly "
                f"supplied `shape` argument ({tuple(shape)})."
            )
        super().__init__(
            native(value),
            trainable=trainable is not False,
            name=f"{name or 'Variable'}:0",
        )

    def value(self) -> Any:
        """Return the present value as a tensor; a later assignment does not change it."""
        return Tensor(super().value())

    def read_value(self) -> Any:
        """Return the present value as a tensor; a later assignment does not change it."""
        return self.value()

    def __getitem__(self, key: Any) -> VariableSlice:
        return VariableSlice(super().__getitem__(key).read(), self, key)

    def __len__(self) -> NoReturn:
        raise TypeError("object of type 'Variable' has no len(); use variable.shape[0]")

    # --- assignment -----------------------------------------------------------------------------

    def assign(
        self, value: Any, use_locking: bool = False, name: Any = None, read_value: bool = True
    ) -> Any:
        """Replace the value; no gradient flows through an assignment.

        Parameters
        ----------
        value : Tensor, Variable, array, scalar or nested lists
            Of the variable's shape; a tensor must have its dtype too, the rest is converted.

        Returns
        -------
        Variable
            The variable itself; None if `read_value` is false.

        Raises
        ------
        ValueError
            If a tensor has another dtype, or the shape differs.
        """
        super().assign(self._checked(value))
        return self if read_value else None

    def assign_add(
        self, delta: Any, use_locking: bool = False, name: Any = None, read_value: bool = True
    ) -> Any:
        """Add to the value; as `assign`, but another shape is an `InvalidArgumentError`."""
        super().assign_add(self._change(delta))
        return self if read_value else None

    def assign_sub(
        self, delta: Any, use_locking: bool = False, name: Any = None, read_value: bool = True
    ) -> Any:
        """Subtract from the value; as `assign`, but another shape is an `InvalidArgumentError`."""
        super().assign_sub(self._change(delta))
        return self if read_value else None

    def scatter_add(self, sparse_delta: IndexedSlices, use_locking: Any = False) -> Any:
        """Add rows at their positions; those of one position add up."""
        return self.assign_add(_slices("scatter_add", sparse_delta))

    def scatter_sub(self, sparse_delta: IndexedSlices, use_locking: Any = False) -> Any:
        """Subtract rows at their positions; those of one position add up."""
        return self.assign_sub(_slices("scatter_sub", sparse_delta))

    def scatter_update(self, sparse_delta: IndexedSlices, use_locking: Any = False) -> Any:
        """Replace rows at their positions; of those of one position the last one stays."""
        slices = _slices("scatter_update", sparse_delta)
        return self._replaced(convert_to_tensor(slices.indices).numpy(), slices.values)

    def scatter_nd_update(self, indices: Any, updates: Any, name: Any = None) -> Any:
        """Replace elements or slices at positions, along the last axis of `indices`."""
        return self._replaced(_positions(indices), updates)

    def scatter_nd_add(self, indices: Any, updates: Any, name: Any = None) -> Any:
        """Add to elements or slices at positions; what goes to one position adds up."""
        return self._replaced(_positions(indices), updates, np.add.at)

    def scatter_nd_sub(self, indices: Any, updates: Any, name: Any = None) -> Any:
        """Subtract from elements or slices at positions; what goes to one position adds up."""
        return self._replaced(_positions(indices), updates, np.subtract.at)

    def _replaced(self, places: Any, updates: Any, change: Any = operator.setitem) -> Variable:
        whole = np.array(self.numpy())
        change(whole, places, convert_to_tensor(updates, self.dtype).numpy())
        self.assign(whole)
        return self

    def _change(self, delta: Any) -> Any:
        """Return what is added or subtracted: of slices the rows, else a checked tensor."""
        if not isinstance(delta, IndexedSlices):
            return self._checked(delta, InvalidArgumentError)
        if dtype_of(delta) != dtype_of(self) or delta.shape != self.shape:
            self._checked(delta, InvalidArgumentError)  # says what does not fit
        return delta.native()

    def _checked(self, value: Any, error: type[Exception] = ValueError) -> Any:
        tensor = convert_to_tensor(value, self.dtype)
        if tensor.shape != self.shape:
            raise error(
                f"Cannot assign value to variable '{self.name}': Shape mismatch. "
                f"The variable shape {self.shape}, and the assigned value shape {tensor.shape} "
                "are incompatible; use tf.broadcast_to or tf.reshape"
            )
        return native(tensor)

    def _refuse_in_place(self, operator: str, method: str) -> NoReturn:
        raise RuntimeError(
            f"`variable {operator} value` with `tf.Variable`s is not supported. Use "
            f"`variable.{method}(value)` to modify the variable, or "
            f"`out = variable {operator[0]} value` if you need to get a new output Tensor."
        )

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TypeError(
            "'Variable' object does not support item assignment; use variable[key].assign(value)"
        )

    # --- copies and printing --------------------------------------------------------------------

    def __copy__(self) -> Variable:
        return Variable(self._value, trainable=self.trainable, name=self.name.removesuffix(":0"))

    def __str__(self) -> str:
        return self.__repr__()

    def __repr__(self) -> str:
        return (
            f"<tf.Variable {self.name!r} shape={self.shape} dtype={as_dtype(self.dtype).name}, "
            f"numpy={shown(self)}>"
        )

    def __format__(self, spec: str) -> str:
        if spec:
            raise TypeError(
                "unsupported format string passed to Variable.__format__; use variable.numpy()"
            )
        return str(self)


def _positions(indices: Any) -> tuple[Any, ...]:
    """Return positions along the last axis of an array as one array for each axis."""
    host = convert_to_tensor(indices).numpy()
    return tuple(host[..., axis] for axis in range(host.shape[-1]))


def _slices(method: str, given: Any) -> IndexedSlices:
    if not isinstance(given, IndexedSlices):
        raise TypeError(f"sparse_delta is not IndexedSlices: {given!r} ({method})")
    return given


class VariableSlice(Tensor):
    """A part of a variable: a tensor that can also be assigned to, which changes the variable.

    Parameters
    ----------
    value : distgrad.Tensor
        The part's present value.
    variable : Variable
        Whose part it is.
    key : index
        Which part.
    """

    __slots__ = ("_slice_key", "_variable")

    def __init__(self, value: dg.Tensor, variable: Variable, key: Any) -> None:
        super().__init__(value)
        self._variable = variable
        self._slice_key = key

    def assign(self, value: Any) -> Variable:
        """Replace this part of the variable; no gradient flows through an assignment."""
        return self._changed(lambda _, new: new, value)

    def assign_add(self, delta: Any) -> Variable:
        """Add to this part of the variable."""
        return self._changed(np.add, delta)

    def assign_sub(self, delta: Any) -> Variable:
        """Subtract from this part of the variable."""
        return self._changed(np.subtract, delta)

    def _changed(self, combine: Any, value: Any) -> Variable:
        variable = self._variable
        whole = np.array(variable.numpy())
        new = convert_to_tensor(value, variable.dtype).numpy()
        given = self._slice_key
        parts = given if isinstance(given, (tuple, list)) else (given,)
        key = tuple(p.numpy() if hasattr(p, "numpy") else p for p in parts)
        whole[key] = combine(whole[key], new)
        variable.assign(whole)
        return variable

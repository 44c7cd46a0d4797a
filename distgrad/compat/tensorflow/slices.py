"""tf.IndexedSlices: rows of a tensor, as TensorFlow gives for gradients of gathers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import dims, native, operands
from distgrad.compat.tensorflow.specs import TensorShape
from distgrad.tensor import Operators

_NUMBERS = (int, float, complex, np.number)


class IndexedSlices(Operators):
    """Rows of a tensor, each with its position; the tensor is zero everywhere else.

    See `distgrad.IndexedSlices`. Other than TensorFlow's it has arithmetic: multiplied and divided
    by a scalar, negated, and added to another one it stays sparse; all else makes it dense.

    Parameters
    ----------
    values : Tensor
        The rows.
    indices : Tensor of integers
        Where each belongs along the first axis; rows of one position add up.
    dense_shape : Tensor or shape, optional
        The shape of the whole; without it, there is no dense tensor.

    Raises
    ------
    TypeError
        If rows or positions are no tensors.
    """

    __slots__ = ("__weakref__", "dense_shape", "indices", "values")
    is_sparse = True

    def __init__(self, values: Any, indices: Any, dense_shape: Any = None) -> None:
        self.values = _tensor("values", values)
        self.indices = _tensor("indices", indices)
        self.dense_shape = dense_shape

    # --- what it stands for ---------------------------------------------------------------------

    def native(self) -> dg.IndexedSlices:
        """Return what the library computes with.

        Raises
        ------
        ValueError
            If the shape of the whole was not given.
        """
        if self.dense_shape is None:
            raise ValueError(
                "Tensor conversion requested for IndexedSlices for argument `value` without "
                f"dense_shape: {self}; give dense_shape when you make them"
            )
        return dg.IndexedSlices(native(self.values), native(self.indices), dims(self.dense_shape))

    def read(self) -> dg.Tensor:
        """Return the dense tensor: whoever takes a tensor gets that."""
        return self.native().to_dense()

    def dense(self) -> Any:
        """Return the dense tensor, with TensorFlow's manners."""
        return self._handle(self.read())

    def _handle(self, tensor: Any) -> Any:
        return type(self.values)(tensor)

    @property
    def _value(self) -> Any:  # what is asked for the dtype of handles
        return native(self.values)

    @property
    def dtype(self) -> Any:
        """The dtype, of TensorFlow's name."""
        return self.values.dtype

    @property
    def shape(self) -> Any:
        """The shape of the whole."""
        return TensorShape(self.native().shape)

    @property
    def key(self) -> int:
        """The identity by which tapes know the rows."""
        key: int = self.values.key
        return key

    @property
    def kernels(self) -> Any:
        """The vocabulary on the rows' backend."""
        return self.values.kernels

    # --- arithmetic -----------------------------------------------------------------------------

    def __mul__(self, other: Any) -> Any:
        if _is_scalar(other):
            return IndexedSlices(self.values * other, self.indices, self.dense_shape)
        return self.dense() * other

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        if _is_scalar(other):
            return IndexedSlices(self.values / other, self.indices, self.dense_shape)
        return self.dense() / other

    def __neg__(self) -> Any:
        return IndexedSlices(-self.values, self.indices, self.dense_shape)

    def __add__(self, other: Any) -> Any:
        if _is_zero(other):  # the start of Python's sum
            return self
        if not isinstance(other, IndexedSlices):
            return self.dense() + other
        if self.shape != other.shape:
            return self.dense() + other.dense()
        rows = dg.concat(operands("add", self.values, other.values), axis=0)
        places = dg.concat([native(self.indices), native(other.indices)], axis=0)
        return IndexedSlices(self._handle(rows), self._handle(places), self.dense_shape)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, IndexedSlices) or _is_zero(other):
            return self + (-other)
        return self.dense() - other

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __eq__(self, other: object) -> bool:
        return self is other  # as TensorFlow's

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **params: Any) -> Any:
        symbol = _SYMBOLS.get(ufunc)
        if symbol is None or method != "__call__" or params:
            dense = [x.dense() if isinstance(x, IndexedSlices) else x for x in inputs]
            return getattr(ufunc, method)(*dense, **params)
        first, second = inputs
        if first is self:
            return getattr(self, f"__{symbol}__")(second)
        return getattr(self, f"__r{symbol}__")(first)

    # --- printing -------------------------------------------------------------------------------

    def __str__(self) -> str:
        return (
            f"IndexedSlices(indices={self.indices!s}, values={self.values!s}, "
            f"dense_shape={self.dense_shape!s})"
        )

    def __repr__(self) -> str:
        return f"<tf.{self!s}>"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


_SYMBOLS: dict[Any, str] = {
    np.add: "add",
    np.subtract: "sub",
    np.multiply: "mul",
    np.true_divide: "truediv",
}


def _of_dense(name: str) -> Callable[..., Any]:
    """Return a method that is the dense tensor's."""

    def method(self: IndexedSlices, *args: Any, **params: Any) -> Any:
        return getattr(self.dense(), name)(*args, **params)

    method.__name__ = name
    return method


for _name in (
    "__rtruediv__ __floordiv__ __rfloordiv__ __mod__ __rmod__ __pow__ __rpow__ __matmul__ "
    "__rmatmul__ __abs__ __lt__ __le__ __gt__ __ge__ __getitem__ __array_function__ astype reshape "
    "sum mean max min get_shape"
).split():
    setattr(IndexedSlices, _name, _of_dense(_name))


def _tensor(argument: str, given: Any) -> Any:
    """Return an argument as a handle on a tensor."""
    if isinstance(given, dg.Variable):
        return given.value()
    if not isinstance(given, Operators):
        raise TypeError(
            f"IndexedSlices: {argument} is a {type(given).__name__}; expected a tf.Tensor: convert "
            "it with tf.convert_to_tensor"
        )
    return given


def _is_scalar(value: Any) -> bool:
    if isinstance(value, _NUMBERS):
        return True
    return isinstance(value, (Operators, np.ndarray)) and tuple(value.shape) == ()


def _is_zero(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and value == 0

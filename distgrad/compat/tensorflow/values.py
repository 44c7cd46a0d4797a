"""Tensor: a handle on one of distgrad's tensors that prints and promotes as TensorFlow's does.

It computes nothing: every operator checks the dtypes, passes what the handles hold through the
seam, and puts a handle on the result. The identity by which tapes know a value is that of the
tensor inside, so a handle can be taken off and put on again at will.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NoReturn

import numpy as np

import distgrad as dg
from distgrad import tree
from distgrad.compat.tensorflow.conversion import (
    converted,
    dtype_of,
    native,
    of_kinds,
    operands,
    quotients,
    refuse_zero_divisor,
)
from distgrad.compat.tensorflow.dtypes import as_dtype, spoken
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.references import Reference
from distgrad.compat.tensorflow.slices import IndexedSlices
from distgrad.compat.tensorflow.specs import TensorShape
from distgrad.core.seam import apply
from distgrad.errors import PositionError, ShapeError
from distgrad.ops import VOCABULARY
from distgrad.tensor import Operators

_FLOATING = frozenset(np.dtype(name) for name in ("float16", "float32", "float64"))

# --- operators ----------------------------------------------------------------------------------


_COMPLEX = frozenset(np.dtype(name) for name in ("complex64", "complex128"))
_BOOL = frozenset([np.dtype(bool)])
# Dtypes that TensorFlow's operators do not take; its product of truth values is their conjunction.
_REFUSED = {
    "multiply": frozenset[Any](),
    **dict.fromkeys(("less", "less_equal", "greater", "greater_equal"), _BOOL | _COMPLEX),
    **dict.fromkeys(("floor_divide", "remainder"), _BOOL | _COMPLEX),
}


def _binary(name: str, reflected: bool = False) -> Callable[[Any, Any], Any]:
    op = VOCABULARY[name]
    unfit = _REFUSED.get(name, _BOOL)
    kinds = "iufc" if unfit is _BOOL else "iuf"
    divides = name in ("floor_divide", "remainder")

    def operator(self: Any, other: Any) -> Any:
        x = self.read()
        y = other.read() if isinstance(other, TensorLike) else other
        dtype = x.array.dtype
        if dtype in unfit:
            of_kinds(name, kinds, x)
        # Nearly every call: a tensor of the same dtype, or a float beside a floating tensor.
        alike = y.array.dtype == dtype if y.__class__ is dg.Tensor else False
        if not alike and not (y.__class__ is float and dtype in _FLOATING):
            if isinstance(y, IndexedSlices):
                return NotImplemented  # their own operator has the word
            x, y = operands(name, y, x) if reflected else operands(name, x, y)
        elif reflected:
            x, y = y, x
        if divides:
            refuse_zero_divisor(name, y, dtype)
        try:
            return Tensor(apply(op, x, y))
        except ValueError as error:
            raise refused(error) from error

    return operator


def _division(reflected: bool = False) -> Callable[[Any, Any], Any]:
    def operator(self: Any, other: Any) -> Any:
        both = (other, self) if reflected else (self, other)
        return compute(dg.divide, *quotients(*operands("divide", *both)))

    return operator


def _logical(function: Callable[..., Any], name: str) -> Callable[[Any, Any], Any]:
    def operator(self: Any, other: Any) -> Any:
        a, b = operands(name, self, other)
        for operand in (a, b):
            if not isinstance(operand, int) and dtype_of(operand).kind not in "biu":
                raise InvalidArgumentError(
                    f"{name}: an operand is {spoken(dtype_of(operand))}; expected tensors of bool "
                    "or of integers"
                )
        return compute(function, a, b)

    return operator


class TensorLike(Operators):
    """What tensors and variables share: TensorFlow's operators and properties."""

    __slots__ = ()
    _value: dg.Tensor

    __add__, __radd__ = _binary("add"), _binary("add", True)
    __sub__, __rsub__ = _binary("subtract"), _binary("subtract", True)
    __mul__, __rmul__ = _binary("multiply"), _binary("multiply", True)
    __truediv__, __rtruediv__ = _division(), _division(True)
    __floordiv__, __rfloordiv__ = _binary("floor_divide"), _binary("floor_divide", True)
    __mod__, __rmod__ = _binary("remainder"), _binary("remainder", True)
    __pow__, __rpow__ = _binary("pow"), _binary("pow", True)
    __matmul__, __rmatmul__ = _binary("matmul"), _binary("matmul", True)
    __lt__, __le__ = _binary("less"), _binary("less_equal")
    __gt__, __ge__ = _binary("greater"), _binary("greater_equal")
    __and__ = __rand__ = _logical(dg.bitwise_and, "bitwise_and")
    __or__ = __ror__ = _logical(dg.bitwise_or, "bitwise_or")
    __xor__ = __rxor__ = _logical(dg.bitwise_xor, "bitwise_xor")

    def __neg__(self) -> Any:
        return compute(dg.negative, of_kinds("negative", "iufc", self.read()))

    def __abs__(self) -> Any:
        return compute(dg.abs, self)

    def __invert__(self) -> Any:
        if dtype_of(self).kind not in "biu":
            raise InvalidArgumentError(
                f"invert: the operand is {spoken(dtype_of(self))}; expected a tensor of bool or of "
                "integers"
            )
        return compute(dg.bitwise_invert, self)

    def __eq__(self, other: Any) -> Any:
        return self._compared(dg.equal, other, unlike=False)

    def __ne__(self, other: Any) -> Any:
        return self._compared(dg.not_equal, other, unlike=True)

    def _compared(self, function: Callable[..., Any], other: Any, unlike: bool) -> Any:
        if other is None:
            return unlike
        both = operands("equal", self, other)
        try:
            return wrap(function(*both))
        except ShapeError:  # as in TensorFlow, values of unlike shapes are unequal as a whole
            return convert_to_tensor(unlike)

    def __hash__(self) -> int:
        kind = "Variable" if isinstance(self, dg.Variable) else "Tensor"
        raise TypeError(f"{kind} is unhashable. Instead, use {kind.lower()}.ref() as the key.")

    def __getitem__(self, key: Any) -> Tensor:
        return compute(dg.Tensor.__getitem__, native(self), _unwrapped_key(key))

    def __iter__(self) -> Iterator[Any]:
        return map(wrap, iter(self.read()))

    @property
    def dtype(self) -> Any:
        """The dtype, of TensorFlow's name."""
        return as_dtype(dtype_of(self))

    @property
    def shape(self) -> TensorShape:
        """The length of each axis."""
        return TensorShape(self._value.array.shape)

    def get_shape(self) -> TensorShape:
        """Return the length of each axis."""
        return self.shape

    def ref(self) -> Reference:
        """Return a hashable reference, equal to another one if both are of this very object."""
        return Reference(self)

    # NumPy's functions; an array beside a tensor is brought to the tensor's dtype.

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **params: Any) -> Any:
        both = operands(ufunc.__name__, *inputs) if len(inputs) == 2 else map(native, inputs)
        result = Operators.__array_ufunc__(self, ufunc, method, *both, **params)
        return wrap(result) if isinstance(result, dg.Tensor) else result

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        # On the tensors inside, where it is differentiated; TensorFlow gives an array, and no path.
        arguments = tree.map(native, [list(args), kwargs])
        inside = self.read()
        return wrap_nest(inside.__array_function__(function, types, *arguments))


# The array methods that TensorFlow's tensors do not have are there all the same, with handles.
def _method(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **params: Any) -> Any:
        return compute(getattr(dg.Tensor, name), native(self), *args, **params)

    method.__name__ = name
    method.__doc__ = getattr(dg.Tensor, name).__doc__
    return method


def _property(name: str) -> property:
    found = getattr(dg.Tensor, name)
    return property(lambda self: compute(found.fget, native(self)), doc=found.__doc__)


for _name in ("__pos__", "astype", "reshape", "sum", "mean", "max", "min", "to"):
    setattr(TensorLike, _name, _method(_name))
for _name in ("T", "mT", "real", "imag"):
    setattr(TensorLike, _name, _property(_name))


class Tensor(TensorLike):
    """A tensor with TensorFlow's manners; made by operations and by `constant`, not by users.

    Parameters
    ----------
    value : distgrad.Tensor
        The tensor that it stands for.
    """

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: dg.Tensor) -> None:
        self._value = value

    def read(self) -> dg.Tensor:
        """Return the tensor inside."""
        return self._value

    @property
    def key(self) -> int:
        """The identity by which tapes know the value: that of the tensor inside."""
        return self._value.key

    @property
    def array(self) -> Any:
        """The backend's own array."""
        return self._value.array

    @property
    def kernels(self) -> Any:
        """The vocabulary on the array's backend."""
        return self._value.kernels

    def __copy__(self) -> Tensor:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self  # immutable

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TypeError(
            "'Tensor' object does not support item assignment; compute a new one (tf.where, "
            "tf.tensor_scatter_nd_update), or keep the values in a tf.Variable"
        )

    def __str__(self) -> str:
        return f"tf.Tensor({_text(str(self.numpy()))}, shape={self.shape}, dtype={self.dtype.name})"

    def __repr__(self) -> str:
        return f"<tf.Tensor: shape={self.shape}, dtype={self.dtype.name}, numpy={shown(self)}>"


def shown(value: Any) -> str:
    """Return the values as `repr` of a tensor or variable shows them."""
    host = value.numpy()
    return _text(repr(host if isinstance(host, np.ndarray) else host.item()))


def _text(text: str) -> str:
    return f"\n{text}" if "\n" in text else text


# --- handles on and off -------------------------------------------------------------------------


def wrap(value: Any) -> Any:
    """Return a handle on a tensor, or on slices."""
    if value.__class__ is dg.Tensor:
        return Tensor(value)
    if value.__class__ is dg.IndexedSlices:
        shape = convert_to_tensor(list(value.dense_shape))
        return IndexedSlices(Tensor(value.values), Tensor(value.indices), shape)
    return value


def wrap_nest(nest: Any) -> Any:
    """Return a nest with a handle on each tensor."""
    return tree.map(wrap, nest)


def unwrap_nest(nest: Any) -> Any:
    """Return a nest with what is inside each handle; variables stay what they are."""
    return tree.map(unwrap, nest)


def unwrap(value: Any) -> Any:
    """Return the tensor or the slices inside a handle; any other value as it is."""
    if isinstance(value, IndexedSlices):
        return value.native()
    return value.read() if isinstance(value, Tensor) else value


def on_native(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the library's tensors that calls one of TensorFlow's."""

    @wraps(f)
    def function(*args: Any, **kwargs: Any) -> Any:
        return unwrap_nest(f(*wrap_nest(list(args)), **wrap_nest(kwargs)))

    return function


def compute(function: Callable[..., Any], *inputs: Any, **params: Any) -> Tensor:
    """Return a handle on what one of the library's functions gives.

    Raises
    ------
    InvalidArgumentError
        If the function refuses the shapes, positions or values.
    """
    try:
        return Tensor(function(*[native(x) for x in inputs], **params))
    except ValueError as error:
        raise refused(error) from error


def refused(error: ValueError) -> InvalidArgumentError:
    """Return TensorFlow's error for one of the library's, with the words that its users grep."""
    text = str(error)
    if "do not broadcast" in text:
        return InvalidArgumentError(f"Incompatible shapes: {text}")
    if isinstance(error, PositionError):
        return InvalidArgumentError(f"index out of bounds: {text}")
    return InvalidArgumentError(text)


def _unwrapped_key(key: Any) -> Any:
    parts = key if isinstance(key, (tuple, list)) else (key,)  # a list has a part for each axis
    for part in parts:
        if isinstance(part, (str, float, complex)):
            raise TypeError(
                "Only integers, slices (`:`), ellipsis (`...`), tf.newaxis (`None`) and scalar "
                f"tf.int32/tf.int64 tensors are valid indices, got {part!r}"
            )
    return tuple(map(native, parts)) if parts is key else native(key)


# --- how values enter ---------------------------------------------------------------------------


def convert_to_tensor(
    value: Any, dtype: Any = None, dtype_hint: Any = None, name: str | None = None
) -> Tensor:
    """Return a value as a tensor.

    Parameters
    ----------
    value : Tensor, Variable, array, scalar or nested lists
        Arrays keep their dtype and are copied; Python's floats become float32, its integers int32
        (int64 if they are too large), its complex numbers complex128.
    dtype : dtype, optional
        The dtype wanted.
    dtype_hint : dtype, optional
        The dtype wanted if the value can be had in it.
    name : str, optional
        Not used.

    Raises
    ------
    ValueError
        If a tensor has another dtype, or the value is None or ragged.
    TypeError
        If Python's numbers do not fit the dtype.
    """
    tensor = converted(value, dtype, dtype_hint)
    if isinstance(value, Tensor):
        return value
    # A variable's value becomes a tensor of an identity of its own.
    return Tensor(dg.positive(tensor) if isinstance(value, dg.Variable) else tensor)

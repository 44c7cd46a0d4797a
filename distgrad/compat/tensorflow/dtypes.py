"""TensorFlow's dtypes: NumPy's, under its names and with its way of printing."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from distgrad import dtypes as native
from distgrad.promotion import finfo


class DType:
    """One dtype, which is what the library calls by the same name, printed TensorFlow's way.

    Parameters
    ----------
    name : str
        Such as ``"float32"``.

    Examples
    --------
    >>> import distgrad.compat.tensorflow as tf
    >>> tf.float32
    tf.float32
    >>> print(tf.constant(1).dtype)
    <dtype: 'int32'>
    """

    __slots__ = ("dtype",)

    def __init__(self, name: str) -> None:
        self.dtype = native.as_dtype(name)  # by this attribute NumPy knows what is meant

    @property
    def name(self) -> str:
        """The name, such as ``"float32"``."""
        return self.dtype.name

    @property
    def as_numpy_dtype(self) -> type:
        """NumPy's scalar type."""
        return self.dtype.type

    @property
    def base_dtype(self) -> DType:
        """The dtype itself: there are no references."""
        return self

    @property
    def real_dtype(self) -> DType:
        """The dtype of the parts of a complex number; itself for the others."""
        return as_dtype(np.empty(0, self.dtype).real.dtype) if self.is_complex else self

    @property
    def kind(self) -> str:
        """NumPy's letter for the kind of number."""
        return self.dtype.kind

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of an element, by NumPy's name."""
        return self.dtype.itemsize

    @property
    def is_floating(self) -> builtins.bool:
        """Whether it holds real floating numbers."""
        return native.is_real_floating(self.dtype)

    @property
    def is_complex(self) -> builtins.bool:
        """Whether it holds complex numbers."""
        return native.is_complex(self.dtype)

    @property
    def is_integer(self) -> builtins.bool:
        """Whether it holds integers."""
        return self.dtype.kind in "iu"

    @property
    def is_unsigned(self) -> builtins.bool:
        """Whether it holds integers without a sign."""
        return self.dtype.kind == "u"

    @property
    def is_bool(self) -> builtins.bool:
        """Whether it holds truth values."""
        return self.dtype.kind == "b"

    @property
    def min(self) -> Any:
        """The smallest finite number."""
        return _limits(self.dtype).min

    @property
    def max(self) -> Any:
        """The largest finite number."""
        return _limits(self.dtype).max

    def __eq__(self, other: object) -> builtins.bool:
        if isinstance(other, DType):
            return self.dtype == other.dtype
        try:
            return other is not None and self.dtype == native.as_dtype(other)
        except TypeError:
            return False

    def __ne__(self, other: object) -> builtins.bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.dtype)

    def __str__(self) -> str:
        return f"<dtype: {self.name!r}>"

    def __repr__(self) -> str:
        return f"tf.{self.name}"


def _limits(dtype: np.dtype[Any]) -> Any:
    if dtype.name == "bfloat16":
        return finfo(dtype)
    return np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)


_BY_NAME = {name: DType(name) for name in native.NAMES}

bool = _BY_NAME["bool"]
int8, int16, int32, int64 = (_BY_NAME[f"int{bits}"] for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (_BY_NAME[f"uint{bits}"] for bits in (8, 16, 32, 64))
float16, float32, float64 = (_BY_NAME[f"float{bits}"] for bits in (16, 32, 64))
half, double = float16, float64
complex64, complex128 = _BY_NAME["complex64"], _BY_NAME["complex128"]


def as_dtype(type_value: Any) -> DType:
    """Return a dtype from a dtype of any library, its name, or a scalar type.

    Python's own types mean what TensorFlow takes them for: ``float`` is float32, ``int`` int32.

    Raises
    ------
    DTypeError
        If there is no such dtype.
    """
    if isinstance(type_value, DType):
        return type_value
    if isinstance(type_value, type) and type_value in _PYTHON:
        return _PYTHON[type_value]
    name = native.as_dtype(_ALIASES.get(type_value, type_value)).name
    if name not in _BY_NAME:  # bfloat16, once it was asked for
        _BY_NAME[name] = DType(name)
    return _BY_NAME[name]


_PYTHON: dict[type, DType] = {
    float: float32,
    int: int32,
    builtins.bool: bool,
    complex: complex128,
}
_ALIASES: dict[Any, str] = {"half": "float16", "float": "float32", "double": "float64"}

# What TensorFlow calls these dtypes in its messages.
_SPOKEN = {"float32": "float", "float64": "double", "float16": "half"}


def spoken(dtype: Any) -> str:
    """Return what TensorFlow's messages call a dtype."""
    name: str = np.dtype(dtype).name
    return _SPOKEN.get(name, name)


def __getattr__(name: str) -> Any:
    if name == "bfloat16":  # late: it needs the package ml_dtypes
        return as_dtype(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
